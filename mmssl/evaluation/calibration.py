"""Expected calibration error, and bootstrap intervals for scores that are no plain share.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (arXiv 1706.04599), equation 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """sum over bins of (share of samples in the bin) * |mean confidence - accuracy| there, bins of equal width.

    confidence (n,) in [0, 1] of the predicted class, correct (n,) bool. ValueError when there is no sample.
    """
    if not len(confidence) or confidence.shape != correct.shape:
        raise ValueError(f"expected one confidence a sample, got {tuple(confidence.shape)}, {tuple(correct.shape)}")
    confidence, hit = confidence.double(), correct.double()
    # the right end belongs to a bin: (0, 1/bins], ..., as in the paper
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, confidence - hit)
    return float(gap.abs().sum() / len(confidence))


def bootstrap(score: Callable[[Tensor], float], n: int, *, resamples: int = 200, seed: int = 0) -> list[float]:
    """[low, high]: the 95 % percentile interval of score(rows) over resamples of n rows with replacement."""
    generator = torch.Generator().manual_seed(seed)
    values = [score(torch.randint(n, (n,), generator=generator)) for _ in range(resamples)]
    low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return [float(low), float(high)]
