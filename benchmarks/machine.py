"""What measured numbers depend on beside the code: the processor, what it can do, versions."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("transformers", "lightly", "timm", "open_clip_torch")
FEATURES = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    except OSError:
        lines = {}
    facts = {key.strip(): value.strip() for key, value in lines.items()}
    flags = set(facts.get("flags", "").split())
    return {
        "processor": facts.get("model name", "unknown"),
        "model": " ".join(f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts),
        "features": [name for flag, name in FEATURES.items() if flag in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": {name: importlib.metadata.version(name) for name in ("torch", *PACKAGES)},
    }


def processes() -> list[str]:
    """This one and its children."""
    me = os.getpid()
    return [str(me), *Path(f"/proc/{me}/task/{me}/children").read_text().split()]


def processor() -> float:
    """Seconds of processors that they took so far."""
    ticks = 0
    for one in processes():
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
