"""What makes two processes equal one: sums over global counts, and gathers that carry gradients.

Gradients are averaged over processes by DDP, so a process contributes `local sum * world / global count`; the average
is then the gradient of the mean over the whole batch, however samples and absent modalities are spread. A part of an
optimiser step (`mmssl.objectives.accumulation`) contributes likewise, over the count of all its parts.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import LostProcess, RunError, one_line

_alone = contextvars.ContextVar("alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What this process computes within is as if it were the only one: nothing is exchanged, none waits for another."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def world_size() -> int:
    """How many processes train together; 1 where none were launched."""
    if _alone.get():
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class Exchanged:
    """How long this process was in exchanges of losses and gradients with the others, most of it waiting for them.

    Attributes:
        seconds: since its start, of its host: a GPU's exchanges run on without it.
    """

    seconds = 0.0

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Add what the block takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began


exchanged = Exchanged()


LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "pair closure",
    "Timed out waiting",
    "remote process exited",
    "recvValue failed",
    "failed to recv",
    "Socket Timeout",
)
"""What gloo, NCCL and the store say once another process is gone; the first has no class of error of its own."""


@contextlib.contextmanager
def lost_peers_told() -> Iterator[None]:
    """LostProcess, in one line, in place of the backend's error where another process was killed or is out of reach."""
    try:
        yield
    except RuntimeError as error:
        launched = int(os.environ.get("WORLD_SIZE", "1"))  # known before they have met
        if isinstance(error, RunError) or max(world_size(), launched) == 1:
            raise
        if not isinstance(error, dist.DistError) and not any(words in str(error) for words in LOST):
            raise
        raise LostProcess(
            f"another process of this run ended or is out of reach ({one_line(error, 160)}); its own last lines say "
            "why; all that was saved is whole: go on from the last checkpoint with --resume",
            speaks=_first_is_gone(),
        ) from error


def _first_is_gone() -> bool:
    """Whether nobody else says so: this is the second process, or the first of its machine, and where they all met
    nobody answers. That is the first process, or its launcher, which then tells of it."""
    mine = int(os.environ.get("RANK", "0"))
    if mine == 0 or (mine > 1 and os.environ.get("LOCAL_RANK") != "0"):
        return False
    place = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT") or 0)
    try:
        socket.create_connection(place, timeout=3).close()
    except OSError:
        return True
    return False


def rank() -> int:
    """The number of this process among them, from 0."""
    if _alone.get():
        return 0
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def global_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, without gradient."""
    # a copy: all_reduce writes into what it is given
    x = x.detach().clone()
    if world_size() > 1:
        with exchanged.timed():
            dist.all_reduce(x)
    return x


def global_mean(values: Tensor, counts: Tensor, total: Tensor | None = None) -> Tensor:
    """The mean of `values` where `counts` is set, over all processes' elements.

    Args:
        values: any shape; what does not count may be nan.
        counts: the same shape, bool or a weight.
        total: (), their sum over all processes where that is known; of a part of the batch, that of the whole batch:
            the parts' values then add up to the mean.

    Returns:
        (), what DDP averages to the true mean: local sum * world / global count. Zero, with a gradient path, if nothing
        counts.
    """
    weight = counts.to(values.dtype)
    # where, not the weight alone: what does not count may be nan, and 0 * nan is nan
    mine = torch.where(counts.bool(), values, 0.0).mul(weight).sum()
    every = global_sum(weight.sum()) if total is None else total.to(weight.dtype)
    # DDP divides the summed gradients by the world, so each process multiplies by it beforehand
    return mine * world_size() / every.clamp(min=1)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        with exchanged.timed():
            dist.all_gather(parts, x.contiguous())
        ctx.rows = len(x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        with exchanged.timed():
            dist.all_reduce(grad)
        # the losses of all processes look at these rows: their owner gets the sum of what each says of them
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather_rows(x: Tensor) -> Tensor:
    """All processes' rows (world * B, ...) of x (B, ...), in rank order; gradients flow back to their owners."""
    return x if world_size() == 1 else _Gather.apply(x)


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        with exchanged.timed():
            dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        with exchanged.timed():
            dist.all_reduce(grad)
        return grad


def all_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, with gradients.

    For statistics of the global batch: a loss computed from it is the same on every process, and the gradients that
    DDP averages are those of that loss. All processes must call it together, and go backward through it together.
    """
    return x if world_size() == 1 else _AllSum.apply(x)


def gather_padded(x: Tensor, fill: float = 0) -> Tensor:
    """`gather_rows` of x (B, n, ...) whose n differs from process to process: padded with `fill` to the largest n.
    Without gradient."""
    x = x.detach()
    if world_size() == 1:
        return x
    # processes must agree on the shape before they can gather
    most = torch.tensor(x.shape[1], device=x.device)
    with exchanged.timed():
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
    short = int(most) - x.shape[1]
    if short:
        x = torch.cat([x, x.new_full((len(x), short, *x.shape[2:]), fill)], 1)
    return gather_rows(x)


def in_full(value: Tensor) -> Tensor:
    """All of a tensor that is cut over the processes, which call it together; another one as it is."""
    whole: Any = getattr(value, "full_tensor", None)  # of a DTensor, whose module takes long to import
    return value if whole is None else whole()


@torch.no_grad()
def set_in_full(value: Tensor, whole: Tensor) -> None:
    """Give a tensor these numbers; one that is cut over the processes gets its share of them."""
    if not hasattr(value, "full_tensor"):
        value.copy_(whole)
        return
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(value, DTensor)
    value.copy_(distribute_tensor(whole, value.device_mesh, value.placements))
