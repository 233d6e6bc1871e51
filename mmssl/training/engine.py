"""What a run stands on: its folder, Accelerate's processes, and the trackers."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
    parse_flag_from_env,
    patch_environment,
)

from ..data.fingerprint import differences
from ..data.origins import folder_of
from ..data.workers import asked_for_cpu
from ..errors import RunError, UserError, one_line
from ..files import whole_file
from ..models.privacy import veiled
from ..options import not_resumable
from ..options.schema import to_dict, yaml_name
from ..recipe.config import DataConfig, LoopConfig, Recipe, TrainConfig
from ..recipe.loading import load_recipe
from ..recipe.train import EIGHT_BIT
from .device import settle_precision, this_device, warn_of_precision
from .lock import RunLock
from .optimizer import check_optimizer
from .parallel import Parallel, Sharded

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel

logger = logging.getLogger("mmssl")
T = TypeVar("T")


HELD = ("metrics.jsonl", "checkpoints", "model", "cells", "tune.json")
"""By these a folder is known to hold a run."""


def goes_on(name: str, output: str | Path | None, resume: bool | str) -> bool:
    """Whether a run is gone on with; "last" or true: yes; "auto": where there is one.

    Several processes ask the first one: it makes the folder of a new run.
    """
    if resume not in (True, False, "last", "auto"):
        raise UserError(f"--resume: found '{resume}', expected nothing behind it, or auto")
    if resume != "auto":
        return bool(resume)
    folder = Path(output) if output is not None else Path("runs") / (name or "run")
    return any((folder / held).exists() for held in HELD)


def run_folder(name: str, output: str | Path | None, resume: bool) -> Path:
    """The folder of a run. One that holds a run already is only written to with `resume`, or gets a number."""
    if output is not None:
        folder = Path(output)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--output {folder}: this is a file, expected a folder")
        if not resume and any((folder / name).exists() for name in HELD):
            raise UserError(f"--output {folder}: holds a run already; add --resume to go on with it, or name another")
        if resume and not folder.is_dir():
            raise UserError(f"--resume: there is no run in {folder}")
        return folder
    base = Path("runs") / (name or "run")
    number, folder, last = 1, base, None
    while folder.exists():
        last, number = folder, number + 1
        folder = base.with_name(f"{base.name}-{number}")
    if resume:
        if last is None:
            raise UserError(f"--resume: there is no run in {base}; name its folder with --output")
        return last
    return folder


def not_of_data(folder: Path, *data: object) -> Path:
    """`folder`; UserError where data that are read lie in it, among which a run's files would lie."""
    for path in data:
        place = folder_of(path)
        if place is not None and folder.is_dir() and folder.samefile(place):
            raise UserError(f"--output {folder}: this is the folder of the data '{path}', expected another one")
    return folder


def prepare_folder(name: str, output: str | Path | None, resume: bool, lock: RunLock, data: Iterable[object]) -> Path:
    """The folder of the run of this name, made and locked. data: what is read, which is not to lie in it."""
    folder = run_folder(name, output, resume)
    if not resume:
        not_of_data(folder, *data)
    fresh = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be made ({error.strerror})") from None
    lock.acquire(folder)
    lock.made = folder if fresh else None
    return folder


def warn_of_changes(recipe: Recipe, folder: Path, resume: bool) -> None:
    """Say in which options a resumed run is another than that which was started."""
    kept = folder / "config.yaml"
    if resume and kept.is_file():
        before, now = (veiled(to_dict(r)) for r in (load_recipe(kept, own=False), recipe))
        # those that nobody named were chosen by looking, and will be again
        now["data"]["columns"] = {**before["data"]["columns"], **now["data"]["columns"]}
        changed = changes(DataConfig, before["data"], now["data"], "data.")
        changed += changes(TrainConfig, before["train"], now["train"], "train.")
        whole = ("seed", "modalities", "model", "views", "masks", "objectives")
        warn_of(changed + [name for name in whole if before[name] != now[name]])


