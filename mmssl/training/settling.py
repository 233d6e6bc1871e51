"""What a run makes of `auto` and null, as `config.yaml` keeps it."""

from __future__ import annotations

from dataclasses import replace

from ..data.workers import workers_for
from ..recipe.config import DataConfig, Recipe, TrainConfig
from .building import TrainingData
from .device import Device, settle_compile
from .optimizer import settle_optimizer
from .parallel import Parallel


def settled_train(train: TrainConfig, parallel: Parallel, device: Device, trackers: list[str] | None) -> TrainConfig:
    """With what the device, the optimiser and the processes make of `auto` and null."""
    train = settle_compile(settle_optimizer(train), device, parallel.cut)
    return replace(train, trackers=trackers, mixed_precision=parallel.accelerator.mixed_precision)


def settled_data(recipe: Recipe, opened: TrainingData) -> DataConfig:
    """With the columns that were found, and the number of workers."""
    workers = workers_for(recipe.data.workers, [part.type for part in recipe.modalities.values()], beside_a_step=True)
    return replace(recipe.data, columns={**recipe.data.columns, **opened.chosen}, workers=workers)
