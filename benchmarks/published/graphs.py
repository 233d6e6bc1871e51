"""One graph of papers, whose words and citations are known of all and whose topic of 20 a class: the public split.

GraphMAE (Hou et al. 2022): a linear model on the frozen encoder, which has learned from hidden words, against a graph
convolutional network that learns from the labels alone (Kipf and Welling 2017, as torch_geometric has it, with its
settings). SelfTask-GNN (Jin et al. 2020): a network that learns from labels and something that the graph tells of
every paper at once, against labels alone; all judged by the same linear model on the frozen encoder.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.matrix.judging import RAW_SCALES, probed
from benchmarks.mechanisms.preparing import network, prepared
from mmssl.data.sources import open_source
from mmssl.evaluation.embedding import embed_source
from mmssl.models.opening import open_model
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model
from mmssl.training.pretrain import pretrain

from .claims import DATA, Array, Claim, accuracy, measured, together

PAIRS = (("GraphMAE", "supervised"), ("GraphMAE", "untrained"))
QUIET: dict[str, Any] = {"evaluation": {"tasks": []}, "train": {"trackers": [], "report": False, "log_every": 100}}
GRAPHMAE: dict[str, Any] = {"model": {"towers": {"graph": {"readout": "centre+mean"}}}}
"""What is changed in `examples/node_mae`. On the validation nodes of cora, seed 10, it had .796; 800 steps in place of
400 .794, 1,500 .798, messages by attention .784, half of the width dropped .794; none better at the centre alone."""
JOINT: dict[str, Any] = {
    "data": {"split": "all", "columns": {"graph": "graph"}, "fit_samples": 500},
    "modalities": {"graph": {"nodes": 64, "stem": 0, "laplacian": 0, "walk": 0}},
    "model": {
        "towers": {"graph": {"trunk": "gcn", "width": 128, "depth": 2, "heads": 4, "dropout": 0.5, "pooling": "centre"}}
    },
    "train": {"steps": 200, "batch_size": 32, "lr": 1e-3},
}
BESIDE = {
    "labels": None,
    "labels, distances": ("far", [f"far_{k}_{what}" for k in range(7) for what in ("mean", "least")]),
    "labels, context": ("context", [f"context_{k}" for k in range(7)]),
}
"""Arm of SelfTask -> what `benchmarks.mechanisms.preparing` adds to the graph, and its columns."""
PARTS = ("train", "test")
Truth = tuple[Array, Array]


def labels_of(path: str, parts: tuple[str, str]) -> tuple[list[Any], Truth]:
    """The rows to learn from and those to test on, and their classes, as numbers."""
    sources = [open_source(path, split=part, columns={"graph": "graph"}) for part in parts]
    known = [np.array(source.with_format(None)["label"]) for source in sources]
    names = np.unique(np.concatenate(known))
    return sources, (np.searchsorted(names, known[0]), np.searchsorted(names, known[1]))


def wrong(found: list[Array], y: Truth) -> Array:
    """(m,) 1 where the linear model errs, which chooses its penalty and its features' scale by folds of its labels."""
    rows = np.concatenate(y)
    fold = (np.arange(len(y[0])), np.arange(len(y[0]), len(rows)))
    said = probed(np.concatenate(found).astype(np.float64), rows, None, fold, "accuracy", RAW_SCALES)
    return np.asarray(said.argmax(1) != y[1], np.float64)


