"""Two training steps measured in turns, so that whatever else the machine does falls on both."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable

import torch

from mmssl.models.dispatch import f32_products_by_onednn


def autocast(dtype: str) -> contextlib.AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16) if dtype == "bf16" else contextlib.nullcontext()


def set_products(tuned: bool) -> None:
    """torch's default float32 products, or ours."""
    torch.set_float32_matmul_precision("highest")
    if tuned:
        f32_products_by_onednn()


def medians(
    peer: Callable[[int], None], ours: Callable[[int], None], steps: int, tuned_peer: bool
) -> tuple[float, float]:
    """Median seconds of (peer, ours), each called with the number of the round, after one to warm up. tuned_peer: our
    float32 products for the peer too."""
    times: dict[str, list[float]] = {"peer": [], "ours": []}
    for number in range(steps + 1):
        for name, step in (("peer", peer), ("ours", ours)):
            set_products(tuned=name == "ours" or tuned_peer)
            start = time.perf_counter()
            step(number)
            if number:
                times[name].append(time.perf_counter() - start)
    return statistics.median(times["peer"]), statistics.median(times["ours"])
