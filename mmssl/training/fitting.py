"""What objectives learn from the data before the first step (`Objective.fit`), such as the codebooks of k-means.

The first process fits it, on the first samples in the order of training; it lies in `fitted/` of the run's folder,
where all processes, and a run that is resumed, read it. From then on it is in the checkpoints, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..data.shards import Lengths
from ..draws import Draws, key_of
from ..errors import RunError, UserError, one_line
from ..files import whole_file
from ..models.running import evaluating, to_device
from ..recipe.mixture import FIRST
from ..saying import doing
from .engine import on_first
from .feeding import Feed

if TYPE_CHECKING:
    from ..models.processing_mmssl import MMSSLProcessor
    from ..objectives.pretraining import Pretraining
    from ..objectives.step import Step
    from .preparing import Begun

FOLDER = "fitted"


def fit_objectives(begun: Begun, pretraining: Pretraining, processor: MMSSLProcessor) -> None:
    """Fit every objective that has something to fit, or read what was fitted when the run began.

    Raises:
        UserError: the data do not suffice, or what was fitted is of another recipe.
        RunError: it cannot be written.
    """
    objective: Any  # what a ModuleDict holds is a module to type checkers
    for name, objective in pretraining.objectives.items():
        if not objective.unfitted:
            continue
        file = begun.folder / FOLDER / f"{name}.safetensors"
        with doing(f"fitting what objective '{name}' learns from the data first"):
            on_first(begun.parallel.accelerator, partial(_fit, begun, pretraining, processor, name, file))
        _read(objective.fitted(), file)


def _fit(begun: Begun, pretraining: Pretraining, processor: MMSSLProcessor, name: str, file: Path) -> None:
    if begun.resume and file.is_file():
        return
    objective: Any = pretraining.objectives[name]
    device = begun.parallel.accelerator.device
    pretraining.to(device)
    with evaluating([pretraining]), torch.no_grad():
        steps = partial(_steps, begun, pretraining, processor, objective.unfitted)
        objective.fit(steps, begun.recipe.seed)
    pretraining.to("cpu")
    tensors = {
        f"{part}.{key}": value.contiguous()
        for part, module in objective.fitted().items()
        for key, value in module.state_dict().items()
    }
    try:
        with whole_file(file) as new:
            save_file(tensors, new)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} could not be written: {one_line(error)}") from error


def _steps(
    begun: Begun, pretraining: Pretraining, processor: MMSSLProcessor, samples: int, again: bool = False
) -> Iterator[Step]:
    """The first so many training samples, as any number of processes reads them: each once or, with `again`, as often
    as there are too few."""
    recipe, accelerator = begun.recipe, begun.parallel.accelerator
    if hasattr(begun.rows, "__len__") and not again:
        samples = min(samples, len(begun.rows))
    lengths = {name: Lengths() for name in (FIRST, *recipe.data.mix)}
    train = replace(recipe.train, memory=0.0)
    source, columns = begun.opened.source, begun.opened.columns
    rows = source, columns, processor, accelerator
    batches = Feed(
        replace(recipe, train=train), *rows, {}, lengths, begun.mixture, begun.labels, alone=True, by=begun.by
    )
    done = 0
    for number, loaded in enumerate(batches(0)):
        size = loaded.size
        draws = Draws(key_of(recipe.seed, "fit", number), size, device=accelerator.device)
        yield pretraining.step(to_device(loaded.batch, accelerator.device), draws)
        done += size
        if done >= samples:
            return


def _read(parts: dict[str, torch.nn.Module], file: Path) -> None:
    """Set what was fitted."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} cannot be read: {one_line(error)}") from error
    for part, module in parts.items():
        own = {key[len(part) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{part}.")}
        wanted = module.state_dict()
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in wanted.items()}:
            raise UserError(f"{file} does not fit this recipe; resume with the recipe that the run was started with")
        module.load_state_dict(own)