def supervised(name: str, seed: int, parts: tuple[str, str] = PARTS) -> Array:
    """(m,) 1 where Kipf and Welling's network errs, of the epoch that the validation nodes find best."""
    from torch_geometric.nn import GCNConv

    held, _ = network(DATA / name / f"{name}.npz")
    x = torch.zeros(tuple(held["x_shape"]))
    row = np.repeat(np.arange(len(x)), np.diff(held["x_indptr"]))
    x[torch.from_numpy(row), torch.from_numpy(held["x_indices"].astype(np.int64))] = 1
    x = x / x.sum(1, keepdim=True).clamp(min=1)
    y, edges = torch.from_numpy(held["y"]), torch.from_numpy(held["edge_index"].astype(np.int64))
    masks = {"train": "train_mask", "validation": "val_mask", "test": "test_mask"}
    learn, choose, judge = (torch.from_numpy(held[masks[part]]) for part in (parts[0], "validation", parts[1]))
    torch.manual_seed(seed)
    first, last = GCNConv(x.shape[1], 16, cached=True), GCNConv(16, int(y.max()) + 1, cached=True)
    decayed = {"params": first.parameters(), "weight_decay": 5e-4}
    optimizer = torch.optim.Adam([decayed, {"params": last.parameters()}], lr=0.01)

    def says(training: bool) -> torch.Tensor:
        hidden = F.relu(first(F.dropout(x, 0.5, training), edges))
        return last(F.dropout(hidden, 0.5, training), edges)

    best, kept = -1.0, np.zeros(0)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(says(True)[learn], y[learn]).backward()
        optimizer.step()
        with torch.no_grad():
            right = says(False).argmax(1) == y
        if (score := right[choose].float().mean().item()) > best:
            best, kept = score, (~right[judge]).double().numpy()
    return kept


def graphmae(name: str, seed: int, folder: Path, parts: tuple[str, str] = PARTS) -> dict[str, Any]:
    """One seed of GraphMAE."""
    path = f"graph:{DATA / name / name}.npz"
    recipe = load_recipe("examples/node_mae", together({"seed": seed, "data": {"path": path}}, GRAPHMAE, QUIET))
    run = pretrain(recipe, output=folder / f"{name}-{seed}")
    model, processor = open_model(run.model_folder)
    encoders = {"GraphMAE": model.eval(), "untrained": build_model(recipe, processor).eval()}
    sources, y = labels_of(path, parts)
    columns = {"graph": "graph"}
    seen = [embed_source(encoders, processor.preprocessors, s, columns, describe=model, batch_size=64) for s in sources]
    errors = {arm: wrong([part.features(arm, "graph").numpy() for part in seen], y) for arm in encoders}
    errors["supervised"] = supervised(name, seed, parts)
    return measured(errors, accuracy, PAIRS, seed) | {"learned": len(y[0]), "steps": recipe.train.steps}


def selftask(seed: int, folder: Path, parts: tuple[str, str] = PARTS) -> dict[str, Any]:
    """One seed of SelfTask-GNN on cora."""
    errors = {}
    plain = f"graph:{DATA / 'cora' / 'cora.npz'}"
    for arm, beside in BESIDE.items():
        objectives: dict[str, Any] = {"label": {"type": "supervised", "towers": ["graph"], "column": "label"}}
        path = plain
        if beside is not None:
            kind, columns = beside
            path = prepared(kind, plain, folder)
            objectives[kind] = {"type": "supervised", "towers": ["graph"], "task": "regression", "column": columns}
        own = {"seed": seed, "data": {"path": path, "sampler": {"kind": "balanced", "column": "split"}}}
        recipe = load_recipe(together({"name": "selftask", "objectives": objectives}, JOINT, own, QUIET))
        run = pretrain(recipe, output=folder / f"selftask-{seed}-{len(errors)}")
        model, processor = open_model(run.model_folder)
        sources, y = labels_of(plain, parts)
        kept = {"graph": "graph"}
        seen = [
            embed_source({arm: model.eval()}, processor.preprocessors, s, kept, describe=model, batch_size=64)
            for s in sources
        ]
        errors[arm] = wrong([part.features(arm, "graph").numpy() for part in seen], y)
    told = measured(errors, accuracy, _SELFTASK, seed)
    return told | {"learned": len(y[0]), "steps": recipe.train.steps}


_SELFTASK = (("labels, context", "labels"), ("labels, distances", "labels"))
CLAIMS = {
    "cora": Claim(
        "GraphMAE, Cora, 140 labels: a linear model on the frozen encoder against a supervised network",
        "accuracy",
        PAIRS,
        ".815 to .842",
        partial(graphmae, "cora"),
    ),
    "citeseer": Claim(
        "GraphMAE, Citeseer, 120 labels, likewise", "accuracy", PAIRS, ".703 to .734", partial(graphmae, "citeseer")
    ),
    "selftask": Claim(
        "SelfTask-GNN, Cora: topics around, or distances to labelled papers, learned beside the labels",
        "accuracy",
        _SELFTASK,
        ".815 to .833",
        selftask,
    ),
}
