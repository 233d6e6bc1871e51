"""What an evaluation needs, looked at before a run, and the labelled rows of a probe while one trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..data.holding import alike
from ..data.sources import Columns
from ..errors import UserError
from ..modality import Preprocessor
from .held_out import files_of, open_outside, open_sources, read_columns
from .rows import Labels, Numbers, class_names, label_column, read_labels

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.sources import Source
    from ..recipe.config import DataConfig, EvaluationConfig


def check_evaluation(
    data: DataConfig, config: EvaluationConfig, train_source: Source, readers: Mapping[str, Preprocessor]
) -> None:
    """Raise before training what `evaluate` would raise after it: data, a split or a label column that does not exist,
    class names that do not fit the labels, other data for `ood` that are not there.

    Streams are not looked into, which would read from them. readers: modality -> what reads it.
    """
    if config.tasks == [] or data.streaming:
        return
    read = read_columns(config, data.columns)
    files = files_of(data, readers)
    sources = open_sources(data, config, 0, train_source, read, files=files)
    label_column(train_source if sources.test is None else sources.test, config.label)
    if config.group is not None and sources.train is not None:
        alike(sources.train, config.group)
    if config.classes is not None and sources.test is not None:
        labels, reason = read_labels(sources.test, sources.train, config.label, task=config.label_task)
        if not isinstance(labels, Labels):
            raise UserError(
                f"evaluation.classes: found names of classes, but {reason if labels is None else labels.said}"
            )
        class_names(labels, sources.test, sources.train, config.classes)
    if config.ood is not None and "ood" in (config.tasks or ()):
        open_outside(data, config, read, files)


def labelled_rows(
    data: DataConfig,
    config: EvaluationConfig,
    train_source: Source,
    seed: int,
    columns: Columns,
    readers: Mapping[str, Preprocessor],
) -> tuple[Dataset, Dataset | None, Labels | Numbers] | str:
    """(test rows, training rows, their labels) for a probe, within the limits of `config`, or why there are none.

    columns: modality -> the column(s) that it reads; readers: modality -> what reads it.
    """
    files = files_of(data, readers, columns)
    sources = open_sources(data, config, seed, train_source, read_columns(config, columns), files=files)
    if sources.test is None:
        return f"the data has no split '{config.split}' to test on"
    if sources.same_rows:
        return "the test rows are the training rows"
    labels, reason = read_labels(sources.test, sources.train, config.label, config.group, config.label_task)
    if labels is None:
        return reason
    if labels.train is None:
        return f"the training rows have no column '{labels.column}'"
    return sources.test, sources.train, labels
