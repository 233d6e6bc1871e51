"""Two steps of gradient descent on the worlds of `toys.world`, by one process or by several that share the rows, in one
pass or in parts; and what it means that the several equal the one."""

from __future__ import annotations

import contextlib

import torch

from mmssl.draws import Draws
from mmssl.objectives.accumulation import passes
from toys import world as toy_world
from toys import worlds

ROWS = 4
ROUNDING = 8 * torch.finfo(torch.float32).eps
"""Gradients as large as 10 have a last bit of 1e-6 in float32; a few such bits are allowed beside 1e-5."""
CASES = ("one rank lacks a modality", "mixed")
"""What the first and the second step are taken on."""
WORLDS = {
    "towers": lambda: toy_world.pretraining(joint=False),
    "joint": lambda: toy_world.pretraining(joint=True),
    "masked": toy_world.masked,
    "distillation": toy_world.self_distillation,
    "pairs and views": toy_world.pairs_and_views,
    "sides and their mean": worlds.sides_and_their_mean,
    "keys and queues": worlds.keys_and_queues,
    "labels": worlds.labelled,
    "places": worlds.places_that_match,
    "pretexts": worlds.pretexts,
    "clusters": worlds.clusters,
    "columns": worlds.of_two_columns,
    "modules of one's own": worlds.on_modules_of_ones_own,
    "shipped trunks": worlds.on_shipped_trunks,
}


def samples(case: str) -> dict[str, list]:
    raw = (
        toy_world.later(toy_world.raw(2 * ROWS, seed=3))
        | toy_world.labels(2 * ROWS, seed=3)
        | toy_world.columns(2 * ROWS)
    )
    if case == "one rank lacks a modality":
        raw["signal"] = [None] * ROWS + toy_world.raw(ROWS, seed=4, absent=0.0)["signal"]
        raw["table"] = toy_world.raw(ROWS, seed=5, absent=0.0)["table"] + [None] * ROWS
        raw["later"] = toy_world.raw(ROWS, seed=6, absent=0.0)["signal"] + [None] * ROWS
    return raw


PARTS = 2
CUT = {name: make for name, make in WORLDS.items() if name not in ("joint", "distillation")}
CUT |= {"masked": lambda: toy_world.masked(fill=["noise"])}
"""Worlds that are also trained in parts (`train.accumulation`): what looks across rows comes last, or nothing does."""


def one_pass(module, pretraining, batch, draws) -> dict[str, torch.Tensor]:
    """Loss and parts of a step, after its backward pass."""
    loss = module(batch, draws)
    loss.total.backward()
    return {"": loss.total.detach()} | loss.parts


def in_parts(module, pretraining, batches, draws) -> dict[str, torch.Tensor]:
    """`one_pass` of rows that come in parts: as the loop does it, gradients are exchanged with the last."""
    found: dict[str, torch.Tensor] = {}
    todo = passes(pretraining, batches, draws, lambda batch: batch)
    for one in todo:
        # what is cut over processes exchanges gradients with every pass
        waits = one is not todo[-1] and hasattr(module, "no_sync")
        with module.no_sync() if waits else contextlib.nullcontext():
            loss = module(one.load(), one.draws, **one.options)
            loss.total.backward()
        for name, value in ({"": loss.total.detach()} | loss.parts).items():
            found[name] = found[name] + value if name in found else value
    return found


def two_steps(
    module, pretraining, batches, draws, step=one_pass, exchange=lambda pretraining: None
) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Losses (the weighted sum, then each objective's), and gradients by name, of two steps of gradient descent, each
    on one of the two batches."""
    steps = []
    for number, batch in enumerate(batches):
        said = step(module, pretraining, batch, draws(number))
        exchange(pretraining)
        losses = torch.stack([said[name] for name in ("", *pretraining.objectives)])
        trained = {n: p for n, p in pretraining.named_parameters() if p.grad is not None}
        steps.append((losses, {n: p.grad.clone() for n, p in trained.items()}))
        with torch.no_grad():
            for p in trained.values():
                p.sub_(0.1 * p.grad)
                p.grad = None
        pretraining.after_step((number + 1) / 2)
    return steps


MAGNIFIED = 5e-5
"""In the second step one last bit of the parameters changes the loss of DCLW by up to 1e-5."""


def assert_equal_one(processes, key, single, batches, count=2, atol=1e-5) -> None:
    """key: of what each process found, behind its rank."""
    expected = two_steps(single, single, batches, Draws(9, 2 * ROWS))
    for rank in range(count):
        steps = zip(processes[rank, *key], expected, strict=True)
        for number, ((losses, found), (alone, grads)) in enumerate(steps):
            torch.testing.assert_close(losses[0].item(), alone[0].item(), rtol=0, atol=atol)
            each = atol if number == 0 else MAGNIFIED
            torch.testing.assert_close(torch.from_numpy(losses), alone, rtol=0, atol=each)
            assert set(found) >= set(grads)
            for name, gradient in grads.items():
                ours = torch.from_numpy(found[name])
                torch.testing.assert_close(ours, gradient, rtol=ROUNDING, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
