"""A run of a message-passing tower on a folder of graphs: in parts, broken off and resumed, then used by every verb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from toys import runs
from toys.networks import network

from mmssl.cli import main

GRAPHS = 48
RECIPE: dict[str, Any] = {
    "name": "messages",
    "modalities": {"graph": {"stem": 0, "laplacian": 2, "walk": 2}},
    "model": {"towers": {"graph": {"trunk": "gin", "width": 12, "depth": 2, "heads": 3, "dropout": 0.2}}},
    "masks": {"half": {"type": "random", "ratio": 0.5}},
    "objectives": {
        "mae": {
            "tower": "graph",
            "mask": "half",
            "mode": "replace",
            "decoder": {"trunk": "gcn", "width": 8, "depth": 1, "heads": 2},
        }
    },
    "train": {"steps": 6, "batch_size": 8, "log_every": 2, "save_every": 2, "lr": 1e-3, "trackers": []},
    "evaluation": {"tasks": []},
}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of small graphs, the second with twice the edges."""
    x, edges, number = [], [], []
    for graph in range(GRAPHS):
        raw = network(5 + graph % 4, 0.3 + 0.4 * (graph % 2), graph)
        edges.append(raw["edge_index"] + len(number))
        x.append(raw["x"])
        number += [graph] * len(raw["x"])
    path = tmp_path_factory.mktemp("graphs") / "graphs.npz"
    label = np.arange(GRAPHS) % 2
    split = np.where(np.arange(GRAPHS) < 36, "train", "test")
    np.savez(
        path, x=np.concatenate(x), edge_index=np.concatenate(edges, 1), graph_id=np.array(number), y=label, split=split
    )
    return path


def recipe(graphs: Path, **train: Any) -> dict[str, Any]:
    return RECIPE | {"data": {"path": f"graph:{graphs}"}, "train": RECIPE["train"] | train}


@pytest.fixture(scope="module")
def straight(graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    assert runs.cli(folder, content=recipe(graphs)) == 0
    return folder / "run"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def test_a_run_that_was_broken_off_goes_on_exactly(graphs: Path, straight: Path, tmp_path: Path) -> None:
    with runs.killed_at(4):
        runs.cli(tmp_path, content=recipe(graphs))
    assert runs.cli(tmp_path, "--resume", content=recipe(graphs)) == 0
    found, expected = weights(tmp_path / "run"), weights(straight)
    assert list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in found)


def test_accumulation_changes_nothing(graphs: Path, tmp_path: Path) -> None:
    content = recipe(graphs)
    content["model"] = {"towers": {"graph": {**RECIPE["model"]["towers"]["graph"], "dropout": 0.0}}}
    for parts, output in ((1, "one"), (4, "four")):
        train = content["train"] | {"accumulation": parts, "eps": 1e-3}  # Adam would magnify rounding
        assert runs.cli(tmp_path, content=content | {"train": train}, output=output) == 0
    one, four = weights(tmp_path / "one"), weights(tmp_path / "four")
    for name in one:
        torch.testing.assert_close(four[name], one[name], rtol=1e-5, atol=1e-6, msg=name)


def test_every_verb_takes_it(graphs: Path, straight: Path, tmp_path: Path) -> None:
    data = ["--data", f"graph:{graphs}"]
    assert main(["embed", str(straight), *data, "--output", str(tmp_path / "e.parquet")]) == 0
    found = np.stack(pq.read_table(tmp_path / "e.parquet")["graph_embedding"].to_pylist())
    assert found.shape == (36, 24)  # mean+std
    assert main(["evaluate", str(straight), *data, "--label", "label", "split=test"]) == 0
    config = json.loads((straight / "model" / "config.json").read_text())
    assert config["towers"]["graph"]["trunk"] == "gin"
    words = ["finetune", str(straight), *data, "--label", "label", "--output", str(tmp_path / "tuned")]
    assert main([*words, "train.steps=4", "train.batch_size=8"]) == 0
    assert (tmp_path / "tuned").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gin", "gcn", "gat"])
def test_it_exports_to_onnx(graphs: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnxruntime")
    content = recipe(graphs, steps=1, save_every=1, log_every=1)
    content["model"] = {"towers": {"graph": {**RECIPE["model"]["towers"]["graph"], "trunk": kind}}}
    assert runs.cli(tmp_path, content=content) == 0
    # refused unless the file gives what the model gives
    assert main(["export", str(tmp_path / "run"), "--to", "onnx", "--output", str(tmp_path / "onnx")]) == 0
