"""Two gloo processes of one machine, for tests that compare them with one."""

from __future__ import annotations

import pickle
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from toys import forking

WORK = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
worker, given, file = pickle.load(sys.stdin.buffer)
results = {}
from mmssl.hub import picture
picture.draw_training, picture.page_wanted = lambda metrics, picture: False, lambda asked: False
import os
from mmssl.evaluation import linear
os.fsync, linear.STRENGTHS, linear.FEW = lambda file: None, (1e-2, 1.0), 0
worker(*given, results)
with open(file, "wb") as out:
    pickle.dump(results, out)
"""
"""Runs of these processes draw nothing, sync nothing and choose their probes as those of the tests' own process do
(`undrawn`, `unsynced` and `short_probe` in conftest.py)."""
LONGEST = 300.0  # seconds


def two_processes(worker: Callable[..., None]) -> dict[Any, Any]:
    """What `worker(rank, port, results)`, run in each of two processes, puts into `results`."""
    return processes(worker, free_ports(1)[0])


def processes(worker: Callable[..., None], *given: Any, count: int = 2) -> dict[Any, Any]:
    """The same of `worker(rank, *given, results)` in so many."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(rank) for rank in range(count)]
        started = []
        for rank, file in enumerate(files):
            work = pickle.dumps(sys.path) + pickle.dumps((worker, (rank, *given), str(file)))
            started.append(forking.start(["-c", WORK], level="mmssl", stdin=work))
        end = time.monotonic() + LONGEST
        failed: list[int] = []
        while not failed and not all(one.ended() for one in started) and time.monotonic() < end:
            time.sleep(0.05)
            failed = [rank for rank, one in enumerate(started) if one.ended() and not files[rank].exists()]
        for one in started:  # one that waits for another that has failed
            if not one.ended():
                one.kill()
        done = [one.wait() for one in started]
        assert [one.returncode for one in done] == [0] * count, "\n".join(one.stderr for one in done)
        return {key: value for file in files for key, value in pickle.loads(file.read_bytes()).items()}


def free_ports(count: int) -> list[int]:
    """So many different ports of this machine that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


@contextmanager
def joined(rank: int, port: int, count: int = 2) -> Iterator[None]:
    """One thread, in the group of all; left when all are done."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    yield
    dist.barrier()
    dist.destroy_process_group()
