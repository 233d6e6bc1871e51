"""Which samples are together in a batch, and how often they come, where a column says so: `data.sampler`.

Each of these is a pure function of (seed, epoch) as the plain order is (`sampler`): every process computes the whole
epoch and takes its slice of each batch. A batch is one of an optimiser step, over all processes and micro-batches.

Where rows are dealt to T batches, those of a group lie one behind the other, and slot i goes to batch i modulo T: so a
group with at most T rows is in no batch twice, and of a larger one each batch has the same number, to within one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmssl.draws import key_of
from mmssl.errors import UserError

from .sampler import order, philox

Numbers = NDArray[np.int64]
Epoch = tuple[Numbers, Numbers]
"""((places,) the row at each place, (places,) a number that tells its comings apart), batch after batch."""
AGAIN = 32
"""The number of a row's coming is epoch + times << AGAIN, with the times that it came in this epoch already."""


@dataclass(frozen=True)
class Order:
    """The places of an epoch: whole batches.

    Attributes:
        seed: of the order.
        batch_size: samples of a step.
        steps: of an epoch.
        size: rows in all.
    """

    seed: int
    batch_size: int
    steps: int
    size: int

    def rows(self, epoch: int) -> Numbers:
        """(steps, batch_size) the rows of each batch, before batches and what is in them are shuffled."""
        raise NotImplementedError

    def key(self, *what: int | str) -> int:
        """A seed of its own for each of the things that are drawn."""
        return key_of(self.seed, "sampler", *what)

    def epoch(self, number: int) -> Epoch:
        """The places of an epoch, shuffled."""
        rows = self.rows(number)
        rows = rows[order(self.steps, self.key("batches"), number)]
        keys = philox(self.key("places"), number).random_raw(rows.size).reshape(rows.shape)
        rows = np.take_along_axis(rows, np.argsort(keys, axis=1, kind="stable"), 1).reshape(-1)
        return rows, number + (times(rows) << AGAIN)


def times(rows: Numbers) -> Numbers:
    """(n,) how often each of these came before."""
    sort = np.argsort(rows, kind="stable")
    ordered = rows[sort]
    first = np.searchsorted(ordered, ordered)
    out = np.empty(len(rows), np.int64)
    out[sort] = np.arange(len(rows)) - first
    return out


def rank_in_group(groups: Numbers) -> Numbers:
    """(n,) how many of the same group stand before each place."""
    return times(groups)


def dealt(rows: Numbers, steps: int) -> Numbers:
    """(steps, n / steps) rows that lie group by group, dealt to batches."""
    return rows.reshape(-1, steps).T


@dataclass(frozen=True)
class Distinct(Order):
    """At most one row of a group in a batch (G-SimCLR, Chakraborty et al. 2020).

    An epoch has as many batches as there can be: of a group with more rows than batches the rest is left out of this
    epoch, other rows in each. (The paper's sorts once, and its batches repeat clusters when the smallest is used up.)
    A row of no group is one by itself.
    """

    groups: Numbers

    @classmethod
    def of(cls, seed: int, batch_size: int, codes: Numbers) -> Distinct:
        """codes: (n,) the group of each row, -1 where it has none."""
        groups = codes.copy()
        alone = np.flatnonzero(codes < 0)
        groups[alone] = codes.max(initial=-1) + 1 + np.arange(len(alone))
        sizes = np.bincount(groups)
        sizes = sizes[sizes > 0]
        if len(sizes) < batch_size:
            raise UserError(
                f"data.sampler: {len(sizes):,} groups cannot fill a batch with one row of each: train.batch_size is "
                f"{batch_size}, use {len(sizes)} or less"
            )
        low, high = 1, len(codes) // batch_size
        while low < high:  # the most batches that the groups fill; with fewer they do, too
            middle = (low + high + 1) // 2
            fits = np.minimum(sizes, middle).sum() >= middle * batch_size
            low, high = (middle, high) if fits else (low, middle - 1)
        return cls(seed, batch_size, low, len(codes), groups)

    def rows(self, epoch: int) -> Numbers:
        """Of each group at most as many rows as there are batches; of these, any that fill the epoch."""
        drawn = order(self.size, self.key("rows"), epoch)
        drawn = drawn[rank_in_group(self.groups[drawn]) < self.steps][: self.steps * self.batch_size]
        return dealt(by_group(drawn, self.groups, self.key("groups"), epoch), self.steps)


def by_group(rows: Numbers, groups: Numbers, key: int, epoch: int) -> Numbers:
    """Rows group by group, the groups in a drawn order."""
    place = np.empty(int(groups.max()) + 1, np.int64)
    place[order(len(place), key, epoch)] = np.arange(len(place))
    return rows[np.argsort(place[groups[rows]], kind="stable")]


