"""What a trial is judged by: label-free scores of its encoder on training rows, or a probe on rows held out of them.

Never on the rows that the run keeps to be measured on: what a recipe was chosen by says nothing more of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..data.loading import evaluation_batches
from ..data.splits import hold_out, strata, without
from ..draws import Draws, key_of
from ..errors import UserError
from ..evaluation.embedding import Embedded, embed_source
from ..evaluation.label_free import alpha_req, lidar
from ..evaluation.linear import fit_probe
from ..evaluation.rank import rankme
from ..evaluation.rows import Labels, Numbers, present_columns, read_labels, subset
from ..evaluation.scoring import scores_of
from ..masking.growing import mask_at
from ..modality.columns import COLUMN
from ..models.running import device_of, evaluating, to_device
from ..objectives.step import CLEAN, Step
from ..recipe.config import Recipe
from ..saying import doing
from ..training.building import Columns, open_training_data

if TYPE_CHECKING:
    from datasets import Dataset

    from ..models.modeling_mmssl import MMSSLModel
    from ..models.processing_mmssl import MMSSLProcessor

BY = ("rankme", "lidar", "alpha-req", "probe")
LOOKS, LOOKED_AT = 10, 500
"""LiDAR's views of a sample, and samples that are viewed (50 and 1,000 in the paper, whose encoders run on GPUs)."""
HELD = 0.25
"""Share of the labelled training rows that a probe is scored on."""

Scores = dict[str, float]
"""Name -> number; of several modalities also `<name>/<modality>`, of which `<name>` is the mean."""


