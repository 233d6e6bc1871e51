"""`Graph`: nodes, edges and features in plain arrays; how raw values become one, and subgraphs of a big one.

Shapes: n nodes, E edges (directed; an undirected edge is there in both directions), F features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mmssl.errors import BadSample, nearest, one_line
from mmssl.limits import check

from .options import LAYOUTS

Array = np.ndarray

KEYS = ("edge_index", "edge_weight", "x", "node_labels", "num_nodes", "centre")
IGNORED = ("y", "label", "edge_attr", "batch", "ptr")
WALK_STEPS = 12


@dataclass
class Rows:
    """Features of nodes as a compressed sparse matrix: of a big graph they may not fit any other way."""

    start: Array
    column: Array
    value: Array
    width: int

    def __getitem__(self, nodes: Array) -> Array:
        """(k, F) float32 the rows of `nodes`."""
        out = np.zeros((len(nodes), self.width), np.float32)
        counts = self.start[nodes + 1] - self.start[nodes]
        at = ranges(self.start[nodes], counts)
        out[np.repeat(np.arange(len(nodes)), counts), self.column[at]] = self.value[at]
        return out

    def __len__(self) -> int:
        return len(self.start) - 1


@dataclass
class Graph:
    """Sorted by source: node i's edges are target[start[i]:start[i + 1]], with their weights. No loops, no edge twice.

    Attributes:
        start: (n + 1,) where each node's edges begin.
        target: (E,) where each edge leads.
        weight: (E,) float32 > 0.
        x: (n, F) features, or None.
        labels: (n,) a type for each node, or None.
        centre: the node that a sample is about, None for a sample that is about the whole graph.
    """

    start: Array
    target: Array
    weight: Array
    x: Array | Rows | None = None
    labels: Array | None = None
    centre: int | None = None

    @property
    def nodes(self) -> int:
        """n."""
        return len(self.start) - 1

    @property
    def source(self) -> Array:
        """(E,) where each edge begins."""
        return np.repeat(np.arange(self.nodes), np.diff(self.start))

    @cached_property
    def summed(self) -> Array:
        """(E + 1,) the weights of all edges before each edge."""
        return np.concatenate([[0.0], self.weight.astype(np.float64).cumsum()])

    @cached_property
    def even(self) -> bool:
        """All weights are equal."""
        return bool((self.weight == self.weight[:1]).all())

    def about(self, centre: int) -> Graph:
        """The same graph as a sample about one node; the arrays are shared."""
        out = replace(self, centre=centre)
        out.__dict__ |= {"summed": self.summed, "even": self.even}  # else computed again for every sample
        return out

    def degree(self, nodes: Array) -> Array:
        """(k,) summed weights of the edges that leave `nodes`."""
        return self.summed[self.start[nodes + 1]] - self.summed[self.start[nodes]]

    def links(self) -> Array:
        """(n, n) float32 weights; entry (i, j) is the edge from i to j."""
        out = np.zeros((self.nodes, self.nodes), np.float32)
        out[self.source, self.target] = self.weight
        return out

    def part(self, nodes: Array, centre: int | None) -> Graph:
        """The subgraph of `nodes` with all edges between them, in their order; centre: its number in `nodes`."""
        starts, counts = self.start[nodes], self.start[nodes + 1] - self.start[nodes]
        at = ranges(starts, counts)
        order = np.argsort(nodes)
        found = np.searchsorted(nodes[order], self.target[at])
        target = order[np.minimum(found, len(nodes) - 1)]  # not a table of all nodes: the graph may have millions
        inside = nodes[target] == self.target[at]
        source = np.repeat(np.arange(len(nodes)), counts)
        start = np.concatenate([[0], np.bincount(source[inside], minlength=len(nodes)).cumsum()])
        x = None if self.x is None else self.x[nodes]
        labels = None if self.labels is None else self.labels[nodes]
        return Graph(start, target[inside], self.weight[at][inside], x, labels, centre)


def ranges(starts: Array, counts: Array) -> Array:
    """The numbers of all ranges start..start + count, one after the other."""
    return np.arange(counts.sum()) + np.repeat(starts - np.concatenate([[0], counts.cumsum()[:-1]]), counts)


def build(
    edges: object,
    nodes: int | None = None,
    weight: object = None,
    x: object = None,
    labels: object = None,
    centre: int | None = None,
    directed: bool = False,
    layout: str | None = None,
) -> Graph:
    """A checked graph.

    Loops are left out (a node always sees itself), and edges of weight 0; of an edge that is there several times the
    greatest weight counts.

    Args:
        edges: (2, E) or (E, 2) numbers of nodes.
        nodes: n, where no features or labels say it and not all nodes have edges.
        weight: (E,) >= 0, default 1.
        x: (n, F) features.
        labels: (n,) a type for each node.
        centre: the node that the sample is about.
        directed: False: every edge counts in both directions.
        layout: "ends_first": edges are (2, E), "ends_last": (E, 2); None: by their shape.

    Raises:
        BadSample: says what is wrong.
    """
    features = None if x is None else _features(x)
    kinds = None if labels is None else np.asarray(labels).ravel()
    pairs = _edges(edges, layout)
    nodes, centre = whole_number(nodes, "num_nodes"), whole_number(centre, "centre")
    known = [len(v) for v in (features, kinds) if v is not None] + ([] if nodes is None else [nodes])
    if len(set(known)) > 1:
        raise BadSample(f"features, labels and num_nodes differ in the number of nodes: {known}")
    if not known and not pairs.size:
        raise BadSample("a graph without edges needs features or num_nodes")
    count = known[0] if known else int(pairs.max()) + 1
    if count < 1:
        raise BadSample("the graph has no nodes")
    check("nodes", count, "nodes")
    check("edges", pairs.shape[1], "edges")
    outside = (pairs < 0) | (pairs >= count)
    if outside.any():
        a, b = pairs[:, outside.any(0)][:, 0]
        raise BadSample(f"edge {a} -> {b}: the graph has the nodes 0..{count - 1}")
    if layout is None and pairs.shape == (2, 2) and not np.array_equal(pairs, pairs.T):
        raise BadSample(
            "edge_index has shape (2, 2): either axis could hold the two ends of an edge "
            f"(option layout: {' or '.join(LAYOUTS)})"
        )
    weights = _weights(weight, pairs.shape[1])
    if centre is not None and not 0 <= centre < count:
        raise BadSample(f"centre {centre}: the graph has the nodes 0..{count - 1}")
    use = (pairs[0] != pairs[1]) & (weights > 0)
    code, weights = pairs[0][use] * count + pairs[1][use], weights[use]
    if not directed:
        code, weights = np.concatenate([code, pairs[1][use] * count + pairs[0][use]]), np.tile(weights, 2)
    order = np.lexsort((weights, code))
    code, weights = code[order], weights[order]
    last = np.append(code[1:] != code[:-1], True)[: len(code)]
    code = code[last]
    start = np.concatenate([[0], np.bincount(code // count, minlength=count).cumsum()])
    return Graph(start, code % count, weights[last].astype(np.float32), features, kinds, centre)


def whole_number(value: object, name: str) -> int | None:
    """A count or the number of a node; BadSample for anything else: 3.5 nodes are not three."""
    if value is None:
        return None
    try:
        number = float(np.asarray(value).item())
    except (ValueError, TypeError):
        number = math.nan
    if not number.is_integer() or isinstance(value, (bool, np.bool_)):
        raise BadSample(f"{name}: found {one_line(repr(value), 60)}, expected a whole number")
    return int(number)


def _edges(edges: object, layout: str | None) -> Array:
    try:
        pairs = np.asarray(edges)
    except ValueError as error:
        raise BadSample(f"edge_index is no table of numbers ({error})") from None
    if not pairs.size:
        return np.zeros((2, 0), np.int64)
    if pairs.ndim != 2 or 2 not in pairs.shape:
        raise BadSample(f"edge_index has shape {pairs.shape}, expected (2, E) or (E, 2)")
    if not np.issubdtype(pairs.dtype, np.number) or not np.array_equal(pairs, np.rint(pairs)):
        raise BadSample(f"edge_index holds {pairs.dtype}, expected whole numbers of nodes")
    if layout is not None and pairs.shape[LAYOUTS.index(layout)] != 2:
        raise BadSample(f"edge_index has shape {pairs.shape}, layout says {layout}")
    ends_first = pairs.shape[0] == 2 if layout is None else layout == "ends_first"
    return (pairs if ends_first else pairs.T).astype(np.int64)


def _weights(weight: object, count: int) -> Array:
    if weight is None:
        return np.ones(count)
    try:
        values = np.asarray(weight, np.float64).ravel()
    except (ValueError, TypeError) as error:
        raise BadSample(f"edge_weight is no list of numbers ({error})") from None
    if len(values) != count:
        raise BadSample(f"edge_weight has {len(values)} numbers, edge_index {count} edges")
    if not np.isfinite(values).all() or (values < 0).any():
        bad = values[~(np.isfinite(values) & (values >= 0))][0]
        raise BadSample(f"edge_weight holds {bad}, expected finite numbers >= 0")
    return values


def _features(x: object) -> Array | Rows:
    if isinstance(x, Rows):
        return x
    try:
        values = np.asarray(x, np.float32)
    except (ValueError, TypeError) as error:
        raise BadSample(f"node features are no table of numbers ({error})") from None
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise BadSample(f"node features have shape {values.shape}, expected (nodes, features)")
    if not np.isfinite(values).all():
        node = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise BadSample(f"features of node {node} hold NaN or infinite numbers")
    return values


def from_raw(raw: object, directed: bool, layout: str | None = None) -> Graph:
    """A raw value as a graph.

    Args:
        raw: a torch_geometric `Data`, or a mapping with the same names: edge_index, and as known edge_weight, x or
            node_labels, num_nodes, centre.
        directed: False: every edge counts in both directions.
        layout: of edge_index, see `build`; that of torch_geometric is (2, E).

    Raises:
        BadSample: says what is wrong.
    """
    if not isinstance(raw, Mapping):
        if not hasattr(raw, "edge_index"):
            raise BadSample(
                f"found {type(raw).__name__}, expected a graph: a torch_geometric Data or a dict with edge_index"
            )
        layout = "ends_first"
        keys = getattr(raw, "keys", None)
        names = keys() if callable(keys) else KEYS
        raw = {name: getattr(raw, name, None) for name in names} | {"num_nodes": getattr(raw, "num_nodes", None)}
    else:
        for key in raw:
            if key not in KEYS + IGNORED:
                raise BadSample(
                    f"unknown entry '{key}' of a graph, expected {', '.join(KEYS)}{nearest(str(key), KEYS)}"
                )
    if raw.get("edge_index") is None:
        raise BadSample("the graph has no edge_index")
    edges, weight, x, labels, nodes, centre = (_plain(raw.get(key)) for key in KEYS)
    return build(edges, nodes, weight, x, labels, centre, directed, layout)


def _plain(value: object) -> Any:
    """Tensors as arrays, without importing torch's names."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


