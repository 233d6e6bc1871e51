"""`mmssl check DATA|RECIPE`: reads rows as training would, some of them or all, and tells what is wrong with them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.fingerprint import glance
from ..data.loading import read_rows
from ..data.sampler import order
from ..data.workers import cores
from ..errors import RunError, one_line
from ..evaluation.leaks import LabelRead
from ..files import write_whole
from ..modality import select
from ..options.schema import to_dict
from ..recipe.config import Recipe
from ..recipe.loading import command_options, load_recipe, recipe_names
from ..saying import doing
from ..training.building import flat
from ..training.choosing import refuse_placeholder
from . import comparing, decoding
from .columns import EMPTY, SAME, is_fault
from .decoding import Facts
from .findings import NOTE, WORTHLESS, WRONG, Finding, channels_of, of_modality, reasons_of, sizes_of, worst_first
from .init import draft
from .options import CheckConfig
from .rows import Rows, open_rows

FACTS = 5
"""The form of what is told of a row, for files that another version has begun."""
FITTED = 500
"""Rows that preprocessors are fitted on."""
CLOSELY = ("sample", "workers")
"""Options that say how closely a recipe's data are looked at, and change nothing of it."""
FEWEST = 8
"""Rows that are trained on below which no run learns anything."""
COMPARED = 20_000
"""Rows of a split that are compared with all others, byte by byte, where not all are looked at."""
MANY = 512
"""Rows from which on worker processes are worth their start."""


@dataclass
class Checked:
    """What `check` found. `findings` are the worst first; the rest is described in docs/how-to/begin.md."""

    data: str
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    modalities: dict[str, dict[str, Any]] = field(default_factory=dict)
    presence: list[dict[str, Any]] = field(default_factory=list)
    repeated: dict[str, Any] = field(default_factory=dict)
    across: list[dict[str, Any]] = field(default_factory=list)
    label: dict[str, Any] | None = None
    group: str | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def worthless(self) -> bool:
        """Whether a run on these data would say nothing."""
        return any(one.level == WORTHLESS for one in self.findings)

    def lines(self) -> list[str]:
        """The findings, a line each."""
        return [f"{one.level}: {one.text}" for one in self.findings] or ["nothing is wrong, as far as was looked"]

    def plain(self) -> dict[str, Any]:
        """It as JSON values."""
        return {"format": 1, **asdict(self), "worthless": self.worthless}


def asked_of(
    data: str | Path | Mapping[str, Any], words: Sequence[str] | Mapping[str, object], flags: Mapping[str, Any]
) -> tuple[CheckConfig, Recipe | None]:
    """(how closely to look, the recipe that says at what; None: `data` is what is looked at).

    Args:
        data: where data are; or a .yaml file, the name of a shipped recipe, or a mapping, which is a recipe.
        words: options of the data, of a recipe changes of it: as the command has them, or a mapping.
        flags: "label" and "columns" (modality -> column(s)), where they are given.

    Raises:
        UserError: with a line a fault.
    """
    if not isinstance(data, Mapping) and Path(data).suffix not in (".yaml", ".yml") and str(data) not in recipe_names():
        return command_options(CheckConfig, words, {"path": str(data), **flags}), None
    columns = {f"data.columns.{name}": of for name, of in flags.get("columns", {}).items()}
    given = columns | ({"evaluation.label": flags["label"]} if "label" in flags else {})
    if isinstance(words, Mapping):
        mine = {key: value for key, value in words.items() if key in CLOSELY}
        changes = {key: value for key, value in words.items() if key not in CLOSELY}
        return command_options(CheckConfig, mine, {}), load_recipe(data, {**changes, **given})
    own = [word for word in words if word.partition("=")[0] in CLOSELY]
    others = [word for word in words if word not in own]
    told = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    return command_options(CheckConfig, own, {}), load_recipe(data, [*others, *told])


def check(
    asked: CheckConfig, output: str | Path | None = None, *, recipe: Recipe | None = None, every: bool = False
) -> Checked:
    """Look through data.

    Args:
        asked: the data; with a recipe only how closely.
        output: folder for report.json, report.html and what an interrupted look goes on from; None: nothing is written.
        recipe: what says which data, and how they are read; None: they are looked at as `mmssl init` does.
        every: decode every row, and not a sample.

    Raises:
        UserError: there are no such data, or nothing in them is read.
        RunError: the report cannot be written.
    """
    folder, unread = None if output is None else Path(output), dict[str, str]()
    if recipe is None:
        with doing(f"looking at {asked.path}"):
            drawn = draft(asked, told=False)
            recipe, unread = load_recipe(drawn.recipe), drawn.unread
    refuse_placeholder(recipe)
    out = Checked(recipe.data.path)
    out.findings += [_unread(name, why) for name, why in unread.items()]
    try:
        data = open_rows(recipe)
    except LabelRead as error:
        out.findings.append(Finding(WORTHLESS, "label-input", str(error), modality=error.modality))
        return _written(out, folder, None, {})
    facts = _facts(data, asked, folder, every)
    out.group = data.group
    out.findings += data.said
    split, rows = next((split, len(source)) for split, source in data.splits.items())
    if rows < FEWEST:
        text = f"{split}: {rows} row{'s are' if rows > 1 else ' is'} too few to learn from"
        out.findings.append(Finding(WORTHLESS, "few", text, split))
    _modalities(out, data, facts)
    _presence(out, data)
    with doing("comparing the rows", comparing.steps(data)) as advance:
        comparing.repeated_rows(out, data, facts, None if every else COMPARED, advance)
    comparing.label(out, data)
    out.findings = worst_first(out.findings)
    return _written(out, folder, data, facts)


