"""Baselines that need no encoder: raw features in a space for cosines, a ridge map between modalities, intervals.

The raw-feature baseline for everything cross-modal is ridge regression from the raw features of modality A to the
normalised raw features of modality B, fitted on the same training pairs that a probe may see, and cosines around the
mean of B. Around the origin, what all of B has in common would outweigh what the map says: on captions of digits the
baseline's zero-shot accuracy is then 0.59 instead of 0.83, which would flatter every encoder beside it.

Shapes: n rows, F raw features of one modality.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..algebra import eigh

WIDEST = 8192
"""Raw features wider than this are hashed down to it: a tokenizer of 250,000 pieces would need gigabytes."""

ALPHAS = tuple(10.0**power for power in range(-4, 4))
"""Ridge penalties that are tried, in units of the mean eigenvalue of the features' scatter matrix."""


def hashed(features: Tensor, width: int = WIDEST) -> Tensor:
    """features (n, F) unchanged when F <= width, else (n, width) by signed feature hashing.

    Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009 (arXiv 0902.2206): inner
    products stay right on average. Bucket and sign depend on the feature's number alone.
    """
    n, count = features.shape
    if count <= width:
        return features
    generator = torch.Generator().manual_seed(count)
    bucket = torch.randint(width, (count,), generator=generator).to(features.device)
    sign = (torch.randint(2, (count,), generator=generator) * 2 - 1).to(features)
    return features.new_zeros(n, width).index_add_(1, bucket, features * sign)


@dataclass(frozen=True)
class Space:
    """Raw features made comparable by cosine: counts weighted by tf-idf, numbers centred; then L2-normalised.

    Attributes:
        weight: (F,), see `shift`.
        shift: (F,) `transform(x) = normalise((x - shift) * weight)`.
    """

    weight: Tensor
    shift: Tensor

    @staticmethod
    def fit(features: Tensor, *, counts: bool) -> Space:
        """From the training rows' raw features (n, F); counts=True for (log-)counts of ids.

        The inverse document frequency is the smoothed ln((1 + n) / (1 + df)) + 1 of scikit-learn.
        """
        if counts:
            frequency = (features != 0).sum(0)
            weight = ((1 + len(features)) / (1 + frequency.float())).log() + 1
            return Space(weight, torch.zeros_like(weight))
        mean = features.double().mean(0).float()
        return Space(torch.ones_like(mean), mean)

    def transform(self, features: Tensor) -> Tensor:
        """(n, F) float32 rows of length 1 (or 0)."""
        return normalize((features.float() - self.shift) * self.weight, dim=1)


@dataclass(frozen=True)
class Ridge:
    """A linear map with intercept: `predict(x) = (x - x_mean) @ weight + y_mean`.

    Attributes:
        weight: (F, G) float64.
        x_mean: (F,) of the training rows.
        y_mean: (G,) of the training rows.
        alpha: the penalty that was chosen.
    """

    weight: Tensor
    x_mean: Tensor
    y_mean: Tensor
    alpha: float

    def predict(self, x: Tensor) -> Tensor:
        """(n, G) float32 for x (n, F)."""
        return ((x.double() - self.x_mean) @ self.weight + self.y_mean).float()

    def centred(self, y: Tensor) -> Tensor:
        """y (n, G), predicted or true, around the training mean: what cosines are taken of."""
        return (y.double() - self.y_mean).float()

    @staticmethod
    def fit(x: Tensor, y: Tensor, *, check: int = 500) -> Ridge:
        """Ridge regression from x (n, F) to y (n, G), the penalty chosen by exact leave-one-out on `check` rows.

        The penalty is the one that best tells a row's own target from other rows' targets by cosine around the mean
        (`_margin`): that is what the map is used for, and so a stronger baseline than the smallest squared error. One
        eigendecomposition serves all penalties; leaving row i out of a ridge fit gives (p_i - h_ii y_i) / (1 - h_ii)
        with the leverage h_ii (Allen 1974). Raises ValueError with fewer than 3 rows.
        """
        n = len(x)
        if n < 3:
            raise ValueError(f"a ridge baseline needs at least 3 training pairs, got {n}")
        x, y = x.double(), y.double()
        x_mean, y_mean = x.mean(0), y.mean(0)
        centred, target = x - x_mean, y - y_mean
        spectrum, basis = _principal(centred)
        turned = basis.T @ (centred.T @ target)
        rows = torch.arange(0, n, max(math.ceil(n / check), 1))
        seen = centred[rows] @ basis
        scale = max(float(spectrum.sum()) / max(len(spectrum), 1), 1e-12)  # constant features have no spectrum
        best, best_score = ALPHAS[-1], -math.inf
        for alpha in ALPHAS:
            shrunk = seen / (spectrum + alpha * scale)
            predicted = shrunk @ turned + y_mean
            # 1 / n: of the intercept
            leverage = ((shrunk * seen).sum(1) + 1 / n).clamp(max=1 - 1e-6)[:, None]
            left_out = (predicted - leverage * y[rows]) / (1 - leverage)
            score = _margin(left_out - y_mean, target[rows])
            if score >= best_score:  # of equal scores the strongest penalty
                best, best_score = alpha, score
        weight = basis @ (turned / (spectrum + best * scale)[:, None])
        return Ridge(weight, x_mean, y_mean, best * scale)


def _principal(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (r,) and eigenvectors (F, r) of the scatter matrix of centred (n, F); r <= min(n, F)."""
    if len(centred) < centred.shape[1]:
        # the small matrix has the same eigenvalues; directions of no variance play no part in a ridge fit
        spectrum, left = eigh(centred @ centred.T)
        kept = spectrum > 1e-12 * spectrum[-1]
        return spectrum[kept], centred.T @ (left[:, kept] / spectrum[kept].sqrt())
    spectrum, basis = eigh(centred.T @ centred)
    return spectrum.clamp(min=0), basis


def _margin(predicted: Tensor, target: Tensor) -> float:
    """By how many standard deviations a row's own target is nearer (cosine) than all targets, on average."""
    cosine = normalize(predicted, dim=1) @ normalize(target, dim=1).T
    own = cosine.diagonal()
    return float(((own - cosine.mean(1)) / cosine.std(1).clamp(min=1e-12)).mean())


def majority(labels: Tensor, answer: int | None = None) -> float:
    """Accuracy on labels (n,) of always answering `answer`, by default their own commonest class."""
    if answer is None:
        return float(torch.bincount(labels).max()) / len(labels)
    return float((labels == answer).double().mean())


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share of n independent trials (Wilson 1927): holds at 0 and 1 and for small n."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # at 0 and 1 the interval ends there exactly, up to rounding
    return max(min(middle - half, share), 0.0), min(max(middle + half, share), 1.0)
