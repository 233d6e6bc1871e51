"""Few labels: rate and steps by folds inside them, the probe where nothing is better, then one model of all of them."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mmssl
from mmssl.errors import UserError
from mmssl.finetuning import arms, choosing, fitting
from mmssl.finetuning.choosing import Answers, best_of
from mmssl.losses.supervised import row_losses

QUICK = {"steps": 6, "batch_size": 16}
PEOPLE = 30


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    """Handwritten digits of three classes with a person who wrote four of them, an amount and two yes and no."""
    from sklearn.datasets import load_digits

    x, y = load_digits(n_class=3, return_X_y=True)
    x, y = x[:120], y[:120]
    columns = {
        "image": list((x.reshape(-1, 8, 8) * 15).astype(np.uint8)),
        "label": y,
        "who": np.arange(120) % PEOPLE,
        "amount": y * 2.5 + 0.25,
        "one": (y == 1).astype(int),
        "two": (y == 2).astype(int),
    }
    features = datasets.Features({"image": datasets.Image()} | {n: datasets.Value("int64") for n in ("label", "who")})
    features |= {"amount": datasets.Value("float64")} | {n: datasets.Value("int64") for n in ("one", "two")}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def answers(start: list[float], *later: list[float]) -> Answers:
    losses = np.array([start, *later], np.float64)
    scores = -losses.mean(1)[None, :, None]
    return Answers([5 * look for look in range(len(losses))], losses, scores)


def chosen(of_rates: list[Answers], monitor: str = "loss", counts: Any = None, units: Any = None) -> tuple[float, int]:
    n = of_rates[0].losses.shape[1]
    counts, units = np.ones(n) if counts is None else np.array(counts), np.arange(n) if units is None else units
    found = best_of([0.1 * (k + 1) for k in range(len(of_rates))], of_rates, counts, np.array(units), monitor, 20)
    return round(found.rate, 3), found.step


def test_the_least_loss_wins_and_the_probe_stays_where_the_gain_is_within_its_error() -> None:
    start = [1.0, 2.0, 3.0, 4.0]
    low, lower = [0.5, 1.5, 2.5, 3.4], [0.2, 1.2, 2.3, 3.2]
    assert chosen([answers(start, low, lower), answers(start, low)]) == (0.1, 10)
    assert chosen([answers(start, low), answers(start, low, lower, low)]) == (0.2, 10)
    assert chosen([answers(start, [1.5, 2.5, 3.5, 4.5])]) == (0.1, 0)
    # lower on average by 0.25 of differences 2, 0.5, -0.5, -1: their mean has an error of 0.66
    assert chosen([answers(start, [-1.0, 1.5, 3.5, 5.0])]) == (0.1, 0)
    # the same of twenty times as many rows: an error of 0.13
    assert chosen([answers(start * 20, [-1.0, 1.5, 3.5, 5.0] * 20)]) == (0.1, 5)
    # of which those of a patient are all alike: an error of 0.66 again
    patients = np.tile(np.arange(4), 20)
    assert chosen([answers(start * 20, [-1.0, 1.5, 3.5, 5.0] * 20)], units=patients) == (0.1, 0)


def test_what_a_row_counts_and_rows_that_were_not_asked_for() -> None:
    start, later = [1.0, 1.0, 1.0, np.nan], [0.5, 0.6, 1.9, np.nan]
    assert chosen([answers(start, later)], counts=[1, 1, 0, 1]) == (0.1, 5)
    assert chosen([answers(start, later)], counts=[1, 1, 3, 1]) == (0.1, 0)
    assert chosen([answers([np.nan], [np.nan])]) == (0.1, 0)


def test_a_score_has_to_be_better_and_of_equal_ones_the_first_is_taken() -> None:
    found = answers([1.0, 1.0], [9.0, 9.0], [9.0, 9.0])
    found.scores = np.array([[0.5, 0.75, 0.75], [0.5, 0.5, np.nan]])[:, :, None]
    assert chosen([found], "score") == (0.1, 10), "the mean of the fold that knows it"
    found.scores = np.array([[0.5, 0.75, 0.75], [0.5, 0.5, 0.5]])[:, :, None]
    assert chosen([found], "score") == (0.1, 5)
    found.scores = np.array([[0.5, 0.75, 0.75], [0.5, 0.25, 0.0]])[:, :, None]
    assert chosen([found], "score") == (0.1, 0)


def test_a_lower_loss_is_no_gain_where_a_score_of_the_task_is_worse() -> None:
    found = answers([1.0, 2.0], [0.5, 1.5], [0.4, 1.4])
    found.scores = np.array([[[0.5, 0.5], [0.5, 0.5], [0.6, 0.4]]])
    assert chosen([found]) == (0.1, 5)
    found.scores[0, 1] = 0.5, 0.4
    assert chosen([found]) == (0.1, 0)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every training was given: which rows by `id`, rate, steps, where to stop."""
    seen: list[dict[str, Any]] = []
    real = fitting.train

    def train(accelerator: Any, pretraining: Any, job: Any, options: Any, *rest: Any, **more: Any) -> Any:
        part = job.rows
        ids = {name: list(getattr(part, name).source["who"]) for name in ("train", "validation") if getattr(part, name)}
        start = pretraining.objectives["task"].head.linear.weight.detach().clone()
        seen.append({**ids, "n": len(part.train), "lr": options.train.lr, "stop": more.get("stop"), "start": start})
        return real(accelerator, pretraining, job, options, *rest, **more)

    for place in (choosing, arms):
        monkeypatch.setattr(place, "train", train)
    monkeypatch.setattr("mmssl.finetuning.finetune.train", train)
    return seen


