"""Records of the same thing found by their embeddings: by the nearest exemplar, and by clusters at a tuned threshold.

As CLIPPINGS has it (Arora et al. 2023, arXiv 2304.03464): of one modality, or of two that share a space pooled as
w a + (1 - w) b; the training rows are the exemplars, and say at which distance clusters are cut.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from .answers import Answer, hits_of
from .baselines import majority
from .embedding import Embedded
from .tasks import ENCODERS, Features, Metrics, metric

MOST = 2000
"""Rows that are clustered at most: each is compared with all."""
CUTS = 64
"""Thresholds that are tried."""

Labels = NDArray[np.int64]


def pooled_embeddings(rows: Embedded, encoder: str, names: tuple[str, ...], weight: float) -> Tensor | None:
    """(n, E) normalised embeddings of one modality, or of two w a + (1 - w) b; raw features of one alone. None: there
    are none, or the two are of different widths."""
    if encoder == "raw":
        return normalize(rows.raw[names[0]].double(), dim=1) if len(names) == 1 and names[0] in rows.raw else None
    of = rows.embeddings.get(encoder, {})
    if any(name not in of for name in names):
        return None
    found = [normalize(of[name].double(), dim=1) for name in names]
    if len(found) == 1:
        return found[0]
    a, b = found
    return None if a.shape[1] != b.shape[1] else normalize(weight * a + (1 - weight) * b, dim=1)


def merges(x: Tensor) -> NDArray[np.float64]:
    """The dendrogram of rows (n, E) of length 1 by the mean cosine distance of clusters (UPGMA), as scipy has it."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    apart = (1 - x @ x.T).clamp(min=0).numpy()
    np.fill_diagonal(apart, 0)
    found: NDArray[np.float64] = linkage(squareform(apart, checks=False), "average")
    return found


def tuned_cut(x: Tensor, y: Labels) -> float:
    """The distance at which the clusters of rows (n, E) agree best with their classes (n,), by the adjusted Rand index;
    of equal ones the middle one."""
    from scipy.cluster.hierarchy import fcluster
    from sklearn.metrics import adjusted_rand_score

    tree = merges(x)
    heights = np.unique(tree[:, 2])
    between = np.concatenate([[heights[0] / 2], (heights[1:] + heights[:-1]) / 2, [heights[-1] + 1e-6]])
    tried = between[np.unique(np.linspace(0, len(between) - 1, CUTS).round().astype(int))]
    scores = np.array([adjusted_rand_score(y, fcluster(tree, cut, "distance")) for cut in tried])
    best = np.flatnonzero(scores >= scores.max() - 1e-12)
    return float(tried[best[len(best) // 2]])


def agreement(x: Tensor, y: Labels, cut: float) -> float:
    """The adjusted Rand index (Hubert and Arabie 1985) of the clusters of rows at a cut with their classes."""
    from scipy.cluster.hierarchy import fcluster
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(y, fcluster(merges(x), cut, "distance")))


def linking(features: Features, weight: float, seed: int) -> tuple[Metrics, dict[str, str]]:
    """Per modality, and per two of one width pooled: the share of test rows whose nearest training row is of their
    class, and the adjusted Rand index of clusters of test rows, cut where those of training rows agree best (of at most
    `MOST` rows each, the same ones for every encoder). weight: of the first one of two."""
    train, test, y_train, y_test = features.train, features.test, features.y_train, features.y_test
    assert train is not None and y_train is not None and y_test is not None
    out: Metrics = {}
    skipped: dict[str, str] = {}
    both = [name for name in test.present if name in train.present]
    groups: list[tuple[str, ...]] = [*[(name,) for name in both], *combinations(both, 2)]
    for names in groups:
        called = "+".join(names)
        here, there = (
            torch.stack([rows.present[name] for name in names]).all(0) & (y >= 0)
            for rows, y in ((train, y_train), (test, y_test))
        )
        if int(there.sum()) < 2 or len(y_train[here].unique()) < 2:
            skipped[called] = "it needs two labelled test rows, and labelled training rows of two classes"
            continue
        truth, known = y_test[there], y_train[here]
        accuracy: dict[str, float | None] = {"chance": majority(truth, int(torch.bincount(known).argmax()))}
        rand: dict[str, float | None] = {"chance": 0.0}
        right: dict[str, Tensor] = {}
        draw = np.random.default_rng(seed)
        some, more = (np.sort(draw.permutation(len(of))[:MOST]) for of in (known, truth))
        for encoder in ENCODERS:
            pair = [pooled_embeddings(rows, encoder, names, weight) for rows in (train, test)]
            if pair[0] is None or pair[1] is None:
                continue
            x, x_test = pair[0][here].cpu(), pair[1][there].cpu()
            predicted = known[(x_test @ x.T).argmax(1)]
            right[encoder] = hits_of(predicted, truth)
            accuracy[encoder] = float(right[encoder].mean())
            cut = tuned_cut(x[some], known[some].numpy())
            rand[encoder] = agreement(x_test[more], truth[more].numpy(), cut)
        if "model" not in right:
            skipped[called] = "the two embeddings differ in width (set model.projection)"
            continue
        out[f"{called}/accuracy"] = metric(accuracy, len(truth))
        out[f"{called}/adjusted Rand index"] = metric(rand, len(more), share=False)
        features.answers[f"{called}/accuracy"] = Answer(there.nonzero()[:, 0], right)
    return out, skipped
