"""Weighted nearest-neighbour classifier on frozen features.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018 (arXiv 1805.01978),
section 3.4, with the settings of DINO (Caron et al. 2021, arXiv 2104.14294): k = 20, temperature = 0.07.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize


def standardised(train: NDArray[Any], test: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both (n, D) and (m, D) less the training rows' mean, over their standard deviation, float32.

    Without it a few dimensions of large spread decide every cosine, and features read out in several ways (mean beside
    standard deviation) are not comparable. A constant dimension is left at zero.
    """
    from sklearn.preprocessing import StandardScaler

    fitted = StandardScaler().fit(train)
    return fitted.transform(train).astype(np.float32), fitted.transform(test).astype(np.float32)


def knn_votes(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """For every test row the votes of its k nearest training rows by cosine.

    Args:
        train: (n, D).
        labels: (n,) int64 in [0, classes).
        test: (m, D).
        classes: how many there are.
        k: neighbours that vote; cut to n.
        temperature: a neighbour at cosine s votes exp(s / temperature).
        chunk: test rows that are worked off at a time: memory is chunk * n.

    Returns:
        (m, classes) float32.

    Raises:
        ValueError: shapes do not fit, or labels are out of range.
    """
    if len(train) != len(labels) or len(train) == 0:
        raise ValueError(f"knn needs one label a training row, got {len(train)} rows and {len(labels)} labels")
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"knn: training features are {train.shape[1]} wide, test features {test.shape[1]}")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"knn: labels must be in [0, {classes}), got {int(labels.min())}..{int(labels.max())}")
    train, test = normalize(train.float(), dim=1), normalize(test.float(), dim=1)
    k = min(k, len(train))
    out = []
    for part in test.split(chunk):
        cosine, index = (part @ train.T).topk(k, dim=1)
        # minus the row's best: the same ranking of classes, and no overflow at a tiny temperature
        weight = ((cosine - cosine[:, :1]) / temperature).exp()
        votes = torch.zeros(len(part), classes, device=part.device)
        out.append(votes.scatter_add_(1, labels.to(part.device)[index], weight))
    return torch.cat(out) if out else torch.zeros(0, classes)


def knn_predict(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """(m,) int64: the class with the most votes, see `knn_votes`; of equal votes the lowest class."""
    votes = knn_votes(train, labels, test, classes=classes, k=k, temperature=temperature, chunk=chunk)
    return votes.argmax(1)
