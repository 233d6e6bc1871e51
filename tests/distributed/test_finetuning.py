"""Two processes equal one where few labels are learned from: losses for rare classes, a teacher that labels, and rows
that are forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from toys import processes, tuned
from toys.processes import joined
from toys.steps import PARTS, ROWS, assert_equal_one, in_parts, two_steps

from mmssl.data.labels import LABEL
from mmssl.draws import Draws
from mmssl.finetuning.following import Following
from mmssl.finetuning.forgetting import Forgetting
from mmssl.finetuning.options import ForgettingConfig, SelfTrainingConfig
from mmssl.finetuning.supervised import make_objective
from mmssl.losses.supervised import ldam, logit_adjusted, sade
from mmssl.objectives.pretraining import Pretraining

COUNTS = torch.tensor([30, 10, 2])
TAILS: dict[str, Any] = {
    "logit_adjusted": logit_adjusted(COUNTS, 1.0),
    "ldam": ldam(COUNTS, 0.5),
    "experts": sade(COUNTS, 2.0),
    "teacher": None,
    "teacher of experts": sade(COUNTS, 2.0),
    "forgetting": None,
}
CASES = {"one rank has no label": [0, 1, 2, 0, None, None, None, None], "mixed": [0, None, 2, None, 1, 0, None, None]}
"""What the first and the second step are taken on."""


def pretraining(kind: str) -> Pretraining:
    model, _ = tuned.image_model()
    plain = make_objective(model, "classification", ["image"], 3, "clean", tail=TAILS[kind])
    torch.manual_seed(1)
    torch.nn.init.normal_(plain.head.linear.weight)
    if kind == "forgetting":
        kept, forgotten = torch.randn(2, 5, plain.head.linear.in_features)
        return Pretraining(model, {"task": Forgetting(plain, ForgettingConfig(weight=0.5), model, kept, forgotten)})
    plain.penalty = torch.full((plain.head.linear.in_features,), 0.01)
    if not kind.startswith("teacher"):
        return Pretraining(model, {"task": plain})
    said = SelfTrainingConfig(by="teacher", sure=0.4, momentum=0.5, ahead=1)
    following = Following(plain, said, model)
    following.follow(model)
    return Pretraining(model, {"task": following})


def batch(case: str, rows: range) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(256, size=(8, 8), dtype=np.uint8) for _ in range(2 * ROWS)]
    labels = [CASES[case][row] for row in rows]
    _, processor = tuned.image_model()
    told = {
        "value": torch.tensor([label or 0 for label in labels]),
        "present": torch.tensor([label is not None for label in labels]),
        "gone": torch.tensor([label == 0 for label in labels]),
        "features": torch.from_numpy(rng.normal(size=(2 * ROWS, 16)).astype(np.float32))[list(rows)],
        "answers": torch.from_numpy(rng.normal(size=(2 * ROWS, 3)).astype(np.float32))[list(rows)],
    }
    return {"image": processor.preprocessors["image"]([pictures[row] for row in rows]), LABEL: told}


def worker(rank: int, port: int, results: dict[Any, Any]) -> None:
    with joined(rank, port):
        mine = [batch(case, range(rank * ROWS, (rank + 1) * ROWS)) for case in CASES]
        for kind in TAILS:
            alone = pretraining(kind)
            module = DistributedDataParallel(alone, find_unused_parameters=True)
            found = []
            for losses, grads in two_steps(module, alone, mine, Draws(9, ROWS, rank * ROWS, 2 * ROWS)):
                dist.all_reduce(losses)
                found.append(((losses / 2).numpy(), {n: g.numpy() for n, g in grads.items()}))
            results[rank, kind] = found


@pytest.fixture(scope="module")
def two_processes() -> dict[Any, Any]:
    return processes.two_processes(worker)


@pytest.mark.parametrize("kind", TAILS)
def test_loss_and_gradient_equal_one_process(two_processes, kind):
    whole = [batch(case, range(2 * ROWS)) for case in CASES]
    assert_equal_one(two_processes, (kind,), pretraining(kind), whole)


@pytest.mark.parametrize("kind", TAILS)
def test_parts_equal_one_pass(kind):
    found = []
    for parts in (PARTS, 1):
        size = 2 * ROWS // parts
        batches = [batch("mixed", range(first, first + size)) for first in range(0, 2 * ROWS, size)]
        alone = pretraining(kind)
        step = {"step": in_parts} if parts > 1 else {}
        found.append(two_steps(alone, alone, [batches if parts > 1 else batches[0]] * 2, Draws(9, 2 * ROWS), **step))
    for (losses, grads), (wanted, wanted_grads) in zip(*found, strict=True):
        torch.testing.assert_close(losses, wanted, atol=1e-5, rtol=0)
        for name, gradient in wanted_grads.items():
            torch.testing.assert_close(grads[name], gradient, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
