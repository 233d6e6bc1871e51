"""Rows held out by label and by group: the one place where rows are shared out.

One greedy rule serves single labels, several labels a row and groups of rows: units (a row, or all rows of a group)
are taken in random order, those with the rarest label first, as long as each brings the counts of the labels nearer
to what is wanted of them. For single labels without groups the result is the exact stratified draw; for several labels
a row it is the idea of Sechidis et al., "On the Stratification of Multi-Label Data", ECML PKDD 2011.

What is wanted differs: `take_share` an exact number of rows (labels that somebody pays for, rows to stop by),
`hold_out` a share of every label that never empties one (rows to choose by), `few_of_each` a share of every label
that never loses one. `folds` and `parts_of` share all rows out into parts, `nested` puts them into the order in which
labels are bought.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .sampler import order

Counts = NDArray[np.float64]
"""(n, C) how much of each label a row has: one-hot for single labels."""
Rows = NDArray[np.int64]
Groups = Sequence[Hashable] | NDArray[Any]
"""n names; rows of one name stay together, a row called None is alone."""
Fold = tuple[Rows, Rows]
"""(numbers of the rows to learn from, numbers of the rows held out)."""


def strata(task: str, y: NDArray[Any], outputs: int, bins: int = 5) -> Counts:
    """(n, C) how much of each label a row has.

    task: classification (y (n,) class numbers), multilabel (y (n, C) of 0 and 1; having none of them is a label too)
    or regression (y (n, C) numbers: the fifths of the first column).
    """
    if task == "multilabel":
        labels = np.asarray(y, np.float64)
        return np.concatenate([labels, labels.sum(1, keepdims=True) == 0], 1)
    if task == "regression":
        first = np.asarray(y, np.float64)[:, 0]
        edges = np.quantile(first, np.linspace(0, 1, bins + 1)[1:-1])
        return np.eye(bins)[np.searchsorted(edges, first, side="right")]
    return np.eye(outputs)[np.asarray(y, np.int64)]


def take_share(counts: Counts, share: float, groups: Groups | None = None, seed: int = 0) -> Rows:
    """Numbers of about `share` of the n rows, in rising order.

    Of a label that two units have one is taken and one is left, where the share allows it. Without groups the number
    of rows is exact.
    """
    n = len(counts)
    if not n or share <= 0:
        return np.empty(0, np.int64)
    if share >= 1:
        return np.arange(n)
    members, amounts = _units(counts, groups)
    total, units_with = amounts.sum(0), (amounts > 0).sum(0)
    least = np.where(units_with >= 2, np.minimum(1.0, total), 0.0)
    wanted = np.clip(total * share, least, np.maximum(total - least, 0))
    taken = _greedy(amounts, wanted, order(len(members), seed, 0))
    if groups is None:
        taken = _exactly(taken, round(n * share), amounts, wanted)
    return _rows(taken, members)


def hold_out(counts: Counts, share: float, groups: Groups | None = None, seed: int = 0) -> Rows:
    """Numbers of `share` of every label's rows, rounded up but never all of them, in rising order.

    What learns from the rest still meets every label. Nothing is held out where each label has one row, or where the
    groups are so few that each is far more than the share.
    """
    total = counts.sum(0)
    return _quota(counts, np.clip(np.ceil(share * total), 0, np.maximum(total - 1, 0)), groups, seed)


def few_of_each(counts: Counts, share: float, seed: int = 0) -> Rows:
    """Numbers of `share` of every label's rows, rounded but at least one, in rising order."""
    return _quota(counts, np.maximum(np.round(share * counts.sum(0)), 1), None, seed)


