"""Evaluation tasks beyond the everyday ones: few labels, clusters without labels, data from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..data.splits import Groups, few_of_each, strata
from .calibration import bootstrap
from .embedding import Embedded
from .linear import fit_probe
from .outliers import outlier_score
from .scoring import Array, auroc
from .selective import RiskCoverage
from .separability import separability
from .similarity import LARGEST, cka_interval, debiased_cka
from .tasks import ENCODERS, Features, Metrics, metric, probed

DRAWS = 3
"""Random subsets of the labels that a share below 1 is averaged over."""


def label_shares(features: Features, shares: Sequence[float], seed: int) -> tuple[Metrics, dict[str, str]]:
    """Accuracy of the linear probe with only a share of the training labels, per modality; the same rows for every
    encoder, the mean over `DRAWS` of them."""
    out: Metrics = {}
    skipped: dict[str, str] = {}
    for share in shares:

        def probe(
            x: Tensor, y: Tensor, x_test: Tensor, classes: int, groups: Groups | None, share: float = share
        ) -> tuple[Tensor, None]:
            predicted, counts = [], strata("classification", y.numpy(), classes)
            for draw in range(DRAWS if share < 1 else 1):
                rows = few_of_each(counts, share, seed + draw)
                named = None if groups is None else [groups[row] for row in rows.tolist()]
                fitted = fit_probe(x[rows].numpy(), y[rows].numpy(), outputs=classes, groups=named, seed=seed)
                predicted.append(torch.from_numpy(fitted(x_test.numpy()).argmax(1)))
            return torch.stack(predicted), None

        metrics, skipped = probed(features, probe, f"accuracy at {100 * share:g} % of labels")
        out |= metrics
    return out, skipped


def separable(rows: Embedded, seed: int) -> tuple[Metrics, dict[str, str]]:
    """`separability` of the pooled states per modality, on the same rows for every encoder."""
    out: Metrics = {}
    skipped: dict[str, str] = {}
    for name, present in rows.present.items():
        n = int(present.sum())
        if n < 3:
            skipped[name] = "fewer than three rows have it"
            continue
        found = {}
        for encoder in ENCODERS:
            x = rows.features(encoder, name)
            if x is not None:
                found[encoder] = separability(x[present], seed=seed)
        values: dict[str, float | None] = {encoder: score for encoder, (score, _) in found.items()}
        out[f"{name}/1 - mean persistence"] = metric(values, min(n, 1000), share=False)
        out[f"{name}/1 - mean persistence"]["interval"] = {encoder: span for encoder, (_, span) in found.items()}
    return out, skipped


COVERAGE = 0.8
"""Share of the rows that are answered where a risk is told."""


def selective(features: Features, seed: int) -> tuple[Metrics, dict[str, str]]:
    """Per modality, of the linear probe that may leave the rows unanswered that it is least sure of: the area under its
    risk-coverage curve, and the share of wrong answers where it answers `COVERAGE` of the rows; the smaller, the
    better. chance: what one that is sure at random would have."""
    curves: list[tuple[Tensor, Tensor]] = []

    def probe(x: Tensor, y: Tensor, x_test: Tensor, classes: int, groups: Groups | None) -> tuple[Tensor, Tensor]:
        fitted = fit_probe(x.numpy(), y.numpy(), outputs=classes, groups=groups, seed=seed)
        confidence, predicted = torch.from_numpy(fitted(x_test.numpy())).softmax(1).max(1)
        curves.append((confidence, predicted))
        return predicted, confidence

    metrics, skipped = probed(features, probe)
    out: Metrics = {}
    for name, metric_of in metrics.items():
        if not name.endswith("/accuracy"):
            continue
        modality, n = name.removesuffix("/accuracy"), metric_of["n"]
        hits = features.answers[name].right
        sure = {encoder: (curves.pop(0)[0], right > 0.5) for encoder, right in hits.items()}
        for what, of in (("AURC", _area), (f"risk at {COVERAGE:.0%} coverage", _risk)):
            values: dict[str, float | None] = {encoder: of(*pair) for encoder, pair in sure.items()}
            values["chance"] = 1 - metric_of["model"]
            spans = {encoder: bootstrap(partial(_on, of, pair), n) for encoder, pair in sure.items()}
            out[f"{modality}/{what}"] = metric(values, n, share=False) | {"interval": spans}
    features.answers.clear()  # accuracies are another task's
    return out, skipped


def _on(of: Callable[[Tensor, Tensor], float], pair: tuple[Tensor, Tensor], rows: Tensor) -> float:
    return of(pair[0][rows], pair[1][rows])


def _area(confidence: Tensor, correct: Tensor) -> float:
    return RiskCoverage.of(confidence, correct).area


def _risk(confidence: Tensor, correct: Tensor) -> float:
    return RiskCoverage.of(confidence, correct).at(COVERAGE)


def alike_to(rows: Embedded) -> tuple[Metrics, dict[str, str]]:
    """Per modality the debiased linear CKA of the model's pooled states with those of its start, of its untrained twin,
    and with the raw features, on at most `LARGEST` rows; intervals over resamples of them without repetition."""
    out: Metrics = {}
    skipped: dict[str, str] = {}
    for name, present in rows.present.items():
        use = present.nonzero()[:LARGEST, 0]
        own = rows.features("model", name)
        if own is None or len(use) < 8:
            skipped[name] = "fewer than eight rows have it"
            continue
        others = {e: x[use] for e in ENCODERS[1:] if (x := rows.features(e, name)) is not None}
        values = {encoder: _known(debiased_cka(own[use], x)) for encoder, x in others.items()}
        out[f"{name}/CKA with the model"] = metric(values, len(use), share=False)
        spans = {e: cka_interval(own[use], x) for e, x in others.items() if values[e] is not None}
        out[f"{name}/CKA with the model"]["interval"] = spans
    return out, skipped


def compared_rows(rows: Embedded) -> dict[str, tuple[Tensor, Tensor]]:
    """Modality -> (rows, the model's pooled states), by which `alike_to` and a suite compare models."""
    there = {name: present.nonzero()[:LARGEST, 0] for name, present in rows.present.items()}
    return {name: (use, x[use]) for name, use in there.items() if (x := rows.features("model", name)) is not None}


def _known(value: float) -> float | None:
    return value if value == value else None


def out_of_distribution(features: Features, outside: Embedded, k: int) -> tuple[Metrics, dict[str, str]]:
    """AUROC of telling `outside` from the held-out rows by the distance to the k-th nearest training row."""
    train, test = features.train, features.test
    out: Metrics = {}
    skipped: dict[str, str] = {}
    for name in outside.present:
        if train is None or name not in train.present:
            skipped[name] = "there are no training rows with it to be near to"
            continue
        known, here, there = train.present[name], test.present[name], outside.present[name]
        if not (bool(known.any()) and bool(here.any()) and bool(there.any())):
            skipped[name] = "training rows, held-out rows or the other data lack it"
            continue
        values: dict[str, float | None] = {"chance": 0.5}
        spans = {}
        for encoder in ENCODERS:
            x, inside, other = (rows.features(encoder, name) for rows in (train, test, outside))
            if x is None or inside is None or other is None or other.shape[1] != x.shape[1]:
                continue
            a = outlier_score(x[known], inside[here], k=k)
            b = outlier_score(x[known], other[there], k=k)
            both, out_there = torch.cat([a, b]).numpy(), torch.arange(len(a) + len(b)).numpy() >= len(a)
            values[encoder] = auroc(both, out_there)
            spans[encoder] = bootstrap(lambda rows, s=both, o=out_there: _resampled(s[rows], o[rows]), len(both))  # type: ignore[misc]
        out[f"{name}/AUROC"] = metric(values, int(here.sum()) + int(there.sum()), share=False) | {"interval": spans}
    return out, skipped


def _resampled(score: Array, outside: Array) -> float:
    """AUROC of a resample; one without both kinds of rows counts as chance."""
    found = auroc(score, outside)
    return found if found == found else 0.5
