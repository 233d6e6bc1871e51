"""Graph files: what they hold, and their rows for `data.path: graph:FILE`. See README.md for the names they use.

A row of the data does not copy the graph: it says which node (or which of many graphs) of which file it is about, and
the preprocessor, which keeps the file in memory, samples the subgraph.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmssl.boundary import reading_sample, regular_file, within_places
from mmssl.errors import BadSample, NoSplit, UserError, nearest
from mmssl.limits import check
from mmssl.modality.parquet_pages import check_group, chunks
from mmssl.modality.raw import check_npy

from .graph import Array, Graph, Rows, build, whole_number
from .json_files import read_json
from .networkx_files import ENDINGS, read_networkx
from .torch_files import read_torch
from .tudataset import read_tu, tu_files

if TYPE_CHECKING:
    from datasets import Dataset

FILES = ".npz with edge_index, .graphml, .gml, .json, .pt, folders with edges and nodes (parquet or csv)"
LABELS = ("y", "label", "labels")
TABLES = (".parquet", ".csv")
PARTS = {"train_mask": "train", "val_mask": "validation", "test_mask": "test"}
SAME = {"val": "validation", "valid": "validation", "dev": "validation"}


@dataclass
class Store:
    """A file's content, of which each item is a row of the data.

    Attributes:
        graph: all nodes and edges.
        of: (nodes,) which of many graphs a node is in, and an item is a graph; None: an item is a node.
        columns: other values of each item, labels among them.
        split: (items,) the part that each belongs to, or None.
    """

    graph: Graph
    of: Array | None = None
    columns: dict[str, Array] = field(default_factory=dict)
    split: Array | None = None

    @property
    def items(self) -> int:
        """How many rows the data has."""
        return self.graph.nodes if self.of is None else len(self.first) - 1

    @cached_property
    def first(self) -> Array:
        """(graphs + 1,) where each graph's nodes begin; nodes are sorted by graph."""
        assert self.of is not None
        return np.concatenate([[0], np.bincount(self.of).cumsum()])

    def pick(self, number: int) -> Graph:
        """Graph `number` of many."""
        first = self.first
        return self.graph.part(np.arange(first[number], first[number + 1]), None)


def load_store(path: str | Path, directed: bool, layout: str | None = None) -> Store:
    """The content of an .npz, .graphml, .gml, .json or .pt file, of a folder with `edges` and `nodes` as parquet or
    csv, or of a TUDataset's folder; kept in memory. layout: of the edge_index of an .npz file, see
    `mmssl_graph.graph.build`.

    Raises BadSample when it cannot be read as a graph, OSError when it is not there.
    """
    path = Path(path)
    within_places(path)
    if not path.exists():
        raise BadSample(f"no such file or folder: {path}")
    files = (tu_files(path) or list(_tables(path).values())) if path.is_dir() else [path]
    changed = tuple(file.stat().st_mtime_ns for file in files)
    return _load(str(path), changed, directed, layout)


@lru_cache(maxsize=8)
def _load(path: str, changed: tuple[int, ...], directed: bool, layout: str | None) -> Store:
    where = Path(path)
    try:
        with reading_sample():
            if where.is_dir():
                return _store(_read_folder(where), directed, "ends_first")
            if where.suffix.lower() in ENDINGS:
                return _store(read_networkx(regular_file(where)), directed, "ends_first")
            if where.suffix.lower() == ".json":
                return _store(_other(read_json, where), directed, "ends_first")
            if where.suffix.lower() in (".pt", ".pth"):
                return _store(_other(read_torch, where), directed, "ends_first")
            return _store(_read_npz(where), directed, layout)
    except BadSample as error:
        raise BadSample(f"{where.name}: {error}") from error


def _read_folder(folder: Path) -> dict[str, Array]:
    return read_tu(folder) if tu_files(folder) else _read_tables(_tables(folder))


def _other(read: Callable[[Path], dict[str, Array]], path: Path) -> dict[str, Array]:
    """The content of a file whose ending is also that of other things; what would be read stands in the reason."""
    try:
        return read(regular_file(path))
    except BadSample as error:
        raise BadSample(f"{error}; read are also {FILES}") from error


