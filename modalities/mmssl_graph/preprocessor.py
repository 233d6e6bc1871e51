"""Options of the graph modality, and its `Preprocessor`: graphs to padded features, links and encodings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from mmssl import modality as base
from mmssl.errors import BadSample, UserError
from mmssl.modality import Inputs, with_present
from mmssl.modality.looked import Looked
from mmssl.modality.table import Column

from .encodings import encodings
from .folders import READS, READS_ELSE, rows_of
from .graph import Array, Graph, Rows, ego_sample, from_raw, propagated, propagated_at, walk_sample
from .json_files import is_graph
from .options import SOURCES, Config
from .sources import load_store

if TYPE_CHECKING:
    from datasets import Dataset

SOME = 200  # graphs or nodes that features are measured on


@dataclass
class Sample:
    """One decoded graph of n nodes.

    Attributes:
        x: (n, F) scaled.
        links: (n, n) weights of the edges.
        centre: its number, or -1.
        propagated: (F,) or (3 F,), the raw features.
    """

    x: Tensor
    links: Tensor
    centre: int
    propagated: Tensor


class Preprocessor(base.Preprocessor[Sample]):
    """Graphs to {"x": (B, N, F), "links": (B, N, N), "nodes": (B, N) bool, "encodings": (B, N, K), "centre": (B,)
    int64, -1: none, "propagated": (B, ...), "present": (B,) bool, left out when all are}.

    state: what nodes are known by (`source`), its width, mean and std or the labels, and `centred` where each sample is
    a subgraph around a node.
    """

    reads = READS
    reads_else = READS_ELSE
    noun = "a graph"
    config: Config

    def open_rows(self, path: Path, split: str) -> Dataset | None:
        """TUDatasets, tables of edges, files of many graphs or of one large one."""
        return rows_of(path, split)

    def holds(self, path: Path) -> bool:
        """JSON files of graphs."""
        return is_graph(path)

    def fits(self, column: Column) -> bool:
        """Mappings with edges."""
        return bool(column.values) and all(isinstance(v, Mapping) and "edge_index" in v for v in column.values)

    def fit(self, samples: Iterable[object]) -> Self:
        """Learn what nodes are known by: width and scale of the features, or which labels there are.

        Raises:
            UserError: no sample can be read, or not all have what the recipe wants nodes to be known by.
        """
        graphs: list[tuple[Graph, Array]] = []
        for graph in self.readable(samples, self._graph):
            some = np.arange(graph.nodes) if graph.centre is None else np.array([graph.centre])
            graphs.append((graph, some))
            if len(graphs) >= SOME and graph.centre is None:
                break
        self._learn(graphs)
        if graphs[0][0].centre is not None:
            self.state["centred"] = True
        return self

    def _learn(self, graphs: Sequence[tuple[Graph, Array]]) -> None:
        first = graphs[0][0]
        source = self.config.features or next(
            name for name in SOURCES if name == "degree" or getattr(first, name) is not None
        )
        if source == "degree":
            self.state = {"source": source, "width": self.config.max_degree + 1}
            return
        if any(getattr(graph, source) is None for graph, _ in graphs):
            raise UserError(
                f"features: {source}: not all graphs have {'features x' if source == 'x' else 'node labels'}"
            )
        if source == "labels":
            labels = sorted({label for graph, _ in graphs for label in graph.labels.tolist()})  # type: ignore[union-attr]
            self.state = {"source": source, "width": len(labels), "labels": labels}
            return
        rows = [np.asarray(graph.x[nodes]) for graph, nodes in graphs]  # type: ignore[index]
        widths = [row.shape[1] for row in rows]
        width = max(set(widths), key=widths.count)
        x = np.concatenate([row for row in rows if row.shape[1] == width]).astype(np.float64)
        scale = self.config.scale or ("none" if ((x == 0) | (x == 1)).all() else "standard")
        self.state = {"source": source, "width": width, "scale": scale}
        if scale == "standard":
            std = x.std(0)
            self.state |= {"mean": x.mean(0).tolist(), "std": np.where(std > 0, std, 1.0).tolist()}

    def _graph(self, raw: object) -> Graph:
        """A raw value to a graph, a centre in it where the sample is about one node."""
        if isinstance(raw, (str, Path)):
            raw = {"path": str(raw)}
        if not (isinstance(raw, Mapping) and raw.get("path") is not None):
            return from_raw(raw, self.config.directed, self.config.layout)
        try:
            store = load_store(raw["path"], self.config.directed, self.config.layout)
        except UserError as error:
            raise BadSample(str(error)) from error
        for key, many in (("node", False), ("graph", True)):
            number = raw.get(key)
            if number is not None:
                if many == (store.of is None) or not 0 <= number < store.items:
                    raise BadSample(f"{raw['path']}: has no {key} {number}")
                return store.pick(number) if many else store.graph.about(number)
        if store.of is not None and store.items > 1:
            raise BadSample(f"{raw['path']}: holds {store.items} graphs; say which one (data.path: graph:FILE does)")
        return store.graph

    def _content(self, graph: Graph, nodes: Array) -> Array:
        """(k, F) float32 what `nodes` are known by, scaled."""
        state = self.fitted()
        if state["source"] == "degree":
            degree = np.minimum(graph.start[nodes + 1] - graph.start[nodes], state["width"] - 1)
            return np.eye(state["width"], dtype=np.float32)[degree]
        if state["source"] == "labels":
            if graph.labels is None:
                raise BadSample("the graph has no node_labels, which the model knows nodes by")
            known = {label: number for number, label in enumerate(state["labels"])}
            out = np.zeros((len(nodes), state["width"]), np.float32)
            for row, label in enumerate(graph.labels[nodes].tolist()):
                if label in known:  # one never met stays zero
                    out[row, known[label]] = 1
            return out
        if graph.x is None:
            raise BadSample("the graph has no features x, which the model knows nodes by")
        width = graph.x.width if isinstance(graph.x, Rows) else graph.x.shape[1]
        if width != state["width"]:
            raise BadSample(f"nodes have {width} features, the model knows {state['width']}")
        x = np.asarray(graph.x[nodes], np.float32)
        if state["scale"] == "standard":
            return ((x - np.asarray(state["mean"])) / np.asarray(state["std"])).astype(np.float32)
        if state["scale"] == "row":
            return x / np.maximum(np.abs(x).sum(1, keepdims=True), 1e-12)
        return x

    def look(self, raw: object) -> Looked | None:
        """Nodes and edges; of a node those of the graph that it lies in."""
        if raw is None:
            return None
        graph = self._graph(raw)
        return Looked({"nodes": float(graph.nodes), "edges": float(len(graph.target))})

    def read(self, raw: object, choice: int = 0) -> Sample | None:
        """One raw graph, or the subgraph around its centre.

        Args:
            raw: a torch_geometric `Data`, a mapping with edge_index and x, node_labels, edge_weight, num_nodes, centre,
                or {"path": an .npz file or folder, "node" or "graph": a number}.
            choice: draws the subgraph.

        Returns:
            None when it is null.

        Raises:
            BadSample: it is no graph, is too large, or lacks what the model knows nodes by.
        """
        if raw is None:
            return None
        graph, c = self._graph(raw), self.config
        if graph.centre is None:
            if graph.nodes > c.max_nodes:
                raise BadSample(
                    f"the graph has {graph.nodes} nodes, more than max_nodes {c.max_nodes}; "
                    "give a centre to sample around"
                )
            nodes = np.arange(graph.nodes)
            small = graph
        else:
            seed = choice % (1 << 62)
            if c.sample == "walk":
                nodes = walk_sample(graph, graph.centre, c.nodes, c.restart, seed)
            else:
                nodes = ego_sample(graph, graph.centre, c.nodes, c.hops, seed)
            small = graph.part(nodes, 0)
        x, links = self._content(graph, nodes), small.links()
        if graph.centre is None:
            smooth = np.concatenate([part.mean(0) for part in propagated(links, x)])
        else:
            near, weights = propagated_at(graph, graph.centre)
            smooth = (weights[:, None] * self._content(graph, near)).sum(0)
        centre = -1 if graph.centre is None else 0
        return Sample(torch.from_numpy(x), torch.from_numpy(links), centre, torch.from_numpy(smooth.astype(np.float32)))

    def collate(self, samples: Sequence[Sample | None]) -> Inputs:
        """What `read` returned (None = absent) to tensors, padded to the largest graph."""
        width, c = self.fitted()["width"], self.config
        there = [sample for sample in samples if sample is not None]
        batch, most = len(samples), max([len(sample.x) for sample in there] or [1])
        smooth = max([len(sample.propagated) for sample in there] or [width])
        inputs = {
            "x": torch.zeros(batch, most, width),
            "links": torch.zeros(batch, most, most),
            "nodes": torch.zeros(batch, most, dtype=torch.bool),
            "centre": torch.full((batch,), -1),
            "propagated": torch.zeros(batch, smooth),
        }
        for row, sample in enumerate(samples):
            if sample is not None:
                n = len(sample.x)
                inputs["x"][row, :n], inputs["nodes"][row, :n] = sample.x, True
                inputs["links"][row, :n, :n] = sample.links
                inputs["centre"][row] = sample.centre
                inputs["propagated"][row, : len(sample.propagated)] = sample.propagated
        # in the worker that loads, for all graphs at once; `patchify` does it again where a view changed edges
        inputs["encodings"] = encodings(inputs["links"], inputs["nodes"], c.laplacian, c.walk)
        return with_present(inputs, samples)

    def sizes(self) -> dict[str, object]:
        """What the `Modality` is built with."""
        c = self.config
        return {
            "features": self.fitted()["width"],
            "laplacian": c.laplacian,
            "walk": c.walk,
            "stem": c.stem,
            "distance": c.distance,
            "gamma": c.gamma,
            "centred": bool(self.fitted().get("centred")),
        }