def check_rows(folder: Path, now: dict[str, Any], resume: bool) -> None:
    """Note which rows a run learns from, in `rows.json`; where it is gone on with, compare.

    now: what `mmssl.data.fingerprint.glance` says of them.

    Raises:
        UserError: they are not those that it was started with; names some.
        RunError: the note cannot be written.
    """
    kept = folder / "rows.json"
    if resume and kept.is_file():
        try:
            before = json.loads(kept.read_text())
            found = differences(before, now) if isinstance(before, dict) else "the note of it is damaged"
        except (OSError, ValueError) as error:
            found = f"the note of it cannot be read: {one_line(error)}"
        if found:
            raise UserError(
                f"--resume: the data changed since the run was started ({found}; see {kept}); go on with the rows that "
                f"it was started with, start anew with another --output, or delete that note to go on all the same"
            )
        return
    try:
        with whole_file(kept) as partial:
            partial.write_text(json.dumps(now))
    except OSError as error:
        raise RunError(f"{kept} could not be written: {one_line(error)}") from error


def check_state(place: Path, state: Mapping[str, object], resume: bool, of: str, parts: str) -> None:
    """Keep what has to be the same for the parts of something to be alike, or look whether it is still.

    Args:
        place: the file of it.
        state: JSON values by what they are called.
        resume: what is kept is gone on with, so that `state` has to be it.
        of: what it was that was started: "study".
        parts: which of it would not be alike: "trials".

    Raises:
        UserError: something changed, or the file cannot be read; RunError: it cannot be written.
    """
    if resume and place.is_file():
        try:
            before = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"--resume: {place} cannot be read ({one_line(error)})") from None
        changed = [name for name in state if before.get(name) != state[name]]
        if changed:
            raise UserError(
                f"--resume: {', '.join(changed)} changed since the {of} was started, whose {parts} would not be "
                "alike; name another --output"
            )
        return
    try:
        with whole_file(place) as partial:
            partial.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{place} could not be written: {one_line(error)}") from error


def changes(cls: type, before: Mapping[str, object], now: Mapping[str, object], prefix: str = "") -> list[str]:
    """Options that make a resumed run another one than that which was started.

    Args:
        cls: declares the options, and which of them may change.
        before: their values then, as plain data.
        now: their values now.
        prefix: of the names.
    """
    # another batch size is refused when the checkpoint is read; without one the run starts anew
    names = [name for name in map(yaml_name, not_resumable(cls)) if name != "batch_size"]
    return [prefix + name for name in names if before.get(name) != now[name]]


def warn_of(changed: Sequence[str]) -> None:
    """Say which options changed, if any."""
    if changed:
        logger.warning("--resume: %s changed since the run was started", ", ".join(changed))