def _read_npz(path: Path) -> dict[str, Array]:
    if not zipfile.is_zipfile(regular_file(path)):
        raise BadSample(f"expected a graph in one of {FILES}; save the graphs of other libraries as one of these")
    found = {}
    with zipfile.ZipFile(path) as archive:
        check("bytes", sum(member.file_size for member in archive.infolist()), "bytes unpacked")
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as packed:
                check_npy(packed, name)  # type: ignore[arg-type]
            with archive.open(member) as packed:
                found[name] = np.lib.format.read_array(packed, allow_pickle=False)
    return found


def _tables(folder: Path) -> dict[str, Path]:
    """The files `edges` and, where there is one, `nodes` of a folder."""
    found: dict[str, Path] = {}
    for name in ("edges", "nodes"):
        for ending in TABLES:
            if (folder / f"{name}{ending}").is_file():
                found.setdefault(name, folder / f"{name}{ending}")
    if "edges" not in found:
        raise UserError(f"data.path: the folder '{folder}' has no edges.parquet, edges.csv or NAME_A.txt")
    return found


def _read_tables(files: Mapping[str, Path]) -> dict[str, Array]:
    """`edges` (source, target, weight) and `nodes` (id, label, split, graph; all other columns are features)."""
    edges = _columns(files["edges"])
    for name in ("source", "target"):
        if name not in edges:
            raise BadSample(f"edges have no column '{name}', they are {', '.join(edges)}{nearest(name, edges)}")
    nodes = _columns(files["nodes"]) if "nodes" in files else {}
    ids = nodes.pop("id", None)
    ends = [edges["source"], edges["target"]]
    if ids is None:
        index = np.stack(ends)
    else:
        order = np.argsort(ids, kind="stable")
        place = [np.minimum(np.searchsorted(ids[order], end), len(ids) - 1) for end in ends]
        for end, at in zip(ends, place, strict=True):
            unknown = end[ids[order][at] != end]
            if len(unknown):
                raise BadSample(f"an edge names node {unknown[0]!r}, which is not in the column 'id' of nodes")
        index = np.stack([order[at] for at in place])
    arrays: dict[str, Array] = {"edge_index": index}
    if "weight" in edges:
        arrays["edge_weight"] = edges["weight"]
    names = {"graph": "graph_id", "label": "y", "split": "split", "node_label": "node_labels"}
    for column, name in names.items():
        if column in nodes:
            arrays[name] = nodes.pop(column)
    for name, values in nodes.items():
        if values.dtype.kind not in "fiub":
            raise BadSample(f"column '{name}' of nodes holds {values.dtype}, expected numbers (features)")
    if nodes:
        arrays["x"] = np.stack([values.astype(np.float32) for values in nodes.values()], 1)
    elif ids is not None:
        arrays["num_nodes"] = np.array(len(ids))
    return arrays


def _columns(path: Path) -> dict[str, Array]:
    try:
        from pyarrow import ArrowException, csv
    except ImportError as error:
        raise UserError(f"reading {path.name} needs pyarrow: pip install pyarrow") from error
    try:
        # NA is no number, but a label or an id that it is
        words = csv.ConvertOptions(strings_can_be_null=False)
        table = _parquet(path) if path.suffix == ".parquet" else csv.read_csv(path, convert_options=words)
    except ArrowException as error:
        raise BadSample(str(error)) from error
    return {name: table[name].to_numpy() for name in table.column_names}


def _parquet(path: Path) -> Any:
    """A table, whose parts are looked at before they are decoded."""
    from pyarrow.parquet import ParquetFile

    with open(path, "rb") as file, ParquetFile(path) as parquet:
        try:
            for columns in chunks(file, path.name):
                check_group(file, parquet.metadata.schema, dict(enumerate(columns)), path.name)
        except UserError as error:
            raise BadSample(str(error).removeprefix("data.path: ")) from error
        return parquet.read()


