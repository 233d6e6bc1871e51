"""Losses for classes that are rare, and scores by how frequent classes are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toys import tuned

from mmssl.data.labels import make_target
from mmssl.errors import UserError
from mmssl.finetuning import finetune as module
from mmssl.finetuning.choosing import Choice
from mmssl.finetuning.finetune import finetune
from mmssl.finetuning.options import load_options
from mmssl.finetuning.scores import measure
from mmssl.losses.supervised import ldam, logit_adjusted, row_losses

COUNTS = torch.tensor([100, 10, 1, 0])


@pytest.fixture
def rows():
    torch.manual_seed(0)
    return torch.randn(40, 4), torch.randint(4, (40,))


def test_adjusted_logits_are_the_formula(rows):
    logits, y = rows
    shares = torch.tensor([100 / 111, 10 / 111, 1 / 111, 1 / 111], dtype=torch.float64)
    z, tau = logits.double(), 0.7
    odds = z.exp() * shares**tau
    wanted = -(odds[range(40), y] / odds.sum(1)).log()
    found = row_losses("classification", logits, y, tail=logit_adjusted(COUNTS, tau))
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=0)
    plain = row_losses("classification", logits, y, tail=logit_adjusted(COUNTS, 0.0))
    assert plain.equal(F.cross_entropy(logits, y, reduction="none"))


def test_ldam_is_the_formula(rows):
    logits, y = rows
    z = logits.double()
    margins = [0.5 * max(n, 1) ** -0.25 for n in COUNTS.tolist()]
    for row in range(40):
        true = z[row, y[row]] - margins[y[row]]
        others = sum(z[row, c].exp() for c in range(4) if c != y[row])
        wanted = -(true.exp() / (true.exp() + others)).log()
        found = row_losses("classification", logits[row : row + 1], y[row : row + 1], tail=ldam(COUNTS, 0.5))
        assert float(found) == pytest.approx(float(wanted), abs=1e-6)


def test_scores_by_frequency_are_means_over_their_classes():
    target = make_target(datasets.Dataset.from_dict({"y": [0, 1, 2, 3]}), ["y"], "auto")
    train = torch.repeat_interleave(torch.arange(4), torch.tensor([30, 10, 9, 2]))
    truth = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 3, 3])
    said = torch.tensor([0, 0, 1, 0, 0, 0, 3, 3, 3, 0])
    found = measure(target, {"finetuned": F.one_hot(said, 4).float()}, truth, train, shots=[10, 20])
    assert {name: found[f"recall_{name}"]["finetuned"] for name in ("many", "medium", "few")} == {
        "many": 1.0,
        "medium": 0.5,
        "few": pytest.approx(0.375),
    }
    assert not any(
        "recall" in name for name in measure(target, {"model": F.one_hot(said, 4).float()}, truth, train, shots=[1, 99])
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned.image_base(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def digits() -> datasets.DatasetDict:
    """40 rows of one digit, 12 of another and 4 of a third to learn from; 20 of each to measure on."""
    from sklearn.datasets import load_digits

    x, y = load_digits(n_class=3, return_X_y=True)
    of = [np.flatnonzero(y == c) for c in range(3)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})

    def part(rows: list[np.ndarray]) -> datasets.Dataset:
        chosen = np.concatenate(rows)
        pictures = list((x[chosen].reshape(-1, 8, 8) * 15).astype(np.uint8))
        return datasets.Dataset.from_dict({"image": pictures, "label": y[chosen]}, features=features)

    train = part([of[0][:40], of[1][:12], of[2][:4]])
    return datasets.DatasetDict({"train": train, "test": part([rows[-20:] for rows in of])})


def test_a_head_starts_where_the_adjusted_loss_is_least(base, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "choose", lambda *_: Choice(0.01, 0, 6))
    shared: dict[str, Any] = {"peft": "linear", "shots": [5, 20]}
    plain = finetune(base, digits, "label", output=tmp_path / "plain", **shared)
    run = finetune(base, digits, "label", loss="logit_adjusted", output=tmp_path / "adjusted", **shared)
    heads = [one.load().head.linear for one in (plain, run)]
    assert heads[0].weight.equal(heads[1].weight)
    shares = torch.tensor([40, 12, 4]).double() / 56
    torch.testing.assert_close((heads[0].bias - heads[1].bias).double(), shares.log(), atol=1e-5, rtol=0)
    scores = [one.report["tasks"]["fine-tuned"] for one in (plain, run)]
    assert scores[1]["image/recall_few"]["finetuned"] > scores[0]["image/recall_few"]["finetuned"]
    assert {"image/recall_many", "image/recall_medium"} <= set(scores[1])


@pytest.mark.parametrize("loss", ["logit_adjusted", "ldam"])
def test_training_goes_down_in_the_loss_that_was_asked_for(base, digits, tmp_path, loss):
    how = {
        "peft": "none",
        "few": 0,
        "validation_share": 0,
        "train": {"steps": 12, "batch_size": 56, "lr": 3e-3, "log_every": 1},
    }
    run = finetune(base, digits, "label", loss=loss, head_start="zero", output=tmp_path / "out", **how)
    rows = [line for line in (run.folder / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    losses = [float(line.split('"loss": ')[1].split(",")[0].rstrip("}")) for line in rows]
    counts = torch.tensor([40, 12, 4])
    tail = logit_adjusted(counts, 1.0) if loss == "logit_adjusted" else ldam(counts, 0.5)
    begin = row_losses(
        "classification", torch.zeros(56, 3), torch.repeat_interleave(torch.arange(3), counts), tail=tail
    )
    assert losses[0] == pytest.approx(float(begin.mean()), abs=1e-4) and losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tau": 2.0}, "tau: found 2.0, but loss=cross_entropy"),
        ({"loss": "ldam", "tau": 2.0}, "tau: found 2.0, but loss=ldam"),
        ({"loss": "logit_adjusted", "class_weights": "balanced"}, "class_weights: found balanced with loss=logit_adj"),
        ({"shots": [100, 20]}, "shots: found .*rising order"),
    ],
)
def test_options_that_contradict_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        load_options(options, {"path": "a.csv", "label": "label"})
    assert load_options({"loss": "ldam", "class_weights": "balanced"}, {"label": "label"}).loss == "ldam"


def test_numbers_have_no_rare_classes(base, digits, tmp_path):
    with pytest.raises(UserError, match="loss: found ldam, but a regression has no classes"):
        finetune(base, digits, "label", task="regression", loss="ldam", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