def _unread(name: str, why: str) -> Finding:
    """Of a column that is no input, as `init` would have it."""
    if is_fault(why):
        lost = WRONG if why not in (EMPTY, SAME) else NOTE
        return Finding(lost, "no-input", f"the column '{name}' is no input: {why}")
    return Finding(
        NOTE,
        "label-told",
        f"the column '{name}' {why.replace('another', 'is another')}: no input, as init would have it",
    )


def _written(out: Checked, folder: Path | None, data: Rows | None, facts: Mapping[str, Sequence[Facts]]) -> Checked:
    if folder is None:
        return out
    from .page import page

    try:
        write_whole(folder / "report.json", json.dumps(out.plain(), indent=1, ensure_ascii=False) + "\n")
        write_whole(folder / "report.html", page(out, data, facts))
    except OSError as error:
        raise RunError(f"the report could not be written to {folder}: {one_line(error)}") from error
    return out


# --------------------------------------------------------------------------------------------------------------- rows


def _facts(data: Rows, asked: CheckConfig, folder: Path | None, every: bool) -> dict[str, list[Facts]]:
    """Split -> facts of the rows that are looked at."""
    first = next(iter(data.splits.values()))
    with doing("fitting the preprocessors", len(data.readers)) as advance:
        rows = read_rows(first, list(flat(data.columns.values())), FITTED)
        samples = {name: [select(row, column) for row in rows] for name, column in data.columns.items()}
        failed = decoding.fitted(data.readers, samples, advance)
    for name, why in failed.items():
        data.said.append(
            Finding(WORTHLESS, "unreadable", f"{name}: none of {len(rows):,} samples is read: {why}", modality=name)
        )
        data.readers.pop(name)
    found = {}
    for split, source in data.splits.items():
        numbers: list[int] = list(range(len(source)))
        if not every and len(numbers) > asked.sample:
            numbers = sorted(order(len(source), 0, 0)[: asked.sample].tolist())
        kept = None if folder is None else folder / f"looked-{split.replace(' ', '-')}.jsonl"
        told = [FACTS, to_dict(data.recipe.modalities), data.columns, glance(source, list(flat(data.columns.values())))]
        key = hashlib.sha256(json.dumps(told, default=str, sort_keys=True).encode()).hexdigest()[:16]
        usual = min(cores() - 1, 8) if len(numbers) >= MANY else 0
        workers = asked.workers if isinstance(asked.workers, int) else usual
        what = f"reading {split}"
        if not data.readers:
            found[split] = [{"row": n, "modalities": {}, "bad": {}} for n in numbers]
            continue
        found[split] = decoding.look_through(
            source, data.readers, data.columns, numbers, kept, key, workers=workers, what=what
        )
    return found


def _modalities(out: Checked, data: Rows, facts: Mapping[str, Sequence[Facts]]) -> None:
    for split, found in facts.items():
        out.splits[split] = {"rows": len(data.splits[split]), "looked_at": len(found)}
    for name, column in data.columns.items():
        first: Sequence[Facts] = ()
        told: dict[str, Any] = {"type": data.recipe.modalities[name].type, "column": column, "splits": {}}
        for split, found in facts.items():
            of = {
                "present": sum(name in one["modalities"] for one in found),
                "reasons": reasons_of(found, name),
                "sizes": sizes_of(found, name),
                "channels": channels_of(found, name, first),
            }
            first = first or found
            units = {u for one in found if (u := one["modalities"].get(name, {}).get("unit"))}
            told["splits"][split] = {**of, "unit": next(iter(units), "")}
            if name in data.readers:
                out.findings += of_modality(name, split, found, of, data.recipe.data.max_bad, first)
        out.modalities[name] = told


def _presence(out: Checked, data: Rows) -> None:
    """How many rows have which modalities, of all rows of what is trained on; nothing is decoded for it."""
    source = next(iter(data.splits.values()))
    names = list(data.columns)
    counts: Counter[tuple[str, ...]] = Counter()
    chosen = source.select_columns(list(dict.fromkeys(flat(data.columns.values())))).with_format("arrow")
    for table in chosen.iter(batch_size=1000):
        there = []
        for name in names:
            columns = data.columns[name]
            valid = [np.asarray(table[c].is_valid()) for c in ([columns] if isinstance(columns, str) else columns)]
            there.append(np.logical_or.reduce(valid))
        for row in np.stack(there, 1):
            counts[tuple(name for name, has in zip(names, row, strict=True) if has)] += 1
    out.presence = [{"modalities": list(of), "rows": count} for of, count in counts.most_common()]
    whole = counts.get(tuple(names), 0)
    if len(names) > 1 and whole < 0.5 * len(source):
        text = f"only {whole:,} of {len(source):,} rows have all of {', '.join(names)}"
        out.findings.append(Finding(WRONG if whole < 0.1 * len(source) else NOTE, "incomplete", text))
