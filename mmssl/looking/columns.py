"""What the columns of data are: pictures, sounds, texts, recordings, cells; and which of them are no inputs: the label,
what tells the label, what says who a row is of, identifiers, facts about a file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..data.choosing import look_at
from ..data.kinds import endings_of
from ..data.listing import FILE
from ..errors import UserError, nearest
from ..modality import Preprocessor
from ..modality.table import PERHAPS_LABELS, Column, Table, joined, label_name
from .groups import GROUPS, OWNER, group_of, same_as
from .opening import reader
from .relabelled import made_of
from .signals import signal_reader

if TYPE_CHECKING:
    from datasets import Dataset

LABELS = re.compile(
    r"(?:.*[_\s.-])?(?:price|value|recommended|closed|y_true|ground_truth)|letter|digit|sentiment|topic|emotion|action"
    r"|activity|diagnos(?:e|es|is|en)|disease|mortality|died|readmitted|superclass(?:es)?",
    re.IGNORECASE,
)
"""Further names of columns that somebody may want to predict; weaker than `PERHAPS_LABELS`."""
OF_FILE = re.compile(
    r"(?:.*[_\s.-])?(?:seconds|duration|length|samples|fps|rate|size|bytes|take|mirrored|augmented"
    r"|onset(?:_s)?|start(?:_s)?|stop(?:_s)?|ends?(?:_s)?|starts(?:_s)?|fold|split|block|trial|run|session|source|url"
    r"|license|licence|date_added)",
    re.IGNORECASE,
)
"""Names of what is said of a file or of how the data were made, and not of what a picture, sound or recording shows."""
OF_PICTURE = re.compile(r"(?:.*[_\s.-])?(?:width|height|frames?|fps)", re.IGNORECASE)
"""The same of a picture or a video; of a patient a height is more than that."""
TIMES = re.compile(r"t|time|timestamp|datetime|date|step|cycle", re.IGNORECASE)
FEW_CLASSES = 100
EMPTY, SAME = "empty", "the same in every row"
CELLS = 3
"""Columns of cells from which on they are worth a tower beside another modality."""
BASE64 = re.compile(
    r"(?:data:[\w/+.-]+;base64,)?(?=[A-Za-z0-9+/\s]*\d)(?=[A-Za-z0-9+/\s]*[a-z])(?:[A-Za-z0-9+/]{4}\s?){20,}={0,2}\s*"
)
"""At least 80 letters and digits without a blank between words."""
WORDS = re.compile(r"[^\W\d_]{2,}")


@dataclass
class Roles:
    """What each column is.

    Attributes:
        table: the columns, and some of their values.
        columns: modality -> its column(s).
        label: what the encoder is judged by, and why.
        group: what says who a row is of, and why.
        left: column -> why it is no input.
        telling: those of them that tell the label, or that it tells.
        said: what else there is to say.
    """

    table: Table
    columns: dict[str, str | list[str]] = field(default_factory=dict)
    label: tuple[str, str] | None = None
    group: tuple[str, str] | None = None
    left: dict[str, str] = field(default_factory=dict)
    telling: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def roles_of(
    rows: Dataset, of_files: Sequence[str], given: Mapping[str, str | list[str]], label: str | None, group: str | None
) -> Roles:
    """Look at the columns and give each its part.

    Args:
        rows: the data.
        of_files: the modalities that its files are.
        given: modality -> column(s) that the user named.
        label, group: columns that the user named.

    Raises:
        UserError: a column that was named is not there.
    """
    table = look_at(rows, {})
    found = Roles(table)
    for option, name in (("label", label), ("group", group)):
        if name is not None and name not in table.columns:
            raise UserError(
                f"{option}: found '{name}', expected one of the columns {joined(list(table.columns))}"
                f"{nearest(name, table.columns)}"
            )
    known = {name: column for name, column in table.columns.items() if column.values}
    found.left |= {name: EMPTY for name in table.columns if name not in known}
    found.left |= {name: why for name, why in table.taken.items() if why != "label"}
    found.left |= {name: why for name, column in known.items() if name not in given and (why := _wrapped(column))}
    if of_files and FILE in known and FILE not in of_files:
        found.left[FILE] = "the name of its file"  # which a modality of the files reads already
    for modality in of_files:
        if modality in known and modality not in given:
            found.columns[modality] = modality
    if {"audio", "video"} <= set(of_files) and "audio" not in table.columns and "video" in known:
        found.columns["audio"] = "video"
    found.columns |= given
    _media(found, known)
    _label(found, known, label)
    _group(found, known, group)
    _derived(found, known)
    _texts(found, known)
    _cells(found, known, set(given))
    judge = known.get(found.label[0]) if found.label else None
    if judge is not None and _part_of_text(found, known, judge):
        found.said.append(
            f"the label '{judge.name}' stands word for word in '{found.columns['text']}': scores say little"
        )
    return found


def used(columns: Mapping[str, str | list[str]]) -> list[str]:
    """Every column that a modality reads."""
    return [name for of in columns.values() for name in ([of] if isinstance(of, str) else of)]


def is_text(column: Column) -> bool:
    """Whether a column holds language: running text with words of letters."""
    if not column.is_running_text:
        return False
    first = [v[0] if isinstance(v, list) and v else v for v in column.values[:50]]
    words = [word for text in first for word in str(text).split()]
    return sum(bool(WORDS.search(word)) for word in words) >= 0.5 * len(words)


def is_fault(why: str) -> bool:
    """Whether the reason why a column is no input is one that its owner may want to know of."""
    return why in (EMPTY, SAME) or why.startswith(("lists of files", "files written"))


def _wrapped(column: Column) -> str | None:
    """Why nothing reads what is within the values, files as they are; None where they hold none."""
    first = column.values[: min(20, len(column.values))]
    if all(
        isinstance(v, list | tuple) and v and isinstance(v[0], dict) and {"bytes", "path"} & set(v[0]) for v in first
    ):
        return "lists of files: one is read of a row, so take one out, or make a row of each"
    if all(isinstance(v, str) and BASE64.fullmatch(v) for v in first) and column.distinct > 0.5:
        return "files written as text (base64): save their bytes as they are (parquet: binary)"
    return None


def is_signal(column: Column) -> bool:
    """Whether a column holds arrays of one axis or two, long in one of them."""
    return column.media is None and reader("series").fits(column)


def _media(found: Roles, known: Mapping[str, Column]) -> None:
    """Pictures, sounds, videos, graphs, files of volumes: the column that is called so, else the first that holds some;
    of volumes all, which are channels."""
    for modality in ("image", "audio", "video", "graph", "volume"):
        if modality in found.columns:
            continue
        read: Preprocessor = reader(modality)
        free = [name for name in known if name not in used(found.columns) and name not in found.left]
        fit = [name for name in free if read.fits(known[name])]
        if modality == "volume":
            fit = [name for name in fit if not known[name].shape]  # an array of three axes may be many things
            if len(fit) > 1 and modality not in fit:
                found.columns[modality] = fit
                continue
        if fit:
            found.columns[modality] = modality if modality in fit else fit[0]
        rest = [name for name in fit if name != found.columns.get(modality)]
        if rest:
            found.said.append(
                f"{joined(rest)}: further columns of {modality}; a view reads one with column: NAME (docs: Columns)"
            )
            found.left |= dict.fromkeys(rest, f"a further {modality}")


# ------------------------------------------------------------------------------------------------- label and group


def _label(found: Roles, known: Mapping[str, Column], asked: str | None) -> None:
    if asked is not None:
        found.label = asked, "as asked for"
        return
    free = [name for name in known if name not in used(found.columns) and name not in found.left]
    sure = label_name(free)
    if sure is not None:
        found.label = sure, "by its name"
        return
    fit = [n for n in free if known[n].is_plain and known[n].identifier is None and _several(known[n])]
    strong = [name for name in fit if PERHAPS_LABELS.fullmatch(name) and not GROUPS.fullmatch(name)]
    weak = [name for name in fit if LABELS.fullmatch(name)]
    alone = [name for name in fit if known[name].is_words]
    others = [name for name in fit if not known[name].is_words]
    if strong or weak:
        fewest = min(weak, key=lambda name: len(set(map(str, known[name].values))), default="")
        found.label = strong[-1] if strong else fewest, "by its name; --label says another"
    elif len(alone) == 1 and len(others) >= CELLS and fit[0] == alone[0]:
        found.label = alone[0], "the only column of words, in front of numbers; --label says another"
    elif len(fit) >= CELLS:
        likely = sorted(fit, key=lambda name: (known[name].noted == "dates", len(set(map(str, known[name].values)))))
        found.said.append(f"nothing says what is to be predicted: --label COLUMN, if it is one of {joined(likely, 8)}")


def _several(column: Column) -> bool:
    different = len(set(map(str, column.values)))
    return 2 <= different and (not column.is_words or different <= FEW_CLASSES)


def _group(found: Roles, known: Mapping[str, Column], asked: str | None) -> None:
    label = found.label[0] if found.label else None
    free = [name for name in known if name not in used(found.columns) and name != label]
    if asked is not None:
        found.group = asked, "as asked for"
    else:
        found.group, left, said = group_of({name: known[name] for name in free})
        found.left |= {name: why for name, why in left.items() if why != OWNER or name not in found.left}
        found.said += said
    if found.group is not None and found.group[0] in known:
        words = [name for name in free if name not in found.left and name != found.group[0]]
        found.left |= same_as({name: known[name] for name in words}, known[found.group[0]])


# ------------------------------------------------------------------------------------------------- made of the label


def _derived(found: Roles, known: Mapping[str, Column]) -> None:
    """Leave out the label, what tells it, and what it tells: another word for it is no input."""
    if found.label is None:
        return
    label = found.label[0]
    found.left[label] = "the label"
    by_row = dict(zip(known[label].rows, known[label].values, strict=True)) if label in known else {}
    for name, column in known.items():
        if name in used(found.columns) or name in found.left or not column.is_plain or column.identifier:
            continue
        why = "another word for the label" if name == f"{label}_name" else made_of(column, by_row)
        if why is not None:
            found.left[name] = why
            found.telling.append(name)


# ------------------------------------------------------------------------------------------------- texts and cells


def _texts(found: Roles, known: Mapping[str, Column]) -> None:
    if "text" in found.columns:
        return
    signals = [n for n, c in known.items() if n not in used(found.columns) and n not in found.left and is_signal(c)]
    free = [n for n in known if n not in used(found.columns) and n not in found.left and n not in signals]
    texts = [name for name in free if is_text(known[name]) and known[name].identifier is None]
    if not texts:
        lone = [name for name in free if known[name].is_words]
        if not found.columns and not signals and len(lone) == 1 and len(free) == 1:
            texts = lone
        else:
            return
    if found.label is not None and found.label[0] in texts:
        texts.remove(found.label[0])
    called = [name for name in texts if name.lower() == "text"]
    chosen = called[0] if called else max(texts, key=lambda name: known[name].words)
    found.columns["text"] = chosen
    rest = [name for name in texts if name != chosen]
    found.left |= dict.fromkeys(rest, f"text beside '{chosen}'")
    if rest:
        found.said.append(f"'{chosen}' is the text that is read, {joined(rest)} another (--column text=COLUMN)")


def _cells(found: Roles, known: Mapping[str, Column], given: set[str]) -> None:
    """The columns of a table, where they are what there is or worth a tower beside the rest; recordings come first."""
    signals = [n for n, c in known.items() if n not in used(found.columns) and n not in found.left and is_signal(c)]
    if signals and not given & {"ecg", "eeg", "series"} and not {"ecg", "eeg", "series"} & set(found.columns):
        found.columns["signal"] = signals[0] if len(signals) == 1 else _channels(found, known, signals)
    if "tabular" in given:
        return
    other = bool(found.columns)
    cells = []
    for name, column in known.items():
        if name in used(found.columns) or name in found.left or name in signals:
            continue
        why = _no_cell(name, column, list(found.columns)) or _part_of_text(found, known, column)
        if why is None:
            cells.append(name)
        else:
            found.left[name] = why
    if cells and (not other or len(cells) >= CELLS):
        found.columns["tabular"] = cells
        electrodes = [name for name in cells if signal_reader("eeg").known(name) is not None]
        if len(electrodes) > len(cells) / 2:
            found.said.append(
                f"{joined(electrodes, 4)} are called as electrodes are, and every row is one moment: read as a table; "
                "to learn from stretches of time write a csv a recording (docs: A folder of files)"
            )
    else:
        found.left |= dict.fromkeys(cells, "too few cells for a tower of their own")


def _channels(found: Roles, known: Mapping[str, Column], signals: list[str]) -> str | list[str]:
    if all(len(known[name].shape) == 1 for name in signals):
        return signals
    found.left |= dict.fromkeys(signals[1:], f"a recording beside '{signals[0]}'")
    return signals[0]


def _no_cell(name: str, column: Column, beside: Sequence[str]) -> str | None:
    if not column.is_plain:
        return "no plain cells"
    if column.identifier is not None:
        return column.identifier
    if len(set(map(str, column.values))) < 2:
        return SAME
    if is_text(column):
        return "text"
    if column.texts is not None and len(set(column.texts)) > FEW_CLASSES and column.distinct > 0.5 and column.is_words:
        return "words that are nearly all different"
    if column.texts is not None and sum(text.lstrip()[:1] in "{[" for text in column.texts) > 0.5 * len(column.texts):
        return "values of several parts, as text"
    if TIMES.fullmatch(name) and all(a < b for a, b in itertools.pairwise(column.values)):
        return "rises from row to row: when it was measured"
    of_picture = {"image", "video"} & set(beside) and OF_PICTURE.fullmatch(name)
    return "said of the file, not of what it shows" if of_picture or (beside and OF_FILE.fullmatch(name)) else None


def _part_of_text(found: Roles, known: Mapping[str, Column], column: Column) -> str | None:
    """Why a column says nothing beside the text that is read; None where it may."""
    text = found.columns.get("text")
    if not isinstance(text, str) or text not in known or not part_of_text(known[text], column):
        return None
    return f"its words stand in '{text}'"


def part_of_text(text: Column, column: Column) -> bool:
    """Whether a column's words stand in the text of the same row: both tell a model the same."""
    if column.texts is None:
        return False
    by_row = dict(zip(text.rows, map(str, text.values), strict=True))
    pairs = [(v, by_row[row]) for v, row in zip(column.texts, column.rows, strict=True) if row in by_row]
    inside = sum(value.lower() in whole.lower() for value, whole in pairs)
    return bool(pairs) and inside >= 0.95 * len(pairs)


def told_of(name: str, column: Column) -> str:
    """A column in a few words."""
    if column.media is not None:
        paths = [v.get("path") or "" for v in column.values if isinstance(v, dict)]
        if any(paths) and all(path.lower().endswith(".npy") for path in paths):
            return f"arrays ({endings_of(paths)})"
        if name == FILE:
            return "names of files"
        return f"{column.media} ({endings_of(paths) if any(paths) else 'bytes'})"
    if is_signal(column):
        return f"recordings of shape {' x '.join(map(str, column.shape))}" if column.shape else "recordings"
    if is_text(column):
        return f"text, {column.words:.0f} words"
    if not column.is_plain:
        return "graphs" if reader("graph").fits(column) else "values of several parts"
    different = len(set(map(str, column.values)))
    kind = column.noted or ("words" if column.texts is not None else "numbers")
    return f"{kind}, {different:,} different of {len(column.values):,} looked at"
