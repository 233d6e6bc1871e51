"""The tasks on labels that are amounts: R2 of what is predicted from frozen features, and by gradient boosting.

R2 is the share of the test rows' variance that is explained: 1 is all of it, 0 what their own mean explains, and less
than that is worse. What is called chance is the mean of the training rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..data.splits import Groups, few_of_each, strata
from .answers import remembered
from .boosting import fit_boosting
from .calibration import bootstrap
from .knn import standardised
from .linear import fit_probe
from .scoring import Array, r2
from .tasks import ENCODERS, Features, Metrics, metric

TASKS = ("knn", "linear", "boosting", "labels")
"""Those that judge by amounts, too, and all that they tell; `subsets` has a part that does."""
DRAWS = 3
"""As `mmssl.evaluation.further.DRAWS`."""
CHUNK = 1024

Predict = Callable[[Array, Array, Array, Groups | None], Array]
"""(training features (n, D), their amounts (n, 1), test features (m, D), names of training rows that stay together) ->
(m, 1), or (draws, m, 1)."""


def by_amounts(
    task: str, features: Features, k: int, shares: Sequence[float], seed: int
) -> tuple[Metrics, dict[str, str]]:
    """R2 of one of `TASKS` per modality and encoder, and the modalities left out with the reason."""
    if task == "labels":
        out: Metrics = {}
        skipped: dict[str, str] = {}
        for share in shares:
            found, skipped = judged(
                features, partial(_few, share=share, seed=seed), f"R2 at {100 * share:g} % of labels"
            )
            out |= found
        return out, skipped
    if task == "boosting":
        return judged(features, partial(_boosted, features, seed=seed), encoders=("raw",))
    return judged(features, partial(_nearest, k=k) if task == "knn" else partial(_linear, seed=seed))


def judged(
    features: Features, predict: Predict, what: str = "R2", encoders: Sequence[str] = ENCODERS
) -> tuple[Metrics, dict[str, str]]:
    """R2 of what `predict` says from the features of each encoder, with a bootstrap interval."""
    train, test, numbers = features.train, features.test, features.numbers
    assert train is not None and numbers is not None and numbers.train is not None
    out, skipped = {}, {}
    for name in test.present:
        if name not in train.present:
            skipped[name] = "the training rows lack it"
            continue
        use, against = train.present[name] & numbers.train.isfinite(), test.present[name] & numbers.test.isfinite()
        y, truth = numbers.train[use, None].numpy(), numbers.test[against, None].numpy()
        if len(np.unique(y)) < 2 or len(np.unique(truth)) < 2:
            skipped[name] = "it needs test rows and training rows whose labels are of two values at least"
            continue
        names = numbers.alike
        groups = None if names is None else [names[row] for row in use.nonzero()[:, 0].tolist()]
        values: dict[str, float | None] = {"chance": r2(np.broadcast_to(y.mean(0), truth.shape), truth)}
        spans: dict[str, list[float]] = {}
        for encoder in encoders:
            x, x_test = train.features(encoder, name), test.features(encoder, name)
            if x is not None and x_test is not None:
                said = predict(x[use].numpy(), y, x_test[against].numpy(), groups)
                drawn = said if said.ndim == 3 else said[None]
                values[encoder] = _mean(drawn, truth)
                spans[encoder] = interval(drawn, truth)
        out[f"{name}/{what}"] = metric(values, len(truth), share=False) | {"interval": spans}
    return out, skipped


def _mean(drawn: Array, truth: Array) -> float:
    return float(np.mean([r2(said, truth) for said in drawn]))


def interval(drawn: Array, truth: Array) -> list[float]:
    """Of R2, by resamples of the test rows. drawn: (draws, m, 1), what was said of truth (m, 1)."""
    return bootstrap(partial(_resampled, drawn, truth), len(truth))


def _resampled(drawn: Array, truth: Array, rows: Tensor) -> float:
    """A resample of one row alone has no variance to explain: 0."""
    at = rows.numpy()
    found = _mean(drawn[:, at], truth[at])
    return found if found == found else 0.0


def _nearest(x: Array, y: Array, x_test: Array, _: Groups | None, k: int) -> Array:
    train, test = (torch.from_numpy(part) for part in standardised(x, x_test))
    return nearest(train, torch.from_numpy(y[:, 0]), test, k)[:, None].numpy()


def nearest(train: Tensor, y: Tensor, test: Tensor, k: int) -> Tensor:
    """(m,) the mean of y (n,) over the k training rows (n, D) that are nearest to each test row (m, D) by cosine, which
    weigh as the classifier of `knn_votes` weighs them."""
    train, test = (normalize(part.float(), dim=1) for part in (train, test))
    out = []
    for part in test.split(CHUNK):
        cosine, index = (part @ train.T).topk(min(k, len(train)), dim=1)
        weight = (cosine / 0.07).double().softmax(1)
        out.append((weight * y[index]).sum(1))
    return torch.cat(out)


def _linear(x: Array, y: Array, x_test: Array, groups: Groups | None, seed: int) -> Array:
    return fit_probe(x, y, task="regression", groups=groups, seed=seed)(x_test)


def _few(x: Array, y: Array, x_test: Array, groups: Groups | None, share: float, seed: int) -> Array:
    """Of the linear probe with a share of the labels, in several draws."""
    counts, out = strata("regression", y, 1), []
    for draw in range(DRAWS if share < 1 else 1):
        rows = few_of_each(counts, share, seed + draw)
        named = None if groups is None else [groups[row] for row in rows.tolist()]
        out.append(_linear(x[rows], y[rows], x_test, named, seed))
    return np.stack(out)


def _boosted(features: Features, x: Array, y: Array, x_test: Array, groups: Groups | None, seed: int) -> Array:
    def make() -> Any:
        return fit_boosting(x, y, task="regression", outputs=1, groups=groups, seed=seed)(x_test)

    return remembered(features.memory, ("boosting, amounts", x, y, x_test, groups, seed), make)
