"""Columns of the data that objectives learn from beside the inputs (`mmssl.objectives.options.labels`): that they are
there and no inputs, what reads them, and what is fitted of them before the model exists."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from ..boundary import read_json_object
from ..data.labels import (
    IdPreprocessor,
    LabelPreprocessor,
    NumberPreprocessor,
    Target,
    class_names,
    read_columns,
    rows_of,
    stack,
    target_of,
)
from ..data.loading import read_rows
from ..data.mixed_streams import MixedStreams
from ..data.mixing import Mixture
from ..data.reader import is_stream
from ..data.selection import column_names
from ..data.stored import Given
from ..errors import RunError, UserError, nearest, one_line
from ..files import write_whole
from ..losses.supervised import class_weights
from ..modality import Preprocessor
from ..modality.columns import further_columns
from ..objectives.options import ObjectiveConfig
from ..objectives.options.labels import LabelColumn
from ..options.schema import Part
from .engine import on_first

if TYPE_CHECKING:
    from ..data.loading import Source
    from ..recipe.config import Recipe
    from .beside import Beside
    from .building import Columns
    from .mixture import Mixed


def wanted_columns(objectives: Mapping[str, Part]) -> dict[str, LabelColumn]:
    """Key in a batch -> column, of all that objectives ask for; the option of the first that does is in messages."""
    found: dict[str, LabelColumn] = {}
    for name, part in objectives.items():
        for column in part.config.label_columns:
            where = f"objectives.{name}.{column.option}"
            found.setdefault(column.key, dataclasses.replace(column, option=where))
    return found


@dataclass
class Labels:
    """What objectives learn from beside the inputs.

    Attributes:
        columns: key in a batch -> column(s).
        readers: key -> what reads them.
        targets: key -> what was fitted, of those that are tasks.
        given: key -> values of each row, of what is not among the columns of the data (`mmssl.training.beside`).
    """

    columns: dict[str, str | list[str]] = field(default_factory=dict)
    readers: dict[str, Preprocessor] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)
    given: dict[str, GivenBeside] = field(default_factory=dict)

    def of(self, config: ObjectiveConfig) -> list[Target]:
        """What an objective is built with beside its config and the model."""
        return [self.targets[column.key] for column in config.label_columns if column.fits]


def open_labels(
    recipe: Recipe,
    source: Source,
    columns: Columns,
    mixture: Mixed | None,
    folder: Path,
    accelerator: Accelerator,
    resume: bool,
    beside: Beside | None = None,
) -> Labels:
    """What reads the columns that objectives ask for, with the classes and statistics that the first process fits, or
    that the run was started with.

    Args:
        recipe: its objectives ask.
        source: the training data.
        columns: modality -> its column(s).
        mixture: the data that `source` is trained on with. A column is of the same name in all that have it; of the
            rows of others it is unknown.
        folder: of the run, which keeps what was fitted in `labels.json`.
        accelerator: the processes.
        resume: take what is kept there.
        beside: columns about the rows which the data have not.

    Raises:
        UserError: none of the data has a column, what learns from it reads it as an input, or it says nothing.
        RunError: what was fitted cannot be written.
    """
    parts = [(source, columns)] if mixture is None else [(p.source, p.columns) for p in mixture.portions.values()]
    wanted = wanted_columns(recipe.objectives)
    for one in wanted.values():
        known = list(dict.fromkeys(name for of, _ in parts for name in column_names(of)))
        further = [] if beside is None else beside.known
        for column in one.columns:
            if column not in known and column not in further:
                more = f", beside them {', '.join(further)}" if further else ""
                raise UserError(
                    f"{one.option}: the data has no column '{column}', its columns are {', '.join(known)}{more}"
                    f"{nearest(column, [*known, *further])}"
                )
    for _, read in parts:
        _refuse_inputs(recipe, read)
    fitting = {key: one for key, one in wanted.items() if one.fits}
    sources = [of for of, _ in parts]
    samples = recipe.data.fit_samples
    targets = _fitted(fitting, sources, samples, folder, accelerator, resume, beside) if fitting else {}
    whole = any(is_stream(of) for of in sources)
    readers = {key: _reader(one, sources, targets.get(key), whole) for key, one in wanted.items()}
    given = {
        key: GivenBeside(readers[key], one, beside, source)
        for key, one in wanted.items()
        if beside is not None and any(column in beside for column in one.columns)
    }
    columns = {key: one.column if isinstance(one.column, str) else list(one.column) for key, one in wanted.items()}
    return Labels({key: of for key, of in columns.items() if key not in given}, readers, targets, given)


class GivenBeside(Given):
    """A column, or several of which one at least is not among those of the data, as it is now."""

    def __init__(self, reader: Preprocessor[Any], wanted: LabelColumn, beside: Beside, source: Source) -> None:
        self.wanted, self.beside, self.source = wanted, beside, source
        super().__init__(reader, self._values())

    def again(self) -> None:
        """Take the columns as they are now."""
        self.values = self._values()

    def _values(self) -> list[Any]:
        own = self.source.with_format(None)
        wanted = self.wanted
        told = {
            name: self.beside.values(name, wanted.option) if name in self.beside else list(own[name])
            for name in wanted.columns
        }
        if isinstance(wanted.column, str):
            return told[wanted.column]
        return [dict(zip(told, row, strict=True)) for row in zip(*told.values(), strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        """For workers, which read values alone."""
        return {"reader": self.reader, "values": self.values}


def _fitted(
    wanted: Mapping[str, LabelColumn],
    sources: Sequence[Source],
    samples: int,
    folder: Path,
    accelerator: Accelerator,
    resume: bool,
    beside: Beside | None,
) -> dict[str, Target]:
    """Key -> target: of all rows, of streams of the first `samples`."""
    kept = folder / "labels.json"

    def fit() -> dict[str, dict[str, Any]]:
        if resume and kept.is_file():
            found = {key: Target(**spec) for key, spec in read_json_object(kept, f"{kept}").items()}
            if found.keys() >= wanted.keys():
                return {key: found[key].to_dict() for key in wanted}
        found = {key: _fit(one, sources, samples, beside) for key, one in wanted.items()}
        plain = {key: target.to_dict() for key, target in found.items()}
        try:
            write_whole(kept, json.dumps(plain, indent=2) + "\n")
        except OSError as error:
            raise RunError(f"{kept} could not be written: {one_line(error)}") from error
        return plain

    return {key: Target(**spec) for key, spec in on_first(accelerator, fit).items()}


def _fit(wanted: LabelColumn, sources: Sequence[Source], samples: int, beside: Beside | None) -> Target:
    if beside is not None and any(column in beside for column in wanted.columns):
        return _fit_beside(wanted, beside)
    values: dict[str, list[Any]] = {column: [] for column in wanted.columns}
    there = [of for of in sources if set(wanted.columns) <= set(column_names(of))]
    for of in there:
        if is_stream(of):
            rows = read_rows(of, wanted.columns, samples)
            found: Mapping[str, list[Any]] = {column: [row[column] for row in rows] for column in wanted.columns}
        else:
            found = read_columns(of, wanted.columns, wanted.option)
        for column, more in found.items():
            values[column] += more
    names = class_names(there[0], wanted.columns)
    streamed = names is not None and any(is_stream(of) for of in there)
    # numbered classes are known, however many of a stream's rows are looked at
    classes = list(range(len(names))) if streamed and wanted.classes is None and names else wanted.classes
    target = target_of(values, wanted.kind, names, wanted.option, classes)
    labels = [value for row in rows_of(values, target) if (value := target.encode(row)) is not None]
    weights = class_weights(target.task, stack(labels, target), target.outputs)
    return target if weights is None else dataclasses.replace(target, weights=weights.tolist())


def _fit_beside(wanted: LabelColumn, beside: Beside) -> Target:
    """Of a column that the data have not. Clusters that a run finds anew are all that there may be."""
    if len(wanted.columns) > 1:
        raise UserError(f"{wanted.option}: found {', '.join(wanted.columns)}, expected a single column")
    name = wanted.columns[0]
    renewed = beside.renewed
    if renewed is None or not beside.gives(name):
        return target_of({name: beside.values(name, wanted.option)}, wanted.kind, None, wanted.option, wanted.classes)
    if not name.startswith("cluster") or renewed.stages_count or wanted.kind not in ("auto", "classification"):
        raise UserError(
            f"{wanted.option}: found '{name}' of data.renewed, expected clusters as classes, and data.renewed.stages: "
            "false"
        )
    count = renewed.levels[renewed.names.index(name) // 2]
    return target_of({name: list(range(count))}, "classification", None, wanted.option, wanted.classes)


def _refuse_inputs(recipe: Recipe, columns: Columns) -> None:
    """UserError where a tower of an objective is given the column that the objective learns from."""
    for name, part in recipe.objectives.items():
        config = part.config
        towers = {getattr(config, "tower", None), *(getattr(config, "towers", None) or ())} & set(recipe.model.towers)
        seen = {m for t in towers or recipe.model.towers for m in recipe.model.towers[t].modalities or [t]}
        seen |= {further for further, modality in further_columns(recipe.views).items() if modality in seen}
        for wanted in config.label_columns:
            for modality in seen & set(columns):
                of = columns[modality]
                both = [c for c in wanted.columns if c in ([of] if isinstance(of, str) else of)]
                if both:
                    raise UserError(
                        f"objectives.{name}.{wanted.option}: found '{both[0]}', which the modality '{modality}' reads "
                        f"as an input, so that there is nothing to learn: leave it out of data.columns.{modality}"
                    )


def _reader(wanted: LabelColumn, sources: Sequence[Source], target: Target | None, part: bool) -> Preprocessor:
    """part: what was fitted was fitted on part of the rows, so that other labels are broken."""
    if wanted.kind == "number":
        return NumberPreprocessor()
    if target is not None:
        return LabelPreprocessor(target, part and wanted.classes is None)
    # -1 of numbered classes says that there is none
    named = any(class_names(of, wanted.columns) for of in sources)
    return IdPreprocessor(-1 if named else None)


def with_labels(mixture: Mixed | None, labels: Labels) -> Mixed | None:
    """A mixture whose data are read with those of the columns that each of them has."""
    if mixture is None or not labels.columns:
        return mixture

    def read(source: Source, columns: Columns) -> Columns:
        known = set(column_names(source))
        asked = {key: [of] if isinstance(of, str) else of for key, of in labels.columns.items()}
        return {**columns, **{key: labels.columns[key] for key, names in asked.items() if set(names) <= known}}

    if isinstance(mixture, Mixture):
        return dataclasses.replace(
            mixture,
            portions={
                n: dataclasses.replace(p, columns=read(p.source, p.columns)) for n, p in mixture.portions.items()
            },
        )
    return MixedStreams(
        {n: dataclasses.replace(p, columns=read(p.source, p.columns)) for n, p in mixture.portions.items()},
        mixture.seed,
    )
