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


def medians(peer: Callable[[], None], ours: Callable[[], None], steps: int, tuned_peer: bool) -> tuple[float, float]:
    """Median seconds of (peer, ours), after one step each to warm up. tuned_peer: our float32 products for it too."""
    times: dict[str, list[float]] = {"peer": [], "ours": []}
    for round_ in range(steps + 1):
        for name, step in (("peer", peer), ("ours", ours)):
            torch.set_float32_matmul_precision("highest")
            if name == "ours" or tuned_peer:
                f32_products_by_onednn()
            start = time.perf_counter()
            step()
            if round_:
                times[name].append(time.perf_counter() - start)
    return statistics.median(times["peer"]), statistics.median(times["ours"])
