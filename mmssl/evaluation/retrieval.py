"""Cross-modal retrieval: recall at k and median rank, with ties that do not favour us, and what chance would give.

Shapes: Q queries, C candidates, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

TIE = 1e-6
"""Cosines nearer than this are equal: float32 products of the same vectors differ by about 1e-7."""


def retrieval_ranks(
    queries: Tensor, candidates: Tensor, relevant: Sequence[Sequence[int]], *, chunk: int = 512
) -> NDArray[np.float64]:
    """(Q,) the rank, from 1, of each query's best relevant candidate by cosine.

    queries (Q, E), candidates (C, E); relevant[i] holds the candidates that are right for query i, at least one. The
    rank is 1 + the irrelevant candidates that are strictly better + half of those that are as good: a collapsed
    encoder gets the rank of chance, not the first. Memory is chunk * C.
    """
    if len(queries) != len(relevant):
        raise ValueError(f"{len(queries)} queries but {len(relevant)} lists of relevant candidates")
    if queries.shape[1] != candidates.shape[1]:
        raise ValueError(f"queries are {queries.shape[1]} wide, candidates {candidates.shape[1]}")
    if any(len(right) == 0 for right in relevant):
        raise ValueError("every query needs at least one relevant candidate")
    queries, candidates = normalize(queries.float(), dim=1), normalize(candidates.float(), dim=1)
    out = np.empty(len(queries))
    for start in range(0, len(queries), chunk):
        cosine = queries[start : start + chunk] @ candidates.T
        right = relevant[start : start + chunk]
        row = torch.tensor([i for i, columns in enumerate(right) for _ in columns])
        column = torch.tensor([c for columns in right for c in columns])
        mask = torch.zeros(cosine.shape, dtype=torch.bool)
        mask[row, column] = True
        mask = mask.to(cosine.device)
        best = cosine.masked_fill(~mask, -torch.inf).amax(1, keepdim=True)
        gap = (cosine - best).masked_fill(mask, -torch.inf)
        # ties count half: the expected rank if they were shuffled
        ahead = (gap > TIE).sum(1) + 0.5 * (gap.abs() <= TIE).sum(1)
        out[start : start + chunk] = 1 + ahead.cpu().numpy()
    return out


@dataclass(frozen=True)
class Ranking:
    """How well each query's relevant candidates are ordered.

    Attributes:
        reciprocal: (Q,) one over the rank of the best relevant one.
        gain: (Q,) nDCG, the discounted gain of all relevant ones over the best there could be.
    """

    reciprocal: NDArray[np.float64]
    gain: NDArray[np.float64]


def ranking(queries: Tensor, candidates: Tensor, relevant: Sequence[Sequence[int]], *, chunk: int = 512) -> Ranking:
    """MRR and nDCG (Jarvelin & Kekalainen 2002, relevance 0 or 1, over all ranks), query by query.

    Arguments as of `retrieval_ranks`. Among candidates of equal cosine each has the middle rank of them, as there, so a
    collapsed encoder gets what is far from the best.
    """
    first = retrieval_ranks(queries, candidates, relevant, chunk=chunk)
    queries, candidates = normalize(queries.float(), dim=1), normalize(candidates.float(), dim=1)
    gain = np.empty(len(queries))
    for start in range(0, len(queries), chunk):
        cosine = queries[start : start + chunk] @ candidates.T
        for at, row in enumerate(cosine, start):
            right = row[list(relevant[at])]
            gap = row[None] - right[:, None]
            # its own candidate is among those that are as good
            ranks = 1 + (gap > TIE).sum(1).double() + 0.5 * ((gap.abs() <= TIE).sum(1).double() - 1)
            best = (1 / torch.arange(2, len(right) + 2).double().log2()).sum()
            gain[at] = float((1 / (1 + ranks).log2()).sum() / best)
    return Ranking(1 / first, gain)


def chance_ranking(relevant: Sequence[int], candidates: int) -> tuple[float, float]:
    """(MRR, nDCG) of a random order, averaged over the queries."""
    counts, times = np.unique(np.asarray(relevant), return_counts=True)
    places = np.arange(1, candidates + 1)
    discounts = 1 / np.log2(1 + places)
    reciprocal, gains = [], []
    for count in counts.tolist():
        known = np.concatenate([[0.0], chance_cdf([count], candidates, candidates)])
        reciprocal.append(float((np.diff(known) / places).sum()))
        gains.append(float(count * discounts.mean() / discounts[:count].sum()))
    return float(np.average(reciprocal, weights=times)), float(np.average(gains, weights=times))


def recall_at(ranks: NDArray[np.float64], k: int) -> float:
    """Share of the queries whose rank is at most k."""
    return float((ranks <= k).mean())


def median_rank(ranks: NDArray[np.float64]) -> float:
    """The median of the ranks; 1 is best."""
    return float(np.median(ranks))


def chance_cdf(relevant: Sequence[int], candidates: int, upto: int) -> NDArray[np.float64]:
    """(upto,) P(rank <= 1), ..., P(rank <= upto) for a random order of the candidates, averaged over the queries.

    relevant: how many candidates are right for each query. With r right ones of C, all of the first k are wrong with
    probability prod_{i<k} (C - r - i) / (C - i).
    """
    counts, times = np.unique(np.asarray(relevant), return_counts=True)
    place = np.arange(min(upto, candidates))
    wrong = (candidates - counts[:, None] - place).clip(min=0) / (candidates - place)
    found = 1 - np.cumprod(wrong, axis=1)
    mean: NDArray[np.float64] = (found * times[:, None]).sum(0) / times.sum()
    return np.concatenate([mean, np.ones(max(upto - candidates, 0))])


def chance_recall(relevant: Sequence[int], candidates: int, k: int) -> float:
    """What a random order of the candidates gets for `recall_at`, on average."""
    return float(chance_cdf(relevant, candidates, k)[k - 1])


def chance_median_rank(relevant: Sequence[int], candidates: int) -> float:
    """The median rank under a random order of the candidates, over all queries."""
    cdf = chance_cdf(relevant, candidates, candidates)
    return float(np.searchsorted(cdf, 0.5 - 1e-12) + 1)
