"""Losses for classes that are rare, and scores by how frequent classes are."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmssl.data.labels import make_target
from mmssl.errors import UserError
from mmssl.finetuning import finetune as module
from mmssl.finetuning.asking import load_options
from mmssl.finetuning.choosing import Choice
from mmssl.finetuning.experts import LEAST, steadiness, weighed
from mmssl.finetuning.finetune import finetune
from mmssl.finetuning.scores import measure
from mmssl.finetuning.task import load_task
from mmssl.losses.supervised import ldam, logit_adjusted, row_losses, sade

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


def test_experts_are_the_formulas(rows):
    logits, y = torch.randn(40, 3, 4), rows[1]
    z, lean, total = logits.double(), 1.3, 111
    shares = torch.tensor([100, 10, 1, 1], dtype=torch.float64) / total
    turned = torch.tensor([1, 1, 55, 55], dtype=torch.float64) / total  # classes as frequent are as frequent turned
    wanted = torch.zeros(40, dtype=torch.float64)
    for k, odds in enumerate((torch.ones(4).double(), shares, shares / turned**lean)):
        e = z[:, k].exp() * odds
        wanted -= (e[range(40), y] / e.sum(1)).log() / 3
    experts = sade(COUNTS, lean)
    found = row_losses("classification", logits, y, tail=experts)
    torch.testing.assert_close(found.double(), wanted, atol=2e-6, rtol=0)
    # of the mean of the logits: as if all had the mean of what is added
    odds = (shares**2 / turned**lean) ** (1 / 3)
    e = z.mean(1).exp() * odds
    said = row_losses("classification", logits.mean(1), y, tail=experts.mean)
    torch.testing.assert_close(said.double(), -(e[range(40), y] / e.sum(1)).log(), atol=2e-6, rtol=0)


def test_shares_of_experts_are_the_steadiest_of_a_grid():
    torch.manual_seed(0)
    a = torch.randn(60, 3, 4, dtype=torch.float64)
    b = a + torch.tensor([0.4, 0.2, 0.5])[:, None] * torch.randn(60, 3, 4)
    w = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    each = []
    for one, two in zip(a, b, strict=True):
        p, q = ((w @ said).exp() / (w @ said).exp().sum() for said in (one, two))
        each.append(float(p @ q / (p @ p).sqrt() / (q @ q).sqrt()))
    assert float(steadiness(w, a, b)) == pytest.approx(float(np.mean(each)), abs=1e-9)
    grid = [torch.tensor([i, j, 20 - i - j]) / 20 for i in range(1, 19) for j in range(1, 20 - i)]
    best = max(float(steadiness(one.double(), a, b)) for one in grid)
    found = weighed(a, b)
    assert float(found.sum()) == pytest.approx(1) and float(found.min()) >= LEAST
    equal = torch.full((3,), 1 / 3, dtype=torch.float64)
    assert float(steadiness(found, a, b)) > best - 1e-3 > float(steadiness(equal, a, b))


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


def test_experts_start_at_the_probe_and_are_weighed_by_rows_without_labels(base, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "choose", lambda *_: Choice(0.01, 0, 6))
    how: dict[str, Any] = {"peft": "linear", "loss": "experts", "augment": {"image": {"crop_scale": [0.6, 1.0]}}}
    runs = []
    for number in (0, 1):
        labels = [(label + number) % 3 for label in digits["test"]["label"]]
        test = digits["test"].remove_columns("label").add_column("label", labels)
        data = datasets.DatasetDict({"train": digits["train"], "test": test})
        runs.append(finetune(base, data, "label", weigh_experts=True, output=tmp_path / str(number), **how))
    head = runs[0].load().head
    weight, bias = (part.unflatten(0, (3, 3)) for part in (head.linear.weight, head.linear.bias))
    assert weight[0].equal(weight[1]) and weight[0].equal(weight[2]) and head.shares.sum() == pytest.approx(1)
    shares = torch.tensor([40, 12, 4]).double() / 56
    torch.testing.assert_close((bias[0] - bias[1]).double(), shares.log(), atol=1e-5, rtol=0)
    torch.testing.assert_close((bias[1] - bias[2]).double(), -2 * shares.flip(0).log(), atol=1e-5, rtol=0)
    x = torch.randn(5, head.linear.in_features)
    torch.testing.assert_close(head(x), torch.einsum("k,bkc->bc", head.shares, head.experts(x)))
    said = [run.report["settings"]["experts"] for run in runs]
    assert said[0] == said[1] != [0.3333] * 3, "their labels say nothing"
    assert load_task(runs[0].folder).head.shares.tolist() == pytest.approx(said[0], abs=1e-4)
    scores = runs[0].report["tasks"]["fine-tuned"]["image/accuracy"]
    assert {"finetuned", "averaged"} <= set(scores)


@pytest.mark.parametrize("loss", ["logit_adjusted", "ldam", "experts"])
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
    tails = {"logit_adjusted": logit_adjusted(counts, 1.0), "ldam": ldam(counts, 0.5), "experts": sade(counts, 2.0)}
    start = torch.zeros(56, 3, 3) if loss == "experts" else torch.zeros(56, 3)
    begin = row_losses("classification", start, torch.repeat_interleave(torch.arange(3), counts), tail=tails[loss])
    assert losses[0] == pytest.approx(float(begin.mean()), abs=1e-4) and losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tau": 2.0}, "tau: found 2.0, but loss=cross_entropy"),
        ({"loss": "ldam", "tau": 2.0}, "tau: found 2.0, but loss=ldam"),
        ({"loss": "logit_adjusted", "class_weights": "balanced"}, "class_weights: found balanced with loss=logit_adj"),
        ({"loss": "experts", "class_weights": "balanced"}, "class_weights: found balanced with loss=experts"),
        ({"lean": 1.0}, "lean: found 1.0, but loss=cross_entropy"),
        ({"weigh_experts": True, "augment": {"image": {"flip": 0.5}}}, "weigh_experts: found True, but loss="),
        ({"loss": "experts", "weigh_experts": True}, "weigh_experts: found it without augment"),
        (
            {"loss": "experts", "weigh_experts": True, "compare": True, "augment": {"image": {"flip": 0.5}}},
            "weigh_experts: found it with --compare",
        ),
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
