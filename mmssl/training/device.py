"""What is trained on, and which numbers the forward pass is computed in there.

bfloat16 is worth it where a device multiplies it in hardware; where not, it costs.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import time
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from ..data.workers import asked_for_cpu, on_gpu
from ..recipe.config import LoopConfig, TrainConfig

logger = logging.getLogger("mmssl")
L = TypeVar("L", bound=LoopConfig)
T = TypeVar("T", bound=TrainConfig)

SIDE = 256
"""Of the matrices that are multiplied: 34 million products, 0.05 s on the slowest processor that was met."""
TRIES = 3


@dataclass(frozen=True)
class Device:
    """What is trained on.

    Attributes:
        kind: cpu, cuda, ...
        memory: bytes of a GPU; 0 elsewhere.
        bf16: whether it multiplies bfloat16 fast.
    """

    kind: str
    memory: int = 0
    bf16: bool = False


def this_device() -> Device:
    """The one that Accelerate will take."""
    if on_gpu():
        memory = int(torch.cuda.get_device_properties(0).total_memory)
        return Device("cuda", memory, torch.cuda.is_bf16_supported(including_emulation=False))
    return Device("mps" if torch.backends.mps.is_available() and not asked_for_cpu() else "cpu")


def settle_precision(train: L, device: Device) -> L:
    """`train` with the precision that a run will have in place of `auto`, a copy.

    bfloat16 on a GPU that multiplies it in hardware, float32 elsewhere. On processors that have it too, float32 stays:
    a recipe would otherwise give other numbers from one laptop to the next.
    """
    if train.mixed_precision != "auto":
        return train
    return replace(train, mixed_precision="bf16" if device.kind == "cuda" and device.bf16 else "no")


def settle_compile(train: T, device: Device, cut: bool) -> T:
    """`train` with whether a run compiles its trunks in place of `auto`, a copy.

    On a GPU, for whose kernels torch needs Triton and a C compiler. Not where processes hold shares of tensors (`cut`).
    """
    if train.compile != "auto":
        return train
    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    able = importlib.util.find_spec("triton") is not None and any(shutil.which(name) for name in compilers)
    return replace(train, compile=device.kind == "cuda" and able and not cut)


def warn_of_precision(train: LoopConfig, device: Device) -> None:
    """Say what bfloat16 costs on a processor that does not have it."""
    if train.mixed_precision == "bf16" and device.kind == "cpu" and (ratio := bf16_slowdown()) > 1:
        logger.warning(
            "train.mixed_precision: found bf16, which this processor multiplies %.2g times slower than float32; "
            "train.mixed_precision=no is faster",
            ratio,
        )


def bf16_slowdown() -> float:
    """How many times as long as in float32 a product of matrices takes in bfloat16 on this processor: the least of
    several tries each, after one that counts nothing."""
    return _seconds(torch.bfloat16) / _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    x = torch.ones(SIDE, SIDE, dtype=dtype)
    times: list[float] = []
    for _ in range(1 + TRIES):
        began = time.perf_counter()
        torch.mm(x, x)
        times.append(time.perf_counter() - began)
    return max(min(times[1:]), 1e-9)
