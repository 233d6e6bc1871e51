"""The loss of a supervised task: cross-entropy of classes, binary cross-entropy of several labels, squared error."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def row_losses(task: str, logits: Tensor, value: Tensor, weights: Tensor | None = None) -> Tensor:
    """(B,) loss of each row from logits or numbers (B, C) and value: (B,) classes, else (B, C).

    task: classification, multilabel (the mean over its labels) or regression (of standardised numbers, the mean over
    the targets). weights (C,): of the positive labels of a multi-label task.
    """
    if task == "classification":
        return F.cross_entropy(logits, value, reduction="none")
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, value, pos_weight=weights, reduction="none").mean(1)
    return (logits - value).square().mean(1)


def class_weights(task: str, labels: Tensor, outputs: int) -> Tensor | None:
    """(outputs,) "balanced" weights of labels (n,) or (n, C), None for a regression.

    Of classes n / (C n_c), scikit-learn's rule; of several labels a row negatives over positives.
    """
    if task == "classification":
        counts = torch.bincount(labels, minlength=outputs).float()
        return len(labels) / (outputs * counts.clamp(min=1))
    if task == "multilabel":
        positive = labels.sum(0)
        return (len(labels) - positive) / positive.clamp(min=1)
    return None
