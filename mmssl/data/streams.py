"""Batches of data that only come in order: which rows are in which, and who reads them.

**Apart.** Where there are as many shards (files) as readers, each reader has shards of its own: a row is read once an
epoch, whatever the number of processes. All epochs' shards stand in one endless line, each epoch's in an order of
(seed, epoch); reader k of K reads those numbered k, k + K, k + 2 K, ... and shuffles what comes in a buffer. A process
has `readers / world` of them, and its part of a step comes from one, in turn, so that workers can each read and decode
for steps of their own. A reader never waits for another and never ends: one with smaller shards comes into the next
epoch earlier. So every batch is whole and no row is left out, and a row is read once in each epoch, though some of the
next epoch's may come before the last of this one's. At any time the readers have begun equally many shards, but one
that is slow by the size of its shards.

**Together.** With one reader, or fewer shards than readers, every process reads all rows, undecoded, and keeps its
slice of every batch: any number of processes reads the same batches. The rows at the end of an epoch that fill no batch
are left out.

The order is a function of (seed, readers, world) and the shards, never of the number of workers or micro-batches. Any
place in it is found without reading the rows before it, but for those in the buffer (`shuffling`), once the lengths of
the shards before it are known (`shards.Lengths`).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from mmssl.errors import RunError, UserError

from .explained import warn_once
from .sampler import order, slices
from .shards import Item, Items, Lengths, Shards, as_stored, rows_from
from .shuffling import shuffled
from .workers import on_gpu

if TYPE_CHECKING:
    from datasets import IterableDataset

T = TypeVar("T")

READERS = 4
"""Of a process among several, where there are shards enough: as many workers can read for it."""
_APART = 1 << 63
"""Sets the draws of readers apart from those of epochs."""


@dataclass(frozen=True)
class Plan:
    """Who reads what.

    Attributes:
        seed: of the order.
        buffer: rows that each reader shuffles among.
        batch_size: samples of a step over all processes.
        accumulation: micro-batches of a step.
        rank, world: of this process, and how many there are.
        readers: of this process; 0: all processes read all rows together.
    """

    seed: int
    buffer: int
    batch_size: int
    accumulation: int
    rank: int
    world: int
    readers: int

    @property
    def parts(self) -> tuple[int, int]:
        """(samples of a step in this process, samples of one of its micro-batches)."""
        return slices(self.batch_size, self.accumulation, self.world)


def readers_of(source: IterableDataset, wanted: int | None, world: int) -> tuple[IterableDataset, int]:
    """(the stream, its readers in each process; 0: together).

    Args:
        source: the stream; parquet files that are fewer than the readers are read by row groups.
        wanted: how many a process is to have; None: one in all where there is one process, else up to `READERS` each.
        world: processes.
    """
    if world == 1 and wanted in (None, 1):
        return source, 0
    least = world * (wanted or 1)
    if source.num_shards < least and as_stored(source):  # of a limited stream other rows would be the first ones
        source = source.reshard()
    if source.num_shards < least:
        parts = f"{wanted} readers in each of {world} processes" if wanted else f"{world} processes"
        warn_once(
            f"the stream has {source.num_shards} shards (files), fewer than {parts}: every process reads all rows, and "
            "keeps its part of them"
        )
        return source, 0
    return source, wanted or min(READERS, source.num_shards // world)


def step_items(plan: Plan, shards: Shards, lengths: Lengths, first: int, every: int = 1) -> Iterator[Items]:
    """This process's part of the steps `first`, `first + every`, ..., without end.

    every: 1, or a divisor of the readers.
    """
    local, _ = plan.parts
    if not plan.readers:
        for chunk in _together(plan, shards, lengths, first):
            yield chunk[plan.rank * local : (plan.rank + 1) * local]
        return
    lanes: dict[int, Iterator[Items]] = {}
    for step in count(first, every):
        turn, reader = divmod(step, plan.readers)
        if reader not in lanes:
            lanes[reader] = _apart(plan, shards, lengths, plan.rank * plan.readers + reader, turn)
        yield next(lanes[reader])


def micro_batches(plan: Plan, shards: Shards, lengths: Lengths, start: int) -> Iterator[Items]:
    """This process's micro-batches from the one numbered `start` on."""
    step, done = divmod(start, plan.accumulation)
    for items in step_items(plan, shards, lengths, step):
        yield from _cut(items, plan)[done:]
        done = 0


def _cut(items: Items, plan: Plan) -> list[Items]:
    micro = plan.parts[1]
    return [items[low : low + micro] for low in range(0, len(items), micro)]


