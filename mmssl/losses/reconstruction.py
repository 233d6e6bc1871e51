"""Reconstruction losses per patch. Shapes: B batch, n patches, P numbers in a patch, C classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def patch_mse(pred: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each patch (B, n) over its elements that exist (target (B, n, P) not NaN)."""
    there = ~target.isnan()
    error = torch.where(there, pred - target.nan_to_num(0.0), 0.0).square()
    return error.sum(-1) / there.sum(-1).clamp(min=1)


def patch_cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of each patch (B, n): logits (B, n, C) against ids (B, n)."""
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)


def normalised_patches(values: Tensor, eps: float = 1e-6) -> Tensor:
    """Each patch of values (B, N, P) minus its mean, over its standard deviation; NaN elements stay NaN.

    MAE's `norm_pix_loss` (He et al. 2022; facebookresearch/mae): unbiased variance, eps added to it.
    """
    there = ~values.isnan()
    count = there.sum(-1, keepdim=True)
    mean = values.nansum(-1, keepdim=True) / count.clamp(min=1)
    centred = values - mean
    var = centred.square().nansum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return centred * torch.rsqrt(var + eps)
