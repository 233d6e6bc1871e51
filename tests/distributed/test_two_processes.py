"""Two processes equal one: loss and gradient of every objective on the concatenated batch, to 1e-5, in a first step of
which one process lacks a modality, and in the one after it, when averaged teachers and centres have moved."""

import pytest
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from toys import processes
from toys import world as toy_world
from toys.processes import joined
from toys.steps import CASES, CUT, PARTS, ROWS, WORLDS, assert_equal_one, in_parts, one_pass, samples, two_steps

from mmssl.draws import Draws


def worker(rank: int, port: int, results) -> None:
    def steps(pretraining, batches, step) -> list:
        module, found = DistributedDataParallel(pretraining, find_unused_parameters=True), []
        draws = Draws(9, ROWS, rank * ROWS, 2 * ROWS)
        for losses, grads in two_steps(module, pretraining, batches, draws, step):
            dist.all_reduce(losses)
            found.append(((losses / 2).numpy(), {n: g.numpy() for n, g in grads.items()}))
        return found

    with joined(rank, port):
        mine = [
            toy_world.batch({n: v[rank * ROWS : (rank + 1) * ROWS] for n, v in samples(case).items()}) for case in CASES
        ]
        for world, make in WORLDS.items():
            results[rank, world] = steps(make(), mine, one_pass)
        starts = range(rank * ROWS, (rank + 1) * ROWS, ROWS // PARTS)
        parts = [toy_world.batch({n: v[i : i + ROWS // PARTS] for n, v in samples("mixed").items()}) for i in starts]
        for world, make in CUT.items():
            results[rank, world, "parts"] = steps(make(), [parts] * 2, in_parts)


@pytest.fixture(scope="module")
def two_processes() -> dict[tuple, list]:
    """What each of two processes computed of every world, and of those that are cut into parts."""
    return processes.two_processes(worker)


@pytest.mark.parametrize("world", WORLDS)
def test_loss_and_gradient_equal_one_process(two_processes, world):
    whole = [toy_world.batch(samples(case)) for case in CASES]
    assert_equal_one(two_processes, (world,), WORLDS[world](), whole)


@pytest.mark.parametrize("world", CUT)
def test_loss_and_gradient_of_parts_in_two_processes_equal_one_pass_of_one(two_processes, world):
    whole = [toy_world.batch(samples("mixed"))] * 2
    assert_equal_one(two_processes, (world, "parts"), CUT[world](), whole)