def _together(plan: Plan, shards: Shards, lengths: Lengths, step: int) -> Iterator[Items]:
    """All rows of the steps from one on."""
    size, epoch = plan.batch_size, 0
    while True:
        total = lengths.total(shards.count)
        if total is not None:  # an epoch is always as long: jump over those that were done
            epoch, step = epoch + step // _steps(total, size), step % _steps(total, size)

        def rows(index: int, epoch: int = epoch) -> Iterator[Item]:
            turns = ((epoch, shard) for shard in order(shards.count, plan.seed, epoch).tolist())
            return rows_from(turns, index, shards, lengths, lambda: None)

        chunk: Items = []
        found = False
        for item in shuffled(rows, (plan.seed, epoch), plan.buffer, step * size, total if step else None):
            chunk.append(item)
            if len(chunk) == size:
                yield chunk
                chunk, found = [], True
        now = lengths.total(shards.count)
        assert now is not None, "the epoch was read to its end"
        whole = _steps(now, size)
        if found or total is not None or step >= whole:
            epoch, step = epoch + 1, 0 if found else max(step - whole, 0)


def _steps(total: int, size: int) -> int:
    """Whole batches of an epoch. UserError: none."""
    if total < size:
        raise UserError(f"the training data has {total:,} samples, fewer than one batch (train.batch_size is {size})")
    return total // size


def _apart(plan: Plan, shards: Shards, lengths: Lengths, reader: int, turn: int) -> Iterator[Items]:
    """What one reader gives to the steps of its turns from one on."""
    local, _ = plan.parts
    every = plan.readers * plan.world
    chunk: Items = []
    for item in endless(plan.seed, plan.buffer, shards, lengths, reader, every, turn * local):
        chunk.append(item)
        if len(chunk) == local:
            total = lengths.total(shards.count)
            if total is not None:
                _steps(total, plan.batch_size)
            yield chunk
            chunk = []


def endless(
    seed: int, buffer: int, shards: Shards, lengths: Lengths, reader: int, every: int, gone: int
) -> Iterator[Item]:
    """The rows that one of `every` readers reads, without the first `gone` of them."""

    def turns() -> Iterator[tuple[int, int]]:
        epoch, shuffle = -1, []
        for place in count(reader, every):
            if place // shards.count != epoch:
                epoch = place // shards.count
                shuffle = order(shards.count, seed, epoch).tolist()
            yield epoch, shuffle[place % shards.count]

    def empty() -> None:
        raise UserError("the training data has no samples")

    def rows(index: int) -> Iterator[Item]:
        return rows_from(turns(), index, shards, lengths, empty)

    return shuffled(rows, (seed, _APART | reader), buffer, gone)


# --- in workers ----------------------------------------------------------------------------------------------------


class Workers(torch.utils.data.IterableDataset[object], Generic[T]):
    """What reads in workers: each has some of the process's readers, and gives (micro-batches of a step, the lengths
    that it learned), or what went wrong.

    Args:
        load: makes a micro-batch of its rows.
        plan, shards, lengths, step: as of `step_items`.
    """

    def __init__(self, load: Callable[[Items], T], plan: Plan, shards: Shards, lengths: Lengths, step: int) -> None:
        self.load, self.plan, self.shards, self.lengths, self.step = load, plan, shards, lengths, step

    def __iter__(self) -> Iterator[tuple[list[T], dict[int, int]] | UserError | RunError]:
        import fsspec.asyn

        fsspec.asyn.reset_lock()  # the thread that it belongs to is in the process that this one was forked from
        info = torch.utils.data.get_worker_info()
        assert info is not None
        told = set(self.lengths.known)
        try:
            for items in step_items(self.plan, self.shards, self.lengths, self.step + info.id, info.num_workers):
                learned = {shard: rows for shard, rows in self.lengths.known.items() if shard not in told}
                told |= set(learned)
                yield [self.load(part) for part in _cut(items, self.plan)], learned
        except (UserError, RunError) as error:
            yield error


def reading_workers(plan: Plan, workers: int) -> int:
    """How many workers can read for themselves: as many as share the readers equally. 0: the main process reads."""
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if plan.readers < 2 or method != "fork":  # a stream cannot be pickled
        return 0
    return max((n for n in range(1, workers + 1) if plan.readers % n == 0), default=0)


def read_by_workers(
    load: Callable[[Items], T], plan: Plan, shards: Shards, lengths: Lengths, start: int, workers: int
) -> Iterator[T]:
    """Loaded micro-batches from the one numbered `start` on; the same as `micro_batches` gives the rows of."""
    step, done = divmod(start, plan.accumulation)
    found = torch.utils.data.DataLoader(
        Workers(load, plan, shards, lengths, step),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2,
        generator=torch.Generator(),  # its own: the global one must not depend on the number of workers
        pin_memory=on_gpu(),
    )
    for step_of in found:  # one of each worker in turn
        if isinstance(step_of, (UserError, RunError)):
            raise step_of
        parts, learned = step_of
        lengths.update(learned)
        yield from parts[done:]
        done = 0
