"""What hangs on the training loop: one contract for health, probes, the guard, validation, and what comes after them.

After every optimiser step the loop asks each observer, in their order, whether a look is `due`. Then all that are due
`look`, which may take minutes: Ctrl-C is answered there at once, and nothing of the observer has changed yet. What was
seen is written to `metrics.jsonl`, and each is told to `note` it, in a moment that Ctrl-C does not break, together with
the loop's own account of the step. So a checkpoint holds either all of a look or nothing of it, and a run that was
interrupted in the middle of one looks again when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ..saying import doing
from .checkpoints import State
from .metrics import MetricsFile

Measured = dict[str, float | None]
"""Key of the log -> number; None: not finite."""


@dataclass
class Moment:
    """The run after `step` of `steps` optimiser steps; step 0 is its start.

    Attributes:
        saves: a checkpoint is written after this step, and the run goes on behind it.
        logs: a line of the log is written after this step.
        skipped: steps of data that rollbacks passed over.
        measured: what was seen so far after this step, for that line.
        loss: the mean since the line before it, over all processes; None where nobody needs it.
        parts: likewise the loss's parts, by their keys of the log (`loss/...`).
        healthy: what a checkpoint of this step says of itself; None where nobody looked.
    """

    step: int
    steps: int
    saves: bool = False
    logs: bool = False
    skipped: int = 0
    measured: Measured = field(default_factory=dict)
    loss: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    healthy: bool | None = None

    @property
    def place(self) -> int:
        """Steps of data that are done or passed over."""
        return self.step + self.skipped

    @property
    def last(self) -> bool:
        """Whether this is the end of the run."""
        return self.step >= self.steps


@dataclass(frozen=True)
class Verdict:
    """Something is wrong with the run.

    Attributes:
        action: "warn": the training goes on; "stop": it ends, with a checkpoint; "rollback": it goes back to the last
            healthy checkpoint.
        by: the option that says so, for the message.
        reason: what was found.
        rollbacks: how often a run may go back in all; then it stops.
        lr_factor: of the learning rate, for each time it went back.
    """

    action: str
    by: str
    reason: str
    rollbacks: int = 0
    lr_factor: float = 1.0


class Observer:
    """Looks at a run now and then. All processes call the same methods of the same observers in the same order.

    Attributes:
        name: the key of its state in a checkpoint's `state.json`; its tensors are in `<name>.safetensors`.
        verb: what it does, before its name, for who waits.
        logged: its numbers stand in the line of the log, which is written for them; else in a line of their own.
        renewed: what it noted makes other batches of the data, which the loop has not begun yet.
        goes_back: its verdicts may want a healthy checkpoint, so that one is written before the first step.
    """

    name: ClassVar[str]
    verb: ClassVar[str] = "measuring"
    logged: bool = True
    goes_back: bool = False
    renewed: bool = False

    def due(self, moment: Moment) -> bool:
        """Whether to look now. Changes nothing."""
        raise NotImplementedError

    def look(self, moment: Moment) -> Measured:
        """What is to be seen now. Changes nothing, neither of the run nor of the observer."""
        return {}

    def note(self, moment: Moment, found: Measured) -> Verdict | None:
        """Keep what `look` found, and say what is wrong with the run. Short: Ctrl-C waits for it."""
        return None

    @property
    def enough(self) -> bool:
        """Whether the run has trained enough; it is then finished like one that did all its steps."""
        return False

    def state_dict(self) -> State:
        """What a checkpoint must hold, as plain data."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """What it must hold besides."""
        return {}

    def load_state_dict(self, state: State, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict` and `tensors`; what is not in them is as before the first step."""


Found = list[tuple[Observer, Measured]]
"""What each of those saw that were due."""


class Observers:
    """All that hang on one loop, in their order."""

    def __init__(self, members: Sequence[Observer]) -> None:
        self.members = list(members)

    def look(self, moment: Moment) -> Found:
        """Let all look that are due; what belongs into the line of the log is then in `moment.measured`."""
        due = []
        for observer in self.members:
            if observer.due(moment):
                due.append(observer)
                moment.logs = moment.logs or observer.logged  # those behind it are asked with that known
        found = []
        for observer in due:
            with doing(f"{observer.verb} {observer.name} after step {moment.step}"):
                found.append((observer, observer.look(moment)))
        for observer, seen in found:
            moment.measured |= seen if observer.logged else {}
        return found

    def note(self, moment: Moment, found: Found, metrics: MetricsFile | None) -> Verdict | None:
        """Let each keep what it saw, and write the lines of their own; returns the first verdict."""
        for observer, seen in found:
            if metrics is not None and seen and not observer.logged:
                metrics.write({"step": moment.step, **seen})
        verdicts = [observer.note(moment, seen) for observer, seen in found]
        return next((verdict for verdict in verdicts if verdict is not None), None)

    @property
    def enough(self) -> bool:
        """Whether any of them says that the run has trained enough."""
        return any(observer.enough for observer in self.members)

    @property
    def renewed(self) -> bool:
        """Whether the batches from here on are others than those that are being read."""
        return any(observer.renewed for observer in self.members)

    @property
    def goes_back(self) -> bool:
        """Whether any of them may want a healthy checkpoint."""
        return any(observer.goes_back for observer in self.members)

    def state(self) -> dict[str, State]:
        """Name -> state, of those that have one."""
        return {observer.name: state for observer in self.members if (state := observer.state_dict())}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Name -> tensors."""
        return {observer.name: observer.tensors() for observer in self.members}

    def load(self, state: State, tensors: Callable[[str], Mapping[str, Tensor]]) -> None:
        """The inverse of `state` and `tensors`; tensors: from a name."""
        for observer in self.members:
            observer.load_state_dict(state.get(observer.name, {}), tensors(observer.name))