# --------------------------------------------------------------------------------------------------------- subgraphs


def walk_sample(graph: Graph, centre: int, count: int, restart: float, seed: int) -> Array:
    """At most `count` nodes near `centre`, itself first: those that random walks with restart visit most.

    4 walkers for every node that is wanted, WALK_STEPS steps each, along edges with a chance proportional to their
    weight; a walker at a node that no edge leaves starts again. Visits of such walks estimate
    personalised PageRank (Page et al. 1998), so dense neighbourhoods are preferred over far ends. Ties: the node
    visited first.

    Args:
        graph: the big graph.
        centre: a node of it.
        count: nodes at most.
        restart: the chance that a walker starts again at the centre, at each step.
        seed: all that the draw depends on.

    Returns:
        (k,) numbers of nodes.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, centre], np.uint64)))
    if graph.start[centre] == graph.start[centre + 1] or count < 2:
        return np.array([centre])
    at = np.full(4 * count, centre)
    luck = rng.random((2, WALK_STEPS, len(at)))
    visited = []
    for aim, restarts in zip(luck[0], luck[1] < restart, strict=True):
        first, after = graph.start[at], graph.start[at + 1]
        if graph.even:
            edge = first + (aim * (after - first)).astype(np.int64)
        else:
            low, high = graph.summed[first], graph.summed[after]
            edge = np.clip(np.searchsorted(graph.summed, low + aim * (high - low), "right") - 1, first, after - 1)
        again = (after == first) | restarts
        at = np.where(again, centre, graph.target[np.where(again, 0, edge)])
        visited.append(at)
    trail = np.concatenate(visited)
    nodes, first, visits = np.unique(trail[trail != centre], return_index=True, return_counts=True)
    order = np.lexsort((first, -visits))[: count - 1]
    return np.concatenate([[centre], nodes[order]])


def ego_sample(graph: Graph, centre: int, count: int, hops: int, seed: int) -> Array:
    """Nodes near `centre`, itself first, then the nearer ones; of the last hop that does not fit a random part.

    Args:
        graph: the big graph.
        centre: a node of it.
        count: nodes at most.
        hops: edges from the centre at most.
        seed: all that the draw depends on.

    Returns:
        (k,) numbers of nodes.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, centre], np.uint64)))
    chosen = np.array([centre])
    ring = chosen
    for _ in range(hops):
        counts = graph.start[ring + 1] - graph.start[ring]
        ring = np.setdiff1d(graph.target[ranges(graph.start[ring], counts)], chosen)
        if len(chosen) + len(ring) > count:
            ring = rng.permutation(ring)[: count - len(chosen)]
        chosen = np.concatenate([chosen, ring])
    return chosen


