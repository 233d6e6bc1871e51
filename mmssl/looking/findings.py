"""What is wrong with data, from what was read of them: lines for the user, the worst first."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.sampler import order
from .decoding import Facts

Small = NDArray[np.int8]
WORTHLESS, WRONG, NOTE = "worthless", "wrong", "note"
LEVELS = (WORTHLESS, WRONG, NOTE)
"""A run on these data would say nothing; something should be mended; something to know."""
FAR = 12.0
"""Robust deviations (of the median distance from the median) from which on a channel of a sample is an outlier."""
FAR_CELL = 100.0
"""The same for a cell of a table."""
ALIKE = 0.99
"""Cosine of the small pictures of two samples from which on they are nearly the same."""
COMPARED, BLOCK = 50_000, 1024
"""Rows of a split whose small pictures are compared, at most; at a time."""
USUAL = 0.8
"""Share of the samples that have what is usual."""
SHOWN = 5
"""Rows that are named of each finding in its line."""
PLACE = re.compile(r"\s*\([^()]*\)$|'[^']*'|\S*[/\\]\S+|\d+(?:\.\d+)?")
"""What differs between two samples that are broken in the same way."""


@dataclass
class Finding:
    """One thing that is to be known.

    Attributes:
        level: one of `LEVELS`.
        kind: a word for programs, see docs/how-to/begin.md.
        text: a line for the user.
        split: of the data; empty: all of them.
        modality: that it concerns; empty: none.
        rows: numbers of rows in the split, the first of them.
    """

    level: str
    kind: str
    text: str
    split: str = ""
    modality: str = ""
    rows: list[int] = field(default_factory=list)


def named(rows: Sequence[int], of: Mapping[int, str] | None = None) -> str:
    """ "rows 3, 17 (V2, b.hea), 40 and 12 more"; `of` is what is said of some of them."""
    more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
    each = [f"{row} ({of[row]})" if of and of.get(row) else str(row) for row in rows[:SHOWN]]
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(each)}{more}"


def worst_first(found: Sequence[Finding]) -> list[Finding]:
    """In the order of their levels, within one as they were found."""
    return sorted(found, key=lambda one: LEVELS.index(one.level))


# ------------------------------------------------------------------------------------------------- of single samples


def reasons_of(facts: Sequence[Facts], modality: str) -> list[dict[str, Any]]:
    """Why samples are broken: "reason" (the first of the kind), "count", "rows", the most frequent first."""
    groups: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for one in facts:
        reason = one["bad"].get(modality) or one["bad"].get("*")
        if reason is not None:
            groups[PLACE.sub("_", reason)].append((one["row"], reason))
    ordered = sorted(groups.values(), key=lambda rows: -len(rows))
    return [{"reason": rows[0][1], "count": len(rows), "rows": [row for row, _ in rows[:50]]} for rows in ordered]


def sizes_of(facts: Sequence[Facts], modality: str) -> dict[str, dict[str, Any]]:
    """Size -> "least", "median", "greatest", and "rows" of the smallest and the largest."""
    values: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for one in facts:
        for key, value in one["modalities"].get(modality, {}).get("sizes", {}).items():
            values[key].append((value, one["row"]))
    out = {}
    for key, found in values.items():
        found.sort()
        middle = found[len(found) // 2][0]
        counts, edges = np.histogram([value for value, _ in found], bins=min(24, len({v for v, _ in found})))
        out[key] = {
            "least": found[0][0],
            "median": middle,
            "greatest": found[-1][0],
            "rows": [found[0][1], found[-1][1]],
            "histogram": {"counts": counts.tolist(), "edges": [float(f"{edge:.6g}") for edge in edges]},
        }
    return out


def channels_of(facts: Sequence[Facts], modality: str, others: Sequence[Facts] = ()) -> dict[str, dict[str, Any]]:
    """Channel -> "mean", "std" (of all samples), "least", "greatest", "samples", and rows: "flat", "saturated",
    "outliers".

    others: of another split, which say with these what is usual.
    """
    values, beside = _channels(facts, modality), _channels(others, modality)
    out = {}
    for name, found in values.items():
        rows = np.array([row for row, _ in found])
        numbers = np.array([of for _, of in found], dtype=np.float64)
        alive = numbers[:, 4] == 0
        mean = numbers[alive, 0].mean() if alive.any() else 0.0
        spread = np.sqrt(np.mean(numbers[alive, 1] ** 2 + (numbers[alive, 0] - mean) ** 2)) if alive.any() else 0.0
        sizes = np.concatenate([numbers[alive, 1], [of[1] for _, of in beside.get(name, ()) if of[4] == 0]])
        far = _far(np.log(np.maximum(sizes, 1e-12)))[: int(alive.sum())]
        if len(sizes) and not sizes.any():  # cells of a table, one number each
            means = np.concatenate([numbers[alive, 0], [of[0] for _, of in beside.get(name, ()) if of[4] == 0]])
            far = _far_cells(means)[: int(alive.sum())]
            alive &= len(set(means.tolist())) > 1 or len(means) == 1
            far = far[: int(alive.sum())]
        out[name] = {
            "mean": float(f"{mean:.6g}"),
            "std": float(f"{spread:.6g}"),
            "least": float(numbers[:, 2].min()),
            "greatest": float(numbers[:, 3].max()),
            "samples": len(found),
            "flat": rows[~alive].tolist(),
            "saturated": rows[numbers[:, 5] == 1].tolist(),
            "outliers": rows[alive][far].tolist(),
        }
    return out


def _channels(facts: Sequence[Facts], modality: str) -> dict[str, list[tuple[int, list[float]]]]:
    """Channel -> (row, its numbers)."""
    values: dict[str, list[tuple[int, list[float]]]] = defaultdict(list)
    for one in facts:
        for name, numbers in one["modalities"].get(modality, {}).get("channels", {}).items():
            values[name].append((one["row"], numbers))
    return values


def _far(values: np.ndarray) -> np.ndarray:
    """Which values are outliers by their median and median distance from it."""
    if len(values) < 20:
        return np.zeros(len(values), bool)
    distance = np.abs(values - np.median(values))
    usual = max(float(np.median(distance)) * 1.4826, 1e-3)
    return np.asarray(distance > FAR * usual)


def _far_cells(values: np.ndarray) -> np.ndarray:
    """Which cells of a column are none of its numbers, such as -9999: columns have long tails, but no such ones."""
    distance = np.abs(values - np.median(values))
    usual = float(np.median(distance)) * 1.4826 if len(values) >= 20 else 0.0
    return np.asarray(distance > FAR_CELL * usual) if usual > 0 else np.zeros(len(values), bool)


def of_modality(
    name: str, split: str, facts: Sequence[Facts], told: Mapping[str, Any], most: float, others: Sequence[Facts] = ()
) -> Iterator[Finding]:
    """What is found in one modality of one split.

    facts: of its rows. told: what `reasons_of`, `sizes_of` and `channels_of` said of them, and "present".
    most: share of broken samples that a run puts up with. others: of the split that is trained on, which say what is
    usual.
    """
    looked_at, broken = len(facts), sum(one["count"] for one in told["reasons"])
    if told["present"] == 0 and not broken:
        yield Finding(WRONG, "empty", f"{split}: no row has {name}", split, name)
        return
    if broken:
        share = broken / max(looked_at, 1)
        level = WORTHLESS if share > most or broken >= told["present"] + broken else WRONG
        first = told["reasons"][0]
        kinds = f" in {len(told['reasons'])} ways" if len(told["reasons"]) > 1 else ""
        text = f"{split}: {broken:,} of {looked_at:,} {name} are broken{kinds} ({share:.1%}), e.g. {first['reason']}"
        yield Finding(level, "broken", text, split, name, first["rows"])
    files = files_of(facts, name)
    table = any("cells" in one["modalities"].get(name, {}) for one in facts)
    yield from _of_channels(name, split, told["channels"], files, table)
    yield from _of_doubts(name, split, facts, files, [] if others is facts else others)


def files_of(facts: Sequence[Facts], modality: str) -> dict[int, str]:
    """Row -> the file it comes from, with the folder that this lies in; of those that come from one."""
    found = {one["row"]: one["modalities"].get(modality, {}).get("file") for one in facts}
    return {row: "/".join(re.split(r"[/\\]", file)[-2:]) for row, file in found.items() if file}


def _of_channels(
    name: str, split: str, channels: Mapping[str, Mapping[str, Any]], files: Mapping[int, str], table: bool
) -> Iterator[Finding]:
    """table: they are the columns of numbers of a table, which has others beside them."""
    dead = [channel for channel, of in channels.items() if len(of["flat"]) == of["samples"]]
    if channels and len(dead) == len(channels) and not table:
        yield Finding(WORTHLESS, "constant", f"{split}: {name} is constant in every sample", split, name)
        return
    if dead:
        yield Finding(WRONG, "flat", f"{split}: {name}: {_some(dead)} never vary", split, name)
    for kind, words in (("flat", "flat"), ("saturated", "saturated"), ("outliers", "of another size than usual")):
        which: dict[int, list[str]] = defaultdict(list)
        for channel, of in channels.items():
            for row in of[kind] if channel not in dead else ():
                which[row].append(channel)
        rows = sorted(which)
        if rows:
            level = NOTE if kind == "outliers" or len(rows) < 3 else WRONG
            said = named(rows, _beside(which, files))
            with_a = f"{_samples(len(rows))} with a {'column' if table else 'channel'}"
            text = f"{split}: {name}: {with_a} that is {words}: {said}"
            yield Finding(level, kind.removesuffix("s"), text, split, name, rows[:50])


def _beside(which: Mapping[int, Sequence[str]], files: Mapping[int, str]) -> dict[int, str]:
    """Row -> its channels, and its file where it has one."""
    return {row: "; ".join([_some(names), *([files[row]] if row in files else [])]) for row, names in which.items()}


def _of_doubts(
    name: str, split: str, facts: Sequence[Facts], files: Mapping[int, str], others: Sequence[Facts]
) -> Iterator[Finding]:
    """Samples that lack a channel which nearly all have, here and in `others`, have a rate that nearly none has, or are
    doubtful as the modality sees it."""
    there = [(one["row"], one["modalities"][name]) for one in facts if name in one["modalities"]]
    every = [of for _, of in there] + [one["modalities"][name] for one in others if name in one["modalities"]]
    signals = [(row, of) for row, of in there if of.get("signal")]
    sounding = [of for of in every if of.get("signal")]
    counts = Counter(channel for of in sounding for channel in of["channels"])
    usual = [channel for channel, count in counts.items() if count > USUAL * len(sounding)]
    lacking = {row: [c for c in usual if c not in of["channels"]] for row, of in signals}
    lacking = {row: channels for row, channels in lacking.items() if channels}
    if lacking:
        said = named(list(lacking), _beside(lacking, files))
        text = f"{split}: {name}: {_samples(len(lacking))} without a channel that the others have: {said}"
        yield Finding(NOTE, "no-channel", text, split, name, list(lacking)[:50])
    rates = {row: rate for row, of in there if (rate := of["sizes"].get("rate")) is not None}
    known = [rate for of in every if (rate := of["sizes"].get("rate")) is not None]
    for rate, count in Counter(known).most_common(1):
        odd = {row: [f"{other:g}"] for row, other in rates.items() if other != rate}
        if odd and count > USUAL * len(known):
            said = named(list(odd), _beside(odd, files))
            text = f"{split}: {name}: {_samples(len(odd))} at another rate than {rate:g} a second: {said}"
            yield Finding(NOTE, "other-rate", text, split, name, list(odd)[:50])
    doubts: dict[str, dict[int, list[str]]] = defaultdict(dict)
    for row, of in there:
        for doubt in of.get("doubts", ()):
            said, _, found = doubt.partition(" (")
            doubts[said].setdefault(row, []).append(found.rstrip(")"))
    for said, rows in doubts.items():
        text = f"{split}: {name}: {_samples(len(rows))} with {said} {named(list(rows), _beside(rows, files))}"
        yield Finding(NOTE if len(rows) < USUAL * len(there) else WRONG, "doubt", text, split, name, list(rows)[:50])


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count:,} samples"


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# ----------------------------------------------------------------------------------------------------- of pairs of rows


def alike_pairs(
    one: Mapping[int, Small], other: Mapping[int, Small] | None = None, least: float = ALIKE, most: int = 2000
) -> list[tuple[int, int]]:
    """(row, row) whose small pictures have at least such a cosine: within a split, or between two; of more than
    `COMPARED` rows a sample, always the same. most: pairs that are listed."""
    found: list[tuple[int, int]] = []
    if not one or (other is not None and not other):
        return found
    mine, theirs = _units(one), _units(one if other is None else other)
    for at in range(0, len(theirs[0]), BLOCK):
        cosine = mine[1] @ theirs[1][at : at + BLOCK].T
        pairs = [(int(mine[0][a]), int(theirs[0][at + b])) for a, b in np.argwhere(cosine >= least)]
        found += [(a, b) for a, b in pairs if other is not None or a < b]
        if len(found) >= most:
            break
    return sorted(found)


def _units(small: Mapping[int, Small]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(numbers of rows, their small pictures at length 1)."""
    rows = np.asarray(list(small), np.int64)
    if len(rows) > COMPARED:
        rows = rows[np.sort(order(len(rows), 0, 0)[:COMPARED])]
    x = np.asarray([small[row] for row in rows.tolist()], np.float32).reshape(len(rows), -1)
    return rows, x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


