"""`mmssl init DATA`: looks at data, says what it found, and writes a commented recipe that runs as it is."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.amounts import are_amounts
from ..data.loading import read_rows
from ..errors import RunError, UserError, one_line
from ..files import replaceable, write_whole
from ..modality import select
from ..modality.table import joined
from ..options import plainyaml
from ..options.schema import Faults
from ..recipe.loading import load_recipe, merge_overrides
from ..recipe.presets import DEMO, presets_of, take_preset
from ..saying import doing
from ..training.building import TrainingData, open_training_data
from ..training.choosing import Asked, choose
from ..training.device import this_device
from . import composing, evidence, repeated
from .columns import Roles, is_fault, roles_of, told_of, used
from .opening import Opened, open_data, reader
from .options import InitConfig
from .signals import Signals, look_at_signals
from .sizes import sizes_told
from .writing import commented

FITTED = 64
"""Pictures whose channels are looked at."""
SIDES = 64
"""Pictures, or graphs, whose size is looked at."""
LOOKED_AT = 5
"""Recordings whose rate, channels and unit are looked at."""
GROUPED = 5
"""Groups (patients, speakers) from which on rows are held out by them."""
ORDER = ("image", "volume", "video", "audio", "ecg", "eeg", "series", "graph", "text", "tabular")
LINES = 40
"""Columns that are told of, at most."""


@dataclass
class Started:
    """What `init` found and wrote.

    Attributes:
        path: of the recipe.
        recipe: it, plain.
        text: as it was written, with its comments.
        found: lines for the user.
        base: the shipped recipe that it comes from.
    """

    path: Path
    recipe: dict[str, Any]
    text: str
    found: list[str] = field(default_factory=list)
    base: str = ""


@dataclass
class Draft:
    """A recipe before it is written: what it is made of, itself, lines for the user, the columns of the data, and those
    of them that are no input because they tell the label, or nothing, or cannot be read, with the reason."""

    composed: composing.Composed
    recipe: dict[str, Any]
    lines: list[str]
    columns: list[str]
    unread: dict[str, str]


def init(
    asked: InitConfig,
    output: str | Path = "recipe.yaml",
    *,
    force: bool = False,
    ask: Callable[[InitConfig, Draft], InitConfig] | None = None,
) -> Started:
    """Look at data and write a recipe for them.

    Args:
        asked: the data, and what the encoder is for.
        output: the file.
        force: replace a file that is there.
        ask: gets what was found, and says what is asked for in its place; where that is the same, it stays.

    Raises:
        UserError: there is a file already; or nothing in the data is read.
        RunError: the file cannot be written.
    """
    path = Path(output)
    if path.exists() and not force:
        raise UserError(f"--output: '{path}' is there already; --force replaces it, --output FILE writes another")
    replaceable(path)
    with doing(f"looking at {asked.path}"):
        drawn = draft(asked)
    if ask is not None and (answers := ask(asked, drawn)) != asked:
        with doing(f"looking at {asked.path} again"):
            drawn = draft(answers)
    found, data = drawn.composed, drawn.recipe
    head = [
        f"Written by mmssl init for {asked.path}, from the shipped recipe {found.name}; behind # is why.",
        f"Run it: mmssl pretrain {path}",
    ]
    text = commented(data, found.why, head)
    try:
        write_whole(path, text)
    except OSError as error:
        raise RunError(f"{path} could not be written: {one_line(error)}") from error
    return Started(path, data, text, drawn.lines, found.name)


def draft(asked: InitConfig, told: bool = True) -> Draft:
    """A recipe for these data.

    told: whether the lines are wanted, for which rows are compared.

    Raises:
        UserError: nothing in the data is read.
    """
    if asked.streaming:
        raise UserError("streaming: found true, expected false: rows are looked at here and there; set it in a recipe")
    opened = open_data(asked)
    roles = roles_of(opened.rows, opened.modalities, asked.columns, asked.label, asked.group)
    signals = _signals(roles, opened)
    found, seen = _composed(asked, opened, roles, signals)
    said = _settle(found, asked, seen)
    data = _ordered(found.data)
    load_recipe(copy.deepcopy(data))
    lines = _told(opened, roles, signals) if told else []
    every = list(roles.table.columns)
    unread = {name: why for name, why in roles.left.items() if name in roles.telling or is_fault(why)}
    return Draft(found, data, [*lines, *opened.said, *roles.said, *said], every, unread)


# ------------------------------------------------------------------------------------------------------ what is there


def _signals(roles: Roles, opened: Opened) -> Signals | None:
    """What recordings are; their column gets the name of its modality."""
    names = [name for name in ("signal", "ecg", "eeg", "series") if name in roles.columns]
    if not names:
        return None
    (name,) = names[:1]
    columns = roles.columns[name]
    rows = opened.rows[: min(LOOKED_AT, len(opened.rows))]
    values = (
        rows[columns]
        if isinstance(columns, str)
        else [dict(zip(columns, of, strict=True)) for of in zip(*(rows[c] for c in columns), strict=True)]
    )
    if name == "series":
        return None
    where, said = str(opened.data["path"]), columns if isinstance(columns, str) else " ".join(columns)
    found = look_at_signals(values, where, said)
    if name == "signal":
        roles.columns[found.modality] = roles.columns.pop("signal")
    elif found.modality != name:
        found.modality, found.doubt = name, found.doubt  # as its files, or the user, say
    if found.doubt:
        roles.said.append(f"the recordings are read as {found.modality}: {found.doubt}")
    return found


def _composed(
    asked: InitConfig, opened: Opened, roles: Roles, signals: Signals | None
) -> tuple[composing.Composed, evidence.Seen]:
    """The recipe with all that the data say, and what they are as far as it depends on them."""
    modalities = [name for name in ORDER if name in roles.columns]
    modalities += [name for name in roles.columns if name not in modalities]
    if not modalities:
        names = ", ".join(f"{name} ({why})" for name, why in list(roles.left.items())[:12])
        raise UserError(f"data: no column is an input: {names or 'none'}; name one: --column MODALITY=COLUMN")
    node = opened.data.get("split") == "all" and modalities == ["graph"]
    seen = _seen(modalities, opened, roles, signals)
    method = evidence.method_of(modalities[0], seen, asked.goal) if len(modalities) == 1 else None
    found = composing.compose(modalities, asked.goal, node, method)
    found.data.pop("name", None)
    found.data["name"] = _slug(str(opened.data["path"]), asked.name)
    found.data["data"] = {**opened.data, **{k: v for k, v in asked.data.items() if k not in opened.data}}
    columns = {name: roles.columns[name] for name in modalities if roles.columns[name] != name}
    if columns:
        found.data["data"]["columns"] = columns
    for name, of in columns.items():
        found.why[f"data.columns.{name}"] = _why_columns(name, of, roles)
    for name, why in opened.why.items():
        found.why.setdefault(f"modalities.{name}", why)
    if node:
        found.why["data.split"] = "every node is seen; labels are those of the training part alone"
    if signals is not None:
        for key, (value, why) in signals.options.items():
            found.set(f"modalities.{signals.modality}.{key}", value, why)
    _evaluation(found, asked, opened, roles, len(modalities) > 1)
    return found, seen


def _seen(modalities: Sequence[str], opened: Opened, roles: Roles, signals: Signals | None) -> evidence.Seen:
    """What some of the pictures, or the recordings, are."""
    if modalities not in (["image"], ["graph"]):
        return evidence.Seen(channels=None if signals is None else signals.channels)
    column = roles.columns[modalities[0]]
    of = read_rows(opened.rows, [column] if isinstance(column, str) else column, SIDES)
    values, read = [select(row, column) for row in of], reader(modalities[0])
    try:
        if modalities == ["graph"]:
            sizes = [int(found.sizes["nodes"]) for found in read.readable(values, read.look)]
            return evidence.Seen(nodes=max(sizes, default=0))
        pictures: Any = read
        shapes = [found.shape for found in pictures.readable(values, pictures.whole)]
    except UserError:  # not one is read, which is said when the recipe's own reader is fitted
        return evidence.Seen()
    if not shapes:
        return evidence.Seen()
    sides = sorted(min(shape[:2]) for shape in shapes)
    return evidence.Seen(sides[len(sides) // 2], max(shape[2] for shape in shapes))


def _slug(path: str, name: str | None) -> str:
    stem = Path(path.rstrip("/").rpartition(":")[2]).stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem + (f"-{name}" if name else "")).strip("-_") or "recipe"


def _why_columns(name: str, of: str | list[str], roles: Roles) -> str:
    if isinstance(of, str):
        if name == "audio" and of == "video":
            return "the sound of the videos"
        column = roles.table.columns.get(of)
        return told_of(of, column) if column is not None else "as asked for"
    left = [f"{other} ({why})" for other, why in roles.left.items()]
    return f"all cells but {joined(left, 6)}" if left and name == "tabular" else ""


def _evaluation(found: composing.Composed, asked: InitConfig, opened: Opened, roles: Roles, pairs: bool) -> None:
    evaluation: dict[str, Any] = {}
    if roles.label is not None:
        evaluation["label"] = roles.label[0]
        judge = roles.table.columns.get(roles.label[0])
        by = "it, by R2: it holds amounts" if judge is not None and are_amounts(judge.values) else "it"
        found.why["evaluation.label"] = f"{roles.label[1]}: no input, the encoder is judged by {by}"
    if roles.group is not None:
        column = roles.table.columns[roles.group[0]]
        if len(set(map(str, column.values))) >= GROUPED:
            evaluation["group"] = roles.group[0]
            found.why["evaluation.group"] = roles.group[1]
    wanted = composing.tasks(asked.goal, roles.label is not None, pairs)
    if wanted is not None:
        evaluation["tasks"] = wanted
        found.why["evaluation.tasks"] = f"--goal {asked.goal}"
    elif asked.goal == "classify" and roles.label is None:
        roles.said.append("--goal classify: nothing says by which column; --label COLUMN measures it")
    if evaluation:
        found.data["evaluation"] = evaluation
    if "test" not in opened.others:
        found.why["evaluation"] = "the data have no test split: a fifth of the rows is held out (test_share)"


# --------------------------------------------------------------------------------------------------------- what fits


def _settle(found: composing.Composed, asked: InitConfig, seen: evidence.Seen) -> list[str]:
    """Size, preprocessing, batch and length by the rows and this machine; what to say of the rows."""
    modalities = list(found.data["modalities"])
    plain = copy.deepcopy(found.data)
    rows = open_training_data(load_recipe(_body(plain)))
    if not presets_of(plain):
        composing.length(found, len(rows.source))
        return rows.said
    choice = choose(Asked(plain, [], asked.preset), rows.source, rows.columns, this_device())
    faults: Faults = []
    own = {name: dict(of) for name, of in found.data["modalities"].items()}
    changes = take_preset(found.data, choice.preset, faults)
    merge_overrides(found.data, changes, faults)
    if faults:
        raise UserError("\n".join(map(str, faults)))
    reasons = _reasons(choice.reasons)
    for key, value in choice.values.items():
        modality = key.split(".")[1] if key.startswith("modalities.") else ""
        if modality and key.split(".")[2] in _told_by_data(found, own, modality):
            continue
        why = reasons.get(key, reasons.get(".".join(key.split(".")[:2]), ""))
        found.set(key, value, "" if why in found.why.values() else why)
    found.why.setdefault("model", reasons.get(f"preset {choice.preset}", ""))
    if choice.preset == DEMO:
        composing.convolve(found, modalities)
        composing.lengthen(found, modalities, len(rows.source))
        evidence.follow(found, modalities, len(rows.source), seen)
    for name in ("image", "video"):
        channels = _channels(found, name, rows) if name in modalities else 3
        if channels != 3:
            composing.colourless(found, name, channels)
    composing.length(found, len(rows.source))
    return rows.said


def _channels(found: composing.Composed, name: str, rows: TrainingData) -> int:
    """Channels that a model of these pictures will have, by some of them."""
    column = rows.columns[name]
    some = read_rows(rows.source, [column] if isinstance(column, str) else column, FITTED)
    fitted = reader(name, found.data["modalities"][name]).fit([select(row, column) for row in some])
    return int(fitted.fitted()["channels"])


def _told_by_data(found: composing.Composed, own: Mapping[str, Any], modality: str) -> set[str]:
    """Options of a modality that the data said."""
    return {key for key in own.get(modality, {}) if f"modalities.{modality}.{key}" in found.why}


def _body(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: copy.deepcopy(value) for key, value in plain.items() if key != "presets"}


def _reasons(lines: Sequence[str]) -> dict[str, str]:
    """Key -> why, of the lines of a `Choice`: "train.batch_size=32: of 400 samples"."""
    found = {}
    for line in lines:
        head, _, rest = line.partition(": ")
        key = head.partition("=")[0]
        found[key] = rest.partition(": ")[2] if key.startswith("modalities.") and ": " in rest else rest
    return found


def _ordered(data: Mapping[str, Any]) -> dict[str, Any]:
    """The sections in the order in which they are read."""
    names = ("name", "description", "seed", "data", "modalities", "model", "views", "masks", "objectives", "train")
    ordered = {name: data[name] for name in names if data.get(name) not in (None, {})}
    ordered |= {name: value for name, value in data.items() if name not in ordered and value not in (None, {})}
    ordered.setdefault("seed", 0)
    plain: dict[str, Any] = plainyaml.parse(plainyaml.dump(ordered), "the recipe")  # as it will be read
    return plain


# -------------------------------------------------------------------------------------------------------- what is said


def _told(opened: Opened, roles: Roles, signals: Signals | None) -> list[str]:
    """What was found, in lines."""
    splits = "".join(f", {len(rows):,} of {split}" for split, rows in opened.others.items())
    lines = [f"{opened.data['path']}: {len(opened.rows):,} rows{splits}"]
    by_column: dict[str, list[str]] = {}
    for modality, of in roles.columns.items():
        for name in [of] if isinstance(of, str) else of:
            by_column.setdefault(name, []).append(modality)
    for number, (name, column) in enumerate(roles.table.columns.items()):
        if number == LINES:
            lines.append(f"  ... and {len(roles.table.columns) - LINES} more columns")
            break
        what = by_column.get(name)
        part = f"-> {' and '.join(what)}" if what else f"left out: {roles.left.get(name, 'no input')}"
        absent = "" if not column.values or _whole(opened, name) else ", some missing"
        lines.append(f"  {name}: {told_of(name, column) if column.values else 'empty'}{absent} {part}")
    if signals is not None:
        rate = f" at {signals.rate:g} Hz" if signals.rate else ""
        lines.append(f"  recordings: {signals.channels} channels{rate}, up to {signals.samples:,} samples")
    lines += [*sizes_told(opened.rows, roles.columns), *_repeated(opened, roles)]
    return lines


def _whole(opened: Opened, name: str) -> bool:
    try:
        rows = opened.rows.with_format("arrow")[:1000]
        return not rows[name].null_count
    except (KeyError, ValueError, TypeError):
        return True


def _repeated(opened: Opened, roles: Roles) -> list[str]:
    """Rows that are the same, by what is read of them."""
    columns = [name for name in used(roles.columns) if name in opened.rows.column_names]
    if opened.data.get("split") == "all":
        return []  # of one graph, where all splits are the same nodes
    mine = repeated.hashes(opened.rows, columns)
    same = repeated.groups(mine)
    lines = []
    if same:
        extra = sum(len(group) - 1 for group in same)
        lines.append(f"{extra:,} of {len(mine):,} rows looked at repeat another (mmssl check lists them)")
    for split, rows in opened.others.items():
        both = repeated.shared(mine, repeated.hashes(rows, columns))
        if both:
            lines.append(f"{len(both):,} rows of {split} are among those that are trained on (mmssl check lists them)")
    return lines
