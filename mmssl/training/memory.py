"""How the C library hands out memory while a model is trained on the CPU.

glibc maps each large block anew and gives it back when it is freed. A training step asks for the same blocks again and
again, and the kernel has to zero every page of them each time. Told to keep what was freed, a masked-autoencoding step
takes about a tenth less (see `benchmarks/videomae_step.py`); the process then stays at its peak.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # malloc.h
OFF = "MMSSL_MALLOC"
"""Set to `default`, this variable leaves the C library as it is."""


def glibc() -> ctypes.CDLL | None:
    """The C library of this process where it is glibc."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory for the next step; True when it was asked to.

    Not elsewhere, nor where the user has said how memory is to be handed out: by `OFF`, or glibc's own variables.
    """
    told = os.environ.get(OFF) == "default" or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    library = glibc()
    if told or library is None or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20))
    done = [library.mallopt(name, value) == 1 for name, value in settings]
    return all(done)
