"""Files of many series: `.ts` of aeon and sktime, and tables with one row a time, in which a column tells series apart.

`data.path=FOLDER` or `FILE.ts` reads the former. `data.path=series:TABLE` reads the latter, csv or parquet;
`series:TABLE?id=COLUMN&time=COLUMN` says which columns, where they are not called as such columns are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np

from mmssl.boundary import reading_of
from mmssl.errors import BadSample, NoSplit, UserError, nearest
from mmssl.limits import check_table
from mmssl.modality.splits import ALL, of_split
from mmssl.modality.table import joined, label_name

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

SPLIT = re.compile(r"[_\-.](train|test|validation|val)$", re.IGNORECASE)
IDS = ("id", "series", "series_id", "sample", "subject", "subject_id", "patient", "patient_id", "unit", "item_id")
TIME = ("time", "timestamp", "t", "date", "datetime", "cycle", "step")
TABLES = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}


def rows_of(path: Path, split: str) -> Dataset | None:
    """The series of a `.ts` file, or of a folder's `.ts` file of this split; None for anything else.

    A file by itself is "train", whatever its name says: so is a folder of files whose names say no split.

    Raises UserError for one that cannot be read, NoSplit for what has none of this split.
    """
    if path.is_file():
        return of_split(open_ts(path), split, str(path)) if path.suffix.lower() == ".ts" else None
    files = sorted(path.glob("*.ts"))
    if not files:
        return None
    of = {file: found[1].lower() for file in files if (found := SPLIT.search(file.stem))}
    if split == ALL or not of:
        from datasets import concatenate_datasets

        return of_split(concatenate_datasets([open_ts(file) for file in files]), split, str(path))
    chosen = [file for file, name in of.items() if name == split or (name, split) == ("val", "validation")]
    if not chosen:
        raise NoSplit(
            f"data.split: '{path}' has no file of split '{split}', it holds {joined([f.name for f in files])}"
        )
    if len(chosen) > 1:
        raise UserError(f"data.path: '{path}' holds {joined([f.name for f in files])}, expected one of split '{split}'")
    return open_ts(chosen[0])


def open_rows(path: str, split: str) -> Dataset:
    """The rows of `series:PATH`: of a `.ts` file, or of a table with one row a time.

    A row has the series' channels with their times in the column `series`, the id, and what is the same in all rows of
    a series (its label, who it is of). Where `split` is such a column it says which series are of which split.

    Raises:
        UserError: there is no such file, it cannot be read, or nothing says which column tells its series apart.
        NoSplit: no series is of this split.
    """
    name, _, query = path.partition("?")
    file, said = Path(name).expanduser(), dict(parse_qsl(query))
    if wrong := set(said) - {"id", "time"}:
        raise UserError(f"data.path: 'series:{path}': found '{min(wrong)}', expected id=COLUMN or time=COLUMN")
    found = rows_of(file, split) if file.exists() else None
    if found is not None:
        return found
    if not file.is_file() or file.suffix.lower() not in TABLES:
        raise UserError(f"data.path: 'series:{path}': expected a file that is there, of {joined(['.ts', *TABLES])}")
    with reading_of(f"data.path: '{file}' cannot be read"):
        table = _table(file)
    check_table("rows", len(table), "rows", str(file))
    return of_split(_grouped(table, file, said), split, f"series:{path}")


def _table(file: Path) -> pd.DataFrame:
    import pandas as pd

    if file.suffix.lower() == ".parquet":
        return pd.read_parquet(file)
    return pd.read_csv(file, sep="\t" if file.suffix.lower() == ".tsv" else ",")


def _grouped(table: pd.DataFrame, file: Path, said: dict[str, str]) -> Dataset:
    import pandas as pd
    from datasets import Dataset

    names = [str(name) for name in table.columns]
    table.columns = pd.Index(names)
    id_name, time = (
        _column(names, said.get("id"), IDS, "id", file),
        _column(names, said.get("time"), TIME, "time", file),
    )
    if id_name is None:
        raise UserError(
            f"data.path: 'series:{file}': nothing says which column tells its series apart, expected "
            f"series:{file.name}?id=COLUMN, one of {joined(names)}"
        )
    groups = table.groupby(id_name, sort=False)
    constant = [n for n in names if n not in (id_name, time) and bool((groups[n].nunique(dropna=False) <= 1).all())]
    numbers = [n for n in names if n not in (id_name, time, *constant) and pd.api.types.is_numeric_dtype(table[n])]
    label = label_name(names)
    numbers = [n for n in numbers if n != label]
    if not numbers:
        raise UserError(f"data.path: 'series:{file}': found no column of numbers that change with time")
    rows = []
    for key, group in groups:
        group = group if time is None else group.sort_values(time, kind="stable")
        series: dict[str, Any] = {n: group[n].to_numpy(np.float64).tolist() for n in numbers}
        if time is not None:
            series["time"] = _seconds(group[time]).tolist()
        rows.append({"series": series, id_name: key, **{n: group[n].iloc[0] for n in constant}})
    return Dataset.from_list(rows)


def _column(names: Sequence[str], said: str | None, usual: Sequence[str], what: str, file: Path) -> str | None:
    if said is not None:
        if said not in names:
            raise UserError(
                f"data.path: 'series:{file}': {what}: found '{said}', expected one of {joined(names)}"
                f"{nearest(said, names)}"
            )
        return said
    lower = {name.lower(): name for name in names}
    return next((lower[name] for name in usual if name in lower), None)


def _seconds(times: pd.Series) -> np.ndarray:
    import pandas as pd

    if pd.api.types.is_numeric_dtype(times):
        return times.to_numpy(np.float64)
    moments = pd.to_datetime(times)
    found: np.ndarray = (moments - moments.iloc[0]).dt.total_seconds().to_numpy(np.float64)
    return found


# ---------------------------------------------------------------------------------------------------------------- .ts


def open_ts(file: Path) -> Dataset:
    """The series of a `.ts` file: `series`, its channels by their number, or times and values of each; and `label`.

    Raises UserError for a file that is none.
    """
    from datasets import Dataset

    with reading_of(f"data.path: '{file}' cannot be read as .ts"):
        return Dataset.from_list(list(_cases(file)))


def _cases(file: Path) -> Iterator[dict[str, Any]]:
    said: dict[str, str] = {}
    data = False
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            if not data:
                key, _, value = line.lstrip("@").partition(" ")
                if not line.startswith("@"):
                    raise BadSample(f"line {number}: found '{line[:40]}' before @data")
                said[key.lower()] = value.strip()
                data = key.lower() == "data"
                continue
            yield _case(line, number, said)
    if not data:
        raise BadSample("found no @data")


def _case(line: str, number: int, said: dict[str, str]) -> dict[str, Any]:
    parts = line.split(":")
    classes, target = said.get("classlabel", "false").split(), said.get("targetlabel", "false").lower()
    labelled = classes[:1] == ["true"] or target == "true"
    label = parts.pop() if labelled else None
    channels = [_values(part, number) for part in parts]
    if not channels:
        raise BadSample(f"line {number}: found no channel")
    # by number: which axis of an array holds the channels would have to be guessed
    row: dict[str, Any] = {"series": {str(place): channel for place, channel in enumerate(channels, 1)}}
    if label is not None:
        row["label"] = float(label) if target == "true" else label
    return row


def _values(text: str, number: int) -> Any:
    if text.lstrip().startswith("("):
        pairs = [pair.split(",") for pair in re.findall(r"\(([^)]*)\)", text)]
        if any(len(pair) != 2 for pair in pairs):
            raise BadSample(f"line {number}: expected (time,value) pairs")
        return {"time": [_time(t, number) for t, _ in pairs], "values": [_number(v, number) for _, v in pairs]}
    return [_number(field, number) for field in text.split(",")]


def _time(text: str, number: int) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(np.datetime64(text.strip().replace(" ", "T")).astype("datetime64[ns]").astype(np.int64)) / 1e9
    except ValueError as error:
        raise BadSample(f"line {number}: found time '{text[:40]}'") from error


def _number(text: str, number: int) -> float:
    text = text.strip()
    if text in ("?", "NaN", ""):
        return float("nan")
    try:
        return float(text)
    except ValueError as error:
        raise BadSample(f"line {number}: found '{text[:40]}', expected a number") from error