def propagated(links: Array, x: Array, hops: int = 2) -> list[Array]:
    """[(n, F) X, S X, S S X, ...] with S = D^-1/2 (A + I) D^-1/2 (SGC, Wu et al. 2019); dense, for small graphs."""
    links = np.maximum(links, links.T) + np.eye(len(links), dtype=np.float32)
    scale = links.sum(1) ** -0.5
    smooth = scale[:, None] * links * scale
    out = [x]
    for _ in range(hops):
        out.append(smooth @ out[-1])
    return out


def propagated_at(graph: Graph, node: int) -> tuple[Array, Array]:
    """(nodes (k,), weights (k,)) of row `node` of S S, for a big undirected graph: its two-hop neighbours."""

    def step(nodes: Array, weights: Array) -> tuple[Array, Array]:
        counts = graph.start[nodes + 1] - graph.start[nodes]
        edges = ranges(graph.start[nodes], counts)
        ends = np.concatenate([graph.target[edges], nodes])
        own = weights / np.sqrt(1 + graph.degree(nodes))
        mass = np.concatenate([np.repeat(own, counts) * graph.weight[edges], own]) / np.sqrt(1 + graph.degree(ends))
        unique, inverse = np.unique(ends, return_inverse=True)
        return unique, np.bincount(inverse, mass)

    return step(*step(np.array([node]), np.ones(1)))
