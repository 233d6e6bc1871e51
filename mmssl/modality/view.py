"""How the options of an augmented view are declared, named, built and refused.

A modality declares them as a strict dataclass, lists their names, and builds one from what a recipe says::

    @strict
    @dataclass(kw_only=True)
    class View(view.View):
        flip: float = option(0.0, min=0, max=1, help="probability of ...")

    class Modality(base.Modality):
        views = View.names()

        def augment(self, inputs, draws, **spec):
            options = View.build(spec)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import ClassVar, Self

from ..errors import UserError
from ..options.schema import load


class View:
    """The base of a strict dataclass that holds the options of one kind of view."""

    corruptible: ClassVar[bool] = False
    """True when `Modality.raster` says what boxes of a corrupted view (`mmssl.masking.corruption`) lie in."""
    crossing: ClassVar[tuple[str, ...]] = ()
    """Names of the options that take from other rows of the batch, which must not be cut then."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all options, for `Modality.views`."""
        return tuple(field.name for field in fields(cls))  # type: ignore[arg-type]

    @classmethod
    def build(cls, spec: Mapping[str, object]) -> Self:
        """From a recipe's options; UserError with a line for each option that is unknown or wrong."""
        return load(cls, spec, path="view")


def check_bounds(options: object, *names: str) -> None:
    """UserError unless each of these options is null or [lowest, highest]."""
    for name in names:
        bounds = getattr(options, name)
        if bounds is not None and (len(bounds) != 2 or bounds[0] > bounds[1]):
            raise UserError(f"{name}: found {bounds}, expected [lowest, highest]")


def check_rows(rows: int, batch: int) -> None:
    """ValueError where random numbers were drawn for another number of samples than the batch has."""
    if rows != batch:
        raise ValueError(f"draws are for {rows} samples, the batch has {batch}")
