"""Gradient shares of two processes equal those of one, and DDP's gradients do not notice that they were measured."""

from torch.nn.parallel import DistributedDataParallel
from toys import world as toy_world
from toys.processes import joined, two_processes

from mmssl.draws import Draws

ROWS = 4


def worker(rank: int, port: int, results) -> None:
    with joined(rank, port):
        module = DistributedDataParallel(toy_world.pretraining(), find_unused_parameters=True)
        raw = toy_world.raw(2 * ROWS, seed=3)
        mine = {n: v[rank * ROWS : (rank + 1) * ROWS] for n, v in raw.items()}
        out = {}
        for shares in (False, True):
            module.zero_grad()
            loss = module(toy_world.batch(mine), Draws(9, ROWS, rank * ROWS, 2 * ROWS), shares=shares)
            before = [n for n, p in module.named_parameters() if p.grad is not None]
            loss.total.backward()
            out[shares] = {n: p.grad.numpy().copy() for n, p in module.named_parameters() if p.grad is not None}
        results[rank] = (before, out, {n: v.item() for n, v in loss.shares.items()})


def test_two_processes_measure_what_one_does_and_train_as_if_they_did_not():
    single = toy_world.pretraining()
    expected = single(toy_world.batch(toy_world.raw(2 * ROWS, seed=3)), Draws(9, 2 * ROWS), shares=True).shares
    found = two_processes(worker)
    assert len(expected) > 7
    for before, gradients, shares in found.values():
        assert before == []
        assert gradients[False].keys() == gradients[True].keys()
        for name, gradient in gradients[False].items():
            assert (gradient == gradients[True][name]).all(), name
        assert shares.keys() == expected.keys()
        for name, value in shares.items():
            assert abs(value - expected[name].item()) < 1e-5, name
