"""Rows beside other rows: the same ones, nearly the same ones, on both sides of a split; and what tells their label."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..data.amounts import are_amounts
from ..data.choosing import look_at
from ..saying import Advance
from ..training.building import flat
from . import repeated
from .columns import part_of_text
from .decoding import Facts
from .findings import NOTE, WORTHLESS, WRONG, Finding, alike_pairs, named, of_classes, small_ones
from .relabelled import made_of
from .rows import Rows
from .sketches import alike_rows, alike_texts, cells_of, sketches_of

if TYPE_CHECKING:
    from .check import Checked

HALF = 0.5
"""Share of the test rows that are training rows from which on no score of them says anything."""
CLASSES = 200
"""Classes that are told of, the commonest first."""
SHARED = 4
"""Groups that are named."""

# -------------------------------------------------------------------------------------------------------- repetitions


def steps(data: Rows) -> int:
    """How often `repeated_rows` says that it has got on: with the bytes of a split, and a modality of it."""
    return len(data.splits) * (1 + len(data.columns))


def repeated_rows(
    out: Checked, data: Rows, facts: Mapping[str, Sequence[Facts]], most: int | None, advance: Advance
) -> None:
    """Rows that are there twice, within the first split and between it and each other one.

    facts: of the rows that were read, whose signatures are compared. most: rows whose bytes are. advance: told how far
    it is, of `steps`.
    """
    columns = list(flat(data.columns.values()))
    if data.recipe.data.split == "all":
        return  # nodes of one graph, or all of the data on purpose
    done = itertools.count(1)
    found = {}
    for split, rows in data.splits.items():
        found[split] = repeated.hashes(rows, columns, most)
        advance(next(done))
    first = next(iter(found))

    def near_of(split: str) -> dict[str, list[tuple[int, int]]]:
        """Modality -> pairs of the first split and this one, or within the first."""
        pairs, others = {}, None if split == first else facts[split]
        for name in data.columns:
            pairs[name] = _near(facts[first], others, name, found[first], found[split])
            advance(next(done))
        return pairs

    groups = repeated.groups(found[first])
    near = near_of(first)
    out.repeated = {"exact": groups[:200], "near": {name: pairs[:200] for name, pairs in near.items() if pairs}}
    out.findings += _of_repeated(first, len(found[first]), groups, near)
    out.findings += _disagreeing(data, first, groups)
    for split, hashes in found.items():
        if split == first:
            continue
        both = repeated.shared(found[first], hashes)
        near = near_of(split)
        shared = _groups(data, first, split)
        told = {"splits": [first, split], "exact": both[:200], "near": {n: p[:200] for n, p in near.items() if p}}
        out.across.append({**told, "groups": shared[:50]})
        out.findings += _of_leaks(first, split, len(hashes), both, near, shared, data.group)


def _near(
    one: Sequence[Facts],
    other: Sequence[Facts] | None,
    name: str,
    mine: Mapping[int, bytes],
    theirs: Mapping[int, bytes],
) -> list[tuple[int, int]]:
    """Pairs that are nearly the same, without those that are the same."""
    pairs = alike_texts(sketches_of(one, name), None if other is None else sketches_of(other, name))
    pairs += alike_rows(cells_of(one, name), None if other is None else cells_of(other, name))
    pairs += alike_pairs(small_ones(one, name), None if other is None else small_ones(other, name))
    return [(a, b) for a, b in pairs if mine.get(a) != theirs.get(b) or mine.get(a) is None]


def _of_repeated(
    split: str, count: int, groups: Sequence[Sequence[int]], near: Mapping[str, Sequence[tuple[int, int]]]
) -> Iterator[Finding]:
    extra = sum(len(group) - 1 for group in groups)
    if extra:
        level = WORTHLESS if extra >= 0.98 * count and count > 20 else WRONG if extra > 0.05 * count else NOTE
        text = f"{split}: {extra:,} of {count:,} rows repeat another, e.g. {named(groups[0])}"
        yield Finding(level, "repeated", text, split, rows=list(groups[0][:50]))
    for name, pairs in near.items():
        if pairs:
            first, second = pairs[0]
            count_of = f"{len(pairs):,} pairs of {name} look" if len(pairs) > 1 else f"1 pair of {name} looks"
            text = f"{split}: {count_of} nearly the same, e.g. rows {first} and {second}"
            yield Finding(NOTE, "near", text, split, name, [row for pair in pairs[:25] for row in pair])


def _of_leaks(
    first: str,
    split: str,
    count: int,
    both: Sequence[tuple[int, int]],
    near: Mapping[str, Sequence[tuple[int, int]]],
    shared: Sequence[str],
    group: str | None,
) -> Iterator[Finding]:
    if both:
        level = WORTHLESS if len(both) >= HALF * count else WRONG if len(both) > 0.005 * count else NOTE
        there, here = both[0]
        text = f"{split}: {len(both):,} of {count:,} rows are also in {first}, e.g. row {here} is its row {there}"
        yield Finding(level, "leak", text, split, rows=[row for _, row in both[:50]])
    for name, pairs in near.items():
        if pairs:
            there, here = pairs[0]
            text = f"{split}: {len(pairs):,} {name} look nearly as one in {first}, e.g. row {here} as its row {there}"
            yield Finding(NOTE, "near-leak", text, split, name, [row for _, row in pairs[:50]])
    if shared:
        some = ", ".join(shared[:SHARED])
        text = f"{split}: {len(shared):,} of '{group}' are also in {first} ({some}): scores are of known ones"
        yield Finding(WRONG, "group-leak", text, split)


def _groups(data: Rows, one: str, other: str) -> list[str]:
    """Values of the group's column on both sides."""
    if data.group is None or data.group not in data.splits[other].column_names:
        return []
    values = [{str(v) for v in data.splits[s].with_format(None)[data.group] if v is not None} for s in (one, other)]
    return sorted(values[0] & values[1])


