"""Labels as a signal: the loss of every task against a float64 computation on the same embeddings, rows that say
nothing, what is fitted before the model exists and kept, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from toys import runs, worlds
from toys import world as toy_world
from toys.refusals import refused

from mmssl.data import open_source
from mmssl.data.labels import LabelPreprocessor, Target, target_of
from mmssl.draws import Draws
from mmssl.errors import BadSample
from mmssl.masking.transforms import Transform, transformed
from mmssl.objectives import supervised
from mmssl.objectives.pretraining import Pretraining

ROWS = 24


@pytest.fixture(scope="module")
def step() -> tuple[Any, Pretraining]:
    made = worlds.labelled()
    rows = toy_world.batch(toy_world.raw(ROWS, seed=3) | toy_world.labels(ROWS, seed=3))
    return made.step(rows, Draws(1, ROWS)), made


def expected(name: str, objective: Any, step: Any) -> tuple[float, int]:
    """(the mean loss in float64 from the embeddings and the head's numbers, rows that count)."""
    c, sides = objective.config, []
    for tower in c.towers:
        for view in c.views:
            pooled, present = step.pooled(tower, view, c.mask, c.mode)
            sides.append((pooled.detach().double().numpy(), present.numpy()))
    x = np.concatenate([np.where(there[:, None], pooled, 0) for pooled, there in sides], 1)
    state = {k: v.detach().double().numpy() for k, v in objective.state_dict().items()}
    for layer in range(len(objective.head.dense)):
        x = x @ state[f"head.dense.{layer}.weight"].T + state[f"head.dense.{layer}.bias"]
        if f"head.norms.{layer}.weight" in state:
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
            x = np.maximum(x * state[f"head.norms.{layer}.weight"] + state[f"head.norms.{layer}.bias"], 0)
    value, labelled = (t.numpy() for t in step.column(c.label_columns[0]))
    there = np.stack([p for _, p in sides])
    rows = labelled & (there.all(0) if c.complete else there.any(0))
    with np.errstate(over="ignore"):
        yes, no = np.log(1 / (1 + np.exp(-x))), np.log(1 / (1 + np.exp(x)))
    weight = np.ones(len(x))
    if name == "kind":
        logs = x - np.log(np.exp(x).sum(1, keepdims=True))
        loss = -0.9 * logs[np.arange(len(x)), value] - 0.1 * logs.mean(1)
        weight = state["weights"][value]
    elif name == "tags":
        loss = -(state["weights"] * value * yes + (1 - value) * no).mean(1)
    elif name == "grade":
        steps = state["thresholds.steps"]
        p = 1 / (1 + np.exp(-(x + steps)))
        above = value[:, None] > np.arange(len(steps))
        loss = -np.where(above, np.log(p), np.log(1 - p)).sum(1)
    else:
        loss = ((x - value) ** 2).mean(1)
    return float((loss * weight * rows).sum() / (weight * rows).sum()), int(rows.sum())


@pytest.mark.parametrize("name", toy_world.TARGETS)
def test_the_loss_is_the_formula_over_the_rows_that_have_a_label_and_are_seen(step, name):
    objective = step[1].objectives[name]
    wanted, rows = expected(name, objective, step[0])
    assert float(objective(step[0]).total.detach()) == pytest.approx(wanted, abs=1e-6)
    assert 4 < rows < ROWS - 3 and int(objective.counts(step[0])["rows"].sum()) == rows


def test_rows_without_a_label_get_no_gradient_and_no_label_at_all_is_zero():
    made = worlds.labelled()
    rows = toy_world.batch(toy_world.raw(ROWS, seed=3, absent=0.0) | toy_world.labels(ROWS, seed=3))
    objective: Any = made.objectives["mass"]
    key = toy_world.TARGETS["mass"].key
    step = made.step(rows, Draws(1, ROWS))
    tokens = step.encode("table").tokens["table"]
    tokens.retain_grad()
    objective(step).total.backward()
    assert torch.equal(tokens.grad.abs().sum((1, 2)) > 0, rows[key]["present"])
    rows[key]["present"] = torch.zeros(ROWS, dtype=torch.bool)
    assert float(objective(made.step(rows, Draws(1, ROWS))).total.detach()) == 0


def test_class_and_transformation_at_once_is_sla_with_self_distillation(step):
    """Lee et al. 2020, equations 3 and 6, by loops over samples and transformations."""
    objective: Any = step[1].objectives["both"]
    assert objective.joint == [f"shuffled.{number}" for number in range(6)]
    state = {k: v.detach().double() for k, v in objective.state_dict().items()}
    value, labelled = step[0].column(objective.config.label_columns[0])

    def seen(view: str) -> torch.Tensor:
        return torch.cat([step[0].pooled(tower, view)[0].detach().double() for tower in ("signal", "table")], 1)

    views = [seen(view) @ state["head.dense.0.weight"].T + state["head.dense.0.bias"] for view in objective.joint]
    alone = seen("clean") @ state["single.dense.0.weight"].T + state["single.dense.0.bias"]
    there = torch.stack([step[0].present(tower) for tower in ("signal", "table")]).any(0)
    total, right, rows = 0.0, 0, [i for i in range(ROWS) if labelled[i] and there[i]]
    for i in rows:
        total -= sum(float(views[j][i].log_softmax(0)[int(value[i]) * 6 + j]) for j in range(6)) / 6
        together = torch.stack([sum(views[j][i][n * 6 + j] for j in range(6)) / 6 for n in range(3)])
        p, q = together.softmax(0), alone[i].softmax(0)
        total += float((p * (p / q).log()).sum()) - float(q[int(value[i])].log())
        right += int(together.argmax()) == int(value[i])
    found = objective(step[0])
    assert float(found.total.detach()) == pytest.approx(total / len(rows), abs=1e-6)
    assert float(found.parts["accuracy"]) == pytest.approx(right / len(rows), abs=1e-6)
    found.total.backward()
    assert objective.single.dense[0].weight.grad is not None
    assert torch.equal(step[0].inputs("signal", "shuffled.1")["signal"].nan_to_num(9), other(step).nan_to_num(9))


def other(step: Any) -> torch.Tensor:
    """Every sample by the second order of three parts, with the gains of the view that it is made of."""
    number = torch.ones(ROWS, dtype=torch.int64)
    options = Transform(kind="permutation", parts=3)
    return transformed(step[0].inputs("signal", "a")["signal"], (2,), number, options)


@pytest.mark.parametrize(
    ("options", "task", "facts"),
    [
        ({"joint_view": "a"}, "kind", ("joint_view", "'a'", "transforms one modality")),
        ({"joint_view": "fixed"}, "kind", ("joint_view", "'fixed'", "always transformed alike")),
        ({"joint_view": "shuffled"}, "mass", ("joint_view", "regression")),
        ({"distil": True}, "kind", ("distil", "has no effect")),
        ({"asymmetry": [1, 4, 0.05], "class_weights": "balanced"}, "tags", ("asymmetry", "class_weights")),
        ({"asymmetry": [1, 4]}, "tags", ("asymmetry", "two exponents")),
    ],
)
def test_labels_that_cannot_be_joined_with_transformations_are_refused(options, task, facts):
    views = worlds.TOLD | {"fixed": {"signal": {"transform": {"kind": "reversal", "number": 1}}}}
    net = toy_world.model()

    def make() -> Pretraining:
        config = supervised.Config(column=task, task=toy_world.TARGETS[task].kind, towers=["signal"], **options)
        return Pretraining(net, {"labels": supervised.Supervised(config, net, toy_world.fitted(task))}, views)

    with refused(*facts):
        make()


def test_grades_are_thresholds_on_one_direction(step):
    """CORAL: a row that is likely above a high threshold is as likely above every lower one."""
    objective = step[1].objectives["grade"]
    assert objective.head.width == 1 and torch.equal(objective.thresholds.steps.data, torch.tensor([1.0, 0.5]))
    assert objective(step[0]).parts["off"] <= 2


def test_in_bf16_the_loss_is_close(step):
    for name in toy_world.TARGETS:
        objective = step[1].objectives[name]
        whole = objective(step[0]).total
        again = step[1].step(step[0].batch, Draws(1, ROWS))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = objective(again).total
        assert half.dtype == torch.float32 and float(half.detach()) == pytest.approx(float(whole.detach()), rel=0.05)


# ------------------------------------------------------------------------------------------------- what a column says

WORDS = ["low", "high", "mid", None, "low"]


def test_grades_are_numbers_or_words_in_the_order_that_is_said():
    found = target_of({"g": [3, 1, None, 2.5]}, "ordinal", None, "here")
    assert (
        found.classes == [1, 2.5, 3] and found.outputs == 2 and [found.encode(v) for v in (3, 2.5, 9)] == [2, 1, None]
    )
    words = target_of({"g": WORDS}, "ordinal", None, "here", ["low", "mid", "high"])
    assert [words.encode(v) for v in WORDS] == [0, 2, 1, None, 0]
    with refused("here", "'low'", "classes"):
        target_of({"g": WORDS}, "ordinal", None, "here")
    named = target_of({"y": [0, 2, -1, 2]}, "classification", ["cat", "dog", "eel"], "here", ["eel", "cat"])
    assert named.classes == [2, 0] and named.names == ["eel", "cat"]


@pytest.mark.parametrize(
    ("values", "task", "classes", "facts"),
    [
        ({"g": [1, 1]}, "ordinal", None, ("all 2 labels are 1",)),
        ({"g": ["a", "b"]}, "classification", ["a", "c"], ("all 2 labels are 'a'",)),
        ({"g": ["a", "b"]}, "classification", ["c", "d"], ("no known label",)),
        ({"g": [1.5, 2]}, "regression", [1, 2], ("found classes for regression",)),
        ({"g": [1, 2], "h": [1, 2]}, "ordinal", None, ("ordinal takes one column",)),
    ],
)
def test_what_cannot_be_learned_is_refused(values, task, classes, facts):
    with refused("here", *facts):
        target_of(values, task, None, "here", classes)


def test_a_class_that_the_first_rows_of_a_stream_lack_is_broken_and_not_unknown():
    target = Target("classification", ["y"], [0, 1], ["a", "b"])
    assert LabelPreprocessor(target).read(2) is None
    reader = LabelPreprocessor(target, whole=True)
    assert [reader.read(v) for v in (1, None, -1)] == [1, None, None]
    with pytest.raises(BadSample, match="label 2 is none of the 2"):
        reader.read(2)
    several = LabelPreprocessor(Target("multilabel", ["t"], ["x", "y"]), whole=True)
    assert several.read(["x"]) == [1.0, 0.0]
    with pytest.raises(BadSample, match="'z'"):
        several.read(["x", "z"])


# ------------------------------------------------------------------------------------------------------------- in a run


def content(path: Path, **options: Any) -> dict[str, Any]:
    out = runs.recipe(train={"health_every": None, "guard": None, "steps": 4, "save_every": 2, "log_every": 1})
    out["data"] = {"path": str(path)}
    out["objectives"]["labels"] = {"type": "supervised", "column": "label", "towers": ["image"], **options}
    return out


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 digits; every second one has no label."""
    path = tmp_path_factory.mktemp("digits") / "rows.parquet"
    source = open_source("builtin:digits", limit=64)
    assert isinstance(source, datasets.Dataset)
    words = [None if i % 2 else f"d{label}" for i, label in enumerate(source["label"])]
    one, none, names = ["same"] * 64, [None] * 64, source.column_names
    source = source.remove_columns([n for n in names if n != "image"]).add_column("label", words)
    source.add_column("one", one).add_column("none", none).to_parquet(path)
    return path


def test_what_was_fitted_is_kept_and_a_resumed_run_is_the_run(digits: Path, tmp_path: Path) -> None:
    recipe = content(digits, mask="half", class_weights="balanced")
    assert runs.cli(tmp_path, content=recipe, output="whole") == 0
    kept = json.loads((tmp_path / "whole" / "labels.json").read_text())
    assert [(t["classes"], len(t["weights"])) for t in kept.values()] == [([f"d{i}" for i in range(10)], 10)]
    with runs.killed_at(3):
        runs.cli(tmp_path, content=recipe, output="cut")
    assert runs.cli(tmp_path, "--resume", content=recipe, output="cut") == 0
    runs.assert_same_weights(tmp_path / "whole", tmp_path / "cut")
    assert all({"loss/labels", "loss/labels.accuracy"} <= row.keys() for row in runs.metrics(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"column": "one"}, "objectives.labels.column: all 64 labels are 'same'"),
        ({"column": "none"}, "objectives.labels.column: column 'none' is empty"),
        ({"column": "labl"}, "objectives.labels.column: the data has no column 'labl'"),
        ({"column": "image"}, "objectives.labels.column: found 'image', which the modality 'image' reads"),
        ({"task": "regression", "label_smoothing": 0.1}, "label_smoothing: found 0.1, which has no effect"),
        ({"task": "regression"}, "objectives.labels.column: column 'label' holds 'd"),
        ({"towers": ["image", "image"]}, "towers: found ['image', 'image'], expected different ones"),
    ],
)
def test_a_label_that_says_nothing_ends_the_run_before_it_begins(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], words: str
) -> None:
    assert runs.cli(tmp_path, content=content(digits, **options)) == 2
    assert any(words in line for line in runs.errors(capsys.readouterr().err))


def test_a_stream_s_classes_may_be_named(digits: Path, tmp_path: Path) -> None:
    recipe = content(digits, classes=[f"d{i}" for i in range(12)])
    recipe["data"] |= {"streaming": True, "fit_samples": 9}
    assert runs.cli(tmp_path, content=recipe) == 0
    found = json.loads((tmp_path / "run" / "labels.json").read_text())
    assert [len(target["classes"]) for target in found.values()] == [12]
