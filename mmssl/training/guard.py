"""The collapse guard: says when a run has gone wrong, from its health and its loss, never from the loss alone.

A collapsed encoder often has a falling loss, so the guard judges by the spread and the rank of the embeddings and the
use of codebooks (`mmssl.training.health`), and by a loss that is not finite or jumps. What follows is the recipe's
choice: a warning, a stop with a checkpoint, or the last healthy checkpoint again with a lower learning rate, other
draws and, as in PaLM (Chowdhery et al. 2022, arXiv 2204.02311, section 5.1), without the batches that led there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from accelerate.utils import broadcast_object_list
from torch import Tensor

from ..recipe.config import GuardConfig
from .checkpoints import State
from .observers import Measured, Moment, Observer, Verdict

WINDOW, ENOUGH = 20, 8
"""Logged losses that a jump is measured against: the last so many, and at least so many."""

Health = Mapping[str, float | None]


class Guard(Observer):
    """Judges each line of the log; stands behind those that measure health.

    healthy: what the last measurement of health said, None before the first.
    """

    name = "guard"
    logged = False

    def __init__(self, settings: GuardConfig) -> None:
        self.settings = settings
        self.goes_back = settings.action == "rollback"
        self.best: dict[str, float] = {}
        self.losses: list[float] = []
        self.bad = 0
        self.healthy: bool | None = None

    def due(self, moment: Moment) -> bool:
        """With every line of the log, and before a checkpoint is written."""
        return moment.logs or moment.saves  # a broken model pushes out no good checkpoint

    def note(self, moment: Moment, found: Measured) -> Verdict | None:
        """Judge the loss and the health of the moment; all processes go by what the first one found."""
        if moment.loss is None:  # a look that was made up for
            return None
        health = {key: value for key, value in moment.measured.items() if key.startswith("health/")}
        agreed = [self.check(moment.step, moment.loss, health)]
        broadcast_object_list(agreed)  # rounding may differ between processes, what they do must not
        if health:
            moment.healthy = self.healthy
        if agreed[0] is None:
            return None
        s = self.settings
        return Verdict(s.action, "train.guard", agreed[0], s.rollbacks, s.lr_factor)

    def state_dict(self) -> State:
        """What later lines are judged against."""
        return {"best": self.best, "losses": self.losses, "bad": self.bad}

    def load_state_dict(self, state: State, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self.best, self.losses = dict(state.get("best", {})), list(state.get("losses", []))
        self.bad, self.healthy = int(state.get("bad", 0)), None

    def check(self, step: int, loss: float, health: Health) -> str | None:
        """Why something must be done now, or None. health: empty where it was not measured at this step."""
        sudden = self._loss(loss)
        faults = [fault for key, value in health.items() if (fault := self._fault(key, value))]
        if health:
            self.healthy = not faults
            self.bad = self.bad + 1 if faults else 0
            if not faults:
                for key, value in health.items():
                    if key.endswith("/rankme") and value is not None:
                        self.best[key] = max(value, self.best.get(key, 0.0))
        if sudden is not None:
            self.healthy = False
            return sudden
        # a warning once, when it starts; the other actions end the row of bad checks
        due = (
            self.bad == self.settings.patience if self.settings.action == "warn" else self.bad >= self.settings.patience
        )
        if not (faults and due):
            return None
        times = f" at {self.bad} checks in a row" if self.bad > 1 else ""
        return f"{'; '.join(faults)}{times}"

    def _fault(self, key: str, value: float | None) -> str | None:
        """What is wrong with one measure."""
        s = self.settings
        measure = key.rpartition("/")[2]
        if measure not in ("rankme", "std_mean", "codes_perplexity"):
            return None
        if value is None:
            return f"the embeddings behind {key} are not finite"
        if measure == "codes_perplexity":
            low = s.min_codes is not None and value < s.min_codes
            return f"{key} is {value:.3g}, below train.guard.min_codes = {s.min_codes:g}" if low else None
        if measure == "std_mean":
            low = s.min_std is not None and value < s.min_std
            return f"{key} is {value:.3g}, below train.guard.min_std = {s.min_std:g}" if low else None
        if s.min_rank is not None and value < s.min_rank:
            return f"{key} is {value:.3g}, below train.guard.min_rank = {s.min_rank:g}"
        best = self.best.get(key, 0.0)
        if s.drop_share is not None and value < (1 - s.drop_share) * best:
            allowed = f"train.guard.drop_share = {s.drop_share:g}"
            return f"{key} is {value:.3g}, {1 - value / best:.0%} below its best {best:.3g} ({allowed})"
        return None

    def _loss(self, loss: float) -> str | None:
        """What is wrong with a logged loss; a good one joins the last ones."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        spike = self.settings.spike
        if spike is not None and len(self.losses) >= ENOUGH:
            middle = median(self.losses)
            # 1.4826 times the median deviation is a normal standard deviation; 1 %: where the loss hardly moves
            scale = max(1.4826 * median(abs(x - middle) for x in self.losses), 0.01 * abs(middle))
            if loss - middle > spike * scale:
                return f"the loss jumped from {middle:.4g} to {loss:.4g} (train.guard.spike = {spike:g})"
        self.losses = [*self.losses, loss][-WINDOW:]
        return None
