"""A training loop that has not run, for tests of its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmssl.data.loading import training_batches
from mmssl.data.quarantine import Quarantine
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_pretraining, fitted_processor, open_training_data
from mmssl.training.engine import make_accelerator
from mmssl.training.loop import Loop
from mmssl.training.parallel import Parallel


def loop_of(folder: Path, content: dict[str, Any]) -> tuple[Loop, Any]:
    """A loop that has not run, and its micro-batches."""
    recipe = load_recipe(content)
    opened = open_training_data(recipe)
    source, columns = opened.source, opened.columns
    accelerator = make_accelerator(recipe.train)  # without what an earlier run in this process has left
    processor = fitted_processor(recipe.modalities, source, columns, folder, accelerator, samples=2000)
    assert recipe.train.steps is not None
    pretraining = build_pretraining(recipe, processor)
    loop = Loop(Parallel(accelerator), pretraining, recipe.train, recipe.train.steps, folder, 0, Quarantine(None))
    batches = training_batches(
        source,
        processor.preprocessors,
        columns,
        seed=0,
        batch_size=recipe.train.batch_size,
        accumulation=recipe.train.accumulation,
    )
    return loop, batches
