"""The `Objective` contract and the look-up by name: name = file name in this folder, or a stranger's dotted module."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..errors import UserError, nearest
from ..options import Needs, idle_options, needs, option, strict

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step


@dataclass
class Loss(ModelOutput):
    """total: the scalar to minimise. parts: named scalars for the log (detached). shares: see `gradient_shares`."""

    total: Tensor | None = None
    parts: dict[str, Tensor] | None = None
    shares: dict[str, Tensor] | None = None


@strict
@dataclass(kw_only=True)
class RampConfig:
    """How an objective's weight goes over a run: `first` times the weight until `begin`, `last` times from `end` on."""

    first: float = option(0.0, min=0, help="factor of the weight at the start")
    last: float = option(1.0, min=0, help="factor of the weight at the end")
    begin: float = option(0.0, min=0, max=1, help="share of the run at which it starts to move")
    end: float = option(0.1, min=0, max=1, help="share of the run at which it has arrived")
    shape: str = option("linear", choices=("linear", "cosine"))

    def __post_init__(self) -> None:
        if self.begin >= self.end:
            raise UserError(f"begin: found {self.begin:g}, expected less than end = {self.end:g}")
        if self.first == self.last:
            raise UserError(
                f"first: found {self.first:g}, expected another factor than last: between equal ones the "
                f"weight stays; change the weight itself"
            )

    def factor(self, progress: float) -> float:
        """Of the weight, at `progress` in [0, 1] of the run."""
        share = min(max((progress - self.begin) / (self.end - self.begin), 0.0), 1.0)
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.first + (self.last - self.first) * share


@strict
@dataclass(kw_only=True)
class ObjectiveConfig:
    """What every objective's `Config` has. Fields named tower(s), mask(s) and view(s) refer to the recipe's names."""

    weight: float = option(1.0, min=0, help="factor of this objective in the total loss")
    ramp: RampConfig | None = option(None, help="lets that factor grow or shrink over the run; null: it stays")

    NEEDS: ClassVar[tuple[Needs, ...]] = (needs("ramp", weight="above 0", holds=lambda c: c.weight > 0),)


class Objective(nn.Module):
    """A training objective. Owns its heads and teacher, not the model; written over patches, knows no modality.

    Built as `Objective(config, model)`; sizes are read off the model, which must not be kept as a submodule.
    Raises UserError, with the reason, when the model's parts cannot do what the objective needs.

    papers, when, suits: what `mmssl list objectives` and the README's table show, each one line of plain text:
    authors, year and arXiv number of each method; when to choose it over the others; the data it suits.
    relies_on: towers that give targets and get no gradient from this objective; a run warns when nothing trains them.
    """

    relies_on: tuple[str, ...] = ()

    papers: ClassVar[str] = ""
    when: ClassVar[str] = ""
    suits: ClassVar[str] = ""

    def __init__(self, config: Any, model: MMSSLModel) -> None:
        super().__init__()
        self.config = config
        for name, line in _idle(config):
            raise UserError(f"objective {type(self).__module__.rpartition('.')[2]}: {name}: {line}")

    def forward(self, step: Step) -> Loss:
        raise NotImplementedError

    def constants(self) -> dict[str, float]:
        """Learned numbers that belong to the model's embeddings; they are kept in `MMSSLConfig` under these names."""
        return {}

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Called after every optimiser step with progress in (0, 1]: EMA, centres. State never changes in forward."""

    @torch.no_grad()
    def health(self, step: Step) -> dict[str, Tensor]:
        """Scalars that show whether the objective is alive, logged as `health/<objective>/<name>`; not its loss.

        Called now and then with the run's probe: a fixed sample of the training data, cut into rows as a batch is over
        processes, in eval mode. It must change nothing, and every value must be a mean over the rows of all processes
        (`distributed.global_mean`): the processes' values are averaged. Here: the agreement of every `Teacher` that
        holds towers with its students. Extend it with what an objective has (use of its codebook or its clusters):
        `return super().health(step) | {"codes": ...}`.
        """
        from .parts.teacher import Teacher, teacher_health

        found: dict[str, Tensor] = {}
        for name, module in self.named_modules():
            if isinstance(module, Teacher):
                found |= teacher_health(module, step, name)
        return found


def _idle(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """`idle_options` of a config and those nested in it, for who builds objectives in Python."""
    if not dataclasses.is_dataclass(config):
        return
    for name, line in idle_options(config):
        yield path + name, line
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for key, item in value.items() if isinstance(value, dict) else [("", value)]:
            yield from _idle(item, f"{path}{field.name}." + (f"{key}." if key else ""))


SHARED = ("base", "step", "pretraining", "parts")
"""Modules of this folder that are no objectives."""


def objective_names() -> list[str]:
    """Names of the objectives that mmssl ships: the modules of this folder but those that all of them stand on."""
    found = (m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in found if name not in SHARED)


def load_objective(name: str) -> tuple[type, type[Objective]]:
    """(Config, Objective class) of an objective: `mae` -> `mmssl.objectives.mae`; a dotted name is imported as is."""
    module_name = name if "." in name else f"mmssl.objectives.{name}"
    names = objective_names()
    if "." not in name and name not in names:
        raise UserError(f"unknown objective '{name}', expected one of {', '.join(names)}{nearest(name, names)}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"objective '{name}': {error}") from None
    found = [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, Objective) and c.__module__ == module.__name__
    ]
    if len(found) != 1 or not hasattr(module, "Config"):
        raise UserError(f"objective '{name}': {module_name} must hold one Objective and a dataclass named Config")
    return module.Config, found[0]
