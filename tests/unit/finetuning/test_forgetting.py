"""A model that is made to forget rows (--forget), after LAF and SCRUB."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from mmssl.data.given import given
from mmssl.data.labels import LABEL, Target
from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.finetuning.asking import load_options
from mmssl.finetuning.finetune import finetune, make_job
from mmssl.finetuning.fitting import build
from mmssl.finetuning.forgetting import leave_losses, stay_losses, turn_losses
from mmssl.finetuning.forgetting_job import as_target
from mmssl.models.opening import open_model
from mmssl.training.loop import Loop

SHORT: dict[str, Any] = {"train": {"steps": 4, "batch_size": 16, "lr": 1e-3, "save_every": 2}, "eval_every": 2}


@pytest.fixture(scope="module")
def digits() -> datasets.DatasetDict:
    """Of three classes, by four writers: 120 training rows, of which one has no label, and 60 test rows."""
    from sklearn.datasets import load_digits

    x, y = load_digits(n_class=3, return_X_y=True)
    pictures = list((x[:180].reshape(-1, 8, 8) * 15).astype(np.uint8))
    labels = [None if row == 7 else int(y[row]) for row in range(180)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Value("int64"), "writer": datasets.Value("string")}
    )
    of = {"image": pictures, "label": labels, "writer": [f"w{row % 4}" for row in range(180)]}
    rows = datasets.Dataset.from_dict(of, features=features)
    return datasets.DatasetDict({"train": rows.select(range(120)), "test": rows.select(range(120, 180))})


@pytest.fixture(scope="module")
def classifier(base: Path, digits: datasets.DatasetDict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "run"
    train = {"steps": 30, "batch_size": 16, "lr": 3e-3}
    finetune(base, digits, "label", peft="none", few=0, validation_share=0, output=out, train=train)
    return out / "model"


def test_losses_are_their_formulas():
    torch.manual_seed(0)
    z, own, kept, gone = (torch.randn(n, 5).double() for n in (6, 6, 4, 3))
    tau = 0.3

    def cosine(a, b):
        return float(a @ b / a.norm() / b.norm())

    stay, leave = stay_losses(z, own, gone, tau), leave_losses(z, kept, gone, tau)
    for row in range(6):
        right = math.exp(cosine(z[row], own[row]) / tau)
        wrong = sum(math.exp(cosine(z[row], place) / tau) for place in gone)
        assert float(stay[row]) == pytest.approx(-math.log(right / (right + wrong)), abs=1e-9)
        densities = [np.mean([math.exp(cosine(z[row], place) / tau) for place in of]) for of in (kept, gone)]
        assert float(leave[row]) == pytest.approx(-math.log(densities[0] / sum(densities)), abs=1e-9)
    said, before = torch.tensor([[2.0, 0.0, 0.0], [0.0, 5.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [9.0, 1.0, 1.0]])
    sure = math.log(1 + 2 * math.exp(-2.0))
    assert turn_losses(said, before).tolist() == pytest.approx([-sure, -math.log(3)]), "no more than a guess would lose"


def test_the_loss_is_of_kept_and_forgotten_rows(classifier, digits):
    encoder, processor = open_model(classifier)
    with given(digits) as path:
        job: Any = make_job(
            str(classifier), encoder, processor, load_options({}, {"path": path, "forget": "writer=w1"})
        )
        pretraining, _ = build(job, job.options)
        learned = job.learned()
        assert job.named.gone.sum() == 30 and len(learned.source) == 119 and not job.named.whole_classes
        assert learned.weights[job.named.gone].sum() == pytest.approx(89) == learned.weights[~job.named.gone].sum()
        rows = [0, 1, 4, 6, 9, 30]
        pictures = [learned.source[row]["image"] for row in rows]
    objective, told = pretraining.objectives["task"], learned.stored[LABEL]
    batch = {"image": processor.preprocessors["image"](pictures), LABEL: told.collate([told.read(r) for r in rows])}
    assert batch[LABEL]["gone"].tolist() == job.named.gone[rows].tolist() and 0 < sum(job.named.gone[rows]) < 6
    with torch.no_grad():
        for parameter in objective.plain.head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    found = pretraining(batch, Draws(0, 6)).total.detach()

    patches = encoder.modality("image").patchify(batch["image"])
    x = encoder.tower("image")({"image": patches}).summary().detach()
    torch.testing.assert_close(batch[LABEL]["features"], x, atol=1e-4, rtol=0)
    places = torch.cat([objective.kept, objective.forgotten])
    torch.testing.assert_close(places.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    z = ((x - objective.mean) / objective.scale).double()
    said, before = objective.plain.head(x).double(), batch[LABEL]["answers"].double()
    gone = torch.from_numpy(job.named.gone[rows])
    of_kept = stay_losses(z, z, objective.forgotten.double(), 0.2) - (before.softmax(1) * said.log_softmax(1)).sum(1)
    of_gone = leave_losses(z, objective.kept.double(), objective.forgotten.double(), 0.2) + turn_losses(said, before)
    assert float(found) == pytest.approx(float((of_kept[~gone].mean() + of_gone[gone].mean()).detach()), abs=1e-4)


@pytest.mark.slow
def test_a_class_is_forgotten_and_measured_beside_a_model_without_it(base, classifier, digits, tmp_path):
    train = {"steps": 40, "batch_size": 16, "lr": 3e-3}
    other = {"peft": "none", "few": 0, "validation_share": 0, "train": train}
    two = datasets.DatasetDict({k: v.filter(lambda row: row["label"] != 2) for k, v in digits.items()})
    finetune(base, two, "label", output=tmp_path / "two", **other)
    run = finetune(
        classifier,
        digits,
        forget="label=2",
        forgetting={"against": str(tmp_path / "two")},
        output=tmp_path / "out",
        eval_every=10,
        train=train,
    )
    scores = run.report["tasks"]["forgetting"]
    gone, kept = scores["forgotten/accuracy"], scores["kept/accuracy"]
    assert gone["start"] > 0.8 and gone["finetuned"] < 0.3 and gone["retrained"] == 0.0
    assert kept["finetuned"] > kept["start"] - 0.1 and kept["n"] + gone["n"] == 119
    assert scores["never seen, alike/accuracy"]["finetuned"] < 0.4 and scores["never seen/accuracy"]["n"] == 30
    assert 0 <= scores["membership/auroc"]["finetuned"] <= 1 and "retrained" in repr(run)
    assert scores["forgotten/loss"]["finetuned"] > scores["forgotten/loss"]["start"]
    task = run.load()
    assert task.target.classes == [0, 1, 2], "it still has a name for what it was made to forget"
    reasons = pq.read_table(tmp_path / "out" / "kept.parquet")["reason"].to_pylist()
    assert reasons == ["forgotten" if label == 2 else "kept" for label in digits["train"]["label"]]


@pytest.mark.slow
def test_rows_of_a_selection_are_forgotten_by_an_encoder_and_the_rest_is_a_selection(base, digits, tmp_path):
    from mmssl import select

    data = tmp_path / "data"
    digits.save_to_disk(str(data))
    rows = tmp_path / "rows.parquet"
    select(data, rows, keep=0.2, by="random")
    named = [r == "kept" for r in pq.read_table(rows)["reason"].to_pylist()]
    run = finetune(base, data, "label", forget=str(rows), output=tmp_path / "out", **SHORT)
    assert run.report["tasks"]["forgetting"]["forgotten/accuracy"]["n"] == sum(named) - named[7]
    assert named[7] == any("have no label" in note for note in run.report["notes"])
    again = finetune(
        base, data, "label", select=str(tmp_path / "out" / "kept.parquet"), few=0, output=tmp_path / "x", **SHORT
    )
    assert again.report["pool"] == 119 - (sum(named) - named[7])


class Killed(BaseException):
    pass


def test_killed_and_resumed_equals_straight(classifier, digits, tmp_path, monkeypatch):
    how = {"forget": "writer=w0,w3", **SHORT}
    finetune(classifier, digits, output=tmp_path / "straight", **how)
    real, steps = Loop._gradients, []

    def gradients(self, stream, index, meter):
        steps.append(index)
        if len(steps) == 4:
            raise Killed
        return real(self, stream, index, meter)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Loop, "_gradients", gradients)
        finetune(classifier, digits, output=tmp_path / "out", **how)
    assert not (tmp_path / "out" / "model").exists()
    finetune(classifier, digits, output=tmp_path / "out", resume=True, **how)
    ours, theirs = (load_file(tmp_path / f / "model" / "model.safetensors") for f in ("out", "straight"))
    assert all(ours[k].equal(theirs[k]) for k in ours)


def test_a_class_that_the_other_model_lacks_is_never_what_it_says():
    ours, theirs = Target("classification", ["y"], ["a", "b", "c"]), Target("classification", ["y"], ["c", "a"])
    found = as_target(torch.tensor([[3.0, 1.0]]), theirs, ours)
    assert found.tolist() == [[1.0, -19.0, 3.0]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"forget": "writer=w9"}, "--forget: no row has 'w9' in 'writer'; it holds w0, w1, w2, w3"),
        ({"forget": "riter=w1"}, "--forget: the data have no column 'riter'; did you mean 'writer'"),
        ({"forget": "writer="}, "--forget: found 'writer=', expected COLUMN=VALUE"),
        ({"forget": "nowhere.parquet"}, "--forget: no such file: 'nowhere.parquet'"),
        ({"forget": "writer=w0,w1,w2,w3"}, "--forget: all of the 119 training rows"),
        ({"forget": "label=1", "label": "writer"}, "--label: found writer, but the model was fine-tuned on label"),
        ({"forget": "label=1", "limit": 50}, "limit: found 50 with --forget"),
        ({"forget": "label=1", "few": 0, "labels": 20}, "labels: found 20 with --forget"),
        ({"forget": "label=1", "compare": True}, "compare: found True with --forget"),
        ({"forgetting": {"weight": 2.0}, "label": "label"}, "forgetting: found it without --forget"),
        ({"forget": "label=1", "forgetting": {"against": "nowhere"}}, "nowhere"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(classifier, digits, tmp_path, options, says):
    label = options.pop("label", None)
    with pytest.raises(UserError, match=says):
        finetune(classifier, digits, label, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