def small_ones(facts: Sequence[Facts], modality: str) -> dict[int, Small]:
    """Row -> its small picture, of those that have one."""
    found = {one["row"]: one["modalities"].get(modality, {}).get("small") for one in facts}
    return {row: np.frombuffer(bytes.fromhex(code), np.int8) for row, code in found.items() if code is not None}


# ------------------------------------------------------------------------------------------------------- of the label


def of_classes(label: str, counts: Mapping[str, Counter[str]], missing: Mapping[str, int]) -> Iterator[Finding]:
    """What is found in the classes of each split."""
    first = next(iter(counts), "")
    train = counts.get(first, Counter())
    if len(train) == 1 and not missing.get(first):
        yield Finding(WORTHLESS, "one-class", f"{first}: '{label}' is '{next(iter(train))}' in every row", first)
    total = sum(train.values())
    rare = [name for name, count in train.items() if count < 5]
    if rare and len(train) > 1:
        yield Finding(NOTE, "rare-class", f"{first}: fewer than 5 rows of the classes {_some(rare)}", first)
    if len(train) > 1 and total and max(train.values()) > 0.9 * total:
        name, count = train.most_common(1)[0]
        text = f"{first}: {count / total:.0%} of the rows are of the class '{name}': accuracy says little"
        yield Finding(NOTE, "unbalanced", text, first)
    for split, of in counts.items():
        strange = [name for name in of if train and name not in train]
        if strange:
            text = f"{split}: classes that {first} has none of: {_some(strange)}"
            yield Finding(WRONG, "unknown-class", text, split)
        if missing.get(split):
            yield Finding(NOTE, "no-label", f"{split}: {missing[split]:,} rows without '{label}'", split)
