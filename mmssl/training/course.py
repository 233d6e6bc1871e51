"""Where a run left its straight course: how often it went back, and what follows from that for every later step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TypedDict


class Event(TypedDict):
    """What a verdict led to after which step."""

    step: int
    reason: str
    action: str


@dataclass
class Course:
    """Part of every checkpoint, so that a resumed run goes the same way. It does not go back with the run.

    Attributes:
        rollbacks: times the run went back to a healthy checkpoint.
        skipped: steps of data passed over by that: those that led there are not seen again (PaLM, Chowdhery et al.
            2022, arXiv 2204.02311, section 5.1).
        lr_scale: factor of the learning rate.
        events: what happened, for the log and the card.
    """

    rollbacks: int = 0
    skipped: int = 0
    lr_scale: float = 1.0
    events: list[Event] = field(default_factory=list)

    @property
    def salt(self) -> tuple[int | str, ...]:
        """What goes into the keys of all draws, so that those after a rollback are others."""
        return ("rollback", self.rollbacks) if self.rollbacks else ()

    def note(self, step: int, reason: str, what: str) -> None:
        """Write down that something happened after `step`: why, and what was done."""
        self.events.append({"step": step, "reason": reason, "action": what})

    def go_back(self, step: int, back_to: int, reason: str, *, lr_factor: float) -> None:
        """After `step` optimiser steps the run goes on from `back_to`."""
        self.rollbacks += 1
        self.skipped += step - back_to
        self.lr_scale = lr_factor**self.rollbacks
        self.note(step, reason, f"went back to step {back_to}")

    def state_dict(self) -> dict[str, object]:
        """Plain data for a checkpoint's `state.json`."""
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, object]) -> Course:
        """The inverse of `state_dict`; of nothing, a straight course."""
        return cls(**state)  # type: ignore[arg-type]
