"""Every optimiser on shares of tensors (`train.parallel: fsdp2`): its steps, and its state in a checkpoint, are those
of one process that has everything."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import patch_environment
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from toys import world as toy_world
from toys.processes import free_ports, joined, processes

from mmssl.distributed import in_full
from mmssl.objectives import contrastive
from mmssl.objectives.pretraining import Pretraining
from mmssl.recipe.config import OPTIMIZERS, LoopConfig
from mmssl.recipe.train import EIGHT_BIT
from mmssl.training import checkpoints, writing
from mmssl.training.optimizer import hidden_matrices, optimizer_of, optimizer_tensors
from mmssl.training.parallel import Sharded

pytestmark = pytest.mark.slow
BESIDE = "beside"
NAMES = [name for name in OPTIMIZERS if name != EIGHT_BIT]  # which knows no shares
STATE = {"seconds": 0, "looked": 0, "course": {}, "batch_size": 1}


def walk(module: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    """Some steps by gradients that are functions of the step and the name."""
    for number in range(first, last):
        draw = torch.Generator().manual_seed(number)
        for _, p in module.named_parameters():
            whole = torch.randn(p.shape, generator=draw)
            if p.requires_grad:
                p.grad = distribute_tensor(whole, p.device_mesh, p.placements) if isinstance(p, DTensor) else whole
        optimizer.step()
        optimizer.zero_grad()


def settings(name: str) -> LoopConfig:
    """With a rate at which a wrong length of a step shows; those of LARS are a thousandth."""
    return LoopConfig(optimizer=name, lr=10.0 if name == "lars" else 0.01, weight_decay=0.01)


def world() -> Pretraining:
    """A tower that is trained, one that is frozen, and numbers without an axis."""
    net = toy_world.model()
    net.requires_grad_(False)
    net.tower("table").requires_grad_(True)
    config = contrastive.Config(towers=["table", "signal"], loss="sigmoid")
    return Pretraining(net, {"siglip": contrastive.Contrastive(config, net)})


def worker(rank: int, port: int, names: Sequence[str], folder: str, results) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined(rank, port), patch_environment(rank=rank, local_rank=rank, world_size=2, **place):
        accelerator = Accelerator(cpu=True)
        assert accelerator.num_processes == 2
        for name in names:
            pretraining = world()
            parallel = Sharded(accelerator)
            parallel.place(pretraining)
            optimizer = optimizer_of(pretraining, settings(name))
            walk(pretraining, optimizer, 0, 2)
            path = Path(folder) / name
            content = writing.Content.of(pretraining, optimizer, STATE, {"of_an_observer": {"x": torch.ones(2)}})
            writing.save_together(path, 2, content, 1, parallel.hosts)
            beside, group = writing.Beside(), parallel.talk()
            beside.begin(content, partial(writing.save_together, path / BESIDE, 2, keep=1, group=group))
            walk(pretraining, optimizer, 2, 3)
            assert beside.wait() is None
            checkpoints.load(path / "step-00000002", pretraining, optimizer)
            walk(pretraining, optimizer, 2, 3)
            results[rank, name] = {key: in_full(value).numpy() for key, value in tensors(pretraining, optimizer)}


def tensors(pretraining: Pretraining, optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.Tensor]]:
    found = [*pretraining.named_parameters(), *optimizer_tensors(pretraining, optimizer)]
    return [(key, value.detach()) for key, value in found]


def of_two(names: Sequence[str]) -> Iterator[tuple[dict, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        yield processes(worker, free_ports(1)[0], names, folder), Path(folder)


@pytest.fixture(scope="module")
def found():
    yield from of_two(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_beside_the_steps_is_what_is_written_at_once(found, name):
    folder = found[1] / name
    files = [p.relative_to(folder) for p in sorted((folder / "step-00000002").rglob("*")) if p.is_file()]
    assert len(files) == 4  # of two processes, of the observer, and what says that all are there
    assert all((folder / BESIDE / file).is_file() for file in files)
    beside = checkpoints.latest(folder / BESIDE)
    assert beside is not None
    # a file of a share may have them in another order
    assert checkpoints.digests(beside) == checkpoints.digests(folder / "step-00000002")


def check(found: tuple[dict, Path], name: str) -> None:
    """Three steps of one process, and its third behind the two of the others' checkpoint, are theirs."""
    start = dict(world().named_parameters())
    for path in (None, found[1] / name / "step-00000002"):
        pretraining = world()
        optimizer = optimizer_of(pretraining, settings(name))
        if path is not None:
            checkpoints.load(path, pretraining, optimizer)
        walk(pretraining, optimizer, 0 if path is None else 2, 3)
        expected = dict(tensors(pretraining, optimizer))
        orthogonal = {n for n, p in pretraining.named_parameters() if p in hidden_matrices(pretraining)}
        for rank in (0, 1):
            mine = {key: torch.from_numpy(value) for key, value in found[0][rank, name].items()}
            assert mine.keys() == expected.keys()
            for key, value in expected.items():
                if name == "muon" and key in orthogonal:  # in bfloat16, whose sums of shares round elsewhere
                    off, moved = (mine[key] - value).abs().mean(), (value - start[key].detach()).abs().mean()
                    assert off < 0.05 * moved, key
                else:
                    torch.testing.assert_close(mine[key], value, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_steps_and_checkpoints_of_shares_are_those_of_one_process(found, name):
    check(found, name)
