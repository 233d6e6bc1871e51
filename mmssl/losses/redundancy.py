"""Losses between views that need no negatives: Barlow Twins, Mixed Barlow Twins, VICReg, LeJEPA, MSBReg, BYOL, SimSiam.

Barlow Twins and VICReg are statistics of the whole batch: with several processes `total` is
`mmssl.distributed.all_sum` (see `mmssl.losses.regularisers`), and only rows that are valid count.

Shapes: n local rows, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .regularisers import Total, alone, covariance, moments, variance


def standardise(z: Tensor, valid: Tensor, total: Total = alone, eps: float = 1e-5) -> Tensor:
    """z (n, D) minus the mean and over the standard deviation (biased) of every column's valid rows: batch norm
    without its affine part. Rows that are not valid are 0."""
    count, _, centred = moments(z, valid, total)
    return centred * torch.rsqrt(total(centred.square().sum(0)) / count.clamp(min=1) + eps)


def cross_correlation(a: Tensor, b: Tensor, valid: Tensor, total: Total = alone) -> Tensor:
    """(D, D) mean over the valid rows of the products of standardised a (n, D) and b (n, D), whose other rows are 0."""
    return total(a.T @ b) / _count(valid, a, total).clamp(min=1)


def _count(valid: Tensor, like: Tensor, total: Total) -> Tensor:
    return total(valid.to(like.dtype).sum())


def _enough(loss: Tensor, count: Tensor) -> Tensor:
    """Statistics of fewer than two rows say nothing; the gradient's path stays."""
    return torch.where(count >= 2, loss, 0.0 * loss)


def _barlow(c: Tensor, off_diagonal: float) -> Tensor:
    diagonal = c.diagonal()
    return (1 - diagonal).square().sum() + off_diagonal * (c.square().sum() - diagonal.square().sum())


def barlow_twins(z_a: Tensor, z_b: Tensor, valid: Tensor, off_diagonal: float = 5e-3, total: Total = alone) -> Tensor:
    """sum_i (1 - C_ii)^2 + off_diagonal sum_{i != j} C_ij^2, C the cross-correlation of the two views' embeddings.

    Zbontar et al. 2021 (facebookresearch/barlowtwins): columns are standardised by the batch's mean and biased
    standard deviation. 0 for identical whitened views, and when fewer than two rows count. z_a, z_b: (n, D), raw.
    """
    a, b = standardise(z_a, valid, total), standardise(z_b, valid, total)
    return _enough(_barlow(cross_correlation(a, b, valid, total), off_diagonal), _count(valid, a, total))


def mixed_barlow_term(
    a: Tensor, b: Tensor, other: Tensor, m: Tensor, share: Tensor | float, valid: Tensor, total: Total = alone
) -> Tensor:
    """||C_ma - (share C_aa + (1 - share) C_oa)||^2 + ||C_mb - (share C_ab + (1 - share) C_ob)||^2.

    The regulariser of Mixed Barlow Twins (Bandara et al. 2023): the embedding m of the input share x_a +
    (1 - share) x_o should correlate with the views as the same mixture of embeddings does, where `other` is view b of
    other samples, a permutation of the valid rows. 0 where the encoder is linear, up to the standardisation of m.
    All (n, D), standardised.
    """
    term = a.new_zeros(())
    for view in (a, b):
        c_m, c_a, c_o = (cross_correlation(z, view, valid, total) for z in (m, a, other))
        term = term + (c_m - (share * c_a + (1 - share) * c_o)).square().sum()
    return term


def mixed_barlow_twins(
    embeddings: tuple[Tensor, Tensor, Tensor, Tensor],
    share: Tensor | float,
    valid: Tensor,
    off_diagonal: float = 5e-3,
    mixing_weight: float = 4.0,
    total: Total = alone,
) -> tuple[Tensor, Tensor]:
    """(Barlow Twins + mixing_weight * off_diagonal * `mixed_barlow_term`, that term), weighted as in the authors' code.

    embeddings: raw (n, D) of view a, view b, view b of the mixed-in samples, and the mixed input.
    """
    a, b, other, m = (standardise(z, valid, total) for z in embeddings)
    term = mixed_barlow_term(a, b, other, m, share, valid, total)
    loss = _barlow(cross_correlation(a, b, valid, total), off_diagonal) + mixing_weight * off_diagonal * term
    count = _count(valid, a, total)
    return _enough(loss, count), _enough(term, count)


