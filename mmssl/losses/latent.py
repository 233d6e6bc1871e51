"""Regression of latents: what a predictor says of a target encoder's tokens. Shapes: B batch, n tokens, D width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..lazy import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:
    F = later("torch.nn.functional", __name__)
    torch = later("torch", __name__)


LATENT_LOSSES = ("l1", "l2", "smooth_l1", "cosine")


def latent_loss(pred: Tensor, target: Tensor, kind: str = "l2", beta: float = 1.0) -> Tensor:
    """Loss of each token (..., n) from pred and target (..., n, D), averaged over D.

    l1: |d| (V-JEPA, Bardes et al. 2024). l2: d^2 (T-JEPA, Thimonier et al. 2025). smooth_l1: d^2 / (2 beta) below
    beta, |d| - beta / 2 above (Huber's, as in I-JEPA's published code and data2vec). cosine: 2 - 2 cos, the squared
    distance of the normalised vectors (BYOL, Grill et al. 2020).
    """
    if kind == "cosine":
        return 2 - 2 * F.cosine_similarity(pred, target, dim=-1, eps=1e-8)
    error = (pred - target).abs()
    if kind == "l1":
        return error.mean(-1)
    if kind == "l2":
        return error.square().mean(-1)
    if kind == "smooth_l1":
        return torch.where(error < beta, error.square() / (2 * beta), error - beta / 2).mean(-1)
    raise ValueError(f"latent_loss: kind must be one of {', '.join(LATENT_LOSSES)}, got '{kind}'")


def normalised_latents(latents: Tensor, eps: float = 1e-5) -> Tensor:
    """Layer norm over D without learned parameters, as I-JEPA and V-JEPA apply to their targets."""
    return F.layer_norm(latents, latents.shape[-1:], eps=eps)


def average_layers(layers: Sequence[Tensor], eps: float = 1e-5) -> Tensor:
    """Mean of several blocks' outputs, each layer-normed first (data2vec, Baevski et al. 2022, section 3.3)."""
    return torch.stack([normalised_latents(layer, eps) for layer in layers]).mean(0)
