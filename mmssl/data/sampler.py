"""Which samples are in which batch: a pure function of (seed, epoch), so that a run resumes in constant time.

The order does not live in a generator's state, a loader or a process. Every process computes the same permutation
and takes its slice, so two processes can neither draw different permutations nor read a sample twice
(huggingface/accelerate#4234), and a resumed run goes on with the permutation it stopped in (#4195). Accelerate must
not prepare such a loader: it is already sharded.

Words: a *step* is one optimiser step of `batch_size` samples over all processes; a process gets a contiguous slice of
every step, as `mmssl.draws.Draws` assumes, in `accumulation` parts, one behind the other: its *micro-batches*.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mmssl.errors import UserError

if TYPE_CHECKING:
    from .orders import Order

_M64 = (1 << 64) - 1

Item = tuple[int, int]
"""(epoch, sample number); of samples that come again in an epoch a number that tells their comings apart."""


def order(size: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation (size,) int64 of one epoch.

    Sorts the raw output of the counter-based generator Philox (Salmon et al., 2011), which numpy promises never to
    change. `Generator.permutation` carries no such promise, and a run may be resumed under another numpy.
    """
    return np.argsort(philox(seed, epoch).random_raw(size), kind="stable")


def philox(seed: int, epoch: int) -> np.random.Philox:
    """The bit generator of (seed, epoch); use `random_raw` only, for the reason given at `order`."""
    return np.random.Philox(key=np.array([seed & _M64, epoch & _M64], dtype=np.uint64))


def slices(batch_size: int, accumulation: int = 1, world: int = 1) -> tuple[int, int]:
    """(samples of a step in one process, samples of one of its micro-batches).

    Raises UserError when the batch cannot be cut into equal parts.
    """
    parts = accumulation * world
    if batch_size < parts or batch_size % parts:
        lower = batch_size // parts * parts
        near = f"{lower} or {lower + parts}" if lower else f"{parts}"
        raise UserError(
            f"train.batch_size is {batch_size}, which cannot be cut into accumulation x processes = "
            f"{accumulation} x {world} = {parts} equal parts; use {near}"
        )
    return batch_size // world, batch_size // parts


class Sampler:
    """An endless stream of this process's micro-batches, each a list of (epoch, sample number).

    Args:
        size: samples in the data. Samples left over at the end of an epoch are dropped: whole steps only.
        batch_size: samples of one optimiser step over all processes.
        accumulation: micro-batches of a step.
        rank: of this process.
        world: number of processes.
        seed: of the order.
        by: gives the rows of an epoch, where they are not in the plain order: of `size` rows, and batches of this size.
        start: micro-batches already done; the stream goes on after them in constant time.
        epoch: the number of the first epoch.

    Raises:
        UserError: the batch cannot be cut into equal parts, or is larger than the data.
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        by: Order | None = None,
        start: int = 0,
        epoch: int = 0,
    ) -> None:
        self.local, self.micro = slices(batch_size, accumulation, world)
        if size < batch_size:
            raise UserError(
                f"the training data has {size:,} samples, fewer than one batch: "
                f"train.batch_size is {batch_size}, use {size // (accumulation * world) * accumulation * world} or less"
            )
        self.size, self.batch_size, self.rank, self.seed, self.start = size, batch_size, rank, seed, start
        self.accumulation = accumulation
        self.by, self.first = by, epoch
        self.steps_per_epoch = size // batch_size if by is None else by.steps
        self.batches_per_epoch = self.steps_per_epoch * accumulation

    def __iter__(self) -> Iterator[list[Item]]:
        done, first = divmod(self.start, self.batches_per_epoch)
        epoch = self.first + done
        while True:
            if self.by is None:
                indices = order(self.size, self.seed, epoch)
                numbers = np.full(len(indices), epoch, np.int64)
            else:
                indices, numbers = self.by.epoch(epoch)
            for batch in range(first, self.batches_per_epoch):
                step, part = divmod(batch, self.accumulation)
                # a contiguous slice of the step: so its rows are numbered, and draws follow the numbers
                low = step * self.batch_size + self.rank * self.local + part * self.micro
                part_of = slice(low, low + self.micro)
                yield list(zip(numbers[part_of].tolist(), indices[part_of].tolist(), strict=True))
            epoch, first = epoch + 1, 0


def in_order(size: int, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[list[Item]]:
    """All samples once, in order, for evaluation: the last batch is short, process `rank` gets every world-th batch."""
    for number, low in enumerate(range(0, size, batch_size)):
        if number % world == rank:
            yield [(0, index) for index in range(low, min(low + batch_size, size))]
