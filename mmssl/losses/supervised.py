"""The loss of a supervised task: cross-entropy of classes, binary cross-entropy of several labels and of the thresholds
between grades, squared error of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def row_losses(
    task: str,
    logits: Tensor,
    value: Tensor,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    asymmetry: Sequence[float] | None = None,
) -> Tensor:
    """(B,) loss of each row from logits or numbers (B, C) and value: (B,) classes or grades, else (B, C).

    Args:
        task: classification, multilabel (the mean over its labels), regression (of standardised numbers, the mean over
            the targets), or ordinal: logits (B, K - 1) say of each threshold between the K grades whether the row lies
            above it, and the loss is the sum of their binary cross-entropies (CORAL, Cao et al. 2020, arXiv 1901.07884,
            equation 4; Raschka-research-group/coral-pytorch).
        logits: what a head gives.
        value: what is true.
        weights: (C,) of the positive labels of a multi-label task.
        smoothing: of a classification: share of the label that all classes have equal parts of.
        asymmetry: of a multi-label task: see `asymmetric`, which stands in place of the cross-entropy.
    """
    if task == "classification":
        return F.cross_entropy(logits, value, reduction="none", label_smoothing=smoothing)
    if task == "multilabel" and asymmetry is not None:
        return asymmetric(logits, value, *asymmetry).mean(1)
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, value, pos_weight=weights, reduction="none").mean(1)
    if task == "ordinal":
        above = value[:, None] > torch.arange(logits.shape[1], device=value.device)
        return F.binary_cross_entropy_with_logits(logits, above.to(logits.dtype), reduction="none").sum(1)
    return (logits - value).square().mean(1)


def asymmetric(logits: Tensor, value: Tensor, positive: float, negative: float, margin: float) -> Tensor:
    """(B, C) of each label: -(1 - p)^positive log p where it holds, else -q^negative log(1 - q) with q = max(p -
    margin, 0): easy absent labels, which most are, count little or nothing (Ridnik et al. 2021, arXiv 2009.14119,
    equations 5 to 7; Alibaba-MIIL/ASL)."""
    p = logits.sigmoid()
    q = (p - margin).clamp(min=0)
    there = (1 - p) ** positive * F.logsigmoid(logits)
    # without a margin log(1 - p) is had from the logits, which do not round to 0
    absent = F.logsigmoid(-logits) if margin == 0 else (1 - q).clamp(min=1e-8).log()
    return -(value * there + (1 - value) * q**negative * absent)


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
