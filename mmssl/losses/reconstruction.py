"""Reconstruction losses per patch. Shapes: B batch, n patches, P numbers in a patch, C classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def patch_mse(pred: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each patch (B, n) over its elements that exist (target (B, n, P) not NaN)."""
    absent = target.isnan()
    error = torch.where(absent, 0.0, pred - target).square()
    return error.sum(-1) / (target.shape[-1] - absent.sum(-1)).clamp(min=1)


def patch_cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of each patch (B, n): logits (B, n, C) against ids (B, n)."""
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)


def normalised_patches(values: Tensor, eps: float = 1e-6) -> Tensor:
    """Each patch of values (B, N, P) minus its mean, over its standard deviation; NaN elements stay NaN.

    MAE's `norm_pix_loss` (He et al. 2022; facebookresearch/mae): unbiased variance, eps added to it.
    """
    centred, variance = _moments(values)
    return centred * torch.rsqrt(variance + eps)


def denormalised(normalised: Tensor, values: Tensor, eps: float = 1e-6) -> Tensor:
    """The inverse of `normalised_patches`, by the mean and the deviation of `values` (B, N, P)."""
    mean, variance = _centre(values)
    return normalised * torch.sqrt(variance + eps) + mean


def destandardised(standard: Tensor, values: Tensor, eps: Tensor | float = 1e-6) -> Tensor:
    """The inverse of `standardised`, by the mean and the deviation of `values` (..., P)."""
    mean, variance = _centre(values)
    return standard * (variance.sqrt() + eps) + mean


def _centre(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance (..., 1) of values (..., P), of those that are not NaN."""
    centred, variance = _moments(values)
    return (values - centred).nanmean(-1, keepdim=True).nan_to_num(0.0), variance


def standardised(values: Tensor, eps: Tensor | float = 1e-6) -> Tensor:
    """As `normalised_patches`, but eps is added to the standard deviation (VideoMAE, Tong et al. 2022)."""
    centred, variance = _moments(values)
    return centred / (variance.sqrt() + eps)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values (..., P) less their mean, and their unbiased variance (..., 1), of those that are not NaN."""
    absent = values.isnan()  # `nansum` would copy everything twice more
    count = values.shape[-1] - absent.sum(-1, keepdim=True)
    mean = torch.where(absent, 0.0, values).sum(-1, keepdim=True) / count.clamp(min=1)
    centred = values - mean
    return centred, torch.where(absent, 0.0, centred).square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)
