"""Evaluation tasks beyond the everyday ones: few labels, clusters without labels, data from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.splits import Groups, few_of_each, strata
from .calibration import bootstrap
from .embedding import Embedded
from .linear import fit_probe
from .outliers import outlier_score
from .scoring import Array, auroc
from .separability import separability
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
