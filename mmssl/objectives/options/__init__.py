"""Options of the objectives, without torch: a recipe is read, and its options are shown, before anything is built.

One module for each method, with the name of the method's own file, which lies above and is where its `Config` is used
and imported from; what several of them share lies in `heads`, `labels` and `sides`. A stranger's objective has its
`Config` and its `Objective` in one file.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...errors import UserError, unknown
from ...options import Needs, needs, option, strict
from ...provenance import by_user
from ...schedules import RampConfig
from .labels import LabelColumn


@strict
@dataclass(kw_only=True)
class ObjectiveConfig:
    """What every objective's `Config` has. Fields named tower(s), mask(s) and view(s) refer to the recipe's names.

    papers, when, suits: what its page of the site shows, each one line of plain text, the last two `mmssl list`, too:
    authors, year and arXiv number of each method; when to choose it over the others; the data it suits.
    """

    papers: ClassVar[str] = ""
    when: ClassVar[str] = ""
    suits: ClassVar[str] = ""

    weight: float = option(1.0, min=0, max=1_000_000, help="factor of this objective in the total loss")
    ramp: RampConfig | None = option(None, help="lets that factor grow or shrink over the run; null: it stays")
    learn_weight: bool = option(
        False,
        help="divide this loss by a variance that is learned, and add half its logarithm, so that what cannot be told "
        "counts less (Kendall et al. 2018, arXiv 1705.07115; of squared errors with weight: 0.5)",
    )

    NEEDS: ClassVar[tuple[Needs, ...]] = (
        needs("ramp", "learn_weight", weight="above 0", holds=lambda c: c.weight > 0),
    )

    @property
    def label_columns(self) -> tuple[LabelColumn, ...]:
        """The columns of the data, beside those of the modalities, that it wants in the batch: `Step.column` has them.
        By default none."""
        return ()


def odd_knots(knots: int) -> None:
    """ValueError for an even number of knots of SIGReg's integral: its quadrature has one in the middle."""
    if knots % 2 == 0:
        raise ValueError(f"knots: found {knots}, expected an odd number")


SHARED = ("accumulation", "base", "options", "step", "pretraining", "parts")
"""Modules of the folder of objectives that are none."""


def objective_names() -> list[str]:
    """Names of the objectives that mmssl ships: the modules of their folder but those that all of them stand on."""
    found = (m.name for m in pkgutil.iter_modules([str(Path(__file__).parents[1])]))
    return sorted(name for name in found if name not in SHARED)


def objective_module(name: str) -> str:
    """Where an objective is: `mae` -> `mmssl.objectives.mae`, a stranger's dotted name as it is. UserError naming the
    nearest one of ours."""
    names = objective_names()
    if "." not in name and name not in names:
        raise unknown("objective", name, names)
    return name if "." in name else f"mmssl.objectives.{name}"


def objective_config(name: str) -> type[ObjectiveConfig]:
    """The `Config` of an objective; of one that mmssl ships without importing torch."""
    module_name = objective_module(name)
    if "." not in name:
        module_name = f"{__name__}.{name}"
    try:
        return (by_user(module_name) if "." in name else importlib.import_module(module_name)).Config
    except ModuleNotFoundError as error:
        raise UserError(f"objective '{name}': {error}") from None
    except AttributeError:
        raise UserError(f"objective '{name}': {module_name} must hold a dataclass named Config") from None
