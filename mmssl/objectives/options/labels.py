"""Columns of the data that an objective learns from beside the inputs: labels, patients, scores.

A config says which by its property `label_columns`; what it names is read with every batch of training, by all
processes alike, and is there as `Step.column`::

    @property
    def label_columns(self):
        return (LabelColumn(self.patient, "id", "patient"),) if self.patient else ()

    ids, present = step.column(self.config.label_columns[0])    # (B,) int64, (B,) bool
"""

from __future__ import annotations

from dataclasses import dataclass, field

READ = ("id", "number")
"""Kinds that are read as they are; all others are tasks, whose classes or statistics are fitted first."""


@dataclass(frozen=True)
class LabelColumn:
    """A column, and what is wanted of it.

    Attributes:
        column: its name, or several.
        kind: "id": (B,) int64 that are equal where the values are, of several columns where all are (patients, files,
            classes, clusters); "number": (B,) float32 as it stands (a slice, a time, a score). Else the task of a label
            (`mmssl.data.labels.TASKS`, or auto), whose classes or statistics are fitted before the model is built, and
            kept with the run: the objective is built as `Objective(config, model, *targets)`, one for each such column.
        option: the option of the objective that names it, for messages.
        classes: of a task: those there are, of grades from the lowest; None: those that are found.
    """

    column: str | tuple[str, ...]
    kind: str
    option: str = field(default="column", compare=False)
    classes: tuple[str | int | float, ...] | None = None

    @property
    def fits(self) -> bool:
        """Whether something has to be known of it before the model is built."""
        return self.kind not in READ

    @property
    def columns(self) -> tuple[str, ...]:
        """One or several names."""
        return (self.column,) if isinstance(self.column, str) else self.column

    @property
    def key(self) -> str:
        """Its name in a batch; no modality can be called so. Who asks for the same has the same."""
        of = "" if self.classes is None else f" of {', '.join(map(repr, self.classes))}"
        return f"column {', '.join(self.columns)} ({self.kind}{of})"
