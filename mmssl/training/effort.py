"""What the steps of a process cost: the tokens that went through its encoders, their arithmetic, its memory.

Nothing of it changes a number of the training or waits for a device. Floating-point operations (FLOPs) are counted in
the first step alone, as torch runs it, with torch's own formulas; later steps are that count times their tokens.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ..models.tower import Tower
from ..patches import Patches
from .metrics import Meter

SIDE, TRIES, MOST = 512, 5, 0.15
"""Of the product that a processor's peak is measured by: length of the matrices, tries, seconds for all of them."""
HALF, TF32, FULL = 0, 1, 2
PEAKS = {
    "B200": (2250, 1125, 75),
    "GH200": (990, 495, 67),
    "H200": (989, 495, 67),
    "H100 PCIe": (756, 378, 51),
    "H100": (989, 495, 67),
    "A100": (312, 156, 19.5),
    "L40S": (362, 183, 91.6),
    "L4": (121, 60, 30.3),
    "A10G": (70, 35, 31.5),
    "A10": (125, 62.5, 31.2),
    "RTX 4090": (165.2, 82.6, 82.6),
    "RTX 3090": (71, 35.6, 35.6),
    "V100": (125, None, 15.7),
    "T4": (65, None, 8.1),
}
"""Part of a GPU's name -> 10^12 dense FLOPs a second in 16 bits, TF32 and float32, by its maker's data sheet. The first
that fits counts. A V100 and a T4 have no bfloat16: their first number is that of float16."""


class Counted(TorchDispatchMode):
    """Counts the FLOPs of what runs within, by torch's formulas (`torch.utils.flop_counter`): products, convolutions,
    attention. What a backward pass computes a second time (gradient checkpointing, GradCache) is no work of the model
    and not counted, as in PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B)."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and add its FLOPs."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = FORMULAS.get(func._overloadpacket)
        # in a backward pass only what is computed again asks for gradients
        again = torch.is_grad_enabled() and torch._C._current_graph_task_id() != -1
        if formula is not None and not again:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q.shape, k.shape, v.shape))


def _attention_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape))


FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""torch's, and of the attention that it lacks one for."""


class Effort:
    """Counts what a process's steps cost, into a `Meter`.

    Attributes:
        peak: FLOPs a second that the device can do at most; None: unknown.
        step: (FLOPs, tokens) of the counted step; None before it, and where trunks are compiled, which hides them.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator, compiled: bool) -> None:
        """Of the towers in `model`; teachers are copies of them that lie elsewhere.

        compiled: the trunks are.
        """
        self.towers = [part for part in model.modules() if isinstance(part, Tower)]
        self.device = accelerator.device
        self.peak = None if compiled else peak_of(self.device, str(accelerator.mixed_precision))
        self.step: tuple[int, int] | None = None
        self._meter: Meter | None = None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look at what goes into the towers, until the end of the block."""
        hooks = [tower.register_forward_pre_hook(self._count, with_kwargs=True) for tower in self.towers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _count(self, tower: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._meter is None:
            return  # health, probes, and what a backward pass computes again
        patches: Mapping[str, Patches] = args[0] if args else kwargs["patches"]
        for of in patches.values():
            if of.full:
                self._meter.tokens += of.batch * of.count
            else:  # added up on the device, which nobody waits for
                found = of.valid.sum()
                self._meter.places = found if self._meter.places is None else self._meter.places + found

    @contextlib.contextmanager
    def forward(self, meter: Meter) -> Iterator[None]:
        """A forward pass of training, whose tokens belong to `meter`."""
        self._meter = meter
        try:
            yield
        finally:
            self._meter = None

    @contextlib.contextmanager
    def counted(self, meter: Meter) -> Iterator[None]:
        """A whole step, forward and backward: counted if it is the first."""
        if self.peak is None or self.step is not None:
            yield
            return
        before = tokens_of(meter)
        with Counted() as counter:
            yield
        self.step = counter.flops, tokens_of(meter) - before

    def flops(self, meter: Meter) -> float | None:
        """Of the steps in `meter`; None where nothing was counted."""
        if self.step is None:
            return None
        flops, tokens = self.step
        return flops * tokens_of(meter) / tokens if tokens else float(flops * meter.steps)

    def memory(self) -> float | None:
        """GB of this process: on a GPU the most that was allocated so far, else what is resident now; None: unknown."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        return resident()


def tokens_of(meter: Meter) -> int:
    """Valid patches that went through encoders in the steps of `meter`; the device is waited for."""
    return meter.tokens + (0 if meter.places is None else int(meter.places))


def resident() -> float | None:
    """GB of memory that this process holds, as Linux says it; None elsewhere."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
    except OSError:
        return None


def peak_of(device: torch.device, precision: str) -> float | None:
    """FLOPs a second of the device in this precision: of a GPU by its name, of a processor measured once; None: of
    others."""
    if device.type == "cpu":
        return processor_peak(torch.bfloat16 if precision == "bf16" else torch.float32, torch.get_num_threads())
    if device.type != "cuda":
        return None
    whole = TF32 if torch.get_float32_matmul_precision() != "highest" else FULL
    return gpu_peak(torch.cuda.get_device_name(device), HALF if precision in ("bf16", "fp16") else whole)


def gpu_peak(name: str, kind: int) -> float | None:
    """What `PEAKS` says of a GPU, in FLOPs a second; kind: `HALF`, `TF32` or `FULL`."""
    found = next((numbers for part, numbers in PEAKS.items() if part in name), None)
    number = None if found is None else found[kind] or found[FULL]
    return None if number is None else number * 1e12


@cache
def processor_peak(dtype: torch.dtype, threads: int) -> float:
    """FLOPs a second of a bare product of matrices on this processor, the best of a few tries; threads: it is of so
    many."""
    x = torch.ones(SIDE, SIDE, dtype=dtype)
    best, until = float("inf"), time.perf_counter() + MOST
    for _ in range(TRIES + 1):  # the first one makes caches
        began = time.perf_counter()
        torch.mm(x, x)
        best = min(best, time.perf_counter() - began)
        if time.perf_counter() > until:
            break
    return 2 * SIDE**3 / best
