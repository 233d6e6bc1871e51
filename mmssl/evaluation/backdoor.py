"""What an encoder makes of a backdoor: a share of one class's training rows carries a trigger, and so do the test rows.

Li et al. 2023, "An Embarrassingly Simple Backdoor Attack on Self-supervised Learning" (CTRL, arXiv 2210.07346), section
4: the attack's success is the share of test rows of other classes that a probe takes for the class once they carry the
trigger. The labels of the poisoned rows are right. The trigger is a view of the modality, by default the one of the
paper's (`mmssl.modality.pixels.trigger`). With no poisoned row for the probe (`backdoor_share=0`) what is measured is
what the encoder learned of the trigger in its own training, where that was poisoned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.sampler import order
from ..data.splits import Groups
from ..errors import UserError, nearest
from ..modality.lookup import view_kinds
from .answers import Answer, hits_of
from .baselines import majority
from .embedding import Embedded
from .knn import knn_predict, standardised
from .linear import fit_probe
from .robustness import Views, spec_faults
from .rows import Labels
from .tasks import ENCODERS, Features, Metrics, metric

if TYPE_CHECKING:
    from ..recipe.config import EvaluationConfig

VIEW = "trigger"
MAGNITUDE = 100.0
"""Of the usual trigger: the paper's for test rows."""
WAYS = ("linear", "knn")


def trigger_of(config: EvaluationConfig, types: Mapping[str, str]) -> Views:
    """{"trigger": modality -> options of its view}, of the modalities that have one; UserError with a line a fault.

    types: modality -> its type, of the model.
    """
    usual = {name: {"trigger": MAGNITUDE} for name, kind in types.items() if "trigger" in view_kinds(kind)[0]}
    views: Views = {VIEW: {name: dict(spec) for name, spec in config.backdoor.items()} or usual}
    faults = spec_faults(views, VIEW, types, "evaluation.backdoor") if config.backdoor else []
    if faults:
        raise UserError("\n".join(faults))
    return views


def target_of(wanted: str | int | None, labels: Labels) -> int:
    """The number of the class that the trigger is planted in. UserError for one that no row has."""
    names = labels.names
    called = [str(names[value]) if names and type(value) is int else str(value) for value in labels.values]
    plain = [str(value) for value in labels.values]
    if wanted is None:
        return 0
    for known in (called, plain):
        if str(wanted) in known:
            return known.index(str(wanted))
    shown = ", ".join(called[:10]) + (", ..." if len(called) > 10 else "")
    raise UserError(
        f"evaluation.backdoor_class: found '{wanted}', expected one of {shown}{nearest(str(wanted), called)}"
    )


def poisoned_rows(y: Tensor, target: int, share: float, seed: int) -> Tensor:
    """(m,) int64 which training rows carry the trigger: drawn rows of the class, so many as `share` is of all with a
    label y (n,) >= 0, at least one where the share is above 0. UserError where the class has fewer."""
    of = (y == target).nonzero()[:, 0]
    count = max(round(share * int((y >= 0).sum())), int(share > 0))
    if count > len(of):
        raise UserError(
            f"evaluation.backdoor_share: {share:g} of the training rows are {count:,}, but the class has {len(of):,}"
        )
    return of[torch.from_numpy(order(len(of), seed, 11)[:count].copy()).sort().values] if count else of[:0]


def with_poison(clean: Embedded, rows: Tensor, poisoned: Embedded | None) -> Embedded:
    """The training rows with the features of the poisoned ones (m rows) in the place of `rows` (m,)."""
    if poisoned is None:
        return clean

    def changed(x: Tensor, other: Tensor) -> Tensor:
        out = x.clone()
        out[rows] = other
        return out

    raw = {n: changed(x, poisoned.raw[n]) if n in poisoned.raw else x for n, x in clean.raw.items()}
    pooled = {
        encoder: {n: changed(x, poisoned.pooled[encoder][n]) if n in poisoned.present else x for n, x in of.items()}
        for encoder, of in clean.pooled.items()
    }
    return dataclasses.replace(clean, raw=raw, pooled=pooled)


