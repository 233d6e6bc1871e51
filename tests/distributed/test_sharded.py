"""Sharded processes (`train.parallel: fsdp2`) equal one: loss and gradient of every objective, as with DDP."""

from __future__ import annotations

import pytest
import torch.distributed as dist
from accelerate import Accelerator
from toys import processes
from toys import world as toy_world
from toys.processes import joined
from toys.steps import CUT, PARTS, ROWS, WORLDS, assert_equal_one, in_parts, one_pass, samples, two_steps

from mmssl.draws import Draws
from mmssl.objectives.pretraining import Pretraining
from mmssl.training.parallel import Sharded, in_full

CASE = "one rank lacks a modality"


def sharded_steps(pretraining: Pretraining, batch, draws, step=one_pass) -> list:
    parallel = Sharded(Accelerator(cpu=True))
    parallel.place(pretraining)
    module = parallel.prepare(pretraining)
    found = []
    for losses, grads in two_steps(module, pretraining, batch, draws, step, parallel.exchange):
        dist.all_reduce(losses)
        found.append(((losses / 2).numpy(), {n: in_full(g).numpy() for n, g in grads.items()}))
    return found


def worker(rank: int, port: int, results) -> None:
    with joined(rank, port):
        draws = Draws(9, ROWS, rank * ROWS, 2 * ROWS)
        for world in WORLDS:
            mine = toy_world.batch({n: v[rank * ROWS : (rank + 1) * ROWS] for n, v in samples(CASE).items()})
            results[rank, world, CASE] = sharded_steps(WORLDS[world](), mine, draws)
        for world in CUT:
            starts = range(rank * ROWS, (rank + 1) * ROWS, ROWS // PARTS)
            raw = samples("mixed")
            mine = [toy_world.batch({n: v[i : i + ROWS // PARTS] for n, v in raw.items()}) for i in starts]
            results[rank, world, "parts"] = sharded_steps(CUT[world](), mine, draws, in_parts)


@pytest.fixture(scope="module")
def two_shards() -> dict[tuple[int, str, str], list]:
    return processes.two_processes(worker)


@pytest.mark.parametrize("world", WORLDS)
def test_loss_and_gradient_equal_one_process(two_shards, world):
    assert_equal_one(two_shards, world, CASE, WORLDS[world](), toy_world.batch(samples(CASE)))


@pytest.mark.parametrize("world", CUT)
def test_loss_and_gradient_of_parts_equal_one_pass_of_one(two_shards, world):
    assert_equal_one(two_shards, world, "parts", CUT[world](), toy_world.batch(samples("mixed")))
