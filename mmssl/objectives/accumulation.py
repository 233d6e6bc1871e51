"""One optimiser step in several passes (`train.accumulation`), which computes what one pass over all its rows would.

As with several processes, a mean is a sum over the count of the whole step. The counts depend on data and masks alone,
so they are added up before the first backward pass, and every pass then gives its share of the step's losses. Draws are
those of the step's rows.

An objective whose loss is such a sum says so (`Objective.separable`) and is asked once for each part. Any other looks
across rows: negatives, statistics of the batch, a batch norm. It is asked once, for all rows, and only the towers then
work part by part: their output is kept, and the activations of one part are computed again when its gradient comes, as
with `cache_rows` (GradCache, Gao et al. 2021, arXiv 2101.06983). That is exact, too, for a third more computation; what
lies behind the towers, such as heads and predictors, sees all rows at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..distributed import global_sum
from ..draws import Draws
from ..errors import UserError
from ..modality import Batch, Inputs
from ..modality.places import Places, together
from ..patches import Patches, joined
from .options.labels import LabelColumn
from .step import CLEAN, Part, Step

if TYPE_CHECKING:
    from .pretraining import Pretraining

Move = Callable[[Batch], Batch]
"""Brings a batch to the device."""


@dataclass
class Pass:
    """One forward and backward pass of an optimiser step: what `Pretraining` is called with.

    Attributes:
        load: gives its batch, on the device; the batches of all parts for a pass over the whole step.
        draws: of its rows.
        part: None where the step has a single pass.
    """

    load: Callable[[], Batch | list[Batch]]
    draws: Draws
    part: Part | None = None

    @property
    def options(self) -> dict[str, Part]:
        """What else it is called with."""
        return {} if self.part is None else {"part": self.part}


class _Apart(dict[str, Inputs]):
    """The inputs of a step whose parts were collated each by itself."""

    def __missing__(self, name: str) -> Inputs:
        raise UserError(
            f"train.accumulation: an objective reads the inputs of '{name}' of all rows at once, which come in parts: "
            "leave it at 1, or give the objective `separable` and `counts` (mmssl.objectives.base)"
        )


class Joined(Step):
    """The parts of an optimiser step as one batch: cut into patches part by part, and seen by the towers so.

    Masks, columns, pooled outputs and tokens are of all rows. `inputs`, and `target`s made of them, are not to be had.
    """

    def __init__(self, parts: Sequence[Step], draws: Draws, part: Part | None = None) -> None:
        one = parts[0]
        super().__init__(_Apart(), one.model, one.views, one.masks, draws, part)
        self.parts, self.rows = parts, max(part.draws.rows for part in parts)

    def pieces(self) -> Sequence[Step]:
        """The parts."""
        return self.parts

    def stored(self, tower: str) -> tuple[Tensor, Tensor] | None:
        """As `Step.stored`, of all rows."""
        found = [kept for part in self.parts if (kept := part.stored(tower)) is not None]
        return (torch.cat([x for x, _ in found]), torch.cat([there for _, there in found])) if found else None

    def column(self, wanted: LabelColumn) -> tuple[Tensor, Tensor]:
        """As `Step.column`, of all rows."""
        values, present = zip(*(part.column(wanted) for part in self.parts), strict=True)
        return torch.cat(values), torch.cat(present)

    def patches(self, name: str, view: str = CLEAN) -> Patches:
        """What modality `name` is cut into in this view, of all rows and as long as the longest, without gradient."""
        view = self._view_of(name, view)

        def make() -> Patches:
            found = joined([part.patches(name, view) for part in self.parts])
            for part in self.parts:
                part.forget()  # the patches are in memory once
            return found

        return self._once(("patches", name, view), make)

    def places(self, name: str, view: str = CLEAN) -> Places:
        """As `Step.places`, of all rows and as long as the longest. Views are made once more, part by part."""
        view = self._view_of(name, view)

        def make() -> Places:
            found = []
            for part in self.parts:
                found.append(part.places(name, view))
                part.forget()
            return together(found)

        return self._once(("places", name, view), make)


def passes(pretraining: Pretraining, batches: Sequence[Batch], draws: Draws, move: Move) -> list[Pass]:
    """The passes of an optimiser step; all processes must call it together.

    Args:
        pretraining: what is trained.
        batches: the parts of this process's rows.
        draws: of all rows of this process.
        move: brings a part to the device when its turn comes, so that one is there at a time.
    """
    if len(batches) == 1:
        return [Pass(lambda: move(batches[0]), draws)]
    drawn = draws_of(batches, draws)
    separable = [name for name, objective in pretraining.objectives.items() if objective.separable]
    others = [name for name in pretraining.objectives if name not in separable]
    out: list[Pass] = []
    held: dict[Any, Any] = {}
    if separable:
        totals = _totals(
            pretraining.counts(pretraining.step(move(batch), mine), separable)
            for batch, mine in zip(batches, drawn, strict=True)
        )
        for number, (batch, mine) in enumerate(zip(batches, drawn, strict=True), 1):
            last = number == len(batches)
            part = Part(separable, totals, last=last, final=last and not others, held=held)
            out.append(Pass(lambda batch=batch: move(batch), mine, part))  # type: ignore[misc]
    if others:
        part = Part(others, {}, last=True, final=True, held=held)
        out.append(Pass(lambda: [move(batch) for batch in batches], draws, part))
    return out


def draws_of(batches: Sequence[Batch], draws: Draws) -> list[Draws]:
    """Of each of the batches, one behind the other, what is drawn for its rows. draws: of all rows."""
    sizes = [len(next(iter(next(iter(batch.values())).values()))) for batch in batches]
    starts = itertools.accumulate(sizes, initial=0)
    return [draws.part(start, size) for start, size in zip(starts, sizes, strict=False)]


def _totals(counts: Iterator[Mapping[str, Mapping[str, Tensor]]]) -> dict[str, dict[str, Tensor]]:
    """objective -> name -> the sum over all parts and processes, by one exchange."""
    sums: dict[tuple[str, str], Tensor] = {}
    for part in counts:
        for objective, found in part.items():
            for name, count in found.items():
                key = objective, name
                sums[key] = sums[key] + count if key in sums else count
    every = global_sum(torch.stack(list(sums.values()))).unbind() if sums else ()
    out: dict[str, dict[str, Tensor]] = {}
    for (objective, name), total in zip(sums, every, strict=True):
        out.setdefault(objective, {})[name] = total
    return out
