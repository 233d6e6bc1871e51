"""Out-of-distribution detection: how well distance to the training data tells other data from held-out ones.

The score is the cosine distance to the k-th nearest training embedding (Sun et al., "Out-of-Distribution Detection with
Deep Nearest Neighbors", ICML 2022, arXiv 2204.06507), reported as AUROC by `further.out_of_distribution`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def outlier_score(train: Tensor, test: Tensor, *, k: int = 20, chunk: int = 1024) -> Tensor:
    """(m,) float32: 1 - cosine of every row of test (m, D) to its k-th nearest of train (n, D); k is cut to n."""
    if not len(train) or train.shape[1] != test.shape[1]:
        raise ValueError(f"expected training rows as wide as the test rows: {tuple(train.shape)}, {tuple(test.shape)}")
    keys, k = normalize(train.float(), dim=1).T, min(k, len(train))
    parts = [1 - (part @ keys).topk(k, dim=1).values[:, -1] for part in normalize(test.float(), dim=1).split(chunk)]
    return torch.cat(parts) if parts else torch.zeros(0)