def test_folds_part_people_every_rate_is_tried_and_all_rows_are_learned_from(base, rows, tmp_path, monkeypatch):
    seen = spied(monkeypatch)
    given = {"labels": 40, "group": "who", "train": QUICK, "folds": 3, "rates": [1e-3, 1e-1], "peft": "none"}
    given["head_start"] = "zero"  # from where every training is better
    run = mmssl.finetune(base, rows, "label", **given, output=tmp_path / "out")
    *parts, last = seen
    assert [(part["lr"], part["stop"]) for part in parts] == [(rate, None) for rate in (1e-3, 1e-1) for _ in range(3)]
    for rate in (parts[:3], parts[3:]):
        held = sorted(who for part in rate for who in part["validation"])
        assert len(held) == last["n"] and held == sorted(last["train"]), (
            "each row is kept aside once, and then learned from"
        )
        assert all(not set(part["train"]) & set(part["validation"]) for part in rate)
    facts = run.report["settings"]["chosen"]
    assert facts["folds"] == 3 and (last["lr"], last["stop"]) == (facts["rate"], facts["step"])
    assert facts["step"] == run.report["settings"]["steps"] == run.report["settings"]["best_step"] > 0
    assert facts["loss"] < facts["start"]
    assert (run.report["n_train"], run.report["n_validation"]) == (last["n"], 0)
    assert not (run.folder / choosing.FOLDS).exists()
    assert "3 folds of the training rows" in run.report["split"]["validation"]


def test_where_no_training_is_better_the_probe_is_what_is_kept(base, rows, tmp_path):
    ruin = {"train": QUICK | {"warmup": 0, "clip": None}, "rates": [50.0], "peft": "none", "labels": 40}
    run = mmssl.finetune(base, rows, "label", **ruin, output=tmp_path / "out")
    tuned_, probe = (run.report["tasks"][name]["image/accuracy"] for name in ("fine-tuned", "linear probe"))
    assert run.report["settings"]["chosen"]["step"] == 0 and tuned_["finetuned"] == probe["model"] > 0.5
    before, after = load_file(base / "model.safetensors"), load_file(run.model_folder / "model.safetensors")
    assert all(after[name].equal(value) for name, value in before.items())


@pytest.mark.parametrize(("label", "peft"), [("amount", "lora"), (["one", "two"], "linear")])
def test_numbers_and_several_labels(base, rows, tmp_path, label, peft):
    given = {"labels": 24, "peft": peft, "train": QUICK, "modalities": ["image"], "folds": 2}
    report = mmssl.finetune(base, rows, label, **given, output=tmp_path / "out").report
    assert report["settings"]["chosen"]["folds"] == 2 and report["n_train"] == 24
    name = "image/r2" if peft == "lora" else "image/auroc"
    assert report["tasks"]["fine-tuned"][name]["finetuned"] >= report["tasks"]["linear probe"][name]["model"] - 0.02


