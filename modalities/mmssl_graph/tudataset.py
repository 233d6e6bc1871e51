"""Folders of text files as the TUDatasets come (Morris et al. 2020), read with torch_geometric."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmssl.errors import BadSample, UserError

from .graph import Array

EDGES = "_A.txt"


def tu_files(folder: Path) -> list[Path]:
    """The files `NAME_A.txt`, `NAME_graph_indicator.txt`, ... of a folder; empty where it holds none."""
    edges = sorted(folder.glob(f"*{EDGES}"))
    if len(edges) > 1:
        found = ", ".join(path.name for path in edges)
        raise UserError(f"data.path: the folder '{folder}' holds several data sets ({found}), expected one")
    return sorted(folder.glob(f"{edges[0].name.removesuffix(EDGES)}_*.txt")) if edges else []


def read_tu(folder: Path) -> dict[str, Array]:
    """Arrays of many graphs, named as in an .npz file: edge_index, graph_id, y, and node_labels or x.

    Attributes of nodes become x, with their labels behind them one-hot; labels alone become node_labels. Attributes of
    edges are not read. Raises BadSample for files that are no such data set, UserError without torch_geometric.
    """
    try:
        from torch_geometric.io import read_tu_data
    except ImportError as error:
        raise UserError(f"reading '{folder}' needs torch_geometric: pip install 'mmssl[graph]'") from error
    name = next(folder.glob(f"*{EDGES}")).name.removesuffix(EDGES)
    try:
        data, slices, sizes = read_tu_data(str(folder), name)
    except (OSError, ValueError, IndexError, RuntimeError) as error:
        raise BadSample(f"{name}: {' '.join(str(error).split())}") from error
    x = None if data.x is None else data.x.numpy()
    counts = np.asarray(data._num_nodes) if x is None else np.diff(slices["x"].numpy())
    # torch_geometric numbers the nodes of each graph from 0; here all nodes of the file are numbered
    offset = np.repeat(counts.cumsum() - counts, np.diff(slices["edge_index"].numpy()))
    arrays: dict[str, Array] = {
        "edge_index": data.edge_index.numpy() + offset,
        "graph_id": np.repeat(np.arange(len(counts)), counts),
    }
    if x is not None:
        labels_only = not sizes["num_node_attributes"]
        arrays |= {"node_labels": x.argmax(1)} if labels_only else {"x": x}
    if data.y is not None:
        arrays["y"] = data.y.numpy()
    return arrays
