"""Accelerate's trackers: which a run has, and what they do when something fails."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.tracking import filter_trackers, get_available_trackers
from accelerate.utils import LoggerType, is_tensorboard_available

from ..errors import RunError, UserError, nearest, one_line
from ..models.privacy import public, veiled
from ..options.describing import in_line
from ..options.schema import to_dict
from ..recipe.config import LoopConfig
from ..reporting.settings import leaves
from .metrics import Row

logger = logging.getLogger("mmssl")
L = TypeVar("L", bound=LoopConfig)


def choose_trackers(train: L) -> L:
    """`train` with the trackers that a run will have: those asked for, else TensorBoard where it is installed.

    A copy, so that `config.yaml` says what was used and the caller's options stay as they are.

    Raises:
        UserError: one is not known or not installed.
    """
    if train.trackers is not None:
        check_trackers(train.trackers)
        return train
    if is_tensorboard_available():
        return replace(train, trackers=["tensorboard"])
    logger.warning(
        "no curves in TensorBoard, which is not installed (pip install 'mmssl[tensorboard]'); metrics.jsonl has the "
        "numbers, and train.trackers=[] leaves out this line"
    )
    return replace(train, trackers=[])


def check_trackers(asked: Sequence[str]) -> None:
    """UserError for those that Accelerate does not know, or that are not installed."""
    known = [str(kind.value) for kind in LoggerType if kind != LoggerType.ALL]
    for name in asked:
        if name not in known:
            raise UserError(f"train.trackers: found {name}, expected some of {', '.join(known)}{nearest(name, known)}")
    there = {str(kind.value) for kind in get_available_trackers()}
    lacking = sorted(set(asked) - there)
    if lacking:
        names = " ".join(f"'mmssl[{name}]'" if name == "tensorboard" else name for name in lacking)
        raise UserError(f"train.trackers: {', '.join(lacking)} is not installed: pip install {names}, or leave it out")


def start_trackers(accelerator: Accelerator, trackers: Sequence[str] | None, name: str, folder: Path) -> None:
    """Start TensorBoard and others: a project of the run's name, in it a run of its folder's.

    TensorBoard and Weights & Biases write below the folder; trackio and MLflow where they always do, which their own
    commands and variables know.

    Args:
        accelerator: logs to them.
        trackers: their names in Accelerate, which `check_trackers` knows.
        name: of the run.
        folder: of the run.

    Raises:
        UserError: one cannot be started: it wants to be logged in to, say.
        RunError: the folder cannot be written.
    """
    if not trackers:
        return
    place = folder / "tensorboard"
    own = {
        "wandb": {"name": folder.name, "dir": str(folder)},
        "trackio": {"name": folder.name},
        "mlflow": {"run_name": folder.name},
    }
    try:
        accelerator.log_with = filter_trackers(list(trackers), place)
        accelerator.project_configuration.set_directories(str(folder))
        accelerator.project_configuration.logging_dir = str(place)
        accelerator.init_trackers(name or "run", init_kwargs=own)
    except OSError as error:
        raise RunError(f"{place} could not be written: {one_line(error)}") from error
    except Exception as error:  # each has errors of its own, for a key that is lacking or a server that is away
        raise UserError(
            f"train.trackers: {', '.join(trackers)} could not be started ({type(error).__name__}: {one_line(error)}); "
            "log in or work offline as its maker says, or leave it out"
        ) from error


def track_settings(accelerator: Accelerator, options: object) -> None:
    """Give the options of a run, in dotted keys, to the trackers that list them beside each other: not to TensorBoard,
    of which Accelerate makes a run of its own for them. Without passwords and what lies above the folders of data."""
    told = leaves(public(veiled(to_dict(options))))
    settings = {key: v if isinstance(v, (bool, int, float)) else in_line(v) for key, v in told if v is not None}

    def give() -> None:
        for tracker in accelerator.trackers:
            if tracker.name != "tensorboard":
                tracker.store_init_configuration(settings)

    _taken("the trackers took no settings", give)


def track_pictures(accelerator: Accelerator, pictures: Mapping[str, Any], texts: Mapping[str, str], step: int) -> bool:
    """Give pictures (H, W, 3) and Markdown to those trackers that show them: TensorBoard, trackio, Weights & Biases.
    False where they failed, which is said."""

    def give() -> None:
        for tracker in accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log(dict(texts), step=step)
                tracker.log_images({k: v[None] for k, v in pictures.items()}, step=step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({name: [pixels] for name, pixels in pictures.items()}, step=step)
            elif tracker.name == "trackio":
                trackio: Any = importlib.import_module("trackio")
                images = {name: trackio.Image(pixels) for name, pixels in pictures.items()}
                tracker.log({**images, **{name: trackio.Markdown(text) for name, text in texts.items()}}, step=step)

    return _taken("the trackers took no pictures", give)


def track(accelerator: Accelerator, row: Row) -> bool:
    """Give a line to the trackers; False where they failed, which is said."""
    kept = {k: v for k, v in row.items() if v is not None and k not in ("step", "wall_time", "seconds_left")}
    return _taken("the trackers failed", lambda: accelerator.log(kept, step=row["step"]))


def end_training(accelerator: Accelerator) -> None:
    """Close the trackers and the process group: what is left is the first process's work, nobody waits for it."""
    for tracker in accelerator.trackers:
        _taken(f"the tracker {tracker.name} could not be closed", tracker.finish)
    accelerator.trackers = []
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _taken(failure: str, give: Callable[[], object]) -> bool:
    """Whether trackers took what they are given; where not, the failure is said. They are somebody else's code: a
    server that is away, say, must not end a run."""
    try:
        give()
    except Exception as error:
        logger.warning("%s (%s); the run goes on without", failure, one_line(error))
        return False
    return True
