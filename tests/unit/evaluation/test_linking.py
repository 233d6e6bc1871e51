"""The task `linking`: nearest exemplars, and clusters at a threshold that is tuned on training rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score
from toys import runs

from mmssl.cli import main
from mmssl.evaluation.embedding import Embedded
from mmssl.evaluation.linking import agreement, linking, tuned_cut
from mmssl.evaluation.tasks import Features


def cloud(seed: int, n: int, spread: float) -> tuple[Any, Any]:
    """(n, 6) directions around those of five classes, and the classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 5, n)
    x = torch.from_numpy(np.eye(6)[y] + spread * rng.normal(size=(n, 6)))
    return torch.nn.functional.normalize(x, dim=1), y


def test_clusters_are_those_of_scikit_learn_at_the_best_cut() -> None:
    x, y = cloud(0, 60, 0.25)
    cut = tuned_cut(x, y)

    def rand(at: float) -> float:
        found = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=at).fit_predict(x)
        return float(adjusted_rand_score(y, found))

    assert agreement(x, y, cut) == pytest.approx(rand(cut), abs=1e-12)
    assert rand(cut) >= max(rand(at) for at in np.linspace(0.01, 1.2, 40)) - 1e-12 and rand(cut) > 0.8
    assert agreement(x, y, 2.0) == 0.0, "one cluster says nothing"


def features(pooled: bool) -> Features:
    """Two modalities, each of which tells three classes of four apart; row 0 of the test rows lacks the second."""
    seen = {"image": [0, 1, 2, 2], "text": [0, 0, 1, 2]}

    def rows(y: torch.Tensor, seed: int) -> Embedded:
        rng = np.random.default_rng(seed)
        found = {
            name: torch.from_numpy(np.eye(4)[np.array(of)[y.numpy()]] + 0.02 * rng.normal(size=(len(y), 4))).float()
            for name, of in seen.items()
        }
        there = {name: torch.ones(len(y), dtype=torch.bool) for name in seen}
        there["text"][0] = False
        return Embedded(there, {"image": found["image"]}, {}, {"model": found})

    y_train, y_test = torch.arange(24) % 4, torch.arange(40) % 4
    return Features(rows(y_test, 1), rows(y_train, 0), frozenset(), y_test, y_train)


def test_nearest_exemplars_of_one_modality_and_of_two_pooled() -> None:
    of = features(True)
    found, skipped = linking(of, 0.5, 0)
    assert not skipped and found["image+text/accuracy"]["model"] == 1.0 and found["image+text/accuracy"]["n"] == 39
    assert found["image+text/adjusted Rand index"]["model"] == pytest.approx(1.0)
    assert 0.5 < found["image/accuracy"]["model"] < 1 > found["text/accuracy"]["model"]
    assert found["image/accuracy"]["raw"] == found["image/accuracy"]["model"] and found["text/accuracy"]["raw"] is None
    assert found["image/adjusted Rand index"]["chance"] == 0.0
    alone, _ = linking(of, 1.0, 0)
    hits, all_of = of.answers["image+text/accuracy"], of.answers["image/accuracy"]
    assert torch.equal(hits.right["model"], all_of.right["model"][hits.rows]), "w = 1: the first one alone"
    assert alone["image+text/accuracy"]["model"] < 1
    for rows in (of.test, of.train):
        assert rows is not None
        rows.embeddings["model"]["text"] = rows.embeddings["model"]["text"][:, :3]
    _, skipped = linking(of, 0.5, 0)
    assert "width" in skipped["image+text"]


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.cli(tmp_path, content=runs.image_text()) == 0
    words = ["evaluate", str(tmp_path / "run"), "--data", "builtin:digits", "--task", "linking", "label=label"]
    assert main([*words, "limit=60", "train_limit=100", "linking_weight=0.7"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}/adjusted Rand index" in out for name in ("image", "text", "image+text"))
    assert main([*words, "linking_weight=1.5"]) == 2
