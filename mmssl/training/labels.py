"""Columns of the data that objectives learn from beside the inputs (`mmssl.objectives.options.labels`): what reads
them, and that they are there and no inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..data.labels import IdPreprocessor, NumberPreprocessor
from ..data.mixed_streams import MixedStreams
from ..data.mixing import Mixture
from ..data.selection import column_names
from ..errors import UserError, nearest
from ..modality import Preprocessor
from ..objectives.options.labels import LabelColumn
from ..options.schema import Part

if TYPE_CHECKING:
    from ..data.loading import Source
    from ..recipe.config import Recipe
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
    """

    columns: dict[str, str | list[str]] = field(default_factory=dict)
    readers: dict[str, Preprocessor] = field(default_factory=dict)


def open_labels(recipe: Recipe, source: Source, columns: Columns, mixture: Mixed | None) -> Labels:
    """What reads the columns that objectives ask for.

    Args:
        recipe: its objectives ask.
        source: the training data.
        columns: modality -> its column(s).
        mixture: the data that `source` is trained on with. A column is of the same name in all that have it; of the
            rows of others it is unknown.

    Raises:
        UserError: none of the data has a column, or what learns from it reads it as an input.
    """
    found = Labels()
    parts = [(source, columns)] if mixture is None else [(p.source, p.columns) for p in mixture.portions.values()]
    for key, wanted in wanted_columns(recipe.objectives).items():
        known = list(dict.fromkeys(name for of, _ in parts for name in column_names(of)))
        for column in wanted.columns:
            if column not in known:
                raise UserError(
                    f"{wanted.option}: the data has no column '{column}', its columns are {', '.join(known)}"
                    f"{nearest(column, known)}"
                )
        found.columns[key] = wanted.column if isinstance(wanted.column, str) else list(wanted.column)
        found.readers[key] = _reader(wanted, [of for of, _ in parts])
    for _, read in parts:
        _refuse_inputs(recipe, read)
    return found


def _refuse_inputs(recipe: Recipe, columns: Columns) -> None:
    """UserError where a tower of an objective is given the column that the objective learns from."""
    for name, part in recipe.objectives.items():
        config = part.config
        towers = {getattr(config, "tower", None), *(getattr(config, "towers", None) or ())} & set(recipe.model.towers)
        seen = {m for t in towers or recipe.model.towers for m in recipe.model.towers[t].modalities or [t]}
        for wanted in config.label_columns:
            for modality in seen & set(columns):
                of = columns[modality]
                both = [c for c in wanted.columns if c in ([of] if isinstance(of, str) else of)]
                if both:
                    raise UserError(
                        f"objectives.{name}.{wanted.option}: found '{both[0]}', which the modality '{modality}' reads "
                        f"as an input, so that there is nothing to learn: leave it out of data.columns.{modality}"
                    )


def _reader(wanted: LabelColumn, sources: list[Source]) -> Preprocessor:
    import datasets

    if wanted.kind == "number":
        return NumberPreprocessor()
    features = [(of.features or {}).get(wanted.columns[0]) for of in sources]
    # -1 of numbered classes says that there is none
    return IdPreprocessor(-1 if any(isinstance(feature, datasets.ClassLabel) for feature in features) else None)


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
