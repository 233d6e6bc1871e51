"""Two training steps measured in turns, so that whatever else the machine does falls on both."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from mmssl.models.dispatch import f32_products_by_onednn
from mmssl.training.memory import M_MMAP_MAX, M_MMAP_THRESHOLD, M_TOP_PAD, M_TRIM_THRESHOLD, glibc, keep_freed_memory


def autocast(dtype: str) -> contextlib.AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16) if dtype == "bf16" else contextlib.nullcontext()


def set_products(tuned: bool) -> None:
    """torch's default float32 products, or ours."""
    torch.set_float32_matmul_precision("highest")
    if tuned:
        f32_products_by_onednn()


def set_process(tuned: bool) -> None:
    """float32 products and memory as torch and glibc come, or as our training loop sets them."""
    set_products(tuned)
    library = glibc()
    if library is not None:  # what glibc comes to by itself once it has seen blocks of 32 MiB, its largest threshold
        for name, value in ((M_MMAP_MAX, 65536), (M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 64 << 20)):
            library.mallopt(name, value)
        library.mallopt(M_TOP_PAD, 128 << 10)
        if not tuned:
            library.malloc_trim(0)
    if tuned:
        keep_freed_memory()


def medians(
    peer: Callable[[int], None], ours: Callable[[int], None], steps: int, tuned_peer: bool
) -> tuple[float, float]:
    """Median seconds of (peer, ours), each called with the number of the round, after one to warm up. tuned_peer: our
    settings of the process for the peer too. On one thread the processor's time, which a busy machine changes less than
    the clock's. Also prints what the matrix products of our step take alone, and so the ratio that it cannot exceed."""
    clock = own_clock()
    times: dict[str, list[float]] = {"peer": [], "ours": []}
    for number in range(steps + 1):
        for name, step in (("peer", peer), ("ours", ours)):
            set_process(tuned=name == "ours" or tuned_peer)
            step(number)  # what the other one's turn did to memory falls on this one
            start = clock()
            step(number)
            if number:
                times[name].append(clock() - start)
    theirs, mine = statistics.median(times["peer"]), statistics.median(times["ours"])
    alone, gflop = products_alone(ours)
    print(
        f"  our step's {gflop:.0f} GFLOP of matrix products alone: {alone:.2f} s, {gflop / alone:.0f} GFLOP/s, "
        f"the ratio at most {theirs / alone:.2f}x"
    )
    return theirs, mine


def own_clock() -> Callable[[], float]:
    """The processor's time on one thread; the clock's on several, which wait for each other in loops."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


class Products(TorchDispatchMode):
    """Counts the matrix products of a step by operator, sizes, strides and dtype of their operands."""

    NAMES = ("mm", "addmm", "bmm", "baddbmm")

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.NAMES:
            operands = tuple((tuple(x.shape), x.stride(), x.dtype) for x in args if isinstance(x, torch.Tensor))
            self.seen[name, operands] += 1
        return func(*args, **(kwargs or {}))

    def gflop(self) -> float:
        """Of all that were counted: the last two operands of each are its factors."""
        return sum(2e-9 * math.prod(made[-2][0]) * made[-1][0][-1] * count for (_, made), count in self.seen.items())


def gflop_of(step: Callable[[int], None]) -> float:
    """GFLOP of the matrix products of a step, those inside of `scaled_dot_product_attention` among them."""
    with sdpa_kernel(SDPBackend.MATH), Products() as products:
        step(0)
    return products.gflop()


def limit(dtype: str, rows: int = 2048, repeats: int = 20) -> float:
    """GFLOP/s that torch's products reach alone at the shapes of ViT-S, with the present settings of the process."""
    kind, taken, gflop = torch.bfloat16 if dtype == "bf16" else torch.float32, 0.0, 0.0
    clock = own_clock()
    for inner, outer in ((384, 1152), (384, 384), (384, 1536), (1536, 384)):
        a, b = torch.randn(rows, inner, dtype=kind), torch.randn(inner, outer, dtype=kind)
        out = torch.mm(a, b)
        times = []
        for _ in range(repeats):
            start = clock()
            torch.mm(a, b, out=out)
            times.append(clock() - start)
        taken += statistics.median(times)
        gflop += 2e-9 * rows * inner * outer
    return gflop / taken


def products_alone(step: Callable[[int], None], repeats: int = 3) -> tuple[float, float]:
    """(seconds, GFLOP) of nothing but the matrix products of one of our steps: the same operators on operands of the
    same shapes, strides and dtypes, with our settings of the process. No step can take less with these kernels."""
    set_process(tuned=True)
    with Products() as products:
        step(0)
    seconds, clock = 0.0, own_clock()
    for (name, operands), count in products.seen.items():
        made = [torch.empty_strided(size, stride, dtype=dtype).normal_() for size, stride, dtype in operands]
        product = getattr(torch, name)
        product(*made)
        taken = []
        for _ in range(repeats):
            start = clock()
            for _ in range(count):
                product(*made)
            taken.append(clock() - start)
        seconds += statistics.median(taken)
    return seconds, products.gflop()
