"""A score a row that `mmssl select --by` keeps rows by; nan where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..saying import told
from .embeddings import Embeddings
from .kmeans import Labels, unit

Scores = NDArray[np.float64]
BLOCK = 1024


def as_numbers(values: Sequence[Any], name: str) -> Scores:
    """(n,) a column as numbers; UserError where it holds something else."""
    found = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        try:
            found[row] = np.nan if value is None or value == "" else float(value)
        except (TypeError, ValueError):
            raise UserError(
                f"by: column '{name}' holds {type(value).__name__} in row {row}, expected numbers"
            ) from None
    if not np.isfinite(found).any():
        raise UserError(f"by: column '{name}' holds no number")
    return found


def typicality(numbers: Labels, x: NDArray[np.float32], rows: int, neighbours: int) -> Scores:
    """(rows,) one over the mean Euclidean distance of a row's embedding (length 1) to its nearest neighbours: high
    where there are many like it (Hacohen et al. 2022, arXiv 2202.02794). Compares each with all."""
    found = np.full(rows, np.nan)
    k = min(neighbours, len(x) - 1)
    if k < 1:
        raise UserError(f"by: typicality of {len(x)} row, expected at least two")
    for low in told(range(0, len(x), BLOCK), "comparing rows with all others", len(x), size=BLOCK):
        apart = 2 - 2 * (x[low : low + BLOCK] @ x.T)
        own = np.arange(len(apart))
        apart[own, low + own] = np.inf  # a row is not its own neighbour
        near = np.sqrt(np.maximum(np.partition(apart, k - 1, axis=1)[:, :k], 0)).mean(1, dtype=np.float64)
        found[numbers[low : low + BLOCK]] = 1 / np.maximum(near, 1e-9)
    return found


def pair_cosines(one: Embeddings, other: Embeddings) -> Scores:
    """(rows,) the cosine of two embeddings of each row, of picture and caption say, where it has both (CLIP score)."""
    found = np.full(one.rows, np.nan)
    for (mine, x), (theirs, y) in zip(one, other, strict=True):
        both, i, j = np.intersect1d(mine, theirs, return_indices=True)
        if one.width != other.width:
            raise UserError(
                f"by: '{one.column}' has {one.width} values and '{other.column}' {other.width}: they lie in no common "
                "space, expected embeddings of a model with a projection"
            )
        found[both] = (unit(x[i]) * unit(y[j])).sum(1)
    return found


def best_rows(scores: Scores, rows: Labels, count: int, lowest: bool, drawn: Labels) -> Labels:
    """`count` of the rows with the highest scores, or the lowest, in rising order; among equal ones it is drawn.

    drawn: all rows of the data in a drawn order.
    """
    turn = np.empty(len(drawn), np.int64)
    turn[drawn] = np.arange(len(drawn))
    mixed = rows[np.argsort(turn[rows], kind="stable")]
    best = np.argsort(scores[mixed] if lowest else -scores[mixed], kind="stable")[:count]
    return np.sort(mixed[best])
