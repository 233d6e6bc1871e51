"""`train.accumulation` changes nothing: a step in several passes is that of one pass.

Losses, logged parts, gradient shares and weights of every objective, with missing modalities, missing cells and
different lengths; and that it saves what it should. Two processes: `tests/distributed/test_two_processes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from toys import collapse, worlds
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.masking import Random
from mmssl.modality import Batch
from mmssl.objectives import contrastive, mae
from mmssl.objectives.accumulation import passes
from mmssl.objectives.base import Loss, Objective, ObjectiveConfig
from mmssl.objectives.pretraining import Pretraining

ROWS, STEPS = 32, 2
Log = list[dict[str, float]]
QUEUES = "keys and queues"


@pytest.fixture(autouse=True, scope="module")
def products_of_torch() -> Iterator[None]:
    """float32 products as torch comes, whatever a command that ran before in this process has set: oneDNN's of 4 rows
    and of 32 differ in their last bits, and bounds here are a few of those."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def samples(rare: bool) -> dict[str, list[Any]]:
    """Rows that lack parts. rare: one row of 16 has a table."""
    raw = toy_world.raw(ROWS, seed=3) | toy_world.labels(ROWS, seed=3) | toy_world.columns(ROWS)
    if not rare:
        return raw
    full = toy_world.raw(ROWS, seed=4, absent=0.0)["table"]
    raw["table"] = [row if i % 16 == 5 else None for i, row in enumerate(full)]
    return raw


def masked() -> Pretraining:
    """`toy_world.masked`, but that no view takes from other rows: that is refused under accumulation."""
    return toy_world.masked(fill=["noise", "zero"])


WORLDS: dict[str, Callable[[], Pretraining]] = {
    "towers": lambda: toy_world.pretraining(joint=False),
    "joint": lambda: toy_world.pretraining(joint=True),
    "masked": masked,
    "distillation": toy_world.self_distillation,
    "pairs and views": toy_world.pairs_and_views,
    "sides and their mean": worlds.sides_and_their_mean,
    QUEUES: worlds.keys_and_queues,
    "labels": worlds.labelled,
    "places": worlds.places_that_match,
    "pretexts": worlds.pretexts,
    "clusters": worlds.clusters,
}
SLOW = pytest.mark.slow
NORMED = "pairs and views"
"""It has batch norms, which would magnify the rounding of two rows that are there among 32."""


