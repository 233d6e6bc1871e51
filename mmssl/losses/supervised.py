"""The loss of a supervised task: cross-entropy of classes, binary cross-entropy of several labels and of the thresholds
between grades, squared error of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Tail(NamedTuple):
    """What a cross-entropy does for rare classes: offsets (C,) added to the logits, margins (C,) taken from the true
    class's."""

    offsets: Tensor
    margins: Tensor

    def __call__(self, logits: Tensor, value: Tensor) -> Tensor:
        """logits (B, C), value (B,) classes -> (B, C)."""
        true = F.one_hot(value, logits.shape[1]).to(logits.dtype)
        return logits + self.offsets.to(logits) - true * self.margins.to(logits)


def logit_adjusted(counts: Tensor, tau: float) -> Tail:
    """tau log of each class's share, counts (C,) rows of each, one where there is none: what the logits leave to be
    said by how frequent classes are (Menon et al. 2021, arXiv 2007.07314, equation 10; tau = 1 is balanced softmax, Ren
    et al. 2020, arXiv 2007.10740)."""
    shares = counts.double().clamp(min=1) / counts.sum()
    return Tail((tau * shares.log()).float(), torch.zeros(len(counts)))


def ldam(counts: Tensor, largest: float) -> Tail:
    """Margins in proportion to n_c^(-1/4), the rarest class's `largest` (Cao et al. 2019, arXiv 1906.07413, equation
    13; kaidic/LDAM-DRW, whose logits are cosines times 30, while these are a linear head's as they are)."""
    margins = counts.double().clamp(min=1) ** -0.25
    return Tail(torch.zeros(len(counts)), (largest * margins / margins.max()).float())


class Experts(NamedTuple):
    """Of several heads that answer together: what the cross-entropy of each does for rare classes."""

    tails: tuple[Tail, ...]

    @property
    def mean(self) -> Tail:
        """Of the mean of their logits."""
        offsets, margins = (torch.stack(parts).mean(0) for parts in zip(*self.tails, strict=True))
        return Tail(offsets, margins)


def sade(counts: Tensor, lean: float) -> Experts:
    """A plain, a balanced and an inverse softmax: 0, log s and log s - lean log r are added to the logits, with s (C,)
    the share of each class of counts (C,) and r that of the class as frequent as it is rare, the mean one of those as
    frequent as it (Zhang et al. 2022, arXiv 2107.09249, equations 1 to 3; Vanint/SADE-AgnosticLT)."""
    shares = counts.double().clamp(min=1) / counts.sum()
    rising = shares.sort().values
    turned = torch.stack([rising.flip(0)[rising == share].mean() for share in shares])
    none, balanced = torch.zeros(len(counts)), logit_adjusted(counts, 1.0)
    inverse = (shares.log() - lean * turned.log()).float()
    return Experts((Tail(none, none), balanced, Tail(inverse, none)))


def row_losses(
    task: str,
    logits: Tensor,
    value: Tensor,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    asymmetry: Sequence[float] | None = None,
    tail: Tail | Experts | None = None,
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
        tail: of a classification: what is done to the logits first; of experts, whose logits are (B, K, C), the mean
            of what each loses.
    """
    if isinstance(tail, Experts):
        each = [row_losses(task, logits[:, k], value, weights, smoothing, tail=own) for k, own in enumerate(tail.tails)]
        return torch.stack(each).mean(0)
    if task == "classification":
        if tail is not None:
            logits = tail(logits, value)
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
