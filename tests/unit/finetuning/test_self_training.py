"""Self-training in `mmssl finetune`: whose labels are used, rounds that go on after a kill, gold last, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.selftraining import Draw, Rows
from mmssl.cli import main
from mmssl.data.given import given
from mmssl.data.labels import LABEL
from mmssl.errors import UserError
from mmssl.finetuning import finetune as module
from mmssl.finetuning import self_training
from mmssl.finetuning.asking import load_options
from mmssl.finetuning.choosing import Choice
from mmssl.finetuning.finetune import finetune, make_job
from mmssl.finetuning.options import FinetuneConfig, SelfTrainingConfig
from mmssl.finetuning.partition import Examples
from mmssl.finetuning.unlabelled import Pseudo
from mmssl.models.opening import open_model
from mmssl.training.loop import Loop

SHORT: dict[str, Any] = {"few": 0, "validation_share": 0, "train": {"steps": 3, "batch_size": 16, "save_every": 2}}


def table(x: np.ndarray, y: list[int | None]) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": list((x * 15).astype(np.uint8)), "label": y}, features=features)


@pytest.fixture(scope="module")
def digits() -> datasets.DatasetDict:
    """Of three classes: 90 training rows, of which 24 have a label, and 30 test rows."""
    from sklearn.datasets import load_digits

    x, y = load_digits(n_class=3, return_X_y=True)
    x, labels = x.reshape(-1, 8, 8), y.tolist()
    few = [label if row < 24 else None for row, label in enumerate(labels[:90])]
    return datasets.DatasetDict({"train": table(x[:90], few), "test": table(x[90:120], labels[90:120])})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{p.name} {k}": v for p in sorted(folder.glob("model/*.safetensors")) for k, v in load_file(p).items()}


def same(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(ours[k].equal(theirs[k]) for k in ours)


def chose(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(module, "choose", lambda *_: Choice(0.01, step, 6))


SLOW = [pytest.param(way, marks=pytest.mark.slow) for way in ("propagation", "label_model")]


@pytest.mark.parametrize("by", ["confidence", "neighbours", *SLOW])
def test_rounds_of_the_head_alone_are_rounds_of_probes(base, digits, tmp_path, monkeypatch, by):
    chose(monkeypatch, 0)
    how = {"by": by, "keep": 0.6, "weight": 0.5, "neighbours": 3}
    run = finetune(
        base, digits, "label", peft="linear", unlabelled="rest", rounds=2, self_training=how, output=tmp_path / "out"
    )
    said = run.report["settings"]["self_training"]
    assert said["unlabelled"] == 66 and 0 < said["rounds"][0]["kept"] <= said["rounds"][1]["kept"] <= 66
    assert run.report["n_train"] == 24 and not (run.folder / "rounds").exists()

    encoder, processor = open_model(base)
    with given(digits) as path:
        job = make_job("", encoder, processor, load_options({}, {"path": path, "label": "label", "unlabelled": "rest"}))
    parts = (job.rows.labelled, job.rows.test, Examples(job.rows.unlabelled))
    labelled, test, others = (job.features(part, {"model": encoder}).of["model"].numpy() for part in parts)
    y = job.rows.labelled.labels
    rows = Rows(np.concatenate([labelled, others]), np.append(y.numpy(), np.zeros(66, int)), test, np.zeros(30), 3)
    monkeypatch.setattr("benchmarks.selftraining.drawn", lambda *_: (np.arange(24), np.arange(24, 90)))
    wanted = Draw(rows, 24, 0).answers(FinetuneConfig(rounds=2, self_training=SelfTrainingConfig(**how)))
    task = run.load()
    found = job.logits(job.rows.test, task.model, task.head)[0]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-4)


def test_near_leaves_one_row_a_labelled_one_at_most(base, digits, tmp_path, monkeypatch):
    chose(monkeypatch, 0)
    how = {"near": 1, "keep": 1.0}
    run = finetune(
        base, digits, "label", peft="linear", unlabelled="rest", rounds=1, self_training=how, output=tmp_path / "out"
    )
    assert 0 < run.report["settings"]["self_training"]["rounds"][0]["kept"] <= 24


def test_labels_of_unlabelled_rows_and_of_test_rows_change_nothing(base, digits, tmp_path):
    few = digits["train"].select(range(24))
    others = np.array(digits["train"].select(range(24, 90))["image"], dtype=object)
    pictures = np.stack([np.asarray(picture) for picture in others]) / 15
    found = []
    for number, wrong in enumerate(([0] * 66, [2] * 66)):
        judged = digits["test"] if not number else digits["test"].select(range(29, -1, -1))
        data = datasets.DatasetDict({"train": few, "test": judged})
        unlabelled = datasets.DatasetDict({"train": table(pictures, wrong)})
        out = tmp_path / str(number)
        finetune(base, data, "label", peft="none", unlabelled=unlabelled, rounds=1, output=out, **SHORT)
        found.append(out)
    assert same(*found)
    alone = tmp_path / "alone"
    finetune(
        base, datasets.DatasetDict({"train": few, "test": digits["test"]}), "label", peft="none", output=alone, **SHORT
    )
    assert not same(found[0], alone)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", ["round 2", pytest.param("last", marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_straight(base, digits, tmp_path, monkeypatch, at):
    how = {"peft": "none", "unlabelled": "rest", "rounds": 2, **SHORT}
    straight, out = tmp_path / "straight", tmp_path / "out"
    finetune(base, digits, "label", output=straight, **how)
    real, seen = Loop._gradients, []

    def gradients(self, stream, index, meter):
        seen.append(index)
        if len(seen) == {"round 2": 3 + 3, "last": 3 + 3 + 3}[at]:
            raise Killed
        return real(self, stream, index, meter)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Loop, "_gradients", gradients)
        finetune(base, digits, "label", output=out, **how)
    assert (out / "rounds" / "0.safetensors").is_file() and not (out / "model").exists()
    again: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_gradients", lambda self, s, index, m: (again.append(index), real(self, s, index, m))[1])
        finetune(base, digits, "label", output=out, resume=True, **how)
    assert again == ([2, 0, 1, 2] if at == "round 2" else [2]), "no round and no step is done twice"
    assert same(straight, out)


def test_gold_last_goes_on_from_what_the_others_taught(base, digits, tmp_path, monkeypatch):
    chose(monkeypatch, 0)
    students = []
    real = self_training.Rounds.taught

    def taught(self, job, *args):
        pretraining = real(self, job, *args)
        students.append((job.pseudo is not None, job))
        return pretraining

    monkeypatch.setattr(self_training.Rounds, "taught", taught)
    how = {"gold_last": True, "steps": 3}
    out = tmp_path / "out"
    finetune(base, digits, "label", peft="none", unlabelled="rest", rounds=1, self_training=how, output=out)
    assert [pseudo for pseudo, _ in students] == [False, True]
    start, found, student = open_model(base)[0], open_model(out)[0], students[1][1]
    for name, weight in found.named_parameters():
        assert weight.equal(student.encoder.get_parameter(name)), name
    assert any(not weight.equal(start.get_parameter(name)) for name, weight in found.named_parameters())
    # no step on the labelled rows was chosen: the head is their probe, of the features as they are now
    x = student.features(student.rows.labelled, {"model": student.encoder})
    probe = student.probe(x.of["model"], x.present, np.arange(24), student.strength)
    np.testing.assert_allclose(
        load_file(out / "model" / "head.safetensors")["linear.weight"].numpy(), probe.weight, atol=1e-5
    )


def test_a_training_draws_rows_by_what_they_count(base, digits):
    encoder, processor = open_model(base)
    with given(digits) as path:
        job = make_job("", encoder, processor, load_options({}, {"path": path, "label": "label", "unlabelled": "rest"}))
    assert len(job.rows.unlabelled) == 66
    job.prepare()
    more = Pseudo(job.rows.unlabelled.select(range(4)), np.array([0, 1, 2, 0]), np.full(4, 1.5), torch.zeros(4, 16))
    learned = job.student(more).learned()
    assert len(learned.source) == 28 and learned.weights.tolist() == [1.0] * 24 + [1.5] * 4
    assert learned.stored[LABEL].values == [*job.rows.labelled.labels.tolist(), 0, 1, 2, 0]
    batch = learned.stored[LABEL].collate([learned.stored[LABEL].read(row) for row in (0, 25)])
    assert batch["value"].tolist() == [job.rows.labelled.labels[0], 1] and batch["present"].all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rounds": 2}, "rounds: found 2 without --unlabelled"),
        ({"self_training": {"by": "neighbours"}}, "self_training: found it without --unlabelled"),
        (
            {"unlabelled": "rest", "self_training": {"split": "x"}},
            "self_training.split: found it with --unlabelled rest",
        ),
        ({"unlabelled": "rest", "rounds": 0}, "rounds: found 0"),
        ({"unlabelled": "a.csv"}, "found split 'train' of --data"),
        ({"unlabelled": "./a.csv", "self_training": {"split": "test"}}, "found split 'test' of --data"),
        ({"unlabelled": "rest", "compare": True}, "found it with --compare"),
        ({"unlabelled": "rest", "self_training": {"by": "guessing"}}, "self_training.by: found 'guessing'"),
    ],
)
def test_options_that_contradict_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        load_options(options, {"path": "a.csv", "label": "label"})


def test_bad_input_is_one_line(base, digits, tmp_path, capsys):
    words = ["finetune", str(base), "--data", "builtin:digits", "--label", "label", "--output", str(tmp_path / "out")]
    capsys.readouterr()
    for more, says in (
        (["--unlabelled", "rest"], "every training row has a label"),
        (["--unlabelled", str(tmp_path / "none.csv")], "none.csv"),
        (["--unlabelled", "rest", "task=regression"], "expected classes"),
        (["--rounds", "0", "--unlabelled", "rest"], "rounds: found 0"),
    ):
        assert main([*words, *more, "limit=60"]) == 2
        assert says in (said := capsys.readouterr().err.strip().splitlines()[-1]), said
    assert not (tmp_path / "out").exists()