def trained(
    make: Callable[[], Pretraining],
    parts: int,
    shares: bool = False,
    rare: bool = True,
    batch: Callable[..., Batch] = toy_world.batch,
    steps: int = STEPS,
    again: bool = False,
) -> tuple[Log, dict[str, torch.Tensor]]:
    """What the log would say of each step, and the state after the last: weights, teachers, centres. again: half
    of every step is done, given up, and the whole done once more."""
    pretraining, raw, rows = make(), samples(rare), ROWS // parts
    optimizer = torch.optim.SGD(pretraining.parameters(), lr=0.05)
    log: Log = []
    for number in range(steps):
        batches = [batch({n: v[i : i + rows] for n, v in raw.items()}) for i in range(0, ROWS, rows)]
        row: dict[str, float] = {}
        if again:
            half = [batch({n: v[: ROWS // 2] for n, v in raw.items()})]
            for one in passes(pretraining, half, Draws(9 + number, ROWS // 2), lambda batch: batch):
                pretraining(one.load(), one.draws, **one.options).total.backward()
            optimizer.zero_grad()
            pretraining.discard()
        for one in passes(pretraining, batches, Draws(9 + number, ROWS), lambda batch: batch):
            loss = pretraining(one.load(), one.draws, shares=shares, **one.options)
            loss.total.backward()
            measured = {f"share/{name}": value for name, value in (loss.shares or {}).items()}
            for name, value in ({"": loss.total} | loss.parts | measured).items():
                row[name] = row.get(name, 0.0) + float(value.detach())
        optimizer.step()
        optimizer.zero_grad()
        pretraining.after_step((number + 1) / STEPS)
        log.append(row)
    return log, {name: value.clone() for name, value in pretraining.state_dict().items()}


@cache
def whole(world: str) -> tuple[Log, dict[str, torch.Tensor]]:
    return trained(WORLDS[world], 1, rare=world != NORMED)


def assert_same(found: tuple[Log, dict[str, torch.Tensor]], expected: tuple[Log, dict[str, torch.Tensor]]) -> None:
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("parts", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (8, 32))])
@pytest.mark.parametrize("world", [pytest.param(n, marks=SLOW if n == NORMED else ()) for n in WORLDS])
def test_any_number_of_parts_gives_the_losses_and_weights_of_one(world, parts):
    assert_same(trained(WORLDS[world], parts, rare=world != NORMED), whole(world))


@pytest.mark.parametrize("world", ["distillation", QUEUES, pytest.param(NORMED, marks=pytest.mark.slow)])
def test_a_step_that_is_given_up_and_done_again_counts_once(world):
    """What forward notes: outputs for centres, inputs of DirectPred's predictors."""
    assert_same(trained(WORLDS[world], 1, rare=world != NORMED, again=True), whole(world))


def small() -> Pretraining:
    """Objectives that are asked part by part and one that is not, on shared and on own encodings."""
    net = toy_world.model()
    objectives: dict[str, Objective] = {
        "cells": mae.MAE(mae.Config(tower="table", mask="half", mode="replace", decoder=toy_world.HEAD), net),
        "leads": mae.MAE(mae.Config(tower="signal", mask="half", decoder=toy_world.DECODER), net),
        "clip": contrastive.Contrastive(contrastive.Config(towers=["signal", "graph"], mask="half"), net),
        "pull": collapse.Collapse(collapse.Config(tower="signal"), net),
    }
    views = {"a": {"signal": {"gain": 0.2}}, "b": {"signal": {"gain": 0.5}}}
    return Pretraining(net, objectives, views, {"half": Random(ratio=0.5)})


@cache
def with_shares() -> tuple[Log, dict[str, torch.Tensor]]:
    return trained(small, 1, shares=True)


@pytest.mark.parametrize("parts", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (8, 32))])
def test_a_stranger_s_objective_and_the_gradient_shares(parts):
    """An objective that says nothing of accumulation is asked for all rows at once; who pulls the encoders comes out
    the same though its towers kept no tokens."""
    assert "share/signal/clip" in with_shares()[0][0]
    assert_same(trained(small, parts, shares=True), with_shares())


def test_the_loss_of_a_rare_modality_is_not_made_smaller():
    """transformers#34191, cases/media-text-training.md row 19: 13 times smaller at 32 parts."""
    log, _ = trained(small, 1, steps=1)
    many, _ = trained(small, 32, steps=1)
    assert many[0]["cells"] == pytest.approx(log[0]["cells"], rel=1e-6) and log[0]["cells"] > 0.1


@pytest.mark.parametrize("world", ["small", *(pytest.param(name, marks=pytest.mark.slow) for name in WORLDS)])
def test_to_the_last_digits_of_float64(world, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    make = small if world == "small" else WORLDS[world]

    def precise(raw: dict[str, list[Any]]) -> Batch:
        cast = {n: toy_world.batch({n: v})[n] for n, v in raw.items()}
        return {
            n: {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()} for n, inputs in cast.items()
        }

    (one, state), (many, other) = (trained(lambda: make().double(), parts, batch=precise) for parts in (1, 8))
    for ours, theirs in zip(many, one, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)
    for name, value in state.items():
        assert value.dtype != torch.float32, name
        torch.testing.assert_close(other[name], value, rtol=1e-12, atol=1e-12)


def test_a_tower_never_sees_more_rows_than_a_part_has():
    seen: list[int] = []
    pretraining = small()
    for tower in pretraining.model.towers.values():
        tower.register_forward_pre_hook(lambda _, args: seen.append(next(iter(args[0].values())).batch))
    assert_same(trained(lambda: pretraining, 8), trained(small, 1))
    assert set(seen) == {ROWS // 8}


def test_each_part_is_brought_to_the_device_when_its_turn_comes():
    net = toy_world.model()
    objective = mae.MAE(mae.Config(tower="signal", mask="half", decoder=toy_world.DECODER), net)
    pretraining = Pretraining(net, {"mae": objective}, {}, {"half": Random(ratio=0.5)})
    moved: list[int] = []
    raw = toy_world.raw(4)
    batches = [toy_world.batch({n: v[i : i + 2] for n, v in raw.items()}) for i in (0, 2)]
    todo = passes(pretraining, batches, Draws(1, 4), lambda batch: (moved.append(1), batch)[1])
    counted = len(moved)
    assert counted == 2 and len(todo) == 2
    todo[0].load()
    assert len(moved) == counted + 1


class Inputs(Objective):
    """Reads the batch itself and says nothing of how it could be cut."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(ObjectiveConfig(), model)  # type: ignore[arg-type]

    def forward(self, step: Any) -> Loss:
        return Loss(total=step.inputs("signal")["wave"].nan_to_num(0).mean(), parts={})


def test_an_objective_that_reads_inputs_is_refused_with_what_to_do():
    net = toy_world.model()
    pretraining = Pretraining(net, {"inputs": Inputs(net)})
    raw = toy_world.raw(4)
    batches = [toy_world.batch({n: v[i : i + 2] for n, v in raw.items()}) for i in (0, 2)]
    (one,) = passes(pretraining, batches, Draws(1, 4), lambda batch: batch)
    with pytest.raises(
        UserError, match=r"train.accumulation: an objective reads the inputs of 'signal'.*leave it at 1"
    ):
        pretraining(one.load(), one.draws, **one.options)
