"""Two processes equal one: loss and gradient of every objective on the concatenated batch, to 1e-5."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from toys import world as toy_world

from mmssl.draws import Draws

ROWS = 4


def samples(case: str) -> dict[str, list]:
    raw = toy_world.raw(2 * ROWS, seed=3)
    if case == "one rank lacks a modality":
        raw["signal"] = [None] * ROWS + toy_world.raw(ROWS, seed=4, absent=0.0)["signal"]
        raw["table"] = toy_world.raw(ROWS, seed=5, absent=0.0)["table"] + [None] * ROWS
    return raw



def gradients(module) -> dict[str, torch.Tensor]:
    return {n.removeprefix("module."): p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def worker(rank: int, port: int, joint: bool, case: str, results) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    module = DistributedDataParallel(toy_world.pretraining(joint), find_unused_parameters=True)
    mine = {n: v[rank * ROWS : (rank + 1) * ROWS] for n, v in samples(case).items()}
    loss = module(toy_world.batch(mine), Draws(9, ROWS, rank * ROWS, 2 * ROWS))
    loss.total.backward()
    total = loss.total.detach()
    dist.all_reduce(total)
    results[rank] = (total.item() / 2, {n: g.numpy() for n, g in gradients(module).items()})
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("case", ["mixed", "one rank lacks a modality"])
def test_loss_and_gradient_equal_one_process(joint, case):
    single = toy_world.pretraining(joint)
    loss = single(toy_world.batch(samples(case)), Draws(9, 2 * ROWS))
    loss.total.backward()
    expected = gradients(single)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(worker, (port, joint, case, results), nprocs=2)
        out = dict(results)
    for total, found in out.values():
        assert abs(total - loss.total.item()) < 1e-5
        assert set(found) >= set(expected)
        for name, gradient in expected.items():
            torch.testing.assert_close(torch.from_numpy(found[name]), gradient, rtol=0, atol=1e-5, msg=name)
