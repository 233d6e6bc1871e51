"""How many processes read and decode: what is asked for, or by device and cores. The batches are the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch

DECODED = ("image", "audio", "video", "ecg", "eeg", "series", "volume")
"""Modalities whose samples take long to read."""
SLOW = ("video",)
"""Those of which one is read longer than a step on it takes."""
MOST = 8


def cores() -> int:
    """Of this process: those that it may run on, shared with the others of this machine."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(there // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def asked_for_cpu() -> bool:
    """Whether Accelerate is told to leave a GPU alone."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def on_gpu() -> bool:
    """Whether models run on a CUDA GPU here, as Accelerate sees it."""
    return torch.cuda.is_available() and not asked_for_cpu()


def types_of(modalities: Mapping[str, Mapping[str, Any]] | None) -> list[str]:
    """The types that a model's configuration names."""
    return [said["type"] for said in (modalities or {}).values()]


def workers_for(asked: int | str, types: Iterable[str], beside_a_step: bool = False) -> int:
    """The number of workers; 0: the main process reads.

    Beside a GPU the cores decode, all but one. On a processor they are busy with the model; where clips are trained on,
    one of several pays all the same (1.6 times as many a second on two cores).

    Args:
        asked: a number, or `auto`.
        types: of the modalities that are read.
        beside_a_step: they read for a training step, not for a forward pass.
    """
    if isinstance(asked, int):
        return asked
    types, there = set(types), cores()
    if on_gpu():
        return min(there - 1, MOST) if types & set(DECODED) else 0
    return int(beside_a_step and there > 1 and bool(types & set(SLOW)))


def read_by(workers: int | str) -> str:
    """What the first line of a run says of it."""
    return f"rows read by {workers} worker{'s' * (workers != 1)}" if workers else "rows read by the main process"
