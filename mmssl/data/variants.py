"""Every sample of every row once: what a preprocessor chooses among (five captions) one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..modality import Preprocessor, select
from .reader import Loaded, Reader, is_stream, read_batches
from .shards import Items

if TYPE_CHECKING:
    from .sources import Source

Counts = NDArray[np.int64]


class _Variants(Reader):
    """Reads a row's variants one by one: an item's epoch is the number of the variant."""

    def choice(self, epoch: int, index: int, name: str) -> int:
        """The number of the variant."""
        return epoch


def counted_samples(source: Source, preprocessor: Preprocessor, wanted: str | Sequence[str]) -> Counts | None:
    """(n,) how many samples each row's column(s) hold; None where their number is not known, or the rows' is not."""
    if is_stream(source) or preprocessor.variants(None) is None:
        return None
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    chosen = source.select_columns(names)
    return np.array([preprocessor.variants(select(row, wanted)) for row in chosen], np.int64)


def variant_batches(
    source: Source,
    preprocessor: Preprocessor,
    name: str,
    wanted: str | Sequence[str],
    starts: Counts,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterator[tuple[list[int], Loaded]]:
    """Every sample of every row once, in order: (their numbers, the samples).

    Args:
        source: the data.
        preprocessor: of the modality `name`.
        name: what the batch calls it.
        wanted: its column(s).
        starts: (n + 1,) the number of each row's first sample, and of all.
        batch_size: samples of a batch.
        rank: of this process, which gets every world-th batch.
        world: number of processes.
        workers: processes that decode; 0: this one does.
    """
    chunks = [
        list(range(low, min(low + batch_size, int(starts[-1]))))
        for low in range(0, int(starts[-1]), batch_size)
        if low // batch_size % world == rank
    ]
    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    items: Iterable[Items] = [[(int(i - starts[row[i]]), int(row[i]), None) for i in chunk] for chunk in chunks]
    reader = _Variants(source, {name: preprocessor}, {name: wanted}, None)
    yield from zip(chunks, read_batches(reader, items, workers), strict=True)