@dataclass(frozen=True)
class Judge:
    """How trials are judged, all alike.

    Attributes:
        samples: training rows, at most.
        seed: which ones, and how views are drawn.
        label: the probe's; None: no probe.
    """

    samples: int = 5000
    seed: int = 0
    label: str | None = None

    def __call__(self, recipe: Recipe, model: MMSSLModel, processor: MMSSLProcessor) -> Scores:
        """The scores of a trained model; a score that does not exist is not there.

        recipe: what it was trained by, with its data.
        """
        opened = open_training_data(recipe)
        rows, _ = subset(opened.source, self.samples, self.seed)
        columns = present_columns(rows, list(processor.preprocessors), opened.columns)[0]
        with doing("embedding rows to judge by"):
            embedded = self._embed(recipe, model, processor, rows, columns)
        found: dict[str, dict[str, float]] = {"rankme": {}, "alpha": {}}
        for name, present in embedded.present.items():
            z = embedded.pooled["model"][name][present]
            if len(z) > 1:
                found["rankme"][name], found["alpha"][name] = rankme(z), alpha_req(z)
        with doing("looking at rows again and again for LiDAR"):
            few, _ = subset(rows, LOOKED_AT, self.seed)
            found["lidar"] = self._lidar(recipe, model, processor, few, columns)
        if self.label is not None:
            found["probe"] = self._probe(recipe, rows, embedded)
        return _flat(found)

    def _embed(
        self, recipe: Recipe, model: MMSSLModel, processor: MMSSLProcessor, rows: Dataset, columns: Columns
    ) -> Embedded:
        size = recipe.evaluation.batch_size
        readers, broken = processor.preprocessors, recipe.data.broken
        return embed_source({"model": model}, readers, rows, columns, batch_size=size, broken=broken)

    def _probe(self, recipe: Recipe, rows: Dataset, embedded: Embedded) -> dict[str, float]:
        """Accuracy (R2 of a label that is an amount) by modality of a linear probe on `HELD` of the rows, by class and
        group."""
        evaluation = recipe.evaluation
        labels, reason = read_labels(rows, rows, self.label, evaluation.group, evaluation.label_task)
        if labels is None:
            raise UserError(f"--by probe: {reason}")
        amounts, out = isinstance(labels, Numbers), {}
        task = "regression" if amounts else "classification"
        for name, present in embedded.present.items():
            there = labels.test.isfinite() if amounts else labels.test >= 0
            use = (present & there).nonzero()[:, 0]
            names = None if labels.alike is None else [labels.alike[row] for row in use.tolist()]
            y = labels.test[use, None].numpy() if amounts else labels.test[use].numpy()
            outputs = len(labels.values) if isinstance(labels, Labels) else 1
            held = hold_out(strata(task, y, outputs), HELD, names, self.seed)
            learned = without(len(y), held)
            if not len(held) or len(np.unique(y[learned])) < 2:
                continue
            x = embedded.pooled["model"][name][use].numpy()
            own = None if names is None else [names[row] for row in learned.tolist()]
            probe = fit_probe(x[learned], y[learned], task=task, outputs=outputs, groups=own, seed=self.seed)
            out[name] = next(iter(scores_of(task).values()))(probe(x[held]), y[held])
        return out

    def _lidar(
        self, recipe: Recipe, model: MMSSLModel, processor: MMSSLProcessor, rows: Dataset, columns: Columns
    ) -> dict[str, float]:
        """LiDAR by modality, of those that the recipe has looks at."""
        ways = {name: of for name in columns if (of := looks(recipe, model, name, columns))}
        if not ways:
            return {}
        read = {name: processor.preprocessors[name] for name in columns}
        size = recipe.evaluation.batch_size
        batches = evaluation_batches(rows, read, columns, batch_size=size, broken=recipe.data.broken)
        masks = {name: mask_at(part.config, 1.0, 1) for name, part in recipe.masks.items()}
        parts: dict[str, list[Tensor]] = {name: [] for name in ways}
        with evaluating([model]):
            for number, loaded in enumerate(batches):
                batch, device = to_device(loaded.batch, device_of(model)), device_of(model)
                seen: dict[str, list[Tensor]] = {name: [] for name in ways}
                there = {name: torch.ones(loaded.size, dtype=torch.bool) for name in ways}
                for look in range(LOOKS):
                    draws = Draws(key_of(self.seed, "lidar", number, look), loaded.size, device=device)
                    step = Step(batch, model, recipe.views, masks, draws)
                    for name, of in ways.items():
                        view, mask = of[look % len(of)]
                        encoded = step.encode(model.tower_of(name), view, mask, _mode(model, name))
                        seen[name].append(encoded.summary(name).float().cpu())
                        there[name] &= encoded.present(name).cpu()
                for name, views in seen.items():
                    parts[name].append(torch.stack(views, 1)[there[name]])
        whole = {name: torch.cat(of) for name, of in parts.items()}
        return {name: lidar(z) for name, z in whole.items() if len(z) > 1}


def looks(recipe: Recipe, model: MMSSLModel, name: str, columns: Columns) -> list[tuple[str, str | None]]:
    """(view, mask) of the ways in which a recipe looks at a modality: its views, else what its masks leave of it.

    None where a modality of its tower is not in the data (columns), or a tower can neither drop nor replace patches.
    """
    tower = model.tower(model.tower_of(name))
    if any(other not in columns for other in tower.modalities):
        return []
    views = [view for view, of in recipe.views.items() if of.get(name) and COLUMN not in of[name]]
    if views:
        return [(view, None) for view in views]
    return [(CLEAN, mask) for mask in recipe.masks] if tower.drops or tower.replaces else []


def _mode(model: MMSSLModel, name: str) -> str:
    return "drop" if model.tower(model.tower_of(name)).drops else "replace"


def _flat(found: Mapping[str, Mapping[str, float]]) -> Scores:
    """The mean over modalities, and where there are several each; alpha-ReQ is how near its exponent is to 1."""
    out: Scores = {}
    near = {name: -abs(alpha - 1) for name, alpha in found["alpha"].items()}
    for score, of in {**found, "alpha-req": near}.items():
        known = {name: value for name, value in of.items() if value == value}
        if known:
            out[score] = sum(known.values()) / len(known)
            out |= {f"{score}/{name}": value for name, value in known.items() if len(of) > 1}
    return out
