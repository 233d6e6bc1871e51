"""The collapse guard: says when a run has gone wrong, from its health and its loss, never from the loss alone.

A collapsed encoder often has a falling loss, so the guard judges by the spread and the rank of the embeddings
(`mmssl.training.health`), and by a loss that is not finite or jumps. What follows is the recipe's choice: a warning, a
stop with a checkpoint, or the last healthy checkpoint again with a lower learning rate, other draws and, as in PaLM
(Chowdhery et al. 2022, arXiv 2204.02311, section 5.1), without the batches that led there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from ..recipe.config import GuardConfig

WINDOW, ENOUGH = 20, 8
"""Logged losses that a jump is measured against: the last so many, and at least so many."""

Health = Mapping[str, float | None]


class Guard:
    """Judges each measurement; its state goes into the checkpoints, so that a resumed run judges alike.

    healthy: what the last measurement of health said, None before the first. rollbacks: times the run went back.
    skipped: micro-batches passed over by that. events: what happened, for the log and the card.
    """

    def __init__(self, settings: GuardConfig | None) -> None:
        self.settings = settings
        self.best: dict[str, float] = {}
        self.losses: list[float] = []
        self.bad = self.rollbacks = self.skipped = 0
        self.healthy: bool | None = None
        self.events: list[dict[str, Any]] = []

    @property
    def action(self) -> str | None:
        return None if self.settings is None else self.settings.action

    @property
    def lr_scale(self) -> float:
        """Factor of the learning rate."""
        return 1.0 if self.settings is None else self.settings.lr_factor**self.rollbacks

    @property
    def salt(self) -> tuple[int | str, ...]:
        """What goes into the keys of all draws, so that those after a rollback are others."""
        return ("rollback", self.rollbacks) if self.rollbacks else ()

    @property
    def marks(self) -> bool:
        """Whether a checkpoint must know if it is healthy."""
        return self.action in ("stop", "rollback")

    def state_dict(self) -> dict[str, Any]:
        """Plain data for `state.json`."""
        names = ("best", "losses", "bad", "rollbacks", "skipped", "events")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; what an older checkpoint lacks stays as it is."""
        for name, value in state.items():
            setattr(self, name, value.copy() if isinstance(value, dict | list) else value)

    def check(self, step: int, loss: float, health: Health) -> str | None:
        """Why something must be done now, or None. health: empty where it was not measured at this step."""
        if self.settings is None:
            return None
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
        due = self.bad == self.settings.patience if self.action == "warn" else self.bad >= self.settings.patience
        if not (faults and due):
            return None
        times = f" at {self.bad} checks in a row" if self.bad > 1 else ""
        return f"{'; '.join(faults)}{times}"

    def _fault(self, key: str, value: float | None) -> str | None:
        """What is wrong with one measure."""
        s = self.settings
        assert s is not None
        measure = key.rpartition("/")[2]
        if measure not in ("rankme", "std_mean"):
            return None
        if value is None:
            return f"the embeddings behind {key} are not finite"
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
        assert self.settings is not None
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        spike = self.settings.spike
        if spike is not None and len(self.losses) >= ENOUGH:
            middle = median(self.losses)
            scale = max(1.4826 * median(abs(x - middle) for x in self.losses), 0.01 * abs(middle))
            if loss - middle > spike * scale:
                return f"the loss jumped from {middle:.4g} to {loss:.4g} (train.guard.spike = {spike:g})"
        self.losses = [*self.losses, loss][-WINDOW:]
        return None

    @property
    def most(self) -> int:
        """Rollbacks that are allowed."""
        return 0 if self.settings is None else self.settings.rollbacks

    def note(self, step: int, reason: str, what: str) -> None:
        """Remember what happened."""
        self.events.append({"step": step, "reason": reason, "action": what})

    def go_back(self, then: Mapping[str, Any], step: int, back_to: int, reason: str, accumulation: int) -> None:
        """Take over the state that the checkpoint of `back_to` holds, but for what does not go back with it."""
        rollbacks, events, skipped = self.rollbacks + 1, self.events, self.skipped + (step - back_to) * accumulation
        self.best, self.losses = {}, []
        self.load_state_dict(then)
        self.rollbacks, self.events, self.skipped = rollbacks, events, skipped
        self.bad, self.healthy = 0, True
        self.note(step, reason, f"went back to step {back_to}")