def backdoor(features: Features, triggered: Embedded, target: int, k: int, seed: int) -> tuple[Metrics, dict[str, str]]:
    """Per modality and probe: clean accuracy, the attack's success, and how many of the same rows are taken for the
    class without the trigger. The higher the success, the worse.

    Args:
        features: clean test rows, and training rows with the poisoned ones among them.
        triggered: the test rows with the trigger.
        target: the class.
        k: of kNN.
        seed: of the linear probe.
    """
    train, test, y, truth = features.train, features.test, features.y_train, features.y_test
    assert train is not None and y is not None and truth is not None
    out: Metrics = {}
    skipped: dict[str, str] = {}
    for name in triggered.present:
        if name not in train.present:
            skipped[name] = "the training rows lack it"
            continue
        use, known = train.present[name] & (y >= 0), test.present[name] & (truth >= 0)
        others = known & triggered.present[name] & (truth != target)
        if not bool(others.any()) or len(y[use].unique()) < 2:
            skipped[name] = "it needs training rows of two classes, and test rows of others than the target"
            continue
        chance = majority(truth[known], int(torch.bincount(y[use]).argmax()))
        for way in WAYS:
            said = _said(way, features, triggered, name, (use, known, others), k, seed)
            right = {encoder: hits_of(found[0], truth[known]) for encoder, found in said.items()}
            metrics: dict[str, float | None] = {encoder: float(of.mean()) for encoder, of in right.items()}
            out[f"{name}/clean accuracy, {way}"] = metric({**metrics, "chance": chance}, int(known.sum()))
            features.answers[f"{name}/clean accuracy, {way}"] = Answer(known.nonzero()[:, 0], right)
            for what, at in (("attack success", 2), ("taken for it anyway", 1)):
                taken = {encoder: float((found[at] == target).double().mean()) for encoder, found in said.items()}
                out[f"{name}/{what}, {way}"] = metric(taken, int(others.sum()))
    return out, skipped


def _said(
    way: str,
    features: Features,
    triggered: Embedded,
    name: str,
    masks: tuple[Tensor, Tensor, Tensor],
    k: int,
    seed: int,
) -> dict[str, list[Tensor]]:
    """Encoder -> classes that a probe says of clean test rows, of those of other classes, of these with the trigger.

    masks: training rows to learn from, test rows with a label, test rows of other classes.
    """
    train, y, said = features.train, features.y_train, dict[str, list[Tensor]]()
    assert train is not None and y is not None
    use, known, others = masks
    names = features.alike
    groups = None if names is None else [names[row] for row in use.nonzero()[:, 0].tolist()]
    for encoder in ENCODERS:
        x, clean, planted = (rows.features(encoder, name) for rows in (train, features.test, triggered))
        if x is not None and clean is not None and planted is not None:
            probe = _fitted(way, x[use], y[use], groups, k, seed)
            said[encoder] = [probe(clean[known]), probe(clean[others]), probe(planted[others])]
    return said


def _fitted(way: str, x: Tensor, y: Tensor, groups: Groups | None, k: int, seed: int) -> Callable[[Tensor], Tensor]:
    """A function of features (m, D) that says their classes (m,)."""
    classes = int(y.max()) + 1
    if way == "linear":
        probe = fit_probe(x.numpy(), y.numpy(), outputs=classes, groups=groups, seed=seed)
        return lambda test: torch.from_numpy(probe(test.numpy()).argmax(1))

    def nearest_rows(test: Tensor) -> Tensor:
        train, other = (torch.from_numpy(part) for part in standardised(x.numpy(), test.numpy()))
        return knn_predict(train, y, other, classes=classes, k=k)

    return nearest_rows
