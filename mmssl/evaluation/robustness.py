"""How much of a probe's accuracy is left when the test rows are corrupted: named views at rising severities.

After Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
2019 (arXiv 1903.12261), with a modality's own views for corruptions. The probe learns from clean rows; only the rows
that it is tested on are changed, in the same way for every encoder and the raw features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.splits import Groups
from ..draws import Draws, key_of
from ..errors import UserError, nearest
from ..modality.faults import name_fault, view_faults
from ..modality.lookup import view_kinds, view_options
from ..objectives.step import Step
from .answers import Answer
from .embedding import Embedded
from .linear import Probe, fit_probe
from .tasks import Features, Metrics, metric, probed

if TYPE_CHECKING:
    from ..data.loading import Loaded
    from ..models.modeling_mmssl import MMSSLModel

Views = dict[str, dict[str, dict[str, Any]]]
Corruptions = Mapping[str, Sequence[Mapping[str, Mapping[str, Any]]]]


def views_of(corruptions: Corruptions, types: Mapping[str, str]) -> Views:
    """ "NAME SEVERITY" -> modality -> options, severities from 1; UserError with a line a fault.

    types: modality -> its type, of the model.
    """
    where = "evaluation.corruptions"
    faults: list[str] = []
    views: Views = {}
    for name, steps in corruptions.items():
        fault = name_fault(name, module=False)
        faults += [] if fault is None else [f"evaluation.corruptions: {fault}"]
        faults += [] if steps else [f"evaluation.corruptions.{name}: found no severity, expected a list of views"]
        for severity, spec in enumerate(steps, 1):
            views[f"{name} {severity}"] = {modality: dict(options) for modality, options in spec.items()}
    for view in views:
        faults += spec_faults(views, view, types, where)
    if faults:
        raise UserError("\n".join(faults))
    return views


def spec_faults(views: Views, view: str, types: Mapping[str, str], option: str) -> list[str]:
    """A line a fault of one of the views of an option; types: modality -> its type, of the model."""
    faults: list[str] = []
    for modality in views[view]:
        if modality not in types:
            known = ", ".join(types)
            faults.append(f"{option}: {view}: the model has no '{modality}', it has {known}{nearest(modality, types)}")
            continue
        kind = types[modality]
        found = view_faults(view_kinds(kind), views, view, modality, view_options(kind))
        faults += [f"{option}.{line.removeprefix('views.')}" for line in found]
    return faults


def corrupted(batches: Iterable[Loaded], model: MMSSLModel, views: Views, view: str, seed: int) -> Iterator[Loaded]:
    """The batches with the modalities that the view names as it has them; each row's draws are its own."""
    for number, loaded in enumerate(batches):
        draws = Draws(key_of(seed, view, number), loaded.size)
        step = Step(loaded.batch, model, views, {}, draws)
        changed = {name: step.inputs(name, view) for name in views[view] if name in loaded.batch}
        yield dataclasses.replace(loaded, batch={name: changed[name] for name in changed})


class _Fitted:
    """Linear probes that are fitted on clean rows once, in the order in which they are asked for, and used again."""

    def __init__(self, seed: int) -> None:
        self.seed, self.probes, self.at = seed, list[Probe](), 0

    def __call__(
        self, x: Tensor, y: Tensor, x_test: Tensor, classes: int, groups: Groups | None
    ) -> tuple[Tensor, None]:
        if self.at == len(self.probes):
            self.probes.append(fit_probe(x.numpy(), y.numpy(), outputs=classes, groups=groups, seed=self.seed))
        self.at += 1
        return torch.from_numpy(self.probes[self.at - 1](x_test.numpy()).argmax(1)), None


def robustness(features: Features, found: Mapping[str, Embedded], seed: int) -> tuple[Metrics, dict[str, str]]:
    """Accuracy of the linear probe on clean test rows, under each corruption and severity, and the mean of the latter.

    found: view of `views_of` -> the test rows as it has them.
    """
    out: Metrics = {}
    skipped: dict[str, str] = {}
    answers: dict[str, Answer] = {}
    for name in features.test.present:
        of = {view: rows for view, rows in found.items() if name in rows.present}
        if not of:
            skipped[name] = "no corruption is of it"
            continue
        probe = _Fitted(seed)
        each: list[Answer] = []
        for view, rows in {"clean": features.test, **of}.items():
            probe.at = 0
            alone = dataclasses.replace(features, test=_only(rows, name), answers={})
            metrics, lacking = probed(alone, probe)
            skipped |= lacking
            out |= {f"{name}/{view}": one for one in metrics.values()}
            answers |= {f"{name}/{view}": one for one in alone.answers.values()}
            each += list(alone.answers.values()) if view != "clean" else []
        if each:
            right = {e: torch.stack([one.right[e] for one in each]).mean(0) for e in each[0].right}
            means: dict[str, float | None] = {encoder: float(hits.mean()) for encoder, hits in right.items()}
            means["chance"] = out[f"{name}/clean"]["chance"]
            out[f"{name}/mean of corruptions"] = metric(means, len(each[0].rows))
            answers[f"{name}/mean of corruptions"] = Answer(each[0].rows, right)
    features.answers.update(answers)
    return out, skipped


def _only(rows: Embedded, name: str) -> Embedded:
    """One modality's features alone."""
    raw = {name: rows.raw[name]} if name in rows.raw else {}
    pooled = {encoder: {name: of[name]} for encoder, of in rows.pooled.items()}
    return Embedded({name: rows.present[name]}, raw, pooled)
