"""Self-training by an average of the student (FST), and kept rows that count by what they do for others (LiST)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from mmssl.data.given import given
from mmssl.data.labels import LABEL
from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.finetuning.asking import load_options
from mmssl.finetuning.finetune import finetune, make_job
from mmssl.finetuning.fitting import build
from mmssl.finetuning.following import Following
from mmssl.finetuning.pseudo import Known, probabilities
from mmssl.finetuning.reweighing import gradient_products, worth
from mmssl.finetuning.self_training import self_trained
from mmssl.models.opening import open_model
from mmssl.training.loop import Loop

TEACHER: dict[str, Any] = {"by": "teacher", "sure": 0.5, "momentum": 0.8, "ahead": 2, "weight": 0.7}
SHORT: dict[str, Any] = {
    "peft": "none",
    "few": 0,
    "validation_share": 0,
    "unlabelled": "rest",
    "train": {"steps": 4, "batch_size": 16, "lr": 3e-3, "save_every": 2},
}


@pytest.fixture(scope="module")
def digits() -> datasets.DatasetDict:
    """Of three classes: 60 training rows, of which 20 have a label, and 20 test rows."""
    from sklearn.datasets import load_digits

    x, y = load_digits(n_class=3, return_X_y=True)
    pictures = list((x[:80].reshape(-1, 8, 8) * 15).astype(np.uint8))
    labels = [int(y[row]) if row < 20 or row >= 60 else None for row in range(80)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)
    return datasets.DatasetDict({"train": rows.select(range(60)), "test": rows.select(range(60, 80))})


def same(a: Path, b: Path) -> bool:
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (a, b))
    return all(ours[k].equal(theirs[k]) for k in ours)


def test_the_loss_is_the_formula(base, digits):
    encoder, processor = open_model(base)
    with given(digits) as path:
        asked = {"path": path, "label": "label", "self_training": TEACHER, **SHORT}
        first = make_job("", encoder, processor, load_options(asked))
    job = self_trained(None, first, first.options, None, Path("unused"), {}).job
    pretraining, _ = build(job, job.options)
    objective: Any = pretraining.objectives["task"]
    head = objective.plain.head
    with torch.no_grad():  # a teacher that is not the student
        head.linear.weight.add_(0.3 * torch.randn_like(head.linear.weight))
    learned = job.learned()
    assert learned.weights.sum() == pytest.approx(40) and len(learned.source) == 60
    rows = [0, 5, 9, 20, 31, 44, 57]
    told = learned.stored[LABEL]
    batch = {
        "image": processor.preprocessors["image"]([learned.source[row]["image"] for row in rows]),
        LABEL: told.collate([told.read(row) for row in rows]),
    }
    assert batch[LABEL]["present"].tolist() == [True] * 3 + [False] * 4, "labels of the others are not there"
    found = pretraining(batch, Draws(0, len(rows)))

    patches = encoder.modality("image").patchify(batch["image"])
    x = encoder.tower("image")({"image": patches}).summary().detach().double()
    student = x @ head.linear.weight.double().T + head.linear.bias.double()
    own = objective.teacher.net["head"].linear
    teacher = (x @ own.weight.double().T + own.bias.double()).softmax(1)
    wanted, y = 0.0, batch[LABEL]["value"]
    for row in range(7):
        of = student[row].log_softmax(0)
        if row < 3:
            wanted -= float(of[y[row]].detach()) / 3
        elif float(teacher[row].max()) > 0.5:
            wanted -= 0.7 * float(of[teacher[row].argmax()].detach()) / 4
    wanted += float((head.linear.weight.double().square() * objective.plain.penalty.double()).sum().detach())
    assert float(found.total.detach()) == pytest.approx(wanted, abs=1e-5) and 0 < float(found.parts["task.taught"]) <= 1


def test_the_teacher_is_the_average_of_where_the_student_will_be(base, digits, tmp_path, monkeypatch):
    seen: list[torch.Tensor] = []
    objectives: list[Following] = []
    real = Following.after_step

    def weight(objective: Following) -> torch.Tensor:
        return objective.plain.head.linear.weight.detach().clone().double()

    def after_step(self, model, progress):
        objectives.append(self)
        now = weight(self)
        real(self, model, progress)
        assert weight(self).equal(now), "no virtual step changes the student"
        seen.append(now)

    follow = Following.follow
    monkeypatch.setattr(Following, "follow", lambda self, model: (seen.append(weight(self)), follow(self, model)))
    monkeypatch.setattr(Following, "after_step", after_step)
    run = finetune(base, digits, "label", self_training=TEACHER, output=tmp_path / "out", **SHORT)
    teacher = seen[0]
    for before, now in zip(seen, seen[1:], strict=False):
        teacher = 0.8 * teacher + 0.2 * (now + 2 * (now - before))
    found = objectives[0].teacher.net["head"].linear.weight.double()
    torch.testing.assert_close(found, teacher, atol=1e-6, rtol=0)
    assert not seen[-1].equal(seen[0]) and not found.allclose(seen[-1], atol=1e-4)
    assert run.report["settings"]["self_training"] == {"unlabelled": 40, "by": "teacher"}


class Killed(BaseException):
    pass


RESUMED: dict[str, tuple[dict[str, Any], int]] = {
    "teacher": ({"self_training": TEACHER}, 4),
    "reweigh": ({"self_training": {"reweigh": True}, "rounds": 1}, 4 + 4),
    "experts": ({"loss": "experts", "rounds": 1}, 4 + 4),
    "logit_adjusted": ({"loss": "logit_adjusted", "rounds": 1}, 4 + 4),
    "ldam": ({"loss": "ldam", "rounds": 1}, 4 + 4),
}
"""Name -> (options, in which step it is killed, rounds before it counted)."""
OFTEN = ("teacher", "experts")


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in RESUMED]
)
def test_killed_and_resumed_equals_straight(base, digits, tmp_path, monkeypatch, name):
    straight, out = tmp_path / "straight", tmp_path / "out"
    how, last = RESUMED[name]
    options = {**how, **SHORT}
    finetune(base, digits, "label", output=straight, **options)
    real, steps = Loop._gradients, []

    def gradients(self, stream, index, meter):
        steps.append(index)
        if len(steps) == last:
            raise Killed
        return real(self, stream, index, meter)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Loop, "_gradients", gradients)
        finetune(base, digits, "label", output=out, **options)
    steps.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_gradients", lambda self, s, i, m: (steps.append(i), real(self, s, i, m))[1])
        finetune(base, digits, "label", output=out, resume=True, **options)
    assert steps == [2, 3] and same(straight, out)


def test_products_of_gradients_are_the_slope_of_a_virtual_step():
    torch.manual_seed(0)
    x, aside, weight = torch.randn(9, 4).double(), torch.randn(6, 4).double(), torch.randn(3, 4).double()
    bias, y, z = torch.randn(3).double(), torch.randint(3, (9,)), torch.randint(3, (6,))
    e = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    of = [weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    losses = F.cross_entropy(x @ of[0].T + of[1], y, reduction="none")
    slopes = torch.autograd.grad((e * losses).sum(), of, create_graph=True)
    moved = [part - slope for part, slope in zip(of, slopes, strict=True)]
    wanted = -torch.autograd.grad(F.cross_entropy(aside @ moved[0].T + moved[1], z), e)[0]
    wrong = [
        probabilities((rows @ weight.T + bias).numpy()) - np.eye(3)[labels]
        for rows, labels in ((x, y.numpy()), (aside, z.numpy()))
    ]
    with_one = [np.concatenate([rows.numpy(), np.ones((len(rows), 1))], 1) for rows in (x, aside)]
    found = gradient_products(with_one[0], wrong[0], with_one[1], wrong[1])
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-9)


def test_rows_with_wrong_labels_count_less():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 40)
    x = np.eye(3)[y] * 2 + rng.normal(size=(120, 3))
    known, others = np.arange(0, 120, 4), np.setdiff1d(np.arange(120), np.arange(0, 120, 4))
    labels = y[others].copy()
    labels[::2] = (labels[::2] + 1) % 3
    found = worth(Known(x[known], y[known], 3), x[others], labels, 0)
    assert found.min() == 0 and found[found > 0].mean() == pytest.approx(1)
    assert found[1::2].mean() > 3 * found[::2].mean()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"self_training": {"sure": 0.9}}, "self_training.sure: found it with by=confidence"),
        ({"self_training": {"by": "teacher", "keep": 0.9}}, "self_training.keep: found it with by=teacher"),
        ({"self_training": {"by": "teacher", "gold_last": True}}, "gold_last: found it with by=teacher"),
        ({"self_training": {"by": "teacher"}, "rounds": 2}, "rounds: found 2 with self_training.by=teacher"),
        ({"self_training": {"by": "teacher"}, "class_weights": "balanced"}, "class_weights: found balanced with self"),
        ({"self_training": {"by": "teacher", "momentum": 1.5}}, "self_training.momentum: found 1.5"),
    ],
)
def test_options_that_contradict_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        load_options({"unlabelled": "rest", **options}, {"path": "a.csv", "label": "label"})
