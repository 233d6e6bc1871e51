"""Variants on several processes, each replaced when it dies or does not answer."""

from __future__ import annotations

import multiprocessing
import os
import queue
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .running import Outcome, quiet, try_variant
from .targets import targets

PATIENCE, START = 120.0, 900.0
"""Seconds without an answer after which a process is ended, and those that it has to start in."""


def work(tasks: Any, answers: Any, folder: str) -> None:
    """Variants by the chunk, until there are none."""
    os.environ["HF_DATASETS_CACHE"] = f"{folder}/cache"
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.stderr = open(os.devnull, "w")
    import torch

    torch.set_num_threads(1)
    quiet()
    targets()  # made here: on a busy machine this takes as long as many variants
    answers.put(("ready",))
    while (task := tasks.get()) is not None:
        format, first, count = task
        for seed in range(first, first + count):
            answers.put(("begin", format, seed, first + count, os.getpid()))
            answers.put(("end", try_variant(format, seed, Path(folder) / "variant")))
        shutil.rmtree(f"{folder}/cache", ignore_errors=True)
        answers.put(("chunk", format, first))


class Worker:
    """A process with its own queues, and what it is at."""

    def __init__(self, scratch: Path, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.tasks, self.answers = context.Queue(), context.Queue()
        folder = scratch / f"worker-{number}-{time.monotonic_ns()}"
        folder.mkdir(parents=True)
        self.process = context.Process(target=work, args=(self.tasks, self.answers, str(folder)), daemon=True)
        self.process.start()
        self.task: Any = None
        self.patience = START
        self.at: tuple[str, int, int] | None = None
        self.heard, self.idle = time.monotonic(), True

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def run(
    chunks: list[Any], scratch: Path, processes: int, report: Callable[[dict[str, Any]], None]
) -> tuple[dict[str, Any], list[Any]]:
    """(format -> counts, faults) of all variants; `report` gets the counts so far."""
    counts: dict[str, Any] = defaultdict(lambda: {"read": 0, "refused": 0, "fault": 0, "slowest": 0.0})
    faults: list[Any] = []
    waiting = list(reversed(chunks))
    workers = [Worker(scratch, number) for number in range(processes)]

    def note(outcome: Any) -> None:
        counts[outcome.format][outcome.kind] += 1
        counts[outcome.format]["slowest"] = max(counts[outcome.format]["slowest"], outcome.seconds)
        if outcome.kind == "fault":
            faults.append(outcome)

    while waiting or any(not worker.idle for worker in workers):
        for number, worker in enumerate(workers):
            if worker.idle and waiting:
                worker.task = waiting.pop()
                worker.tasks.put(worker.task)
                worker.idle, worker.heard = False, time.monotonic()
            try:
                while True:
                    kind, *rest = worker.answers.get(timeout=0.02)
                    worker.heard = time.monotonic()
                    worker.patience = PATIENCE
                    if kind == "begin":
                        worker.at = (rest[0], rest[1], rest[2])
                    elif kind == "end":
                        note(rest[0])
                        worker.at = None
                    elif kind == "chunk":
                        worker.idle = True
                        report(counts)
            except queue.Empty:
                pass
            lost = not worker.idle and time.monotonic() - worker.heard > worker.patience
            if not worker.idle and (lost or not worker.process.is_alive()):
                worker.end()
                if worker.at is None:  # it had not begun
                    waiting.append(worker.task)
                else:
                    format, seed, end = worker.at
                    note(Outcome(format, seed, "fault", "no answer" if lost else f"died ({worker.process.exitcode})"))
                    if seed + 1 < end:
                        waiting.append((format, seed + 1, end - seed - 1))
                workers[number] = Worker(scratch, number)
    for worker in workers:
        worker.end()
    return counts, faults
