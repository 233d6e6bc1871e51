"""Two processes equal one: loss and gradient of every objective on the concatenated batch, to 1e-5, in a first step of
which one process lacks a modality, and in the one after it, when averaged teachers and centres have moved, and what no
step reaches is not looked for any more."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, patch_environment
from toys import processes
from toys import world as toy_world
from toys.processes import joined
from toys.steps import CASES, CUT, PARTS, ROWS, WORLDS, assert_equal_one, in_parts, one_pass, samples, two_steps

from mmssl.draws import Draws
from mmssl.objectives import mae
from mmssl.objectives.base import Loss
from mmssl.objectives.pretraining import Pretraining
from mmssl.training.parallel import Parallel, one_way

SEARCHES = "searches on"


class Trained:
    """As the loop calls it: looked at in each pass of a step, and told behind it."""

    def __init__(self, pretraining: Pretraining) -> None:
        searching = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.parallel = Parallel(Accelerator(cpu=True, kwargs_handlers=[searching]))
        self.module: Any = self.parallel.prepare(pretraining)

    def __call__(self, *given: Any, **more: Any) -> Loss:
        loss: Loss = self.module(*given, **more)
        self.parallel.check(loss.total)
        return loss

    def no_sync(self) -> AbstractContextManager[None]:
        found: AbstractContextManager[None] = self.module.no_sync()
        return found

    def exchange(self, pretraining: Pretraining) -> None:
        self.parallel.clip(pretraining, float("inf"))
        self.module = self.parallel.settled(self.module, pretraining)


def worker(rank: int, port: int, results) -> None:
    def steps(pretraining, batches, step) -> tuple[bool, list]:
        module, found = Trained(pretraining), []
        assert module.module.find_unused_parameters
        draws = Draws(9, ROWS, rank * ROWS, 2 * ROWS)
        for losses, grads in two_steps(module, pretraining, batches, draws, step, module.exchange):
            dist.all_reduce(losses)
            found.append(((losses / 2).numpy(), {n: g.numpy() for n, g in grads.items()}))
        return module.module.find_unused_parameters, found

    # Accelerate would else give each as many threads as there are cores, which then wait for each other
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    with joined(rank, port), patch_environment(rank=rank, local_rank=rank, world_size=2, **place):
        mine = [
            toy_world.batch({n: v[rank * ROWS : (rank + 1) * ROWS] for n, v in samples(case).items()}) for case in CASES
        ]
        for world, make in WORLDS.items():
            results[rank, SEARCHES, world], results[rank, world] = steps(make(), mine, one_pass)
        starts = range(rank * ROWS, (rank + 1) * ROWS, ROWS // PARTS)
        parts = [toy_world.batch({n: v[i : i + ROWS // PARTS] for n, v in samples("mixed").items()}) for i in starts]
        for world, make in CUT.items():
            results[rank, SEARCHES, world, "parts"], results[rank, world, "parts"] = steps(
                make(), [parts] * 2, in_parts
            )


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


def test_behind_the_first_step_nothing_is_looked_for_but_where_passes_reach_different_weights(two_processes):
    """Of parts some objectives are asked one by one, others for all of them in a last pass, which exchanges."""
    mixed = {(w, "parts") for w, make in CUT.items() if len({o.separable for o in make().objectives.values()}) == 2}
    searching = {key[2:] for key, on in two_processes.items() if key[1] == SEARCHES and on}
    assert searching == mixed and len(mixed) < len(CUT)


def test_objectives_of_ones_own_are_looked_at_in_every_step() -> None:
    class Own(mae.MAE):
        """May leave out what a batch lacks."""

    masked = toy_world.masked()
    assert one_way(masked)
    next(o for o in masked.objectives.values() if isinstance(o, mae.MAE)).__class__ = Own
    assert not one_way(masked)
