"""The shards (files) of a stream: their rows from any one on, and how many rows each of them has, once that is known.

A run that goes on must find its place without reading what it has read. All it needs for that are the lengths of the
shards that were read to their end: which shard comes when, and what is shuffled where, are functions of the seed. So
the lengths are what a checkpoint holds (`Lengths`), of all processes. Where one is not known the shard is read, and the
place is the same.

`datasets`' `state_dict` is the place of one iterator: it loses the rows in a shuffle's buffer, and reads within a shard
what it skips. torchdata's StatefulDataLoader keeps one of each worker, of which there may then be no more and no fewer.
MosaicML's streaming wants the data to be written anew, in a format of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .arrow_files import unwanted_rows
from .explained import stream_rows, warn_once

if TYPE_CHECKING:
    from datasets import IterableDataset

Row = dict[str, Any]
"""Column -> raw value, as the data has it."""
Item = tuple[int, int, Row | None]
"""(epoch, sample number, the row, or None: look it up). In a stream a row's number is its place in the shard plus 2**32
times the shard's: the same in every epoch."""
Items = list[Item]


class Lengths:
    """Shard -> its rows, of those that somebody has read to their end."""

    def __init__(self) -> None:
        self.known: dict[int, int] = {}
        self.shards: int | None = None

    def begin(self, shards: int) -> None:
        """They are of a stream of so many shards; what is known of another one goes. (With other processes parquet may
        be cut into row groups.)"""
        if self.shards not in (None, shards):
            self.known.clear()
        self.shards = shards

    def note(self, shard: int, rows: int) -> None:
        """A shard was read to its end."""
        before = self.known.setdefault(shard, rows)
        if before != rows:
            warn_once(
                f"shard {shard} of the stream has {rows:,} rows, and had {before:,} before: the data have changed, "
                "a run that goes on does not read what it would have read"
            )
            self.known[shard] = rows

    def update(self, found: dict[int, int]) -> None:
        """What another process has read."""
        self.known.update(found)

    def total(self, shards: int) -> int | None:
        """All rows; None where one of the shards is not known."""
        return sum(self.known.values()) if len(self.known) == shards else None


class Shards:
    """The rows of a stream, shard by shard."""

    def __init__(self, source: IterableDataset, needed: list[str]) -> None:
        """source: the stream. needed: the columns that are read."""
        self.chosen = source.select_columns(needed)
        self.needed = needed
        self.count = self.chosen.num_shards

    def rows(self, shard: int, offset: int = 0) -> Iterator[tuple[int, Row]]:
        """(place in the shard, row) from `offset` on. What comes before is no row yet; of parquet it is not even read,
        where the rows are those that are stored."""
        part = self.chosen.shard(num_shards=self.count, index=shard) if self.count > 1 else self.chosen
        rows = stream_rows(part.skip(offset) if offset else part)
        with unwanted_rows(offset if as_stored(part) else 0):
            first = next(rows, None)
        if first is not None:
            yield offset, first
            yield from enumerate(rows, offset + 1)


def as_stored(part: IterableDataset) -> bool:
    """Whether the rows of a stream are those of its files, one by one, and not what a filter or a map makes of them."""
    place = part.state_dict()["examples_iterable"]
    while isinstance(place, dict) and place.get("type") == "RebatchedArrowExamplesIterable":
        place = place["examples_iterable"]
    return isinstance(place, dict) and place.get("type") == "ArrowExamplesIterable"


def rows_from(
    order: Iterable[tuple[int, int]], index: int, shards: Shards, lengths: Lengths, empty: Callable[[], None]
) -> Iterator[Item]:
    """The rows of shards one behind the other, from the one numbered `index` in this order on.

    Args:
        order: (epoch, shard), one behind the other.
        index: rows that are left out. Shards of a known length are passed over.
        shards: the data.
        lengths: of the shards; those that are read to their end are added.
        empty: is called where as many shards one behind the other as there are have no row.
    """
    skip, without = index, 0
    for epoch, shard in order:
        known = lengths.known.get(shard)
        if known is not None and 0 < known <= skip:
            skip, without = skip - known, 0
            continue
        place = skip - 1
        for place, row in shards.rows(shard, skip):
            yield epoch, (shard << 32) + place, row
        if skip and place < skip and known is None:  # shorter than that, or just as long: only counting tells
            rows = sum(1 for _ in shards.rows(shard))
            skip -= rows
        else:
            rows, skip = place + 1, 0
        lengths.note(shard, rows)
        without = 0 if rows else without + 1
        if without >= shards.count:
            empty()
            without = 0
