"""How a number goes over a run: one small mechanism for learning rate, weight decay, weights of objectives, momentum of
teachers, ratios of masks and temperatures. Pure functions of the step, so that a resumed run goes on exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from .errors import UserError
from .options import option, strict

SHAPES = ("linear", "cosine", "inverse_sqrt", "exponential")
"""Ways from one number to another."""
TIMESCALE = 10.0
"""How steeply `inverse_sqrt` begins (Ibrahim et al. 2024, arXiv 2403.08763, section 4.2)."""
KINDS = {
    "cosine": "half a cosine from lr down to min_lr at the last step",
    "linear": "a line down to min_lr at the last step",
    "constant": "lr is held",
    "wsd": "lr is held, and falls to min_lr in the last steps (train.anneal, a tenth of them)",
    "inverse_sqrt": "lr times the root of warm-up over step, not below min_lr",
    "infinite": "lr falls to a constant rate within `cooldown` steps, which is held",
}
"""Courses of the learning rate behind the warm-up."""
HORIZON = ("cosine", "linear")
"""Those that depend on the number of all steps; the others do not before they anneal."""
IN_STEPS = ("constant", "inverse_sqrt", "infinite")
"""Those whose warm-up is a number of steps, as they know no end that it could be a share of."""


def moved(first: float, last: float, share: float, shape: str) -> float:
    """The number that is `first` at share 0 and `last` at share 1 (clamped), by one of `SHAPES` between them.

    inverse_sqrt: falls fast at first, as 1 / sqrt(1 + 10 share). exponential: by equal factors; both are above 0.
    """
    share = min(max(share, 0.0), 1.0)
    if shape == "exponential":
        return first * (last / first) ** share
    if shape == "cosine":
        return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))
    if shape == "inverse_sqrt":
        share = (1 - 1 / math.sqrt(1 + TIMESCALE * share)) / (1 - 1 / math.sqrt(1 + TIMESCALE))
    return first + (last - first) * share


@strict
@dataclass(kw_only=True)
class RampConfig:
    """How a number goes over a run: `first` times its value until `begin`, `last` times from `end` on."""

    first: float = option(0.0, min=0, max=1_000_000, help="factor at the start")
    last: float = option(1.0, min=0, max=1_000_000, help="factor at the end")
    begin: float = option(
        0.0, min=0, max=1_000_000_000, help="where it starts to move; up to 1: share of the run, above: steps"
    )
    end: float = option(
        0.1, min=0, max=1_000_000_000, help="where it has arrived; up to 1: share of the run, above: steps"
    )
    shape: str = option("linear", choices=SHAPES, help="how the factor goes from `first` to `last`")

    def __post_init__(self) -> None:
        if (self.begin > 1) == (self.end > 1) and self.begin >= self.end:
            raise UserError(f"begin: found {self.begin:g}, expected less than end = {self.end:g}")
        if self.begin > 1 >= self.end:
            raise UserError(
                f"begin: found {self.begin:g} steps beside a share of the run, end = {self.end:g}; expected "
                "both in steps or both as shares"
            )
        if self.first == self.last:
            raise UserError(
                f"first: found {self.first:g}, expected another factor than last: between equal ones the "
                f"number stays; change the number itself"
            )
        if self.shape == "exponential" and not self.first * self.last:
            raise UserError("shape: found exponential, which never arrives at 0; expected first and last above 0")

    def factor(self, progress: float, steps: int = 1) -> float:
        """Of the number, at `progress` in [0, 1] of a run of so many steps."""
        begin, end = (at if at <= 1 else at / steps for at in (self.begin, self.end))
        # a share of a short run may lie behind an end in steps: then it is a leap
        share = (progress - begin) / (end - begin) if end > begin else float(progress >= end)
        return moved(self.first, self.last, share, self.shape)


@strict
@dataclass(kw_only=True)
class ScheduleConfig:
    """How the learning rate goes on behind its warm-up, from `train.lr`."""

    kind: str = option(
        "cosine", choices=tuple(KINDS), help="; ".join(f"{name}: {words}" for name, words in KINDS.items())
    )
    cooldown: int = option(0, min=0, max=1_000_000_000, help="steps from lr down to the rate that is held")
    hold: float = option(0.5, above=0, max=1, help="that rate, a share of lr")
    cooldown_shape: str = option("cosine", choices=SHAPES, help="how it gets there")
    anneal_shape: str = option("linear", choices=SHAPES, help="how `train.anneal` gets to min_lr")


class Settings(Protocol):
    """What of the options of a loop says how its learning rate goes."""

    lr: float
    min_lr: float
    warmup: float
    anneal: float | None
    schedule: ScheduleConfig


def schedule_faults(s: Settings) -> list[str]:
    """A line for each contradiction between these options, without `train.` in front."""
    of, kind = s.schedule, s.schedule.kind
    faults = []
    if kind in IN_STEPS and 0 < s.warmup < 1:
        faults.append(
            f"warmup: found {s.warmup:g}, a share of all steps, but schedule.kind {kind} knows no end; expected a "
            "number of steps"
        )
    if kind == "inverse_sqrt" and s.warmup == 0:
        faults.append("warmup: found 0, but schedule.kind inverse_sqrt falls from it on; expected a number of steps")
    if kind in HORIZON and s.anneal is not None:
        faults.append(
            f"anneal: found {s.anneal:g}, which has no effect with schedule.kind {kind}, which falls to min_lr anyway; "
            f"expected one of {', '.join(name for name in KINDS if name not in HORIZON)}"
        )
    if kind == "infinite" and not of.cooldown and of.hold != 1:
        faults.append(
            f"schedule.cooldown: found 0, expected the steps from lr down to the rate that is held ({of.hold:g} of it)"
        )
    for name, default in (("cooldown", 0), ("hold", 0.5), ("cooldown_shape", "cosine")):
        if kind != "infinite" and (found := getattr(of, name)) != default:
            faults.append(f"schedule.{name}: found {found}, which has no effect with kind: {kind}; it needs infinite")
    if kind in HORIZON and of.anneal_shape != "linear":
        faults.append(f"schedule.anneal_shape: found {of.anneal_shape}, which has no effect with kind: {kind}")
    if of.anneal_shape == "exponential" and s.min_lr == 0 and kind not in HORIZON:
        faults.append("schedule.anneal_shape: found exponential, which never arrives at min_lr = 0; expected it above")
    if kind == "infinite" and s.min_lr > s.lr * of.hold:
        faults.append(f"min_lr: found {s.min_lr:g}, expected at most the rate that is held, {s.lr * of.hold:g}")
    return faults


@dataclass(frozen=True)
class Rate:
    """The learning rate of every step.

    Attributes:
        settings: the options.
        steps: of the whole run.
        before: steps that another run has done, whose schedule this one goes on with (`train.after`).
    """

    settings: Settings
    steps: int
    before: int = 0

    def __post_init__(self) -> None:
        warm = 0 if self.before else self._warm
        if warm + self.annealing > self.steps and self.settings.anneal is not None:
            raise UserError(
                f"train.anneal: found {self.settings.anneal:g}, but of {self.steps} steps {self.steps - warm} are left "
                "behind the warm-up; expected at most so many"
            )

    @property
    def _warm(self) -> int:
        warmup = self.settings.warmup
        return int(warmup * self.steps) if warmup < 1 else int(warmup)

    @property
    def annealing(self) -> int:
        """Of how many steps the annealing is."""
        asked = self.settings.anneal
        if asked is None:
            asked = 0.1 if self.settings.schedule.kind == "wsd" else 0
        return int(asked) if asked >= 1 or not asked else max(int(asked * self.steps), 1)

    @property
    def held(self) -> int | None:
        """The number of steps behind which the annealing begins; None without one."""
        return self.steps - self.annealing if self.annealing else None

    def at(self, step: int) -> float:
        """The rate of an optimiser step, counted from 0.

        Linear warm-up to lr; then as `schedule.kind` says; in the last `annealing` steps from where it is down to
        min_lr. Singh et al. 2025 (arXiv 2503.02844) and Ibrahim et al. 2024 (arXiv 2403.08763) for `infinite`; Hu et
        al. 2024 (MiniCPM, arXiv 2404.06395) for `wsd`; Zhai et al. 2022 (arXiv 2106.04560) for `inverse_sqrt` with an
        end.
        """
        held = self.held
        if held is None or step < held:
            return self._before_annealing(step)
        share = (step - held) / self.annealing
        return moved(self._before_annealing(held), self.settings.min_lr, share, self.settings.schedule.anneal_shape)

    def _before_annealing(self, step: int) -> float:
        s, of, warm = self.settings, self.settings.schedule, self._warm
        if of.kind not in HORIZON:
            step += self.before
        if step < warm:
            return s.lr * (step + 1) / warm
        if of.kind in HORIZON:
            return moved(s.lr, s.min_lr, (step - warm) / max(self.steps - warm, 1), of.kind)
        if of.kind == "inverse_sqrt":
            return max(s.lr * math.sqrt(warm / (step + 1)), s.min_lr)
        if of.kind == "infinite" and of.cooldown:
            return moved(s.lr, s.lr * of.hold, (step - warm) / of.cooldown, of.cooldown_shape)
        return s.lr * (of.hold if of.kind == "infinite" else 1.0)
