"""Rows that are nearly the same by what they are made of: texts by their words, rows of tables by their cells."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.sampler import order

Facts = Mapping[str, Any]

PARTS = 96
"""Of a text, at most: those with the smallest hashes, whose overlap is that of all of them, nearly (bottom-k sketches,
Broder 1997)."""
LEAST_WORDS = 4
ALIKE = 0.72
"""Share of their words and pairs of words that two texts have in common from which on they are nearly the same. With a
word changed 99.9 % of 5,000 texts of twelve words and more have (ag_news_mini, clothing_reviews, flickr8k_mini,
prose_republic), of shorter ones a third; of pairs of texts that are no copies there two, both of captions."""
COMPARED, MOST = 50_000, 2000
"""Rows of a split that are compared at most, always the same; pairs that are listed."""
CHANCE = 1e-3
"""Pairs of rows that would be as alike by chance, were columns independent, at most."""

Pairs = list[tuple[int, int]]
Cells = Mapping[str, Hashable]


def sketch(text: str) -> list[int] | None:
    """Numbers of the words of a text and of the pairs of them, in small letters; None: too few words to go by."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    if len(words) < LEAST_WORDS:
        return None
    parts = {*words, *(" ".join(pair) for pair in zip(words, words[1:], strict=False))}
    hashes = (hashlib.blake2b(part.encode(), digest_size=4).digest() for part in parts)
    return sorted({int.from_bytes(one, "big") for one in hashes})[:PARTS]


def sketches_of(facts: Sequence[Facts], modality: str) -> dict[int, frozenset[int]]:
    """Row -> the sketch of its words, of those that have one."""
    found = {one["row"]: one["modalities"].get(modality, {}).get("words") for one in facts}
    return {row: frozenset(words) for row, words in found.items() if words}


def overlap(one: frozenset[int], other: frozenset[int]) -> float:
    """Jaccard's coefficient of what two sketches are of."""
    union = one | other
    if len(one) >= PARTS or len(other) >= PARTS:
        union = frozenset(sorted(union)[:PARTS])
    return len(one & other & union) / len(union)


def alike_texts(
    one: Mapping[int, frozenset[int]], other: Mapping[int, frozenset[int]] | None = None, least: float = ALIKE
) -> Pairs:
    """(row, row) whose texts have so much in common: within a split, or between two. Of texts that are the same, one
    stands for all.

    Two sets that have the share `least` in common share one of the rarest few parts of each (prefix filtering,
    Chaudhuri et al. 2006), so that only such pairs are compared.
    """
    mine, same = _distinct(_some(one))
    theirs, others = (mine, same) if other is None else _distinct(_some(other))
    every = [*mine.values(), *([] if other is None else theirs.values())]
    counts = Counter(part for parts in every for part in parts)
    first = {row: _rarest(parts, counts, least) for row, parts in mine.items()}
    where: dict[int, list[int]] = defaultdict(list)
    for row, rare in first.items():
        for part in rare:
            where[part].append(row)
    found = list(same if other is None else [])
    for row, words in theirs.items():
        rare = first[row] if other is None else _rarest(words, counts, least)
        near = {match for part in rare for match in where.get(part, ())}
        found += [
            (match, row)
            for match in near
            if (other is not None or match < row) and overlap(mine[match], words) >= least
        ]
        if len(found) >= MOST:
            break
    if other is not None:
        there = dict.fromkeys(row for _, row in found)
        by_row = {row: match for match, row in reversed(found)}
        found += [(by_row[first_row], row) for first_row, row in others if first_row in there]
    return sorted(found)


def _some(rows: Mapping[int, frozenset[int]]) -> Mapping[int, frozenset[int]]:
    if len(rows) <= COMPARED:
        return rows
    numbers = list(rows)
    return {numbers[at]: rows[numbers[at]] for at in np.sort(order(len(numbers), 0, 0)[:COMPARED]).tolist()}


def _distinct(rows: Mapping[int, frozenset[int]]) -> tuple[dict[int, frozenset[int]], Pairs]:
    """(the first row of each sketch, (that row, a later one with the same))."""
    first: dict[frozenset[int], int] = {}
    same = [(first[parts], row) for row, parts in rows.items() if first.setdefault(parts, row) != row]
    return {row: parts for parts, row in first.items()}, same


def _rarest(parts: frozenset[int], counts: Mapping[int, int], least: float) -> list[int]:
    """The parts of which one is shared with every set that has the share `least` in common with these."""
    return sorted(parts, key=lambda part: (counts[part], part))[: len(parts) - int(np.ceil(least * len(parts))) + 1]


# -------------------------------------------------------------------------------------------------------------- tables


def cells_of(facts: Sequence[Facts], modality: str) -> dict[int, Cells]:
    """Row -> its cells, of those of tables."""
    found = {one["row"]: one["modalities"].get(modality, {}).get("cells") for one in facts}
    return {row: cells for row, cells in found.items() if cells}


def alike_rows(one: Mapping[int, Cells], other: Mapping[int, Cells] | None = None) -> Pairs:
    """(row, row) of a table that differ in one cell: within a split, or between two. What they have in common has to be
    rare: of cells that many rows have, chance makes such pairs.
    """
    both = [one] if other is None else [one, other]
    names = sorted({name for rows in both for cells in rows.values() for name in cells})
    count = sum(map(len, both))
    if len(names) < 3 or count > 2 * COMPARED:
        return []
    frequent = {name: Counter(cells.get(name) for rows in both for cells in rows.values()) for name in names}
    found: set[tuple[int, int]] = set()
    tries = np.log(count) * 2 - np.log(2) - np.log(CHANCE)
    for name in names:
        rest = [n for n in names if n != name]
        where: dict[tuple[Hashable, ...], list[int]] = defaultdict(list)
        for row, cells in one.items():
            where[tuple(cells.get(n) for n in rest)].append(row)
        for row, cells in (one if other is None else other).items():
            key = tuple(cells.get(n) for n in rest)
            if (other is None and len(where[key]) < 2) or key not in where:
                continue
            if sum(np.log(count / frequent[n][v]) for n, v in zip(rest, key, strict=True)) > tries:
                near = [m for m in where[key][:MOST] if one[m].get(name) != cells.get(name)]
                found |= {(match, row) for match in near if other is not None or match < row}
    return sorted(found)[:MOST]