def folds(y: NDArray[Any], parts: int, groups: Groups | None = None, seed: int = 0) -> list[Fold]:
    """All n rows in stratified parts by the class numbers y (n,), each held out once; rows of a group stay together."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if groups is None:
        return list(StratifiedKFold(parts, shuffle=True, random_state=seed).split(y, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fewer rows of a class than folds
        return list(StratifiedGroupKFold(parts, shuffle=True, random_state=seed).split(y, y, groups))


def parts_of(counts: Counts, parts: int, groups: Groups | None = None, seed: int = 0) -> list[Fold]:
    """All n rows in at most `parts` parts, each held out once, with the labels of `counts` shared out as `take_share`
    does; rows of a group stay together. Fewer parts where rows or groups are fewer."""
    left, out = np.arange(len(counts)), []
    for number in range(parts):
        own = None if groups is None else [groups[row] for row in left.tolist()]
        held = left[take_share(counts[left], 1 / (parts - number), own, seed + number)]
        if len(held):
            out.append((without(len(counts), held), held))
        left = np.setdiff1d(left, held)
    return out


def nested(counts: Counts, size: int, seed: int = 0, least: int = 2) -> Rows:
    """Numbers of the `size` rows that are labelled first, in the order in which they are.

    The first k of them are a stratified draw of k rows whatever `size` is, so that 20 labels are among the 100 of the
    same seed. First every label gets a row, the commonest first, then each a second one, up to `least`; from there on
    comes the row that brings the counts nearest to the labels' shares.
    """
    n = len(counts)
    rng = np.random.default_rng([seed, n])
    kinds, kind_of = np.unique(counts, axis=0, return_inverse=True)  # rows of one kind stand for each other
    waiting = [rng.permutation(np.flatnonzero(kind_of.reshape(-1) == kind)).tolist() for kind in range(len(kinds))]
    lots = rng.permutation(len(kinds))  # of equal kinds none is always first
    total, have, taken = counts.sum(0), np.zeros(counts.shape[1]), []
    there, square = np.array([bool(rows) for rows in waiting]), np.square(kinds).sum(1)
    for number in range(1, min(size, n) + 1):
        candidates = there
        for level in range(1, least + 1):
            lacking = have < np.minimum(level, total) - 1e-9
            if lacking.any():
                candidates = there & (kinds[:, lacking] > 0).any(1)
                break
        nearness = 2 * kinds @ (total / n * number - have) - square  # of |wanted - have| before and after, squared
        best = int(lots[np.where(candidates, nearness, -np.inf)[lots].argmax()])
        taken.append(waiting[best].pop())
        there[best] = bool(waiting[best])
        have += kinds[best]
    return np.array(taken, np.int64)


def without(n: int, taken: Rows) -> Rows:
    """The rows of 0..n-1 that are not in `taken`."""
    left = np.ones(n, bool)
    left[taken] = False
    return np.flatnonzero(left)


def _quota(counts: Counts, wanted: Counts, groups: Groups | None, seed: int) -> Rows:
    members, amounts = _units(counts, groups)
    # `Generator.permutation`, not `order`: which rows a probe chooses by is part of every linear score so far
    return _rows(_greedy(amounts, wanted, np.random.default_rng(seed).permutation(len(members))), members)


def _greedy(amounts: Counts, wanted: Counts, visited: Rows) -> list[int]:
    """Units, each of which brings the sums of `amounts` (units, C) nearer to `wanted` (C,); visited: in which order."""
    scale, total = 1 / np.maximum(wanted, 1e-9), amounts.sum(0)
    rarity = np.where(amounts > 0, total, np.inf).min(1)
    taken, have = [], np.zeros_like(total)
    for unit in sorted(visited.tolist(), key=lambda u: rarity[u]):
        now, then = np.abs(wanted - have) * scale, np.abs(wanted - have - amounts[unit]) * scale
        if (now - then).sum() > 1e-9:
            taken.append(unit)
            have = have + amounts[unit]
    return taken


def _exactly(taken: list[int], size: int, amounts: Counts, wanted: Counts) -> list[int]:
    """So many rows, not one more for each label that was rounded up: those whose labels are furthest off change."""
    inside, scale = np.zeros(len(amounts), bool), 1 / np.maximum(wanted, 1e-9)
    inside[taken] = True
    while (change := int(size) - int(inside.sum())) != 0:
        have, sign = amounts[inside].sum(0), 1 if change > 0 else -1
        candidates = np.flatnonzero(~inside if sign > 0 else inside)
        after = have + sign * amounts[candidates]
        cost = (np.abs(wanted - after) * scale).sum(1) + 1e6 * ((after < 1) & (have >= 1)).any(1)
        inside[candidates[int(cost.argmin())]] = sign > 0
    return np.flatnonzero(inside).tolist()


def _units(counts: Counts, groups: Groups | None) -> tuple[list[list[int]], Counts]:
    """The rows of every unit, and (units, C) how much of each label it has."""
    n = len(counts)
    if groups is None:
        return [[row] for row in range(n)], counts
    found: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        # a row of no group is one of its own
        found.setdefault(("row", row) if group is None else ("group", group), []).append(row)
    members = list(found.values())
    return members, np.stack([counts[rows].sum(0) for rows in members])


def _rows(taken: Sequence[int], members: Sequence[Sequence[int]]) -> Rows:
    return np.array(sorted(row for unit in taken for row in members[unit]), np.int64)
