"""Answering only where it is sure: risk and coverage of a probe that may keep silent.

El-Yaniv & Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 2010; the area as Geifman et al.,
"Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", ICLR 2019 (arXiv 1805.08206), have it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RiskCoverage:
    """The curve of n rows: `risk[i]` is the share of wrong answers among the i + 1 rows that are surest.

    Rows of the same confidence are answered or left together: within them, the risk is a straight line from what it
    was before to what it is behind them, so that their order says nothing.
    """

    risk: Tensor

    @staticmethod
    def of(confidence: Tensor, correct: Tensor) -> RiskCoverage:
        """From confidence (n,) and correct (n,) bool. ValueError without rows."""
        if not len(confidence) or confidence.shape != correct.shape:
            raise ValueError(f"expected one confidence a row, got {tuple(confidence.shape)}, {tuple(correct.shape)}")
        order = confidence.argsort(descending=True, stable=True)
        sure, wrong = confidence[order], (~correct[order]).double()
        _, group, size = sure.unique_consecutive(return_inverse=True, return_counts=True)
        shared = torch.zeros(len(size), dtype=torch.float64).index_add_(0, group, wrong) / size
        return RiskCoverage(shared[group].cumsum(0) / torch.arange(1, len(wrong) + 1))

    @property
    def area(self) -> float:
        """AURC, the mean risk over all coverages: 0 is best; one that is sure at random has the share of errors."""
        return float(self.risk.mean())

    def at(self, coverage: float) -> float:
        """The risk where that share of the rows, rounded up, is answered."""
        rows = max(math.ceil(round(coverage * len(self.risk), 6)), 1)
        return float(self.risk[rows - 1])
