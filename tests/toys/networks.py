"""Small random graphs and what the graph modality makes of them, for its tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import mmssl_graph
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl_graph import graph as graphs

PATH = {"edge_index": [[0, 1], [1, 2]], "x": [[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]}


def network(n: int, p: float, seed: int = 0) -> dict[str, Any]:
    """A random graph with features; some nodes may be isolated."""
    rng = np.random.default_rng(seed)
    edges = np.argwhere(np.triu(rng.random((n, n)) < p, 1)).T
    return {"edge_index": edges, "x": rng.normal(size=(n, 4)).astype(np.float32)}


SOME = [network(int(n), 0.35, seed) for seed, n in enumerate([5, 9, 7, 12, 3])]


def fitted(samples: list[Any], **options: Any) -> mmssl_graph.Preprocessor:
    return mmssl_graph.Preprocessor(mmssl_graph.Config(**options)).fit(samples)


def module(preprocessor: mmssl_graph.Preprocessor, width: int = 16) -> mmssl_graph.Modality:
    torch.manual_seed(0)
    return mmssl_graph.Modality(width, **preprocessor.sizes())


def model(preprocessor: mmssl_graph.Preprocessor) -> MMSSLModel:
    torch.manual_seed(0)
    config = MMSSLConfig(
        modalities={"graph": {"type": "graph", **preprocessor.sizes()}},
        towers={"graph": tower_spec(TowerConfig(width=24, depth=2, heads=2))},
    )
    return MMSSLModel(config).eval()


def links_of(raw: dict[str, Any]) -> Tensor:
    return torch.from_numpy(graphs.from_raw(raw, False).links())