def _disagreeing(data: Rows, split: str, groups: Sequence[Sequence[int]]) -> Iterator[Finding]:
    """Rows that are the same and are labelled otherwise."""
    if data.label is None or not groups:
        return
    labels = data.splits[split].with_format(None)[data.label]
    wrong = [group for group in groups if len({str(labels[row]) for row in group}) > 1]
    if wrong:
        text = f"{split}: {len(wrong):,} groups of equal rows have different labels, e.g. {named(wrong[0])}"
        yield Finding(NOTE, "other-label", text, split, rows=list(wrong[0][:50]))


# -------------------------------------------------------------------------------------------------------------- label


def label(out: Checked, data: Rows) -> None:
    """The classes of each split, and inputs that are the label in other words."""
    label = data.label
    if label is None:
        return
    counts: dict[str, Counter[str]] = {}
    missing: dict[str, int] = {}
    numbers = data.recipe.evaluation.label_task != "classification"
    amounts: list[object] = []
    for split, source in data.splits.items():
        if label not in (source.column_names or ()):
            continue
        feature = (source.features or {}).get(label)
        names = getattr(feature, "names", None)
        values = list(source.with_format(None)[label])
        known = [v for v in values if v is not None and v == v and v != ""]
        numbers &= names is None
        amounts += known
        missing[split] = len(values) - len(known)
        counts[split] = Counter(
            names[v] if names and isinstance(v, int) and 0 <= v < len(names) else str(v) for v in known
        )
    if not counts:
        return
    if numbers and (data.recipe.evaluation.label_task == "regression" or are_amounts(amounts)):
        out.label = {"column": label, "numbers": True, "missing": missing}
    else:
        classes = {split: dict(of.most_common(CLASSES)) for split, of in counts.items()}
        out.label = {"column": label, "numbers": False, "classes": classes, "missing": missing}
        out.findings += of_classes(label, counts, missing)
    out.findings += _telling(data, label)


def _telling(data: Rows, label: str) -> Iterator[Finding]:
    """Inputs that are the label in other words."""
    source = next(iter(data.splits.values()))
    table = look_at(source, {})
    if label not in table.columns:
        return
    known = table.columns[label]
    by_row = dict(zip(known.rows, known.values, strict=True))
    for name, of in data.columns.items():
        for column in [] if isinstance(of, str) else of:
            why = made_of(table.columns[column], by_row) if table.columns[column].is_plain else None
            if why is not None:
                level = WORTHLESS if why.startswith("tells") else WRONG
                yield Finding(level, "label-told", f"the column '{column}', an input of {name}, {why}", modality=name)
        if (
            isinstance(of, str)
            and data.recipe.modalities[name].type == "text"
            and part_of_text(table.columns[of], known)
        ):
            yield Finding(WRONG, "label-told", f"the label '{label}' stands word for word in '{of}'", modality=name)
