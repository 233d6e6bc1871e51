"""Checkpoints written by one process or by several together, at once or beside the training.

Beside it (`train.save_async`): what a checkpoint holds is copied to the processor's memory, by torch's own stager, and
a thread writes the copy while the training goes on. What is written, and in which order, is the same as at once.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from ..errors import RunError
from . import shards
from .checkpoints import OPTIMIZER, WEIGHTS, State, begin, commit, facts, failed, sweep
from .optimizer import optimizer_tensors

T = TypeVar("T")


@dataclass(frozen=True)
class Content:
    """What a checkpoint holds.

    Attributes:
        weights: name -> tensor, or this process's share of it.
        moments: the optimiser's state, likewise.
        more: name -> tensors that go into `<name>.safetensors`, where there are any.
        state: what goes into `state.json`; there `healthy` is true, false, or null where nobody looked.
    """

    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    more: Mapping[str, Mapping[str, Tensor]]
    state: State

    @classmethod
    def of(
        cls, module: nn.Module, optimizer: torch.optim.Optimizer, state: State, more: Mapping[str, Mapping[str, Tensor]]
    ) -> Content:
        """What these hold now, in their own memory."""
        return cls(module.state_dict(), dict(optimizer_tensors(module, optimizer)), more, state)


def save(folder: Path, step: int, content: Content, keep: int) -> Path:
    """Write `folder/step-<step>` atomically, then delete all but the newest `keep` and the newest that is healthy.

    Later steps are deleted too: a run that goes on from before them could not read them, or it would have.

    Args:
        folder: of all checkpoints of the run.
        step: optimiser steps done.
        content: of the checkpoint.
        keep: how many stay.

    Returns:
        The checkpoint's folder.

    Raises:
        RunError: it cannot be written (a full disk); nothing half-written stays, older checkpoints stay.
    """

    def write() -> Path:
        begin(folder, step)
        whole = {WEIGHTS: content.weights, OPTIMIZER: content.moments}
        return commit(folder, step, {}, content.state, keep, whole | _named(content.more))

    return _or_run_error(folder, step, write)


def save_together(folder: Path, step: int, content: Content, keep: int, group: dist.ProcessGroup | None) -> None:
    """`save` of processes that each hold a share of every tensor: each writes its own, and the first one what says that
    all of it is there. All call it together, and all raise RunError where any of them could not write.

    group: of all processes, over processors; nothing else is said in it meanwhile.
    """
    partial = _on_first(group, lambda: _or_run_error(folder, step, lambda: begin(folder, step)))
    try:
        tensors = {**content.weights, **content.moments}
        written = shards.write(partial / shards.FOLDER, tensors, group)
        mine = {path.relative_to(partial).as_posix(): facts(path) for path in written}
    except OSError as error:
        raise failed(folder, step, error) from error
    found: list[dict[str, State]] = [{}] * dist.get_world_size(group)
    dist.all_gather_object(found, mine, group=group)
    files = {name: about for of in found for name, about in of.items()}
    more = _named(content.more)
    _on_first(
        group, lambda: _or_run_error(folder, step, lambda: commit(folder, step, files, content.state, keep, more))
    )


def _named(more: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Mapping[str, Tensor]]:
    """By their files."""
    return {f"{name}.safetensors": held for name, held in more.items() if held}


def _or_run_error(folder: Path, step: int, work: Callable[[], Path]) -> Path:
    """What `work` returns; RunError where it cannot write, and nothing of it stays."""
    try:
        return work()
    except BaseException as error:
        sweep(folder)
        if isinstance(error, (OSError, SafetensorError)):
            raise failed(folder, step, error) from error
        raise


def _on_first(group: dist.ProcessGroup | None, work: Callable[[], T]) -> T:
    """What `work` returns on the first process of a group, on all of them; so too its RunError."""
    outcome: list[T | RunError | None] = [None]
    if dist.get_rank(group) == 0:
        try:
            outcome = [work()]
        except RunError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome, 0, group=group)
    if isinstance(outcome[0], RunError):
        raise outcome[0]
    return cast(T, outcome[0])


class Beside:
    """Writes one checkpoint at a time on a thread, out of a copy that is kept for the next one."""

    def __init__(self) -> None:
        pinned = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=pinned, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
            )
        )
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self, content: Content, write: Callable[[Content], object]) -> None:
        """Copy, and have the copy written. `wait` comes before the next one."""
        assert self._thread is None
        held = {"weights": dict(content.weights), "moments": dict(content.moments), "more": dict(content.more)}
        staged: Any = self._stager.stage(held)
        copied = replace(content, **staged, state=copy.deepcopy(content.state))

        def work() -> None:
            try:
                write(copied)
            except BaseException as error:  # `wait` raises it, where it is heard
                self._error = error

        # a daemon: a third signal ends the process at once, with the checkpoint before
        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> RunError | None:
        """Wait until nothing is being written; returns why the last one could not be, if so."""
        if self._thread is None:
            return None
        self._thread.join()
        error, self._thread, self._error = self._error, None, None
        if error is None or isinstance(error, RunError):
            return error
        raise error
