"""One variant after the other: what became of it, how long it took, and how much memory it asked for."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmssl.errors import BadSample, RunError, UserError

from .targets import cleared, targets, write_variant

SECONDS, BYTES = 5.0, 1 << 30
WAITING = 60.0
"""Seconds by the clock: of those of the processor, which a busy machine does not lengthen, a variant gets `SECONDS`."""


@dataclass
class Outcome:
    """What became of one variant: "read", "refused" or "fault", and what is wrong where it is a fault."""

    format: str
    seed: int
    kind: str
    why: str = ""
    seconds: float = 0.0


def try_variant(format: str, seed: int, folder: Path) -> Outcome:
    """Read variant `seed` of a format in `folder`, which is emptied first."""
    target = targets()[format]
    warm(format, folder)
    name = write_variant(target, cleared(folder), seed)
    before = _reset_peak()
    started, clock = time.process_time(), time.perf_counter()
    kind, why = "read", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(folder, name)
    except (BadSample, UserError, RunError) as error:
        kind = "refused"
        lines = str(error).splitlines()
        if isinstance(error, RunError):
            kind, why = "fault", f"RunError: {error}"
        elif not str(error) or (len(lines) > 1 and isinstance(error, BadSample)) or max(map(len, lines)) > 5000:
            kind, why = "fault", f"no line, or not one: {error!r:.300}"
    except Exception:
        kind, why = "fault", traceback.format_exc()
    seconds, grown = time.process_time() - started, _peak() - before
    if seconds > SECONDS or time.perf_counter() - clock > WAITING:
        kind, why = "fault", f"{seconds:.1f} s {why}"
    if grown > BYTES:
        kind, why = "fault", f"{grown / 1e9:.2f} GB {why}"
    return Outcome(format, seed, kind, why, seconds)


@cache
def warm(format: str, folder: Path) -> None:
    """Read the right file once: what the libraries take to be imported is no fault of the first variant."""
    target = targets()[format]
    for name, data in target.files.items():
        (cleared(folder) if name == next(iter(target.files)) else folder).joinpath(name).write_bytes(data)
    with warnings.catch_warnings(), contextlib.suppress(UserError):
        warnings.simplefilter("ignore")
        target.read(folder, (target.damaged or tuple(target.files))[0])


def quiet() -> None:
    """No lines of the libraries about each damaged file."""
    logging.disable(logging.CRITICAL)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


def _reset_peak() -> int:
    """Forget the largest memory so far; the memory now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")
