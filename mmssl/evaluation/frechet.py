"""Loki's rule: instead of the most probable class, the one nearest to all classes as they are probable.

Roberts et al., "Geometry-Aware Adaptation for Pretrained Models" (Loki), NeurIPS 2023 (arXiv 2307.12226): the Frechet
mean argmin_y sum_k p_k d(y, k)^2 in a metric space of labels. It needs no training, and may answer with a class that
the model was never asked about.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def frechet_predict(probabilities: Tensor, distances: Tensor) -> Tensor:
    """(n,) int64 in [0, Y): probabilities (n, K) over the observed classes, distances (Y, K) from every class that may
    be answered to every observed one; of equal ones the lowest.

    With the 0/1 metric it is argmax. ValueError when the shapes do not fit.
    """
    if probabilities.ndim != 2 or distances.ndim != 2 or probabilities.shape[1] != distances.shape[1]:
        raise ValueError(f"expected (n, K) and (Y, K), got {tuple(probabilities.shape)}, {tuple(distances.shape)}")
    return (probabilities.double() @ distances.double().square().T).argmin(1)


def angles(vectors: Tensor, others: Tensor | None = None) -> Tensor:
    """(Y, K) angle in radians between class vectors (Y, E) and (K, E): a metric on directions."""
    a = normalize(vectors.double(), dim=1)
    b = a if others is None else normalize(others.double(), dim=1)
    out = (a @ b.T).clamp(-1, 1).arccos()
    if others is None:
        out.fill_diagonal_(0.0)  # arccos turns an error of 1e-16 into one of 1e-8
    return out


def probabilities(samples: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """(n, K): softmax of the cosines of samples (n, E) to class vectors (K, E) over the temperature."""
    return torch.softmax(normalize(samples.double(), dim=1) @ normalize(classes.double(), dim=1).T / temperature, 1)
