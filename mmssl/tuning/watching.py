"""A trial that goes wrong, or falls behind the others, ends before its last step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..recipe.config import GuardConfig
from ..training.guard import Guard
from ..training.observers import Measured, Moment, Observer, Verdict
from .study import quiet

if TYPE_CHECKING:
    from optuna.trial import Trial

WAIT = 0.25
"""Share of a run that no trial is given up in for being behind."""


class Watch(Observer):
    """Gives the health of a run to the study's pruner, and ends it where either says so.

    Each trial ends where its embeddings have collapsed, by the thresholds and the patience of the recipe's guard. One
    that is chosen by RankMe ends also where its RankMe (the mean over modalities) is below the median of the others at
    that step; other scores are not measured while a run trains, and RankMe does not stand for them.

    Attributes:
        reason: why the trial ended; None: it did not, or not by this.
    """

    name = "tune"
    logged = False

    def __init__(self, trial: Trial, by: str, guard: GuardConfig | None) -> None:
        self.trial, self.by = trial, by
        self.guard = None if guard is None else Guard(replace(guard, action="stop"))
        self.reason: str | None = None

    def due(self, moment: Moment) -> bool:
        """Whenever anything may have been measured."""
        return moment.step > 0

    def note(self, moment: Moment, found: Measured) -> Verdict | None:
        """Tell the pruner, and hear what it says."""
        health = {key: value for key, value in moment.measured.items() if key.startswith("health/")}
        if not health or moment.last or moment.loss is None:
            return None
        self.reason = None if self.guard is None else self.guard.check(moment.step, moment.loss, health)
        ranks = [value for key, value in health.items() if key.endswith("/rankme") and value is not None]
        if self.reason is None and self.by == "rankme" and ranks:
            rank = sum(ranks) / len(ranks)
            with quiet():
                self.trial.report(rank, moment.step)
                behind = moment.step >= WAIT * moment.steps and self.trial.should_prune()
            if behind:
                self.reason = f"RankMe is {rank:.3g}, below the median of the trials before at this step"
        return None if self.reason is None else Verdict("stop", "tune", self.reason)
