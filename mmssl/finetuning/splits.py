"""Rows by label and by group: a share of them that looks like all of them, and keeps every group on one side.

One greedy rule serves single labels, several labels a row and groups of rows: units (a row, or all rows of a group)
are taken in random order, those with the rarest label first, as long as each brings the counts of the labels nearer
to their share. For single labels without groups the result is the exact stratified draw; for several labels a row it
is the idea of Sechidis et al., "On the Stratification of Multi-Label Data", ECML PKDD 2011.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..data.sampler import order


def take_share(
    counts: NDArray[np.float64], share: float, groups: Sequence[Hashable] | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """Numbers of about `share` of the n rows, in rising order.

    counts: (n, C) how much of each label a row has (one-hot for single labels). groups: n names; rows of one name go
    together. Of a label that two units have one is taken and one is left, where the share allows it.
    Without groups the number of rows is exact.
    """
    n = len(counts)
    if not n or share <= 0:
        return np.empty(0, np.int64)
    if share >= 1:
        return np.arange(n)
    members = _units(n, groups)
    amounts = np.stack([counts[rows].sum(0) for rows in members])  # (units, C)
    total, units_with = amounts.sum(0), (amounts > 0).sum(0)
    wanted = total * share
    least = np.where(units_with >= 2, np.minimum(1.0, total), 0.0)
    wanted = np.clip(wanted, least, np.maximum(total - least, 0))
    scale = 1 / np.maximum(wanted, 1e-9)
    rarity = np.where(amounts > 0, total, np.inf).min(1)
    taken, have = [], np.zeros_like(total)
    for unit in sorted(order(len(members), seed, 0).tolist(), key=lambda u: rarity[u]):
        now, then = np.abs(wanted - have) * scale, np.abs(wanted - have - amounts[unit]) * scale
        if (now - then).sum() > 1e-9:
            taken.append(unit)
            have = have + amounts[unit]
    if groups is None:
        taken = _exactly(taken, round(n * share), amounts, wanted, scale)
    rows = [row for unit in taken for row in members[unit]]
    return np.array(sorted(rows), np.int64)


def _exactly(
    taken: list[int], size: int, amounts: NDArray[np.float64], wanted: NDArray[np.float64], scale: NDArray[np.float64]
) -> list[int]:
    """So many rows, not one more for each label that was rounded up: those whose labels are furthest off change."""
    inside = np.zeros(len(amounts), bool)
    inside[taken] = True
    while (change := int(size) - int(inside.sum())) != 0:
        have, sign = amounts[inside].sum(0), 1 if change > 0 else -1
        candidates = np.flatnonzero(~inside if sign > 0 else inside)
        after = have + sign * amounts[candidates]
        cost = (np.abs(wanted - after) * scale).sum(1) + 1e6 * ((after < 1) & (have >= 1)).any(1)
        inside[candidates[int(cost.argmin())]] = sign > 0
    return np.flatnonzero(inside).tolist()


def _units(n: int, groups: Sequence[Hashable] | None) -> list[list[int]]:
    if groups is None:
        return [[row] for row in range(n)]
    found: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        # a row of no group is one of its own
        found.setdefault(("row", row) if group is None else ("group", group), []).append(row)
    return list(found.values())


def without(n: int, taken: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of 0..n-1 that are not in `taken`."""
    left = np.ones(n, bool)
    left[taken] = False
    return np.flatnonzero(left)
