"""Health during training: the formulas, that nothing of the training changes, and the online probe."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import collapse, runs
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.evaluation.evaluate import evaluate
from mmssl.models.saving import load_model
from mmssl.recipe.loading import load_recipe
from mmssl.training.health import measures, modality_gap


def test_measures_are_the_formulas_in_float64():
    rng = np.random.default_rng(0)
    pooled, raw = rng.normal(size=(50, 12)) + 0.5, rng.normal(size=(50, 7))
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    found = measures(torch.tensor(pooled), torch.tensor(unit))
    p = np.linalg.svd(pooled, compute_uv=False)
    p = p / p.sum() + 1e-7
    spread = np.sqrt(((unit - unit.mean(0)) ** 2).mean(0)) * np.sqrt(7)
    norm = np.mean([np.sqrt(sum(x * x for x in row)) for row in pooled])
    expected = {"rankme": np.exp(-(p * np.log(p)).sum()), "std_mean": spread.mean(), "std_min": spread.min()}
    assert found == pytest.approx({**expected, "norm": norm}, abs=1e-6)


def test_measures_of_collapsed_spread_and_broken_embeddings():
    one = torch.nn.functional.normalize(torch.ones(20, 8), dim=1)
    found = measures(one, one)
    assert found["rankme"] == pytest.approx(1, abs=1e-4) and found["std_mean"] == pytest.approx(0, abs=1e-6)
    even = torch.cat([torch.eye(8), -torch.eye(8)])
    found = measures(even, even)
    assert found["rankme"] == pytest.approx(8, abs=1e-3) and found["std_mean"] == pytest.approx(1, abs=1e-6)
    assert set(measures(one * torch.nan, one).values()) == {None}


def test_modality_gap_is_the_distance_of_centroids():
    a, b = np.random.default_rng(1).normal(size=(2, 9, 5))
    expected = np.sqrt(((a.mean(0) - b.mean(0)) ** 2).sum())
    assert modality_gap(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected, abs=1e-9)


def test_agreement_of_a_teacher_is_the_centred_cosine():
    pretraining = toy_world.pretraining()
    model = pretraining.model
    objective = collapse.Collapse(collapse.Config(tower="signal"), model)
    batch = toy_world.batch(toy_world.raw(12, seed=1))
    pretraining.eval()

    def health():
        with torch.no_grad():
            return objective.health(pretraining.step(batch, Draws(0, 12)))

    assert health()["teacher/agreement"].item() == pytest.approx(1, abs=1e-6)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.tower("signal").parameters():
            p.add_(0.3 * torch.randn_like(p))
        patches = {"signal": model.modality("signal").patchify(batch["signal"])}
        rows = patches["signal"].present
        a, b = (net(patches).pooled()[rows].double().numpy() for net in (objective.teacher.net, model.tower("signal")))
    unit = a / np.linalg.norm(a, axis=1, keepdims=True)
    spread = np.sqrt(((unit - unit.mean(0)) ** 2).mean(0).sum())
    a, b = a - a.mean(0), b - b.mean(0)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    found = {name: value.item() for name, value in health().items()}
    assert 3 < len(a) < 12
    assert found == pytest.approx({"teacher/agreement": cosine.mean(), "teacher/spread": spread}, abs=1e-5)
    assert cosine.mean() < 0.99


def test_a_run_that_is_watched_has_bitwise_the_weights_of_one_that_is_not(tmp_path):
    content = runs.image_text()
    content["model"]["towers"]["image"]["dropout"] = 0.1
    content["views"] = {name: {"image": {"crop_scale": [0.3, 1.0]}} for name in ("a", "b")}
    content["objectives"]["pull"] = {"type": "toys.collapse", "tower": "image", "weight": 0.1}
    content["evaluation"]["label"] = "label"
    watched = ["train.health_every=1", "train.gradient_share_every=1", "train.probe_every=2", "train.guard.action=stop"]
    watched += ["train.probe_samples=60", "train.guard.min_rank=null", "train.guard.min_std=null"]
    assert runs.cli(tmp_path, "train.health_every=null", "train.guard=null", content=content, output="alone") == 0
    assert runs.cli(tmp_path, *watched, content=content, output="watched") == 0
    a, b = runs.weights(tmp_path / "alone"), runs.weights(tmp_path / "watched")
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert not [key for row in runs.metrics(tmp_path / "alone") for key in row if key.startswith(("health/", "probe/"))]
    rows = runs.metrics(tmp_path / "watched")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    own = {f"{name}/{what}" for name in ("image", "text") for what in ("rankme", "std_mean", "std_min", "norm")}
    own |= {"image-text/gap", "pull/teacher/agreement", "pull/teacher/spread"}
    for row in rows:
        assert {key for key in row if key.startswith("health/")} == {f"health/{key}" for key in own}
        assert ("probe/image/knn" in row) == (row["step"] % 2 == 0)
        shares = [value for key, value in row.items() if key.startswith("gradient_share/") and key.count("/") == 1]
        assert len(shares) == 3 and sum(shares) == pytest.approx(1, abs=1e-5)
    assert len({row["health/image/rankme"] for row in rows}) == 6


def test_the_last_probe_is_what_an_evaluation_of_the_model_finds(tmp_path):
    content = runs.image_text()
    content["evaluation"]["label"] = "label"
    words = ["train.probe_every=3", "train.probe_samples=200", "train.probe_tasks=[knn,linear]"]
    assert runs.cli(tmp_path, *words, content=content) == 0
    row = runs.metrics(tmp_path / "run")[-1]
    model, processor = load_model(tmp_path / "run" / "model")
    recipe = load_recipe(content)
    config = replace(recipe.evaluation, tasks=["knn", "linear"], train_limit=200, limit=100)
    report = evaluate(model, processor.preprocessors, recipe.data, config, columns={"image": "image", "text": "text"})
    for task in ("knn", "linear"):
        for name in ("image", "text"):
            found = report["tasks"][task][f"{name}/accuracy"]
            assert found["n"] == 100 and row[f"probe/{name}/{task}"] == pytest.approx(found["model"]), (task, name)


def test_health_at_the_end_by_default_and_in_the_card(tmp_path, capsys):
    assert runs.cli(tmp_path, content=runs.image_text()) == 0
    rows = runs.metrics(tmp_path / "run")
    assert "health/image/rankme" in rows[-1] and "health/image/rankme" not in rows[0]
    assert f"rank image {rows[-1]['health/image/rankme']:.3g} text " in capsys.readouterr().out
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert f"image RankMe {rows[-1]['health/image/rankme']:.3g}" in card and "256 training samples" in card
    json.loads(json.dumps(rows, allow_nan=False))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.probe_every=2", "evaluation.label=nonsense"], "nonsense"),
        (
            ["train.probe_every=2", "evaluation.label=label", "evaluation.split=train"],
            "train.probe_every: the test rows are the training rows",
        ),
        (["train.guard.action=stop", "train.health_every=null"], "train.health_every: found null"),
        (["train.guard.action=rollback", "train.save_every=null"], "train.save_every: found null"),
    ],
)
def test_what_cannot_be_watched_is_refused_in_one_line(tmp_path, capsys, words, said):
    assert runs.cli(tmp_path, *words) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert said in line
