"""Batches of data that only come in order: shuffled in a buffer and resumed exactly, a function of (seed, epoch).

`datasets`' own shuffle loses the rows in its buffer when it resumes, and its split over processes depends on how many
there are. Here every process reads all rows, undecoded, and keeps its slice of every batch: one process or two, the
batches are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mmssl.errors import UserError

from .sampler import order, philox, slices

if TYPE_CHECKING:
    from datasets import IterableDataset

Row = dict[str, Any]
"""Column -> raw value, as the data has it."""
Items = list[tuple[int, int, Row | None]]  # (epoch, sample number, the row, or None: look it up)


def stream_batches(
    source: IterableDataset,
    needed: list[str],
    seed: int,
    buffer: int,
    batch_size: int,
    accumulation: int,
    rank: int,
    world: int,
    start: int,
) -> Iterator[Items]:
    """What `Sampler` does, for rows that only come in order: every process reads them all and keeps its slice."""
    local, micro = slices(batch_size, accumulation, world)
    epoch, done = 0, 0  # done: micro-batches before this epoch
    while True:
        chunk: Items = []
        count = 0
        for item in _shuffled(_numbered(source, needed, seed, epoch), seed, epoch, buffer):
            chunk.append((epoch, *item))
            if len(chunk) == batch_size:
                for low in range(rank * local, (rank + 1) * local, micro):
                    # a resumed run reads the epoch again, undecoded: only so does the buffer hold the same rows
                    if done + count >= start:
                        yield chunk[low : low + micro]
                    count += 1
                chunk = []
        if not count:
            raise UserError(
                f"the training data has {len(chunk):,} samples, fewer than one batch (train.batch_size is {batch_size})"
            )
        epoch, done = epoch + 1, done + count
        if start > done:  # an epoch is always as long: jump over the others that were done
            whole = (start - done) // count
            epoch, done = epoch + whole, done + whole * count


def _numbered(source: IterableDataset, needed: list[str], seed: int, epoch: int) -> Iterator[tuple[int, Row]]:
    """Rows of a stream with their numbers, its shards (files) in an order that is a function of (seed, epoch).

    A row's number is its place in the shard plus 2**32 times the shard's: the same in every epoch.
    """
    chosen = source.select_columns(needed)
    count = chosen.num_shards
    for shard in order(count, seed, epoch).tolist():
        part = chosen.shard(num_shards=count, index=shard) if count > 1 else chosen
        for number, row in enumerate(part):
            yield (shard << 32) + number, row


def _shuffled(rows: Iterable[tuple[int, Row]], seed: int, epoch: int, buffer: int) -> Iterator[tuple[int, Row]]:
    """Shuffle through a buffer, as a function of (seed, epoch). `datasets`' own loses its buffer when it resumes."""
    if buffer <= 1:
        yield from rows
        return
    bits = philox(seed, epoch)
    held: list[tuple[int, Row]] = []
    for row in rows:
        if len(held) < buffer:
            held.append(row)
            continue
        place = int(bits.random_raw()) % buffer
        yield held[place]
        held[place] = row
    for place in np.argsort(bits.random_raw(len(held)), kind="stable").tolist():
        yield held[place]
