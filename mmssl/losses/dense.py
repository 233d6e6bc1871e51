"""Losses between patches of two views that see the same place: VICRegL's, DenseCL's and PixPro's. Pure functions.

Sums over several processes are the caller's: `total` adds up a tensor over them, with gradients.
Shapes: n samples, M matched patches of each, N patches, D width, m negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .regularisers import Total, alone


def vicreg_matches(
    a: Tensor, b: Tensor, valid: Tensor, weights: tuple[float, float, float] = (25.0, 25.0, 1.0), total: Total = alone
) -> tuple[Tensor, dict[str, Tensor]]:
    """(VICReg's loss of matched patches, its three terms): VICRegL's local criterion (Bardes et al. 2022b, eq. 3).

    The mean squared distance of all matches; spread and covariance among the samples' patches of one rank, averaged
    over the M ranks and over both sides (facebookresearch/VICRegL `_vicreg_loss`; its `local_loss` keeps the last pair
    of views only, by a slip). Ranks that fewer than two samples have say nothing of spread and covariance.

    Args:
        a: (n, M, D) embeddings.
        b: (n, M, D) those they are matched with.
        valid: (n, M) bool, which are.
        weights: of distance, spread and covariance.
        total: the sum over processes.
    """
    weight = valid.to(a.dtype)[..., None]
    a, b = (torch.where(valid[..., None], x, 0.0) for x in (a, b))
    count = total(weight.sum(0).detach())  # (M, 1)
    distance = total((a - b).square().mean(-1).sum()) / count.sum().clamp(min=1)
    enough = (count[:, 0] >= 2).to(a.dtype)
    spread, covariance = a.new_zeros(()), a.new_zeros(())
    for x in (a, b):
        centred = (x - total(x.sum(0)) / count.clamp(min=1)) * weight
        # (M, D, D), of which the diagonal is the variance
        matrix = total(torch.einsum("nmc,nmd->mcd", centred, centred)) / (count - 1).clamp(min=1)[..., None]
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        low = torch.relu(1 - (diagonal + 1e-4).sqrt()).mean(1)
        off = (matrix.square().sum((1, 2)) - diagonal.square().sum(1)) / a.shape[-1]
        spread = spread + (low * enough).sum() / enough.sum().clamp(min=1) / 2
        covariance = covariance + (off * enough).sum() / enough.sum().clamp(min=1) / 2
    loss = weights[0] * distance + weights[1] * spread + weights[2] * covariance
    terms = {"invariance": distance, "variance": spread, "covariance": covariance}
    return loss, {name: term.detach() for name, term in terms.items()}


def nce_of(positive: Tensor, negatives: Tensor, counted: Tensor) -> Tensor:
    """-log of the positive's share in its softmax with the negatives: (...,), 0 where none counts.

    DenseCL (Wang et al. 2021, eq. 3), where negatives are pooled maps of other samples; Chaitanya et al. 2020 (eq. 3),
    where they are the other regions of both maps.

    positive: (...,) similarity over temperature; negatives: (..., m); counted: (..., m) bool.
    """
    logits = torch.cat([positive[..., None], negatives.masked_fill(~counted, -torch.inf)], -1)
    return logits.logsumexp(-1) - positive


def pixel_consistency(prediction: Tensor, target: Tensor, pairs: Tensor) -> Tensor:
    """-2 times the mean cosine of all pairs of a sample's patches: (n,), 0 where there is none.

    PixPro (Xie et al. 2021, eq. 4; zdaxie/PixPro `regression_loss`), one direction.

    prediction: (n, N, D) and target: (n, N', D), both L2-normalised; pairs: (n, N, N') bool.
    """
    cosine = prediction @ target.transpose(1, 2)
    return -2 * torch.where(pairs, cosine, 0.0).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


def propagated(x: Tensor, values: Tensor, valid: Tensor, sharpness: float) -> Tensor:
    """Each patch as the sum of all patches' values, by how alike they are: max(0, cos(x_i, x_j))^sharpness.

    PixPro's pixel propagation (Xie et al. 2021, eq. 5). x: (n, N, D) and values: (n, N, D), both L2-normalised; valid:
    (n, N) bool, patches that are summed.
    """
    alike = (x @ x.transpose(1, 2)).clamp(min=0)
    # a power below 1 has no finite slope at 0
    alike = (alike + 1e-6 if sharpness < 1 else alike) ** sharpness
    return (alike * valid[:, None]) @ values
