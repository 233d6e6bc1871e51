"""Copies of earlier rows: by what they hold, and by the cosine of their embeddings (SemDeDup, Abbas et al. 2023,
arXiv 2303.09540, which compares within clusters only; here that is asked for)."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..data.fingerprint import content_of
from ..saying import doing, told
from .kmeans import Labels

if TYPE_CHECKING:
    from datasets import Dataset

BLOCK = 2048
"""Rows that are compared with all kept ones at a time."""


def same_contents(source: Dataset, columns: Sequence[str], rows: Iterable[int]) -> dict[int, int]:
    """Row -> the first row that holds the same in these columns; files count by their bytes, wherever they lie."""
    first: dict[bytes, int] = {}
    found: dict[int, int] = {}
    numbers = list(rows)
    chosen = source.select_columns(list(columns)).select(numbers)
    for row, value in zip(numbers, told(chosen, "comparing what rows hold", len(numbers), size=None), strict=True):
        digest = hashlib.sha256()
        for name in columns:
            digest.update(content_of(value[name]) + b"\x1f")
        earlier = first.setdefault(digest.digest(), row)
        if earlier != row:
            found[row] = earlier
    return found


def alike_rows(
    numbers: Labels, x: NDArray[np.float32], least: float, groups: Sequence[Hashable] | None = None
) -> dict[int, tuple[int, float]]:
    """Row -> (the kept row before it that it is most alike to, their cosine), where that is at least `least`.

    Rows come in their order, and are compared with those that are kept: each that goes has a partner that stays.

    Args:
        numbers: (n,) of the rows.
        x: (n, D) their embeddings, of length 1.
        least: cosine.
        groups: a value a row; rows are compared within one. None: with all.
    """
    parts: dict[Hashable, list[int]] = {}
    for place in range(len(numbers)):
        parts.setdefault(None if groups is None else groups[place], []).append(place)
    found: dict[int, tuple[int, float]] = {}
    with doing("comparing rows with those that are kept", len(numbers)) as advance:
        done = 0
        for places in parts.values():
            kept = np.empty(0, np.int64)
            for low in range(0, len(places), BLOCK):
                block = np.array(places[low : low + BLOCK])
                kept = np.concatenate([kept, _block(x, numbers, kept, block, least, found)])
                advance(done := done + len(block))
    return found


def _block(
    x: NDArray[np.float32],
    numbers: Labels,
    kept: Labels,
    block: Labels,
    least: float,
    found: dict[int, tuple[int, float]],
) -> Labels:
    """The places of a block that are kept; what goes is added to `found`."""
    before = x[block] @ x[kept].T if len(kept) else np.full((len(block), 1), -np.inf, np.float32)
    best = before.argmax(1)
    cosine = before[np.arange(len(block)), best]
    own = x[block] @ x[block].T
    stays = np.zeros(len(block), bool)
    for i in range(len(block)):
        partner, value = (kept[best[i]] if len(kept) else -1), float(cosine[i])
        mine = np.flatnonzero(stays[:i])
        if len(mine) and (top := mine[own[i, mine].argmax()]) is not None and own[i, top] > value:
            partner, value = block[top], float(own[i, top])
        if value >= least - 1e-6:  # float32 does not make 1 of every copy
            found[int(numbers[block[i]])] = (int(numbers[partner]), min(value, 1.0))
        else:
            stays[i] = True
    return block[stays]
