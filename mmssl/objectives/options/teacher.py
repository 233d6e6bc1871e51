"""Options of an averaged teacher: see `mmssl.objectives.parts.teacher`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import UserError
from ...options import Needs, needs, option, strict


@strict
@dataclass(kw_only=True)
class TeacherOptions:
    """How the teacher follows, and whether it is what is kept."""

    momentum: list[float] | None = option(
        None,
        min=0,
        max=1,
        help="of the teacher: first and last. null: 0.996 to 1, as I-JEPA and DINO have it for 10^5 steps, and in "
        "shorter runs from random weights from as much less as `forget` needs",
    )
    forget: float = option(
        0.3, above=0, max=1, help="share of the run in which 95 % of the teacher's random start are forgotten"
    )
    schedule: str = option("cosine", choices=("linear", "cosine"), help="how the momentum goes from first to last")
    export: str | None = option(
        None,
        choices=("teacher", "student"),
        help="whose weights the model has at the end: papers judge the teacher's (I-JEPA, V-JEPA, DINO). null: the "
        "teacher's, unless another objective has a teacher of the same tower, or more than 5 % of this one are still "
        "its random start",
    )

    NEEDS: ClassVar[tuple[Needs, ...]] = (needs("forget", momentum="null", holds=lambda c: c.momentum is None),)

    def __post_init__(self) -> None:
        if self.momentum is not None and len(self.momentum) != 2:
            raise UserError(f"momentum: found {self.momentum}, expected two numbers: first and last")
