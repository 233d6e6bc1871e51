"""Two gloo processes of one machine, for tests that compare them with one."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOADED = ["torch", "transformers", "mmssl.models.modeling_mmssl", "mmssl.training.pretrain"]
"""Imported once by the server that all processes of these tests are forked from: seconds each otherwise. It computes
nothing, so no thread is lost in a fork, and no test's own state is inherited, as it would be from this process."""


def two_processes(worker: Callable[..., None]) -> dict[Any, Any]:
    """What `worker(rank, port, results)`, run in each of two processes, puts into `results`."""
    return processes(worker, free_ports(1)[0])


def processes(worker: Callable[..., None], *given: Any) -> dict[Any, Any]:
    """The same of `worker(rank, *given, results)`."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with context.Manager() as manager:
        results = manager.dict()
        mp.start_processes(worker, (*given, results), nprocs=2, start_method="forkserver")
        return dict(results)


def free_ports(count: int) -> list[int]:
    """So many different ports of this machine that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


@contextmanager
def joined(rank: int, port: int) -> Iterator[None]:
    """One thread, in the group of the two; left when both are done."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    yield
    dist.barrier()
    dist.destroy_process_group()
