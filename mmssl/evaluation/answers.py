"""What each encoder got right, row by row: for differences between models on the same rows, and for scores by group."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import whole_file
from .baselines import wilson

LEAST = 10
"""Rows of a group below which no score of its own is told."""
RESAMPLES = 500
"""Of the rows, for the interval of a disparity."""


@dataclass(frozen=True)
class Answer:
    """One metric that is a mean over rows.

    Attributes:
        rows: (n,) int64 which of the test rows it is a mean over.
        right: encoder -> (n,) float64, 1 where it was right; between 0 and 1 where it answered several times.
    """

    rows: Tensor
    right: Mapping[str, Tensor]


@dataclass
class Answers:
    """All of one evaluation.

    Attributes:
        found: (task, metric) -> answers.
        tested: (N,) int64 the number of each test row in the data it was taken from.
        source: which data those are.
        groups: whose rows stay together, a name a test row; None: each stands for itself.
        by: what scores are told for, a value a test row; None: nobody asked.
        pooled: modality -> (rows (n,), the model's pooled states (n, V)), where the task `cka` compares models by them.
        memory: a folder of answers that another model would give, too: those of baselines on the same raw features.
    """

    found: dict[tuple[str, str], Answer] = field(default_factory=dict)
    tested: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    source: str = ""
    groups: Sequence[Hashable] | None = None
    by: Sequence[Hashable] | None = None
    pooled: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    memory: Path | None = None

    def take(self, task: str, answers: dict[str, Answer]) -> None:
        """Keep what a task left."""
        self.found |= {(task, name): answer for name, answer in answers.items()}
        answers.clear()


def remembered(memory: Path | None, parts: Iterable[Any], make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """What `make` returns, from `memory` where that has it: a function of the arrays and words in `parts`."""
    if memory is None:
        return make()
    key = hashlib.sha256()
    for part in parts:
        held = np.ascontiguousarray(part) if isinstance(part, np.ndarray) else None
        key.update(repr(part if held is None else (held.shape, held.dtype.str)).encode())
        if held is not None:
            key.update(held.tobytes())
    place = memory / f"{key.hexdigest()[:32]}.npy"
    if place.is_file():
        kept: NDArray[Any] = np.load(place, allow_pickle=False)
        return kept
    made = make()
    with whole_file(place) as partial, partial.open("wb") as file:
        np.save(file, made, allow_pickle=False)
    return made


def by_group(answer: Answer, values: Sequence[Hashable], encoder: str = "model") -> dict[str, Any] | None:
    """Scores by the value of a column, and their disparity: the best group's less the worst's, as SEER tells it (Goyal
    et al. 2022, arXiv 2202.08360).

    {"groups": {value: {"score", "low", "high", "n"}}, "disparity": {"value", "low", "high"}, "few": rows of groups too
    small to be told}. The interval is the percentiles' over resamples within the groups; a disparity is never below 0,
    and of many small groups large by chance alone. None with fewer than two groups of `LEAST` rows.
    """
    right = answer.right.get(encoder)
    if right is None:
        return None
    names = np.array([str(values[row]) for row in answer.rows.tolist()])
    hits = right.double().numpy()
    members = {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
    large = {name: hits[rows] for name, rows in members.items() if len(rows) >= LEAST}
    if len(large) < 2:
        return None
    scores = {name: float(of.mean()) for name, of in large.items()}
    rng = np.random.default_rng(0)
    # one column a group: its mean on each resample of its own rows
    drawn = [of[rng.integers(len(of), size=(RESAMPLES, len(of)))].mean(1) for of in large.values()]
    spread = np.stack(drawn, 1).max(1) - np.stack(drawn, 1).min(1)
    low, high = (float(v) for v in np.quantile(spread, [0.025, 0.975]))
    groups = {}
    for name, score in scores.items():
        span = wilson(score, len(large[name]))
        groups[name] = {"score": score, "low": span[0], "high": span[1], "n": len(large[name])}
    disparity = {"value": max(scores.values()) - min(scores.values()), "low": low, "high": high}
    return {"groups": groups, "disparity": disparity, "few": len(hits) - sum(map(len, large.values()))}


def said_by_group(where: str, column: str, found: Mapping[str, Any]) -> str:
    """One line of it."""
    each = ", ".join(f"{name} {of['score']:.3f} ({of['n']})" for name, of in found["groups"].items())
    d = found["disparity"]
    few = f"; {found['few']} rows of smaller groups" if found["few"] else ""
    return f"{where} by {column}: {each}{few}; disparity {d['value']:.3f} ({d['low']:.3f}-{d['high']:.3f})"


def hits_of(predicted: Tensor, truth: Tensor) -> Tensor:
    """(n,) float64 whether each row was right, the mean over draws of predictions (draws, n)."""
    hits = (predicted == truth).to(torch.float64)
    return hits if hits.ndim == 1 else hits.mean(0)