def test_the_head_keeps_the_penalty_of_its_probe(base, rows, tmp_path, monkeypatch):
    """At the probe nothing draws the head anywhere: the loss that it is trained by is the one that was minimised."""
    task, seen = [], []
    real = fitting.train

    def train(accelerator, pretraining, job, options, *rest, **more):
        task.append(pretraining.objectives["task"])
        seen.append(job)
        return real(accelerator, pretraining, job, options, *rest, **more)

    monkeypatch.setattr("mmssl.finetuning.finetune.train", train)
    for number, label in enumerate(("label", "amount", ["one", "two"])):
        given = {"peft": "none", "labels": 60, "few": 0, "validation_share": 0, "train": QUICK | {"lr": 1e-12}}
        mmssl.finetune(base, rows, label, **given, modalities=["image"], output=tmp_path / str(number))
        head, job = task[-1].head.double(), seen[-1]
        x = job.known.of["model"].double()
        losses = row_losses(job.target.task, head(x), job.rows.train.labels)
        losses.mean().backward(inputs=[head.linear.weight])
        pulled = head.linear.weight.grad.clone()
        with torch.no_grad():
            pulled += 2 * head.linear.weight * task[-1].penalty
        scale = head.linear.weight.grad.abs().max()
        assert scale > 1e-4 and pulled.abs().max() < 0.05 * scale, label


@pytest.mark.slow
def test_a_fold_that_is_stopped_goes_on_and_nothing_is_done_twice(base, rows, tmp_path, monkeypatch):
    words = {"labels": 24, "folds": 2, "rates": [1e-2, 1e-1], "peft": "none", "eval_every": 2}
    words["train"] = QUICK | {"trackers": []}
    at_once = mmssl.finetune(base, rows, "label", **words, output=tmp_path / "once")
    look, looks = choosing.Curve.look, []

    def stopped(curve, moment):
        looks.append(moment.step)
        if len(looks) == 7:
            raise KeyboardInterrupt
        return look(curve, moment)

    monkeypatch.setattr(choosing.Curve, "look", stopped)
    words["output"] = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        mmssl.finetune(base, rows, "label", **words)
    assert looks == [0, 2, 4, 6, 0, 2, 4]
    run = mmssl.finetune(base, rows, "label", **words, resume=True)
    assert looks[7:] == [4, 6, 0, 2, 4, 6, 0, 2, 4, 6], "the first fold was there, the second went on"
    assert run.report["settings"]["chosen"] == at_once.report["settings"]["chosen"]
    assert run.report["tasks"] == at_once.report["tasks"]
    for name, value in load_file(at_once.model_folder / "model.safetensors").items():
        assert load_file(run.model_folder / "model.safetensors")[name].equal(value), name
    before = len(looks)
    again = mmssl.finetune(base, rows, "label", **words, resume=True)
    assert len(looks) == before and again.report["tasks"] == run.report["tasks"], "the choice is kept"


@pytest.mark.slow
def test_a_comparison_chooses_in_the_same_way(base, rows, tmp_path, monkeypatch):
    seen = spied(monkeypatch)
    given = {"labels": [24], "draws": 1, "train": QUICK, "folds": 2, "rates": [1e-2], "arms": ["pretrained", "probe"]}
    report = mmssl.finetune(base, rows, "label", compare=True, **given, output=tmp_path / "c").report
    ours = next(cell for cell in report["cells"] if cell["arm"] == "pretrained")
    alone = mmssl.finetune(
        base, rows, "label", labels=24, folds=2, rates=[1e-2], peft="none", train=QUICK, output=tmp_path / "f"
    )
    assert [part["n"] for part in seen] == [12, 12, 24] * 2
    assert ours["best_step"] == ours["steps"] == seen[2]["stop"] and ours["validation"] is not None
    assert seen[5]["stop"] == alone.report["settings"]["chosen"]["step"]


def test_more_labels_are_parted_as_before_and_then_one_rate_is_named(base, rows, tmp_path):
    with pytest.raises(UserError, match=r"rates: found 2 of them with 96 labels, more than the 50 that are few"):
        mmssl.finetune(base, rows, "label", few=50, rates=[1e-3, 1e-2], train=QUICK, output=tmp_path / "a")
    run = mmssl.finetune(base, rows, "label", few=50, rates=[1e-2], peft="none", train=QUICK, output=tmp_path / "b")
    assert run.report["n_validation"] == 19 and "chosen" not in run.report["settings"]


def test_where_stopping_keeps_the_start_it_is_the_probe_of_all_labels(base, rows, tmp_path):
    ruin = {"few": 0, "peft": "none", "train": QUICK | {"lr": 50.0, "warmup": 0, "clip": None}}
    run = mmssl.finetune(base, rows, "label", **ruin, output=tmp_path / "out")
    assert run.report["settings"]["best_step"] == 0
    tuned_, probe = (run.report["tasks"][name]["image/accuracy"] for name in ("fine-tuned", "linear probe"))
    assert tuned_["finetuned"] == probe["model"]
