"""DATA of any kind, opened for a look: which modalities its files are, and its rows.

What files are is decided by their endings, and where these leave it open (arrays, csv files) by a look at the first of
them. Every decision that could have gone otherwise is said.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.folders import Found, scan
from ..data.formats import MEDIA, table_format
from ..data.kinds import Columns, Files, endings_of
from ..data.sources import open_source
from ..data.windows import Windows
from ..errors import NoConfiguration, NoSplit, UserError
from ..modality import Preprocessor, load_modality
from ..modality.biosignals.files import HEADERS
from ..modality.lookup import installed
from ..recipe.config import RowsConfig
from .arrays import look_at_arrays

if TYPE_CHECKING:
    from datasets import Dataset

GRAPHS = (".graphml", ".gml", ".pt", ".npz")
VOLUMES = (".nii", ".nii.gz", ".mgh", ".mgz")
ARRAYS = ("image", "volume", "video", "ecg", "eeg", "series")
"""What a folder of arrays may be said to be."""
MANY = 8
"""csv files of numbers from which on each is a recording of its own, and they are not parts of one table."""
SPLITS = ("test", "validation")
"""Beside that which is trained on."""


@dataclass
class Opened:
    """Data, opened.

    Attributes:
        data: options of a recipe's `data` that open them.
        modalities: those that its files are; empty: a table, whose columns say it.
        rows: of the split that is trained on.
        others: split -> rows of those beside it.
        said: what was decided.
        why: modality -> why the files are taken for it, where that was open.
    """

    data: dict[str, Any]
    modalities: tuple[str, ...]
    rows: Dataset
    others: dict[str, Dataset] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    why: dict[str, str] = field(default_factory=dict)


def reader(name: str, options: Mapping[str, Any] | None = None) -> Preprocessor:
    """The preprocessor of a modality, not fitted."""
    package = load_modality(name)
    found: Preprocessor = package.Preprocessor(package.Config(**(options or {})))
    return found


def open_data(asked: RowsConfig, options: Mapping[str, Mapping[str, Any]] | None = None) -> Opened:
    """Open DATA as the commands do, with whatever modality its files are.

    options: modality -> options that say how its files are read.

    Raises:
        UserError: there is nothing that is read.
    """
    assert asked.path is not None
    said: list[str] = []
    why: dict[str, str] = {}
    path, modalities = _modalities(asked.path, said, asked.columns, why)
    data: dict[str, Any] = {"path": path}
    if asked.name is not None:
        data["name"] = asked.name
    try:
        rows = _rows(asked, path, asked.name, asked.split, modalities, options)
    except NoConfiguration as error:
        if asked.name is not None:
            raise
        data["name"] = error.known[0]
        said.append(
            f"of the configurations {', '.join(error.known)} the first is taken (name={error.known[1]}: another)"
        )
        rows = _rows(asked, path, error.known[0], asked.split, modalities, options)
    if "graph" in modalities and _is_node(rows):
        data["split"] = "all"  # every node is seen, labels are those of the training part alone
        rows = _rows(asked, path, data.get("name"), "all", modalities, options)
    elif asked.split != "train":
        data["split"] = asked.split
    others = {}
    for split in SPLITS:
        try:
            others[split] = _rows(asked, path, data.get("name"), split, modalities, options)
        except NoSplit:
            continue
        except UserError as error:
            said.append(f"the split {split} cannot be opened: {error}")
    return Opened(data, modalities, rows, others, said, why)


def _rows(
    asked: RowsConfig,
    path: str,
    name: str | None,
    split: str,
    modalities: Sequence[str],
    options: Mapping[str, Mapping[str, Any]] | None,
) -> Dataset:
    import datasets

    readers = {kind: reader(kind, (options or {}).get(kind)) for kind in modalities}
    if {"audio", "video"} <= set(readers):
        readers.pop("audio")  # of the same files
    windows = Windows(False if asked.windows is None else asked.windows, asked.stride)
    files = Files(readers, asked.columns, windows) if readers else None
    found = open_source(
        path,
        name=name,
        split=split,
        streaming=asked.streaming,
        fetch=asked.fetch,
        reading=asked.reading,
        files=files,
        limit=asked.limit,
    )
    if isinstance(found, datasets.Dataset):
        return found
    some = list(found.take(asked.limit or 1000))
    return datasets.Dataset.from_list(some, features=found.features)


def _is_node(rows: Dataset) -> bool:
    first = rows[0].get("graph") if len(rows) else None
    return isinstance(first, dict) and first.get("node") is not None


# ------------------------------------------------------------------------------------------------------------ files


def _modalities(path: str, said: list[str], columns: Columns, why: dict[str, str]) -> tuple[str, tuple[str, ...]]:
    """(the path, the modalities that its files are; none of a table, of the Hub, of `builtin:`)."""
    prefix = path.partition(":")[0]
    if prefix in ("graph", "series"):
        return path, (prefix,)
    local = Path(path.removeprefix("file://")).expanduser()
    if local.is_file():
        return path, _of_files([str(local)], local, said, columns, why)
    if not local.is_dir():
        matches = sorted(match for match in glob.glob(str(local), recursive=True) if Path(match).is_file())
        return path, _of_files(matches, local, said, columns, why) if matches else ()
    if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
        return path, ()
    found = scan(local.resolve())
    if found.has_configs or found.is_empty:
        return path, ()
    return path, _of_files(found.every, local, said, columns, why, found)


def _of_files(
    files: Sequence[str],
    local: Path,
    said: list[str],
    columns: Columns,
    why: dict[str, str],
    found: Found | None = None,
) -> tuple[str, ...]:
    """The modalities that files are. columns: as asked for; why: gets the reason for what was open."""
    kinds = Counter(_kind(file) for file in files)
    media = {kind: kinds[kind] for kind in ("image", "audio", "video") if kinds[kind]}
    if _tu(files) or kinds["graph"] and kinds["graph"] >= kinds["array"] + sum(media.values()):
        return ("graph",)
    for kind in ("series", "volume"):
        if kinds[kind]:
            return (kind,)
    if kinds["signal"] >= max(1, *media.values(), 0) if media else kinds["signal"]:
        return (signal_of(next(file for file in files if _kind(file) == "signal"), str(local), said),)
    if media and sum(media.values()) + kinds["array"] >= kinds["table"]:
        chosen = [kind for kind, count in media.items() if count >= 0.2 * max(media.values())]
        left = [kind for kind in media if kind not in chosen]
        if left:
            said.append(f"of {endings_of(files)} only the {' and '.join(chosen)} files are read")
        if "audio" not in chosen and "video" in chosen and _sounds(next(f for f in files if _kind(f) == "video")):
            chosen.append("audio")
        stems = {Path(file).stem for file in files if _kind(file) in chosen}
        texts = [file for file in files if file.lower().endswith(".txt") and Path(file).stem in stems]
        return (*chosen, "text") if len(texts) >= 0.5 * len(stems) else tuple(chosen)
    if kinds["array"]:
        arrays = [file for file in files if _kind(file) == "array"]
        asked = next((name for name in columns if name in ARRAYS), None)
        if asked is not None:
            why[asked] = "as asked for"
            return (asked,)
        return (_array(arrays, str(local), said, why),)
    if _json_graphs(files):
        return ("graph",)
    tables = [file for file in files if table_format(file) == "csv"]
    if len(tables) >= MANY and len(tables) == kinds["table"] and not (found and found.split_tables()):
        return _recordings(tables, str(local), said)
    return ()


def _kind(file: str) -> str:
    """image, audio, video, signal, graph, series, array, table, or other."""
    name = file.lower()
    ending = Path(name).suffix
    if name.endswith(HEADERS):
        return "signal"
    if name.endswith(VOLUMES):
        return "volume"
    if ending == ".ts":
        with open(file, "rb") as opened:
            return "series" if opened.read(1) in (b"@", b"#") else "video"
    if ending in (".npy", ".mat"):
        return "array"
    if ending in GRAPHS:
        return "graph"
    if table_format(name):
        return "table"
    return MEDIA.get(ending, "other")


def _tu(files: Sequence[str]) -> bool:
    return any(file.endswith("_graph_indicator.txt") for file in files)


def _json_graphs(files: Sequence[str]) -> bool:
    """Whether all files of a table's kind are JSON, and the first of them graphs."""
    told = [file for file in files if table_format(file)]
    if not told or not all(file.lower().endswith(".json") for file in told):
        return False
    graphs = reader("graph")
    try:
        graphs.fit([graphs.value(file) for file in told[:3]])
    except UserError:
        return False
    return True


