"""Graphs in JSON: node-link as networkx and D3 write it, or the arrays of an .npz file as lists; one graph or a list.

The arrays that come back are named as in an .npz file, see README.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.errors import BadSample, one_line
from mmssl.limits import check

from .graph import Array, whole_number

logger = logging.getLogger("mmssl")
NUMBERS = ("edge_index", "x", "edge_weight")
LINKS = ("links", "edges")
GRAPHS = ("graphs", "data")
NAMES = {"label": "y", "y": "y", "split": "split", "node_label": "node_labels"}
"""Attribute of nodes -> array; all other numbers are features."""
HEAD = 4096
"""Bytes at a file's beginning that show whether it is one of graphs."""


def is_graph(path: Path) -> bool:
    """Whether a JSON file begins as one of graphs does."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    return any(f'"{word}"'.encode() in head for word in ("edge_index", "links", "edges", "nodes", "graphs"))


def read_json(path: Path) -> dict[str, Array]:
    """The graph, or graphs, of a file. Raises BadSample where it holds none."""
    check("bytes", path.stat().st_size, "bytes")
    try:
        said = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadSample(f"no JSON that can be read: {error}") from error
    if isinstance(said, Mapping):
        inside = next((said[key] for key in GRAPHS if isinstance(said.get(key), list)), None)
        said = said if inside is None or "edge_index" in said else inside
    if isinstance(said, Mapping):
        return _graph(said)
    if not isinstance(said, list) or not said or not all(isinstance(one, Mapping) for one in said):
        raise BadSample("expected a graph (nodes and links, or edge_index), or a list of them")
    return joined([_graph(one) for one in said])


def joined(graphs: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Several graphs as one, with `graph_id` of each node; `y`, `label` and what else has one value a graph."""
    counts = [nodes_of(graph) for graph in graphs]
    offset = np.cumsum([0, *counts[:-1]])
    arrays: dict[str, Array] = {
        "edge_index": np.concatenate([g["edge_index"] + at for g, at in zip(graphs, offset, strict=True)], 1),
        "graph_id": np.repeat(np.arange(len(graphs)), counts),
    }
    for name in dict.fromkeys(name for graph in graphs for name in graph):
        if name in ("edge_index", "num_nodes"):
            continue
        values = [np.asarray(graph[name]) for graph in graphs if name in graph]
        if len(values) < len(graphs):
            said = f"{name} is in {len(values):,} of {len(graphs):,} graphs"
            if name in NUMBERS or name == "node_labels":
                raise BadSample(f"{said}, expected all of them")
            logger.warning("%s, and left out", said)
            continue
        if all(value.size == 1 for value in values):
            arrays[name] = np.array([value.reshape(-1)[0] for value in values])
        elif name in ("x", "node_labels", "edge_weight"):
            arrays[name] = np.concatenate(values)
    return arrays


def nodes_of(graph: Mapping[str, Array]) -> int:
    """How many nodes a graph has."""
    count = whole_number(graph.get("num_nodes"), "num_nodes")
    if count is not None:
        return count
    for name in ("x", "node_labels"):
        if name in graph:
            return len(graph[name])
    return int(graph["edge_index"].max()) + 1 if graph["edge_index"].size else 1


def _graph(said: Mapping[str, Any]) -> dict[str, Array]:
    if said.get("edge_index") is not None:
        arrays = {name: _array(name, value) for name, value in said.items() if value is not None}
        arrays["edge_index"] = _two_rows(arrays["edge_index"])
        return {name: value for name, value in arrays.items() if value.dtype != object}
    links = next((said[key] for key in LINKS if isinstance(said.get(key), list)), None)
    if links is None:
        raise BadSample(f"found {', '.join(map(str, said)) or 'nothing'}, expected nodes and links, or edge_index")
    return _node_link(said.get("nodes") or [], links, said.get("graph"))


def _array(name: str, value: object) -> Array:
    """An entry of a graph; null among numbers is NaN, which whoever takes them refuses. BadSample where an entry that
    makes the graph holds something else: it would be left out, and the graph be another one."""
    found = np.asarray(value)
    if found.dtype != object or name not in (*NUMBERS, "node_labels", "num_nodes"):
        return found
    try:
        return np.asarray(value, np.float64)
    except (ValueError, TypeError) as error:
        raise BadSample(f"{name} holds values of several types ({one_line(error, 120)})") from None


def _two_rows(edges: Array) -> Array:
    """edge_index as (2, E)."""
    if not edges.size:
        return np.zeros((2, 0), np.int64)
    return edges if edges.ndim != 2 or edges.shape[0] == 2 else edges.T


def _node_link(nodes: Sequence[Any], links: Sequence[Any], graph: object) -> dict[str, Array]:
    rows = [node if isinstance(node, Mapping) else {"id": node} for node in nodes]
    number = {_key(row.get("id", row.get("name", at))): at for at, row in enumerate(rows)}
    ends, weights = [], []
    for link in links:
        pair = (link.get("source"), link.get("target")) if isinstance(link, Mapping) else tuple(link)[:2]
        places = [number.get(_key(end)) for end in pair]
        if None in places and not rows and all(isinstance(end, int) for end in pair):
            places = list(pair)  # numbers of nodes that are not listed
        if len(places) < 2 or None in places:
            raise BadSample(f"a link names {pair!r:.80}, which are not both among the nodes")
        ends.append(places)
        weights.append(link.get("weight") if isinstance(link, Mapping) else None)
    arrays: dict[str, Array] = {"edge_index": np.array(ends, np.int64).reshape(-1, 2).T}
    if rows:
        arrays["num_nodes"] = np.array(len(rows))
    there = [weight for weight in weights if weight is not None]
    if there and all(isinstance(weight, (int, float)) for weight in there):  # without one: 1, as networkx has it
        arrays["edge_weight"] = np.array([1 if weight is None else weight for weight in weights], np.float64)
    features = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if name in ("id", "name") or None in values:
            continue
        if name in NAMES:
            arrays[NAMES[name]] = np.array(values)
        elif all(isinstance(value, (int, float)) for value in values):
            features.append(np.array(values, np.float32)[:, None])
        elif all(isinstance(v, list) for v in values) and len({len(v) for v in values if v is not None}) == 1:
            features.append(np.array(values, np.float32))
    if features:
        arrays["x"] = np.concatenate(features, 1)
    label = graph.get("label", graph.get("y")) if isinstance(graph, Mapping) else None
    if label is not None and "y" not in arrays:
        arrays["y"] = np.array([label])
    return arrays


def _key(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