def on_first(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """What `work` returns on the first process, on every process; so too its UserError or RunError."""
    outcome: list[T | UserError | RunError | None] = [None]
    if accelerator.is_main_process:
        try:
            outcome = [work()]
        except (UserError, RunError) as error:
            outcome = [error]
    # an error is broadcast like a result: the others would wait for it for ever
    broadcast_object_list(outcome)
    result = outcome[0]
    if isinstance(result, UserError | RunError):
        raise result
    return cast(T, result)


def way_of(train: LoopConfig) -> str:
    """ddp or fsdp2: what the options say, else the launcher. UserError for what neither can be done with."""
    launched = parse_flag_from_env("ACCELERATE_USE_FSDP")  # accelerate launch --use_fsdp, or its file
    if not isinstance(train, TrainConfig):
        if launched:
            raise UserError("the launcher asks for FSDP, which only pretraining knows; launch without --use_fsdp")
        return "ddp"
    way = train.parallel or ("fsdp2" if launched else "ddp")
    if launched and way == "ddp":
        raise UserError("train.parallel: found ddp, but the launcher asks for FSDP; leave out one of the two")
    if way == "fsdp2":
        _refuse_with_shards(train)
    return way


def _refuse_with_shards(train: TrainConfig) -> None:
    """UserError for options, and settings of the launcher, that shards of every tensor do not go with."""
    where = "train.parallel: found fsdp2, but"
    if train.compile is True:
        raise UserError(f"{where} train.compile is true, which is not known to work with it; expected one of the two")
    if train.micro_batch == "auto":
        raise UserError(
            f"{where} train.micro_batch is auto, which each process tries by itself, and none can work alone with "
            "shares; expected a number"
        )
    if train.mixed_precision == "fp16":
        raise UserError(f"{where} train.mixed_precision is fp16, whose scaler sees one process's share; expected bf16")
    if train.optimizer == EIGHT_BIT:
        raise UserError(f"{where} train.optimizer is {EIGHT_BIT}, which knows no shares of tensors; expected adamw")
    if os.environ.get("FSDP_VERSION", "2") != "2":
        raise UserError(f"{where} the launcher asks for version {os.environ['FSDP_VERSION']}; expected fsdp_version: 2")
    for name, key, instead in (
        ("FSDP_OFFLOAD_PARAMS", "fsdp_offload_params", "more processes, or train.gradient_checkpointing=true"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "fsdp_activation_checkpointing", "train.gradient_checkpointing=true"),
    ):
        if parse_flag_from_env(name):
            raise UserError(f"{where} the launcher sets {key}, which is not read; expected {instead}")


def make_parallel(train: LoopConfig) -> Parallel:
    """Accelerate's engine, and how its processes train. UserError for options that cannot be had."""
    way = way_of(train)
    accelerator = make_accelerator(train)
    # a process alone has nobody to share with
    return Sharded(accelerator) if way == "fsdp2" and accelerator.num_processes > 1 else Parallel(accelerator)


def make_accelerator(train: LoopConfig) -> Accelerator:
    """Accelerate's engine, whose `mixed_precision` is the run's. UserError where the asked one is not to be had."""
    device = this_device()
    train = settle_precision(train, device)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    alone = f"{launched} processes were launched, but each would train alone; on CPUs set ACCELERATE_USE_CPU=true"
    # ahead of what connects them: one that is refused in the middle of that leaves the others with a broken connection
    if launched > 1 and device.kind == "cpu" and not (asked_for_cpu() or torch.accelerator.is_available()):
        raise UserError(alone)
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run in this process, a notebook say
    try:
        with patch_environment(accelerate_use_fsdp="false"):  # see `mmssl.training.parallel`
            accelerator = Accelerator(
                mixed_precision=train.mixed_precision,
                gradient_accumulation_steps=1,  # the loop accumulates itself, its micro-batches are parts of one batch
                kwargs_handlers=[
                    # what no objective reaches gets no gradient; after the first step it is known (`Parallel.settled`)
                    DistributedDataParallelKwargs(find_unused_parameters=True),
                    # the others wait while the first one evaluates
                    InitProcessGroupKwargs(timeout=timedelta(hours=2)),
                ],
            )
    except (ValueError, ImportError) as error:
        raise UserError(f"train.mixed_precision: found {train.mixed_precision}; {one_line(error)}") from error
    if train.mixed_precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would train in float32
        raise UserError("train.mixed_precision: found fp16, which needs a GPU; on a CPU use bf16 or no")
    if accelerator.num_processes != launched:
        raise UserError(alone)
    check_optimizer(train.optimizer, accelerator.device)
    if accelerator.is_main_process:
        warn_of_precision(train, device)
    else:
        logger.setLevel(logging.ERROR)  # every warning once
    return accelerator


def check_batch_norms(model: MMSSLModel, accumulation: int, world: int) -> None:
    """UserError where a tower has batch norms and would not see a batch whole; said where a process sees its own."""
    mixing = [name for name in model.towers if model.tower(name).mixes_rows]
    if mixing and accumulation > 1:
        raise UserError(
            f"train.accumulation: found {accumulation}, but tower '{mixing[0]}' has batch norms, which see a batch "
            "whole; expected 1"
        )
    if mixing and world > 1:
        logger.warning("tower '%s' has batch norms: each process counts its own rows in them", mixing[0])
