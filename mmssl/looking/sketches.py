"""Rows that are nearly the same by what they are made of: texts by their words, rows of tables by their cells."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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

    Rows are numbers of 64 bits, the sums of those of their cells, so that what a row is without one cell takes one
    subtraction, however many columns there are; rows that are found by it are compared.
    """
    both = [one] if other is None else [one, other]
    names = sorted({name for rows in both for cells in rows.values() for name in cells})
    count = sum(map(len, both))
    if len(names) < 3 or count > 2 * COMPARED:
        return []
    table = _numbered([cells for rows in both for cells in rows.values()], names)
    numbers = [number for rows in both for number in rows]
    draw = np.random.default_rng(0)
    hashes = [draw.integers(2**64, size=len(weights), dtype=np.uint64) for weights in table.rarity]
    whole = np.zeros(count, np.uint64)
    for codes, of in zip(table.codes, hashes, strict=True):
        whole += of[codes]
    tries = np.log(count) * 2 - np.log(2) - np.log(CHANCE)
    found: set[tuple[int, int]] = set()
    for codes, of, rarity in zip(table.codes, hashes, table.rarity, strict=True):
        rare = table.total - rarity[codes] > tries
        for group in _differing(whole - of[codes], codes):
            mine = [at for at in group if at < len(one)]
            theirs = mine if other is None else [at for at in group if at >= len(one)]
            for at in theirs:
                near = [a for a in mine[:MOST] if codes[a] != codes[at]] if rare[at] else []
                near = [a for a in near if np.count_nonzero(table.codes[:, a] != table.codes[:, at]) == 1]
                pairs = [(numbers[a], numbers[at]) for a in near]
                found |= {(match, row) for match, row in pairs if other is not None or match < row}
    return sorted(found)[:MOST]


class _Numbered(NamedTuple):
    """A table in numbers.

    Attributes:
        codes: number of the value of each cell, (columns, rows).
        rarity: of each column, the logarithm of one in how many rows has each of its values.
        total: of each row, the sum of that over its cells.
    """

    codes: NDArray[np.int32]
    rarity: list[NDArray[np.float64]]
    total: NDArray[np.float64]


def _numbered(rows: Sequence[Cells], names: Sequence[str]) -> _Numbered:
    codes = np.empty((len(names), len(rows)), np.int32)
    rarity, total = [], np.zeros(len(rows))
    for place, name in enumerate(names):
        known: dict[Hashable, int] = {}
        codes[place] = [known.setdefault(cells.get(name), len(known)) for cells in rows]
        rarity.append(np.log(len(rows) / np.bincount(codes[place])))
        total += rarity[-1][codes[place]]
    return _Numbered(codes, rarity, total)


def _differing(keys: NDArray[np.uint64], codes: NDArray[np.int32]) -> Iterator[list[int]]:
    """Places of the same key, group by group, of those with more than one code; in a group in their order."""
    sort = np.lexsort((codes, keys))
    same = keys[sort][1:] == keys[sort][:-1]
    other = np.flatnonzero(same & (codes[sort][1:] != codes[sort][:-1]))
    edges = np.flatnonzero(~same)
    for group in np.unique(np.searchsorted(edges, other)).tolist():
        begin = 0 if group == 0 else int(edges[group - 1]) + 1
        end = len(keys) if group == len(edges) else int(edges[group]) + 1
        yield sorted(sort[begin:end].tolist())
