"""Two gloo processes of one machine, for tests that compare them with one."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def two_processes(worker: Callable[..., None]) -> dict[Any, Any]:
    """What `worker(rank, port, results)`, run in each of two processes, puts into `results`."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(worker, (port, results), nprocs=2)
        return dict(results)


@contextmanager
def joined(rank: int, port: int) -> Iterator[None]:
    """One thread, in the group of the two; left when both are done."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    yield
    dist.barrier()
    dist.destroy_process_group()