def vicreg(
    z_a: Tensor,
    z_b: Tensor,
    valid: Tensor,
    weights: tuple[float, float, float] = (25.0, 25.0, 1.0),
    total: Total = alone,
) -> tuple[Tensor, dict[str, Tensor]]:
    """VICReg (Bardes et al. 2022): the weighted sum of invariance, variance and covariance, and these three terms.

    invariance: the mean over rows and columns of (z_a - z_b)^2; variance: averaged over the views; covariance: summed
    over the views. So in facebookresearch/vicreg, whose default weights these are; the paper's equations sum the
    invariance over columns (D times ours) and the variance over views (twice ours).
    """
    count = _count(valid, z_a, total)
    apart = torch.where(valid[:, None], z_a - z_b, 0.0).square().sum()
    terms = {
        "invariance": total(apart) / (count.clamp(min=1) * z_a.shape[1]),
        "variance": (variance(z_a, valid, total) + variance(z_b, valid, total)) / 2,
        "covariance": covariance(z_a, valid, total) + covariance(z_b, valid, total),
    }
    loss = sum((w * term for w, term in zip(weights, terms.values(), strict=True)), start=z_a.new_zeros(()))
    return _enough(loss, count), {name: term.detach() for name, term in terms.items()}


def centroid(z: Tensor, there: Tensor, leading: Tensor, total: Total = alone) -> Tensor:
    """Mean squared distance of a sample's sides from the mean of its leading ones (LeJEPA, Balestriero & LeCun 2025,
    algorithm 2): over the sides, samples and dimensions, with gradient through the mean.

    Args:
        z: (V, n, D) embeddings of V sides.
        there: (V, n) bool, whether a sample has that side. A sample counts that has two of them and a leading one.
        leading: (V,) bool, the sides that the mean is of (the paper's global views).
        total: the sum over processes.
    """
    z = torch.where(there[..., None], z, 0.0)
    led = (there & leading[:, None]).to(z.dtype)
    middle = (z * led[..., None]).sum(0) / led.sum(0).clamp(min=1)[:, None]
    counts = (there & (there.sum(0) > 1) & (led.sum(0) > 0)).to(z.dtype)
    distance = (z - middle).square().mean(-1)
    return total((distance * counts).sum()) / total(counts.sum()).clamp(min=1)


def teachers_centroid(z: Tensor, target: Tensor, there: Tensor, leading: Tensor, total: Total = alone) -> Tensor:
    """Mean squared distance of a sample's sides, brought to length 1, from the direction of the mean of what a teacher
    makes, brought to length 1, of its leading ones: 2 - 2 cos, over sides and samples (MSBReg, arXiv 2207.03552). No
    gradient goes into the target.

    Args:
        z: (V, n, D) embeddings of V sides.
        target: (V, n, D) the teacher's of them.
        there: (V, n) bool, whether a sample has that side. A sample counts that has two of them and a leading one.
        leading: (V,) bool, the sides that the mean is of.
        total: the sum over processes.
    """
    led = (there & leading[:, None])[..., None]
    middle = torch.where(led, F.normalize(target.detach(), dim=-1), 0.0).sum(0)
    z, middle = F.normalize(torch.where(there[..., None], z, 0.0), dim=-1), F.normalize(middle, dim=-1)
    counts = (there & (there.sum(0) > 1) & led[..., 0].any(0)).to(z.dtype)
    distance = 2 - 2 * (z * middle).sum(-1)
    return total((distance * counts).sum()) / total(counts.sum()).clamp(min=1)


def byol(prediction: Tensor, target: Tensor) -> Tensor:
    """||p / |p| - z / |z| ||^2 = 2 - 2 cos(p, z) of every row: (n,). BYOL (Grill et al. 2020), which sums it over both
    directions. prediction p, target z: (n, D); no gradient goes into the target."""
    return 2 - 2 * F.cosine_similarity(prediction, target.detach(), dim=-1)


def simsiam(prediction: Tensor, target: Tensor) -> Tensor:
    """-cos(p, z) of every row: (n,). SimSiam (Chen and He 2021), which averages it over both directions."""
    return -F.cosine_similarity(prediction, target.detach(), dim=-1)


def direct_predictor(correlation: Tensor, eps: float = 0.1, relative: bool = True) -> Tensor:
    """DirectPred's predictor (Tian et al. 2021): W = U diag(p) U' with p_j = sqrt(s_j) + eps max s, for the
    eigenvalues s and eigenvectors U of the correlation (D, D) of its inputs. Symmetric by construction.

    relative: the correlation is first divided by its largest eigenvalue, as the authors' code does, so that eps has
    the same meaning whatever the embedding's scale; False: the paper's formula as it is printed. A correlation of zero
    gives the identity.
    """
    half = correlation.double()
    values, vectors = torch.linalg.eigh((half + half.T) / 2)
    values = values.clamp(min=0)
    largest = values[-1]
    if float(largest) <= 0:
        return torch.eye(len(values), dtype=correlation.dtype, device=correlation.device)
    if relative:
        values = values / largest
    p = values.sqrt() + eps * values[-1]
    w = (vectors * p) @ vectors.T
    return ((w + w.T) / 2).to(correlation.dtype)
