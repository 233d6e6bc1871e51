"""`train.keep_best`: the checkpoint that a number of the log was best at stays, besides the last ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

from accelerate.utils import broadcast_object_list
from torch import Tensor

from ..errors import UserError, nearest
from .checkpoints import BEST, State
from .observers import Measured, Moment, Observer, Verdict


class KeepBest(Observer):
    """Has a checkpoint written wherever the number is better than ever; stands behind those that measure.

    Attributes:
        key: of metrics.jsonl: `loss`, a part of it (`loss/...`), or one that is measured beside it (`probe/...`,
            `health/...`).
        best: its best value so far; None before the first.
        step: that it was measured at.
    """

    name = BEST
    logged = False

    def __init__(self, key: str) -> None:
        self.key = key
        self.best: float | None = None
        self.step = 0

    def due(self, moment: Moment) -> bool:
        """With every line of the log, which has all that was measured."""
        return moment.logs and moment.step > 0

    def note(self, moment: Moment, found: Measured) -> Verdict | None:
        """Compare, and have a checkpoint written. UserError where something like it is measured, but not this."""
        known = moment.measured | moment.parts | {"loss": moment.loss}
        agreed = [known.get(self.key)]
        broadcast_object_list(agreed)  # rounding may differ between processes, what they do must not
        value = agreed[0]
        if self.key not in known:
            self._refuse_unknown(known)
        if value is None or not math.isfinite(value) or moment.healthy is False:
            return None
        if self.best is None or (value < self.best if self.least else value > self.best):
            self.best, self.step = value, moment.step
            moment.saves = not moment.last  # the last one is written anyway
        return None

    @property
    def least(self) -> bool:
        """Whether the best is the least: of losses."""
        return self.key.partition("/")[0] == "loss"

    def _refuse_unknown(self, measured: Measured) -> None:
        kind = self.key.partition("/")[0]
        alike = [key for key in measured if key == kind or key.startswith(f"{kind}/")]
        if alike:
            raise UserError(
                f"train.keep_best: found '{self.key}', which is not measured, expected one of {', '.join(alike)}"
                f"{nearest(self.key, alike)}"
            )

    def state_dict(self) -> State:
        """The best value, and the step that its checkpoint is of."""
        return {} if self.best is None else {"key": self.key, "value": self.best, "step": self.step}

    def load_state_dict(self, state: State, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`; what was best at another number counts for nothing."""
        same = state.get("key") == self.key
        self.best, self.step = (float(state["value"]), int(state["step"])) if same else (None, 0)
