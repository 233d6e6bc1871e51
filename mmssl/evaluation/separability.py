"""How well embeddings fall into clusters, without labels: persistent homology of dimension 0.

Gourgoulias et al., "Estimating class separability of text embeddings with persistent homology" (arXiv 2305.15016).
In a Vietoris-Rips filtration the components of a point cloud merge at the edge lengths of its minimum spanning tree;
divided by the largest they are the persistence times. A few long ones among many short ones are clusters far apart.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

LARGEST = 2000
"""Points that are looked at: all pairs of distances are kept."""


def persistence_times(points: Tensor) -> Tensor:
    """(n - 1,) float64, rising to 1.0: edge lengths of the minimum spanning tree of points (n, D) over the longest.

    All zero when the points coincide. ValueError for fewer than two points.
    """
    if points.ndim != 2 or len(points) < 2:
        raise ValueError(f"persistence times need at least two points (n, D), got {tuple(points.shape)}")
    from scipy.cluster.hierarchy import linkage

    # single linkage merges at the spanning tree's edges, the shortest first
    times = torch.from_numpy(linkage(points.double().numpy(), "single")[:, 2])
    return times / times[-1] if float(times[-1]) > 0 else times


def separability(embeddings: Tensor, *, rows: int = 1000, seed: int = 0, draws: int = 10) -> tuple[float, list[float]]:
    """(score, [low, high]): one minus the mean persistence time of the normalised embeddings (n, D), near 1 where they
    form few, far clusters; the interval of 95 % over `draws` random subsets of 80 %.

    The paper compares the distributions of times by eye and by their statistics; the mean is our summary of them. It
    depends on n: only scores of equal numbers of rows may be compared. At most `rows` random rows are used.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(embeddings), generator=generator)[: min(rows, LARGEST)]
    points = normalize(embeddings[order].float(), dim=1)
    scores = []
    for _ in range(draws if len(points) > 4 else 0):
        # without replacement: a point drawn twice would be an edge of length 0
        part = torch.randperm(len(points), generator=generator)[: max(int(0.8 * len(points)), 2)]
        scores.append(1 - float(persistence_times(points[part]).mean()))
    score = 1 - float(persistence_times(points).mean())
    spread = 1.96 * float(torch.tensor(scores).std()) if scores else 0.0
    return score, [score - spread, score + spread]
