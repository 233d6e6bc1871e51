"""Two processes equal one: loss and gradient of every objective on the concatenated batch, to 1e-5, in a first step and
in the one after it, when averaged teachers and centres have moved. In the first step each objective's loss by itself,
too; in the second, one last bit of the parameters changes that of DCLW by up to 1e-5."""

import itertools

import pytest
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from toys import processes
from toys import world as toy_world
from toys.processes import joined
from toys.steps import CASES, CUT, PARTS, ROWS, WORLDS, assert_equal_one, in_parts, samples, two_steps

from mmssl.draws import Draws


def worker(rank: int, port: int, results) -> None:
    with joined(rank, port):
        for world, case in itertools.product(WORLDS, CASES):
            pretraining = WORLDS[world]()
            module = DistributedDataParallel(pretraining, find_unused_parameters=True)
            mine = toy_world.batch({n: v[rank * ROWS : (rank + 1) * ROWS] for n, v in samples(case).items()})
            found = []
            for losses, grads in two_steps(module, pretraining, mine, Draws(9, ROWS, rank * ROWS, 2 * ROWS)):
                dist.all_reduce(losses)
                found.append(((losses / 2).numpy(), {n: g.numpy() for n, g in grads.items()}))
            results[rank, world, case] = found
        for world, make in CUT.items():
            pretraining = make()
            module = DistributedDataParallel(pretraining, find_unused_parameters=True)
            raw = samples("mixed")
            starts = range(rank * ROWS, (rank + 1) * ROWS, ROWS // PARTS)
            mine = [toy_world.batch({n: v[i : i + ROWS // PARTS] for n, v in raw.items()}) for i in starts]
            found = []
            for losses, grads in two_steps(
                module, pretraining, mine, Draws(9, ROWS, rank * ROWS, 2 * ROWS), step=in_parts
            ):
                dist.all_reduce(losses)
                found.append(((losses / 2).numpy(), {n: g.numpy() for n, g in grads.items()}))
            results[rank, world, "parts"] = found


@pytest.fixture(scope="module")
def two_processes() -> dict[tuple[int, str, str], list]:
    """What each of two processes computed of every world and case."""
    return processes.two_processes(worker)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_one_process(two_processes, world, case):
    single = WORLDS[world]()
    assert_equal_one(two_processes, world, case, single, toy_world.batch(samples(case)))


@pytest.mark.parametrize("world", CUT)
def test_loss_and_gradient_of_parts_in_two_processes_equal_one_pass_of_one(two_processes, world):
    assert_equal_one(two_processes, world, "parts", CUT[world](), toy_world.batch(samples("mixed")))
