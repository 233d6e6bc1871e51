"""Options of supervised learning: see `mmssl.objectives.supervised`."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UserError
from ...options import SET, needs, option, strict
from . import ObjectiveConfig
from .labels import LabelColumn


@strict
@dataclass(kw_only=True)
class Config(ObjectiveConfig):
    """Options of learning from labels, alone or beside self-supervision."""

    papers = (
        "CORAL (ordinal), Cao et al. 2020, arXiv 1901.07884; S4L (labels beside self-supervision), Zhai et al. 2019, "
        "arXiv 1905.03670; SLA and SLA+SD, Lee et al. 2020, arXiv 1910.05872"
    )
    when = "Some rows have labels, scores or grades, and the encoder shall know what they tell, beside what it learns."
    suits = "everything with a column to predict; rows without a label still serve the other objectives"

    column: str | list[str] = option(
        help="the column of the label; several: 0 or 1 in each (multilabel), or numbers (regression)"
    )
    task: str = option(
        "auto",
        choices=("auto", "classification", "multilabel", "regression", "ordinal"),
        help="what it says: a class, any of several labels, a number, or a grade; auto: by looking (never ordinal)",
    )
    classes: list[str | int | float] | None = option(
        None,
        min=-(2**53),
        max=2**53,
        help="the classes, of grades from the lowest; rows of others have no label; null: those of the data",
    )
    towers: list[str] = option(help="the towers whose pooled outputs are put side by side")
    views: list[str] = option(factory=lambda: ["clean"], help="the views of each of them that are put side by side")
    mask: str | None = option(None, help="encode only what this mask leaves visible, as another objective does")
    mode: str = option("drop", choices=("drop", "replace"), help="what becomes of hidden patches")
    complete: bool = option(False, help="only rows that have all of these; false: any, what a row lacks is zero")
    joint_view: str | None = option(
        None, help="a transformed view: what is learned is class and transformation, each sample by every one (SLA)"
    )
    distil: bool = option(
        False, help="with joint_view: a second head learns the class, and what all transformations together say of it"
    )
    hidden: int | None = option(None, min=1, max=65_536, help="width of a hidden layer of the head; null: a linear map")
    class_weights: str = option(
        "none",
        choices=("none", "balanced"),
        help="balanced: rare classes, or rare labels where they are there, count more",
    )
    asymmetry: list[float] | None = option(
        None,
        min=0,
        max=100,
        help="of several labels: exponents of those that hold and of others, and a margin: ASL has [1, 4, 0.05]",
    )
    label_smoothing: float = option(
        0.0, min=0, below=1, help="of classes: share of the label that all have equal parts of"
    )

    NEEDS = (
        needs("label_smoothing", task=("auto", "classification")),
        needs("asymmetry", task=("auto", "multilabel")),
        needs("class_weights", task=("auto", "classification", "multilabel")),
        needs("classes", task=("auto", "classification", "multilabel", "ordinal")),
        needs("mode", mask=SET),
        needs("distil", joint_view=SET),
    )

    def __post_init__(self) -> None:
        if self.asymmetry is not None and (len(self.asymmetry) != 3 or self.asymmetry[2] >= 1):
            raise UserError(f"asymmetry: found {self.asymmetry}, expected two exponents and a margin below 1")

    @property
    def label_columns(self) -> tuple[LabelColumn, ...]:
        """The label."""
        column = self.column if isinstance(self.column, str) else tuple(self.column)
        return (LabelColumn(column, self.task, "column", None if self.classes is None else tuple(self.classes)),)
