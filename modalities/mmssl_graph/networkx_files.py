"""GraphML and GML files, read with networkx: one graph a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from mmssl.boundary import reading_sample
from mmssl.errors import BadSample, UserError

from .graph import Array

if TYPE_CHECKING:
    from networkx import Graph

ENDINGS = (".graphml", ".gml")
NAMES = {"label": "y", "y": "y", "split": "split", "node_label": "node_labels"}
"""Attribute of nodes -> array; all other numbers are features."""


def read_networkx(path: Path) -> dict[str, Array]:
    """Arrays of one graph, named as in an .npz file: edge_index, edge_weight, x, y, node_labels, split, num_nodes.

    Nodes are numbered in the file's order. Attributes of nodes that are numbers in all of them are features, in the
    order of their first sight; `label`, `split` and `node_label` are what they are in a table of nodes; the attribute
    `weight` of edges is their weight. Other attributes, and whether edges have a direction (`directed` says it), are
    not read. Raises BadSample for a file that is no such graph.
    """
    try:
        import networkx
    except ImportError as error:
        raise UserError(f"reading {path.name} needs networkx: pip install 'mmssl[graph]'") from error
    readers: dict[str, Callable[[Path], Graph]] = {".graphml": networkx.read_graphml, ".gml": _gml}
    with reading_sample(f"it cannot be read as {path.suffix[1:]}"):
        graph = readers[path.suffix.lower()](path)
        if path.suffix.lower() == ".graphml":
            _check_one(path)
    return _arrays(graph)


def _check_one(path: Path) -> None:
    """BadSample where a GraphML file holds several graphs: networkx reads the first and says nothing of the others."""
    count = sum(child.tag.rpartition("}")[2] == "graph" for child in ElementTree.parse(path).getroot())
    if count > 1:
        raise BadSample(f"it holds {count} graphs, expected one: save each in a file of its own")


def _gml(path: Path) -> Graph:
    """networkx's own default takes the attribute `label` for a node's name: it would be lost, and had to be unique."""
    import networkx

    return networkx.read_gml(path, label="id")


def _arrays(graph: Graph) -> dict[str, Array]:
    number = {node: row for row, node in enumerate(graph.nodes)}
    ends = [(number[a], number[b]) for a, b in graph.edges()]
    arrays: dict[str, Array] = {
        "edge_index": np.array(ends, np.int64).reshape(-1, 2).T,
        "num_nodes": np.array(len(number)),
    }
    weights = [data.get("weight") for _, _, data in graph.edges(data=True)]
    there = [weight for weight in weights if weight is not None]
    if there and all(isinstance(weight, (int, float)) for weight in there):  # without one: 1, as networkx has it
        arrays["edge_weight"] = np.array([1 if weight is None else weight for weight in weights], np.float64)
    rows = [data for _, data in graph.nodes(data=True)]
    features: list[Array] = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values: list[Any] = [row.get(name) for row in rows]
        whole = None not in values
        if name in NAMES and whole:
            arrays[NAMES[name]] = np.array(values)
        elif whole and all(isinstance(value, (int, float)) for value in values):
            features.append(np.array(values, np.float32))
    if features:
        arrays["x"] = np.stack(features, 1)
    return arrays
