"""Outputs of frozen towers, computed once: an epoch then costs only what is trained.

A tower's outputs are stored where nothing about them changes: it is frozen, without an adapter; all that objectives ask
of it is its pooled output of the clean view; and its modality reads a row alike each time, or in a known number of ways
(one of five captions). They lie in the run's folder `stored/`, are read by row number, and a resumed run finds them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..data.fingerprint import fingerprint
from ..data.stored import Outputs
from ..data.variants import counted_samples, variant_batches
from ..data.workers import workers_for
from ..errors import RunError, UserError, one_line
from ..models.projection import Standard
from ..models.running import evaluating, to_device
from ..models.saving import weights_hash
from ..saying import Advance, doing, say
from .building import flat
from .engine import on_first

if TYPE_CHECKING:
    from ..data.loading import Source
    from ..models.processing_mmssl import MMSSLProcessor
    from ..objectives.pretraining import Pretraining
    from ..recipe.config import Recipe
    from .building import Columns

FOLDER = "stored"
AT_A_TIME = 64
"""Samples that a tower sees at once."""


def storable(recipe: Recipe, pretraining: Pretraining) -> dict[str, str]:
    """Modality -> tower, of the towers whose outputs do not change in this run, as far as the recipe tells."""
    if recipe.data.streaming or recipe.data.mix or not recipe.train.store_frozen:
        return {}
    found = {}
    for name in pretraining.model.towers:
        tower = pretraining.model.tower(name)
        modalities = list(tower.modalities)
        if not tower.frozen or len(modalities) > 1:
            continue
        looks = [objective.looks(name) for objective in pretraining.objectives.values()]  # type: ignore[operator]
        views = {view for look in looks for view in look or ()}
        clean = all(modalities[0] not in pretraining.views.get(view, {}) for view in views)
        if clean and None not in looks:
            found[modalities[0]] = name
    return found


def store_outputs(
    recipe: Recipe,
    pretraining: Pretraining,
    processor: MMSSLProcessor,
    source: Source,
    columns: Columns,
    accelerator: Accelerator,
    folder: Path,
) -> dict[str, Outputs]:
    """Modality -> what its tower makes of the rows, computed by all processes where it is not there yet.

    RunError where they cannot be written.
    """
    stored: dict[str, Outputs] = {}
    started = {tower for objective in pretraining.objectives.values() for tower in objective.starts}  # type: ignore[union-attr]
    workers = workers_for(recipe.data.workers, [part.type for part in recipe.modalities.values()])
    for name, tower in storable(recipe, pretraining).items():
        counts = counted_samples(source, processor.preprocessors[name], columns[name])
        if counts is None:
            continue
        about = {
            "weights": weights_hash(pretraining.model.tower(tower).state_dict().items()),
            "reads": repr(processor.preprocessors[name].sizes()) + repr(processor.preprocessors[name].config),
            "rows": fingerprint(source, flat([columns[name]])),
            "precision": recipe.train.mixed_precision,
        }
        outputs = Outputs(folder / FOLDER, name)
        if on_first(accelerator, lambda: _kept(outputs) != about):  # noqa: B023
            said = doing(f"storing what tower '{tower}' makes of the samples", int(counts.sum()))
            with evaluating([pretraining]), said as advance:
                facts = about, counts, pretraining, tower, processor, source, columns, accelerator, workers
                _compute(outputs, *facts, advance)
        if accelerator.is_main_process:
            size = outputs.file("pooled.npy").stat().st_size / 2**20
            say(
                f"tower '{tower}' is frozen: what it makes of {int(counts.sum()):,} samples is stored in {FOLDER}/ "
                f"({size:.1f} MiB), train.store_frozen=false computes it anew in every step"
            )
        stored[name] = outputs
        if tower in started:  # its statistics belong to its weights
            continue
        projection: Any = pretraining.model.projections[tower] if tower in pretraining.model.projections else None
        if isinstance(getattr(projection, "norm", None), Standard):
            projection.norm.fit(torch.from_numpy(outputs.rows()))
    if recipe.model.projection_standard:
        model = pretraining.model
        there = {name for name in model.towers if set(stored) & set(model.tower(name).modalities)} | started
        lacking = [name for name in model.towers if name not in there]
        if lacking:
            raise UserError(
                f"model.projection_standard: found true, but outputs of tower '{lacking[0]}' are not stored: expected "
                "towers that are frozen, of views that do not change, and train.store_frozen: true, or start: cca of "
                "the objective that compares them"
            )
    return stored


def _kept(outputs: Outputs) -> object:
    """What the outputs that are there were made of; None where there are none."""
    try:
        return json.loads(outputs.file("about.json").read_text())["of"]
    except (OSError, ValueError, KeyError):
        return None


def _compute(
    outputs: Outputs,
    about: Mapping[str, object],
    counts: np.ndarray[Any, np.dtype[np.int64]],
    pretraining: Pretraining,
    tower: str,
    processor: MMSSLProcessor,
    source: Source,
    columns: Columns,
    accelerator: Accelerator,
    workers: int,
    advance: Advance,
) -> None:
    name, model = outputs.name, pretraining.model
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    net = model.tower(tower)

    def begin() -> None:
        outputs.folder.mkdir(parents=True, exist_ok=True)
        outputs.file("about.json").unlink(missing_ok=True)
        np.save(outputs.file("starts.npy"), starts)
        for what, shape, kind in (
            ("pooled", (starts[-1], net.pooled_width), np.float32),
            ("present", starts[-1:], bool),
        ):
            np.lib.format.open_memmap(outputs.file(f"{what}.npy"), "w+", kind, tuple(map(int, shape))).flush()

    try:
        on_first(accelerator, begin)
        pooled, present = (np.load(outputs.file(f"{what}.npy"), mmap_mode="r+") for what in ("pooled", "present"))
        faults: dict[str, str] = {}
        done = 0
        for at, loaded in variant_batches(
            source,
            processor.preprocessors[name],
            name,
            columns[name],
            starts,
            batch_size=AT_A_TIME,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            workers=workers,
        ):
            batch = to_device(loaded.batch, accelerator.device)
            with torch.no_grad(), accelerator.autocast():
                encoded = net({name: model.modality(name).patchify(batch[name])})
            done += len(at) * accelerator.num_processes
            advance(min(done, int(starts[-1])))
            pooled[at], present[at] = encoded.pooled().float().cpu().numpy(), encoded.present().cpu().numpy()
            reasons = {bad.index: bad.reason for bad in loaded.bad if bad.modality == name}
            faults |= {str(i): reasons[row] for i, row in zip(at, loaded.rows.tolist(), strict=True) if row in reasons}
        pooled.flush()
        present.flush()
        every: list[dict[str, str]] = gather_object([faults]) if accelerator.num_processes > 1 else [faults]
        joined = {key: reason for found in every for key, reason in found.items()}
        text = json.dumps({"of": about, "faults": joined})
        on_first(accelerator, lambda: outputs.file("about.json").write_text(text))
    except OSError as error:
        raise RunError(
            f"what tower '{tower}' makes of the rows cannot be stored in {outputs.folder}: {one_line(error)}; "
            "train.store_frozen=false does without"
        ) from error