def _sounds(file: str) -> bool:
    """Whether a video has a sound."""
    if not installed("av"):
        return False
    import av

    try:
        with av.open(file) as container:
            return bool(container.streams.audio)
    except av.FFmpegError:
        return False


def _array(files: Sequence[str], where: str, said: list[str], why: dict[str, str]) -> str:
    """The modality of files of numbers, by their shapes and type."""
    from .signals import told_signals

    plain = [file for file in files if file.lower().endswith(".npy")]
    if not plain:
        return signal_of(files[0], where, said)
    found = look_at_arrays(plain, lambda counts: told_signals(where, counts))
    if found.modality == "signal":
        kind = signal_of(plain[0], where, said)
        why[kind] = found.why
        return kind
    said.append(f"{found.why} (if they are not: --column {found.other}={found.other})")
    why[found.modality] = found.why
    return found.modality


def _recordings(tables: Sequence[str], where: str, said: list[str]) -> tuple[str, ...]:
    """The modality of csv files that are a recording each; none where they are no such."""
    series = reader("series")
    if not all(series.holds(Path(file)) for file in tables[:3]):
        return ()
    found = signal_of(tables[0], where, said)
    said.append(f"{len(tables):,} csv files of numbers: each is taken for a recording, and not for a part of one table")
    return (found,)


def signal_of(value: object, where: str, said: list[str]) -> str:
    """ecg, eeg or series: what a recording is by the names of its channels, what it is called, its channels and rate.

    Args:
        value: a file or raw value.
        where: the data's name.
        said: gets what was decided, where it might have been otherwise.
    """
    from .signals import look_at_signals

    found = look_at_signals([value], where)
    if found.doubt:
        said.append(f"recordings of {found.channels} channels are taken for {found.modality}: {found.doubt}")
    return found.modality


def with_limit(asked: RowsConfig, limit: int) -> RowsConfig:
    """The same data, at most so many rows of them."""
    return replace(asked, limit=limit if asked.limit is None else min(limit, asked.limit))
