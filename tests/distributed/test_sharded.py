"""Sharded processes (`train.parallel: fsdp2`) equal one: loss and gradient of every objective, as with DDP."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from toys import world as toy_world
from toys.processes import free_ports, joined, processes
from toys.steps import CUT, PARTS, ROWS, WORLDS, assert_equal_one, in_parts, one_pass, samples, two_steps

from mmssl.distributed import in_full
from mmssl.draws import Draws
from mmssl.errors import RunError
from mmssl.objectives.pretraining import Pretraining
from mmssl.training.parallel import Sharded

CASE = "one rank lacks a modality"
"""Of both steps."""
QUICK = ("joint", "distillation", "pairs and views")
"""All families of objectives; the others are slow tests."""
LONG = tuple(world for world in WORLDS if world not in QUICK)


def sharded_steps(pretraining: Pretraining, batches, draws, step=one_pass) -> list:
    parallel = Sharded(Accelerator(cpu=True))
    parallel.place(pretraining)
    module = parallel.prepare(pretraining)
    found = []
    for losses, grads in two_steps(module, pretraining, batches, draws, step, parallel.exchange):
        dist.all_reduce(losses)
        whole = {n: in_full(g).numpy() for n, g in grads.items()}
        found.append(((losses / dist.get_world_size()).numpy(), whole))
    return found


def worker(rank: int, port: int, count: int, worlds: Sequence[str], parts: Sequence[str], results) -> None:
    with joined(rank, port, count):
        own = 2 * ROWS // count
        draws = Draws(9, own, rank * own, 2 * ROWS)
        for world in worlds:
            mine = toy_world.batch({n: v[rank * own : (rank + 1) * own] for n, v in samples(CASE).items()})
            results[rank, world] = sharded_steps(WORLDS[world](), [mine] * 2, draws)
        for world in parts:
            starts = range(rank * own, (rank + 1) * own, own // PARTS)
            raw = samples("mixed")
            mine = [toy_world.batch({n: v[i : i + own // PARTS] for n, v in raw.items()}) for i in starts]
            results[rank, world, "parts"] = sharded_steps(CUT[world](), [mine] * 2, draws, in_parts)


def run(count: int, worlds: Sequence[str], parts: Sequence[str]) -> dict[tuple, list]:
    return processes(worker, free_ports(1)[0], count, worlds, parts, count=count)


@pytest.fixture(scope="module")
def quick() -> dict[tuple, list]:
    return run(2, QUICK, ())


@pytest.fixture(scope="module")
def long() -> dict[tuple, list]:
    return run(2, LONG, tuple(CUT))


@pytest.fixture(scope="module")
def four() -> dict[tuple, list]:
    return run(4, tuple(WORLDS), ())


@pytest.mark.parametrize("world", QUICK)
def test_loss_and_gradient_equal_one_process(quick, world):
    assert_equal_one(quick, (world,), WORLDS[world](), [toy_world.batch(samples(CASE))] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("world", LONG)
def test_loss_and_gradient_of_the_others_too(long, world):
    assert_equal_one(long, (world,), WORLDS[world](), [toy_world.batch(samples(CASE))] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("world", CUT)
def test_loss_and_gradient_of_parts_equal_one_pass_of_one(long, world):
    assert_equal_one(long, (world, "parts"), CUT[world](), [toy_world.batch(samples("mixed"))] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_four_processes_equal_one(four, world):
    # four sums round more
    assert_equal_one(four, (world,), WORLDS[world](), [toy_world.batch(samples(CASE))] * 2, 4, 2e-5)


def short_of_a_tower(rank: int, port: int, results) -> None:
    """What the second process says whose loss reaches no weights, and the first."""
    with joined(rank, port):
        pretraining = WORLDS["masked"]()
        parallel = Sharded(Accelerator(cpu=True))
        parallel.place(pretraining)
        weight = torch.ones(3, requires_grad=True)
        with pytest.raises(RunError) as error:
            parallel.check(weight.sum() * (torch.ones(3, 1, requires_grad=True).sum() if rank else 1))
        results[rank] = str(error.value)


def test_losses_that_reach_different_weights_end_all_with_one_sentence():
    found = processes(short_of_a_tower, free_ports(1)[0])
    assert found[0] == found[1] and "reach different weights (from 1 to 2 tensors)" in found[0]