def _store(arrays: dict[str, Array], directed: bool, layout: str | None) -> Store:
    if "edge_index" not in arrays:
        raise BadSample(f"no array 'edge_index', found {', '.join(arrays)}{nearest('edge_index', arrays)}")
    x: object = arrays.get("x")
    if "x_indptr" in arrays:
        width = int(arrays["x_shape"][1])
        value = arrays.get("x_data", np.ones(len(arrays["x_indices"]), np.float32))
        x = Rows(arrays["x_indptr"].astype(np.int64), arrays["x_indices"], value, width)
    count = whole_number(arrays.get("num_nodes"), "num_nodes")
    of = arrays.get("graph_id", arrays.get("batch"))
    if of is not None:
        count = len(of) if of.ndim == 1 else 0
        if not count or of.dtype.kind not in "iu" or (np.diff(of) < 0).any() or of[0] != 0:
            raise BadSample("graph_id must number each node's graph from 0 on, nodes sorted by graph")
        check("nodes", int(of[-1]) + 1, "graphs")
    labels = arrays.get("node_labels")
    graph = build(arrays["edge_index"], count, arrays.get("edge_weight"), x, labels, None, directed, layout)
    store = Store(graph, of)
    known = {"edge_index", "edge_weight", "x", "num_nodes", "graph_id", "batch", "node_labels", "split", *PARTS}
    for name, values in arrays.items():
        if name not in known and values.shape == (store.items,):
            store.columns["label" if name in LABELS else name] = values
    store.split = _split_of(arrays, store)
    return store


def _split_of(arrays: Mapping[str, Array], store: Store) -> Array | None:
    """(items,) the part that each item belongs to: `split`, masks, or `fold` (0 is the test part)."""
    if "split" in arrays and arrays["split"].shape == (store.items,):
        return arrays["split"].astype(str).astype(object)
    if any(name in arrays for name in PARTS):
        out = np.full(store.items, "", object)
        for name, part in PARTS.items():
            if name in arrays:
                out[arrays[name].astype(bool)] = part
        return out
    if "fold" in store.columns:
        return np.where(store.columns["fold"] == 0, "test", "train").astype(object)
    return None


def open_rows(path: str, split: str) -> Dataset:
    """The rows of a graph file for `data.path: FILE`, or `graph:FILE`: one a node, or one a graph where it has many.

    Args:
        path: the file or folder.
        split: a part of the file (masks, a column `split`, or `fold`, of which 0 is the test part), or "all": every
            item, as pretraining on a single graph needs, with the labels of the training part only, so that a probe
            cannot learn from the others.

    Returns:
        Columns: graph ({path, node, graph}), label, split, and what else the file says of each.

    Raises:
        UserError: the file or the split is not there, or the file is not a graph.
    """
    import datasets

    where = Path(path).expanduser().resolve()
    if not where.exists():
        siblings = [p.name for p in where.parent.iterdir()] if where.parent.is_dir() else []
        raise UserError(f"data.path: no such file or folder: '{path}'{nearest(where.name, siblings)}")
    try:
        store = load_store(where, directed=True, layout="ends_first")  # of its nodes alone
    except BadSample as error:
        raise UserError(f"data.path: cannot read '{path}' as a graph: {error}") from error
    parts = np.full(store.items, "train", object) if store.split is None else store.split
    known = [part for part in dict.fromkeys(parts) if part]
    part = SAME.get(split, split)
    if part != "all" and part not in known:
        known.append("all")
        raise NoSplit(
            f"data.split: '{path}' has no split '{split}', its splits are {', '.join(known)}{nearest(split, known)}"
        )
    rows = np.arange(store.items) if part == "all" else np.flatnonzero(parts == part)
    key = "node" if store.of is None else "graph"
    data: dict[str, list[object]] = {
        "graph": [{"path": str(where), "node": None, "graph": None} | {key: int(row)} for row in rows],
        "split": [str(parts[row]) for row in rows],
    }
    for name, values in store.columns.items():
        data[name] = values[rows].tolist()
    if part == "all" and "label" in data:
        visible = parts[rows] == "train"
        data["label"] = [label if there else None for label, there in zip(data["label"], visible, strict=True)]
    return datasets.Dataset.from_dict(data)