@dataclass(frozen=True)
class Same(Order):
    """A batch of one group (multistage contrast, Zhang et al. 2024: negatives of one's own pseudo-class).

    What fills no batch of its group is left out of this epoch. Groups smaller than a batch, and rows of none, never
    come.
    """

    groups: Numbers

    @classmethod
    def of(cls, seed: int, batch_size: int, codes: Numbers) -> Same:
        """codes: (n,) the group of each row, -1 where it has none."""
        steps = int((np.bincount(codes[codes >= 0]) // batch_size).sum()) if (codes >= 0).any() else 0
        if not steps:
            raise UserError(f"data.sampler: no group has the {batch_size} rows of a batch (train.batch_size)")
        return cls(seed, batch_size, steps, len(codes), codes)

    def rows(self, epoch: int) -> Numbers:
        """Whole batches of each group."""
        drawn = order(self.size, self.key("rows"), epoch)
        drawn = drawn[self.groups[drawn] >= 0]
        whole = np.bincount(self.groups[drawn]) // self.batch_size * self.batch_size
        own = self.groups[drawn]
        drawn = drawn[rank_in_group(own) < whole[own]]
        return by_group(drawn, self.groups, self.key("groups"), epoch).reshape(-1, self.batch_size)


@dataclass(frozen=True)
class Balanced(Order):
    """As many places for each group, in the epoch and, to within one, in each batch; all rows of a group come before
    one comes again. Rows of no group never come."""

    members: tuple[Numbers, ...]

    @classmethod
    def of(cls, seed: int, batch_size: int, codes: Numbers) -> Balanced:
        """codes: (n,) the group of each row, -1 where it has none."""
        members = tuple(np.flatnonzero(codes == code) for code in np.unique(codes[codes >= 0]))
        steps = int((codes >= 0).sum()) // batch_size
        if not steps:
            raise UserError(
                f"data.sampler: fewer rows have a group than a batch has samples (train.batch_size {batch_size})"
            )
        if len(members) > steps * batch_size:
            raise UserError(f"data.sampler: {len(members):,} groups are more than the places of an epoch")
        return cls(seed, batch_size, steps, len(codes), members)

    def rows(self, epoch: int) -> Numbers:
        """Each group's next rows."""
        count, rest = divmod(self.steps * self.batch_size, len(self.members))
        parts = []
        for number, rows in enumerate(self.members):
            places = count + (number < rest)
            parts.append(rows[turns(len(rows), epoch * places, places, self.key("rows", number))])
        # larger groups differ in how often they are in a batch, by one: another one first in each epoch
        return dealt(np.concatenate([parts[i] for i in order(len(parts), self.key("groups"), epoch)]), self.steps)


def turns(size: int, first: int, count: int, key: int) -> Numbers:
    """(count,) numbers below `size`: from the place `first` on in permutations one behind the other."""
    last = (first + count - 1) // size
    every = np.concatenate([order(size, key, turn) for turn in range(first // size, last + 1)])
    return every[first % size :][:count]


@dataclass(frozen=True)
class Weighted(Order):
    """Rows come in proportion to their weights, in each epoch to within one (systematic sampling)."""

    weights: NDArray[np.float64]

    @classmethod
    def of(cls, seed: int, batch_size: int, weights: NDArray[np.float64]) -> Weighted:
        """weights: (n,), nan where there is none: such rows never come."""
        known = np.nan_to_num(weights, nan=0.0, posinf=np.inf)
        if not np.isfinite(known).all() or (known < 0).any() or not known.sum():
            raise UserError("data.sampler: weights are below 0, endless or all 0; expected numbers from 0 on")
        steps = len(weights) // batch_size
        if not steps:
            raise UserError(f"data.sampler: the data has {len(weights):,} samples, fewer than one batch ({batch_size})")
        return cls(seed, batch_size, steps, len(weights), known)

    def rows(self, epoch: int) -> Numbers:
        """Points at even distances on the sum of the weights, from a drawn one on."""
        drawn, places = order(self.size, self.key("rows"), epoch), self.steps * self.batch_size
        ends = np.cumsum(self.weights[drawn])
        start = int(philox(self.key("start"), epoch).random_raw()) / 2**64
        points = (np.arange(places) + start) * (ends[-1] / places)
        found = np.minimum(np.searchsorted(ends, points, side="right"), int(np.flatnonzero(self.weights[drawn])[-1]))
        return dealt(drawn[found], self.steps)


@dataclass(frozen=True)
class Paced(Order):
    """The best rows first, and more from epoch to epoch (self-paced: CLIP-VG, Xiao et al. 2023, by reliability alone).

    Attributes:
        best: rows, the best one first.
        start: share of them in the first epoch.
        over: epochs after which all of them come.
    """

    best: Numbers
    start: float
    over: int

    @classmethod
    def of(
        cls, seed: int, batch_size: int, scores: NDArray[np.float64], start: float, over: int, lowest: bool
    ) -> Paced:
        """scores: (n,), nan where there is none: such rows come last. lowest: the best are the lowest."""
        steps = len(scores) // batch_size
        if not steps:
            raise UserError(f"data.sampler: the data has {len(scores):,} samples, fewer than one batch ({batch_size})")
        best = np.argsort(np.where(np.isnan(scores), np.inf, scores if lowest else -scores), kind="stable")
        return cls(seed, batch_size, steps, len(scores), best, start, over)

    def rows(self, epoch: int) -> Numbers:
        """The epoch's share of the rows, each as often as the others, to within one."""
        share = min(self.start + (1 - self.start) * epoch / self.over, 1.0)
        count = max(int(np.ceil(share * self.size - 1e-9)), min(self.batch_size, self.size))
        places = self.steps * self.batch_size
        rows = self.best[turns(count, 0, places, self.key("rows", epoch))]
        return rows.reshape(self.steps, self.batch_size)


@dataclass(frozen=True)
class Together(Order):
    """The rows of a group lie one behind the other, so that they are in one batch (positives of each other); a group
    that reaches over the end of a batch is cut there. Rows of no group come between them, each once."""

    groups: Numbers

    @classmethod
    def of(cls, seed: int, batch_size: int, codes: Numbers) -> Together:
        """codes: (n,) the group of each row, -1 where it has none."""
        groups = codes.copy()
        alone = np.flatnonzero(codes < 0)
        groups[alone] = codes.max(initial=-1) + 1 + np.arange(len(alone))
        steps = len(codes) // batch_size
        if not steps:
            raise UserError(f"data.sampler: the data has {len(codes):,} samples, fewer than one batch ({batch_size})")
        return cls(seed, batch_size, steps, len(codes), groups)

    def rows(self, epoch: int) -> Numbers:
        """Group after group; what fills no batch is left out of this epoch."""
        drawn = by_group(order(self.size, self.key("rows"), epoch), self.groups, self.key("groups"), epoch)
        return drawn[: self.steps * self.batch_size].reshape(self.steps, self.batch_size)


@dataclass(frozen=True)
class Kept(Order):
    """A share of the rows alone, those that score best: of all, or as many of each group, as far as it has them
    (pruning; where scores are renewed in a run, dynamic pruning).

    Attributes:
        kept: numbers of the rows that come, in rising order, each once an epoch.
    """

    kept: Numbers

    @classmethod
    def of(
        cls,
        seed: int,
        batch_size: int,
        scores: NDArray[np.float64],
        keep: float,
        lowest: bool,
        codes: Numbers | None = None,
    ) -> Kept:
        """Choose.

        Args:
            seed: of the order, and of which rows of one score are kept.
            batch_size: of a step.
            scores: (n,), nan where there is none: such rows never come.
            keep: share of the rows with a score that is kept, to within one.
            lowest: the best are the lowest.
            codes: (n,) the group of each row, -1 where it has none: such rows never come.
        """
        known = np.flatnonzero(~np.isnan(scores) & (True if codes is None else codes >= 0))
        drawn = known[np.argsort(order(len(scores), key_of(seed, "sampler", "ties"), 0)[known], kind="stable")]
        best = drawn[np.argsort(scores[drawn] if lowest else -scores[drawn], kind="stable")]
        count = round(keep * len(known))
        groups = np.zeros(len(best), np.int64) if codes is None else np.unique(codes[best], return_inverse=True)[1]
        kept = np.sort(best[rank_in_group(groups) < shared_out(np.bincount(groups), count)[groups]])
        if len(kept) < batch_size:
            raise UserError(
                f"data.sampler: {len(kept):,} of {len(scores):,} rows are kept, fewer than one batch (train.batch_size "
                f"{batch_size})"
            )
        return cls(seed, batch_size, len(kept) // batch_size, len(scores), kept)

    def rows(self, epoch: int) -> Numbers:
        """Those that are kept, in any order; what fills no batch is left out of this epoch."""
        drawn = self.kept[order(len(self.kept), self.key("rows"), epoch)]
        return drawn[: self.steps * self.batch_size].reshape(self.steps, self.batch_size)


def shared_out(sizes: Numbers, count: int) -> Numbers:
    """(k,) how many rows each group gives, `count` in all: as many of each, to within one, or all that it has."""
    given, left = np.zeros(len(sizes), np.int64), min(count, int(sizes.sum()))
    while left:
        room = np.flatnonzero(given < sizes)
        each, rest = divmod(left, len(room))
        if each:
            more = np.minimum(each, sizes[room] - given[room])
        else:  # the last ones go to the largest groups
            more = np.zeros(len(room), np.int64)
            more[np.argsort(-sizes[room], kind="stable")[:rest]] = 1
        given[room] += more
        left -= int(more.sum())
    return given


def codes_of(values: Sequence[object]) -> Numbers:
    """(n,) a number from 0 on for each value, -1 where there is none."""
    known: dict[object, int] = {}
    lacking = (v is None or v == "" or v != v for v in values)
    found = [-1 if no else known.setdefault(v, len(known)) for v, no in zip(values, lacking, strict=True)]
    return np.array(found, np.int64)
