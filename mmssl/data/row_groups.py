"""In which order the rows of parquet files are read by their numbers (`parquet_rows`): so that each row group is read
once.

A row of a row group that is not in memory costs the whole of it. So the row groups of an epoch come in a drawn order;
so many of them as may be kept (`window` bytes) are a *window*, whose rows are shuffled among each other. Where all row
groups are one window, the order is the plain one (`sampler.order`), as of data in any other format.

A pure function of (seed, epoch), the footers, the columns that are read and the window, as every order here: not of
the number of processes, accumulation or workers. In a window the places of a batch go along its row groups: the first
rows of all its batches are of the first row group, and so on. A process has a slice of each batch, and so reads the
row groups of its slice alone: all processes together read the data once, not each of them. Its workers each read those
of their process, as each has a part of the batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmssl.draws import key_of

from .explained import warn_once
from .orders import Epoch, Numbers, Order
from .sampler import order, philox
from .selection import row_numbers

if TYPE_CHECKING:
    from datasets import Dataset

    from .numbered import NumberedTable
    from .sources import Source


@dataclass(frozen=True)
class Windows:
    """The rows of some data by their row groups.

    Attributes:
        seed: of the order.
        groups: (n,) the row group of each row.
        sizes: (groups,) bytes of each, unpacked.
        window: bytes.
    """

    seed: int
    groups: Numbers
    sizes: Numbers
    window: int

    def runs(self, epoch: int) -> list[Numbers]:
        """The rows of each window, row group by row group, those of one in any order; all rows once."""
        drawn = order(len(self.sizes), key_of(self.seed, "row groups"), epoch)
        place = np.empty(len(drawn), np.int64)
        place[drawn] = np.arange(len(drawn))
        keys = philox(key_of(self.seed, "rows of groups"), epoch).random_raw(len(self.groups))
        rows = np.lexsort((keys, place[self.groups]))
        used = np.bincount(self.groups, minlength=len(drawn))[drawn] > 0
        window = _filled(np.where(used, self.sizes[drawn], 0), self.window)
        return np.split(rows, np.searchsorted(window[place[self.groups[rows]]], np.arange(1, window[-1] + 1)))

    def whole(self, epoch: int) -> Numbers:
        """(n,) all rows, window after window, each shuffled."""
        parts = self.runs(epoch)
        for number, rows in enumerate(parts):
            parts[number] = rows[order(len(rows), key_of(self.seed, "window", number), epoch)]
        return np.concatenate(parts)


def _filled(sizes: Numbers, window: int) -> Numbers:
    """(k,) the number of the window that each of these is in, one behind the other, none larger than `window` but for
    one that is larger alone."""
    out, number, held = np.empty(len(sizes), np.int64), 0, 0
    for place, size in enumerate(sizes.tolist()):
        if held and held + size > window:
            number, held = number + 1, 0
        out[place], held = number, held + size
    return out


@dataclass(frozen=True)
class ByGroups(Order):
    """Whole batches of one window after the other; what fills no batch at the end of one goes into the next."""

    windows: Windows

    def epoch(self, number: int) -> Epoch:
        """The places of an epoch."""
        runs = self.windows.runs(number)
        ends = np.cumsum([len(rows) for rows in runs]) // self.batch_size
        rows, out, first = np.concatenate(runs), [], 0
        for window, end in enumerate(ends.tolist()):
            steps = end - first
            if not steps:
                continue
            own = rows[first * self.batch_size : end * self.batch_size]
            # a batch's place p goes along the row groups, so that each slice of the batch is of few of them
            dealt = own.reshape(self.batch_size, steps).T
            out.append(dealt[order(steps, self.key("batches", window), number)].reshape(-1))
            first = end
        found = np.concatenate(out)
        return found, np.full(len(found), number, np.int64)


def numbered_table(source: Source | None) -> NumberedTable | None:
    """The table of data that are read from parquet by their numbers; None of others."""
    from .numbered import NumberedTable

    table = getattr(source, "_data", None)  # `datasets` has no public way to ask
    return table if isinstance(table, NumberedTable) else None


def is_kept(source: Source) -> bool:
    """Whether any order of the rows costs little, as they are opened: all row groups are kept, or they are none."""
    from . import numbered

    table = numbered_table(source)
    return table is None or table.nbytes <= numbered.HELD


def wants_copy(source: Source) -> bool:
    """Whether rows in any order are better copied first, and can be."""
    table = numbered_table(source)
    return table is not None and table.groups.copied and not is_kept(source)


def windows_of(source: Dataset, seed: int, gigabytes: float, world: int = 1) -> Windows | None:
    """How the rows of some data are read in windows; None where they are one, or no parquet. As many row groups as a
    process then needs are kept.

    Args:
        source: the columns that are read, of the rows.
        seed: of the order.
        gigabytes: of a window.
        world: processes that read a window together.
    """
    table = numbered_table(source)
    if table is None or not len(source):
        return None
    groups, sizes, window = table.groups.of(_numbers(source)), table.groups.sizes(table.names), int(gigabytes * 1e9)
    used = np.unique(groups)
    if sizes[used].sum() <= window:
        table.groups.keep(table.groups.limit, len(used))
        return None
    # a slice of a batch begins and ends within a row group, and so does a window
    most = int(np.bincount(_filled(sizes[used], window)).max()) // world + 3
    table.groups.keep(window // world + 3 * int(sizes[used].max()), most)
    return Windows(seed, groups, sizes, window)


def one_behind_another(parts: Sequence[Dataset]) -> Dataset:
    """The rows of several data as one; those that are read by their numbers are copied first, on the disk.

    ValueError or TypeError where their columns differ.
    """
    import datasets

    plain = [part if numbered_table(part) is None else part.flatten_indices() for part in parts]
    found: Dataset = datasets.concatenate_datasets(plain)
    return found


FEW = 64
"""Row groups that are enough to look at rows of larger data."""


def drawn_rows(source: Dataset, count: int, seed: int) -> Numbers:
    """Numbers of `count` rows, drawn, in rising order; of data whose row groups are not kept those of few of these."""
    drawn = order(len(source), seed, 0)
    table = numbered_table(source)
    if table is not None and not is_kept(source):
        groups = table.groups.of(_numbers(source))[drawn]
        _, first, sizes = np.unique(groups, return_index=True, return_counts=True)
        turn = np.argsort(first, kind="stable")  # row groups as they were drawn first
        enough = max(FEW, int(np.searchsorted(np.cumsum(sizes[turn]), count)) + 1)
        drawn = drawn[np.isin(groups, groups[first[turn[:enough]]])]
    return np.sort(drawn[:count])


def spread_rows(source: Dataset, count: int) -> list[int]:
    """Numbers of `count` rows, evenly spread; of data whose row groups are not kept in `FEW` places."""
    rows = len(source)
    if rows <= count:
        return list(range(rows))
    if is_kept(source):
        return sorted({i * rows // count for i in range(count)})
    each = count // FEW
    return sorted({min(i * rows // FEW + j, rows - 1) for i in range(FEW) for j in range(each)})


def _numbers(source: Dataset) -> Numbers:
    """(n,) of each row its number in the files."""
    numbers, table = row_numbers(source), numbered_table(source)
    first = 0 if table is None else table.first
    return first + (np.arange(len(source)) if numbers is None else np.asarray(numbers, np.int64))


def order_by_groups(
    source: Dataset | None, by: Order | None, seed: int, batch_size: int, gigabytes: float, world: int, workers: int
) -> Order | None:
    """The order of a data set; None: the plain one. What lies in memory as a whole is read before workers begin, which
    then share it.

    Args:
        source: the columns that are read, of the rows; None: none.
        by: the order that is asked for.
        seed: of the order.
        batch_size: of a step.
        gigabytes: of a window.
        world: processes that read a window together.
        workers: of this process.
    """
    table = numbered_table(source)
    if source is None or table is None:
        return by
    windows = windows_of(source, seed, gigabytes, world)
    if windows is None:
        for number in np.unique(table.groups.of(_numbers(source))).tolist() if workers else ():
            table.group(number)
        return by
    if by is not None:
        warn_once(
            "the order that is asked for goes anywhere in the data, which are larger than data.shuffle_gigabytes: "
            f"each row costs its {table.groups.dear}"
        )
        return by
    return ByGroups(seed, batch_size, len(source) // batch_size, len(source), windows)
