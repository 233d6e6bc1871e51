"""Which columns a modality reads where nobody named them: the one of its name, the model's own, or by looking."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from mmssl.errors import UserError
from mmssl.modality.table import LABELS, PERHAPS_LABELS, Column, Table, joined, label_name

from .cells import looked_at
from .explained import stream_rows
from .formats import media_kind
from .listing import START, whole_of
from .sampler import order
from .selection import SPLIT_NAMES, column_names
from .values import undecoded

if TYPE_CHECKING:
    from mmssl.modality import Preprocessor

    from .sources import Source

ROWS, HEAVY_ROWS = 1000, 8
"""Rows that are looked at; of columns that hold files or arrays only so many."""
MARKS = (
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP|BM|II\*\0|MM\0\*", "image"),
    (rb"RIFF....WAVE|fLaC|OggS|ID3|\xff[\xf2\xf3\xfb]", "audio"),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01\xba", "video"),
)
"""How files of a kind begin."""
Chosen = dict[str, "str | list[str]"]


def choose_columns(
    preprocessors: Mapping[str, Preprocessor],
    given: Mapping[str, str | list[str]],
    source: Source,
    no_inputs: Mapping[str, str],
) -> tuple[Chosen, list[str]]:
    """(modality -> column(s), of those that nobody named and that no column is called like; what to say of it).

    Args:
        preprocessors: modality -> its preprocessor, fitted or not.
        given: modality -> column(s), where the user named them.
        source: the data.
        no_inputs: columns that are no inputs -> why: the label, the group.

    Raises:
        UserError: several columns would do, and one has to be named.
    """
    known = column_names(source)
    open_ones = [name for name in preprocessors if name not in given and name not in known]
    chosen: Chosen = {}
    for name in open_ones:
        own = preprocessors[name].own_columns()
        if own is not None and set([own] if isinstance(own, str) else own) <= set(known):
            chosen[name] = own
    open_ones = [name for name in open_ones if name not in chosen]
    if not open_ones:
        return chosen, []
    taken = {c: name for name, of in {**given, **chosen}.items() for c in ([of] if isinstance(of, str) else of)}
    taken |= {name: name for name in preprocessors if name not in given and name in known}
    table = look_at(source, {**taken, **no_inputs})
    said: list[str] = []
    for name in sorted(open_ones, key=lambda name: preprocessors[name].takes_the_rest):
        try:
            columns = preprocessors[name].default_columns(table)
        except UserError as error:
            raise UserError(f"data.columns.{name}: {error}; say which with data.columns.{name}=COLUMN") from None
        if not columns:
            continue
        chosen[name] = columns
        listed = [columns] if isinstance(columns, str) else columns
        table.taken |= dict.fromkeys(listed, name)
        said += _said(name, columns, table)
    return chosen, said


def possible_label(
    chosen: Mapping[str, str | list[str]], source: Source, label: str | None, option: str = "evaluation.label"
) -> str | None:
    """What to say where cells that nobody named hold what somebody may want to predict; None where nothing looks so.

    That is a column with such a name, or else the last one; of data with a label there is nothing to say.

    Args:
        chosen: modality -> column(s) that were found by looking.
        source: the data.
        label: the column of the labels, where the user says one.
        option: what says it.
    """
    known = column_names(source)
    if label is not None or label_name(known) is not None:
        return None
    for name, columns in chosen.items():
        if isinstance(columns, str) or len(columns) < 2:
            continue
        called = [column for column in columns if PERHAPS_LABELS.fullmatch(column)]
        last = [column for column in columns if column == known[-1]]
        for column in (called or last)[-1:]:
            why = "by its name" if called else "the last one"
            return (
                f"{name} reads '{column}' as an input; if that is what you want to predict ({why}), "
                f"{option}={column} leaves it out, and measures by it"
            )
    return None


def _said(name: str, columns: str | list[str], table: Table) -> list[str]:
    """The lines that tell what was chosen, and what was left out and why."""
    if isinstance(columns, str):
        return [f"{name} is read from the column '{columns}' (data.columns.{name} says another)"]
    lines = [f"{name} reads {len(columns)} columns: {joined(columns)}"]
    reasons: dict[str, list[str]] = {}
    for column, why in table.left_out.items():
        reasons.setdefault(why, []).append(column)
    return lines + [f"{name} leaves out {joined(names)}: {why}" for why, names in reasons.items()]


def look_at(source: Source, taken: Mapping[str, str]) -> Table:
    """Some rows of data: always the same ones, of a stream the first."""
    import datasets

    source = undecoded(source)
    features = source.features or {}
    names = column_names(source)
    light = [name for name in names if isinstance(features.get(name), (datasets.Value, datasets.ClassLabel))]
    values: dict[str, list[Any]]
    if isinstance(source, datasets.Dataset):
        numbers = sorted(order(len(source), 0, 0)[:ROWS].tolist())
        values = dict(source.with_format(None).select_columns(light)[numbers]) if light else {}
        values |= looked_at(source, [name for name in names if name not in light], numbers[:HEAVY_ROWS])
        if START in names and (whole := whole_of(names)) is not None:
            taken = {**taken, START: "second of a window", whole: "recording of a window"}
    else:
        rows = list(islice(stream_rows(source), HEAVY_ROWS if len(light) < len(names) else ROWS))
        numbers = list(range(len(rows)))
        values = {name: [row.get(name) for row in rows] for name in names}
    columns = {name: _column(name, values[name], numbers, features.get(name)) for name in names}
    for name, column in columns.items():
        if name not in taken:
            why = _no_input(column, features.get(name))
            taken = taken if why is None else {**taken, name: why}
    return Table(columns, dict(taken))


def _column(name: str, values: Sequence[object], numbers: Sequence[int], feature: object) -> Column:
    import datasets

    kinds = {datasets.Image: "image", datasets.Audio: "audio", datasets.Video: "video"}
    media = next((kind for cls, kind in kinds.items() if isinstance(feature, cls)), None)
    there = [(value, number) for value, number in zip(values, numbers, strict=False) if not _is_null(value)]
    if media is None and there:
        found = [kind for value, _ in there if (kind := _media_of(value)) is not None]
        # a broken one, or a path that says nothing, makes no other column of it
        media = found[0] if len(set(found)) == 1 and 2 * len(found) > len(there) else None
    return Column(name, [value for value, _ in there], [number for _, number in there], media)


def _media_of(value: object) -> str | None:
    if isinstance(value, dict):
        found = None if not value.get("path") else media_kind(str(value["path"]))
        return found if found is not None or not value.get("bytes") else _media_of(value["bytes"])
    if isinstance(value, str):
        return media_kind(value)
    return next((kind for mark, kind in MARKS if re.match(mark, value)), None) if isinstance(value, bytes) else None


def _is_null(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value) or (isinstance(value, str) and not value)


def _no_input(column: Column, feature: object) -> str | None:
    """Why a column is never an input by itself."""
    import datasets

    if column.name.lower() in LABELS or isinstance(feature, datasets.ClassLabel):
        return "label"
    if column.name == "split" and any(isinstance(v, str) and v.lower() in SPLIT_NAMES for v in column.values):
        return "split"
    return None


def no_inputs(label: str | Sequence[str] | None, group: str | None, source: Source) -> dict[str, str]:
    """The columns that the user says are no inputs, with what they are; names of the label's classes are labels too."""
    labels = [label] if isinstance(label, str) else list(label or ())
    found = dict.fromkeys(labels, "label")
    for name in column_names(source):
        if any(name == f"{one}_name" for one in [*labels, "label"]):
            found[name] = "label"
    return found | ({group: "group"} if group else {})
