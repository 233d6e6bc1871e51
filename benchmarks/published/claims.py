"""What a claim is, and how two arms are told apart on the same test rows."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import pages
from mmssl.recipe.loading import merge_overrides

Array = NDArray[Any]
DATA = Path(os.environ.get("MMSSL_SHARED_DATA", pages.REPO.parent / "shared" / "data"))
RESAMPLES = 1000
"""Of the test rows, for an interval."""


@dataclass(frozen=True)
class Claim:
    """One direction of a paper.

    paper: who, and on what; score: what is told of each arm; better: (an arm, what it is said to be better than); says:
    the paper's own numbers; run: (seed, a folder) -> what `measured` returns, with whatever else is to be kept.
    """

    paper: str
    score: str
    better: tuple[tuple[str, str], ...]
    says: str
    run: Callable[[int, Path], dict[str, Any]]
    less_is_better: bool = False


def measured(
    errors: Mapping[str, Array], told: Callable[[Array], float], pairs: tuple[tuple[str, str], ...], seed: int
) -> dict[str, Any]:
    """Scores of the arms, and the difference of each pair with its 95 % interval over the test rows.

    errors: arm -> (n,) of the same test rows; told: (n,) -> the score.
    """
    rng, count = np.random.default_rng(seed), len(next(iter(errors.values())))
    drawn = [rng.integers(count, size=count) for _ in range(RESAMPLES)]
    less: dict[str, list[float]] = {}
    for one, other in pairs:
        apart = [told(errors[one][rows]) - told(errors[other][rows]) for rows in drawn]
        mean = told(errors[one]) - told(errors[other])
        less[f"{one} less {other}"] = [mean, *np.quantile(apart, [0.025, 0.975]).tolist()]
    return {"scores": {arm: told(error) for arm, error in errors.items()}, "less": less, "tested": count}


def accuracy(wrong: Array) -> float:
    """Of (n,) 1 where the answer was wrong."""
    return float(1 - wrong.mean())


def together(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Settings merged key by key, the later ones over the earlier."""
    merged: dict[str, Any] = {}
    for part in parts:
        merged = merge_overrides(merged, copy.deepcopy(dict(part)), [])
    return merged
