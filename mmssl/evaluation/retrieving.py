"""Retrieval over the rows of an evaluation: between modalities, and between several columns of one (question, answer).

A further column (`mmssl.modality.columns`) is embedded by its modality's encoder, beside the features that other tasks
share, and only here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..data.sources import column_names
from ..draws import key_of
from ..errors import UserError, nearest
from ..modality import Preprocessor
from . import tasks
from .embedding import Embedded, embed_source, embed_texts
from .rows import reads_text, texts_of

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.sources import Source
    from ..models.modeling_mmssl import MMSSLModel

Columns = Mapping[str, str | list[str]]
Measure = Callable[[tasks.Features, Mapping[str, tasks.Side]], tuple[tasks.Metrics, dict[str, str]]]


def further_of(preprocessors: Mapping[str, Preprocessor], asked: Mapping[str, str]) -> dict[str, str]:
    """Name -> modality, of the further columns that a model was trained on and of those that are asked for.

    UserError for one of a modality that the model does not have, or with a modality's name.
    """
    found = {name: modality for modality, of in preprocessors.items() for name in of.further}
    for name, modality in asked.items():
        if modality not in preprocessors:
            known = ", ".join(preprocessors)
            raise UserError(
                f"further.{name}: the model has no modality '{modality}', expected one of {known}"
                f"{nearest(modality, preprocessors)}"
            )
        if name in preprocessors:
            raise UserError(f"further.{name}: found the name of a modality, expected another one")
    return {**found, **asked}


def columns_of(
    preprocessors: Mapping[str, Preprocessor], further: Mapping[str, str], given: Columns
) -> dict[str, str | list[str]]:
    """Further column -> the data's: as it is given, as when the model was trained, or of its own name."""
    return {n: given.get(n) or preprocessors[modality].further.get(n, n) for n, modality in further.items()}


def there(source: Source, columns: Columns) -> dict[str, str | list[str]]:
    """Those of the columns that the data have; of one that is not there under another name, that of its own name."""
    known = set(column_names(source))
    found: dict[str, str | list[str]] = {}
    for name, of in columns.items():
        for column in (name, of):  # the later one counts
            if {column} <= known if isinstance(column, str) else set(column) <= known:
                found[name] = column
    return found


@dataclasses.dataclass(frozen=True)
class Retrieving:
    """What retrieval is measured with.

    Attributes:
        encoders: name -> model; the first is the one whose modalities describe raw features.
        preprocessors: modality -> its preprocessor.
        further: name of a further column -> its modality.
        batch_size: texts and rows that are embedded at a time.
        seed: of the training rows' captions.
        broken: what a broken part of a row costs.
    """

    encoders: Mapping[str, MMSSLModel]
    preprocessors: Mapping[str, Preprocessor]
    further: Mapping[str, str]
    batch_size: int
    seed: int
    broken: str = "part"

    @property
    def model(self) -> MMSSLModel:
        """The one that is judged."""
        return self.encoders["model"]

    def reads_text(self, name: str) -> bool:
        """Whether a modality, or a further column, can be given a string."""
        modality = self.further.get(name, name)
        return reads_text(self.model.modality(modality), self.preprocessors[modality])

    def texts(self, name: str, texts: Sequence[str | None], encoders: Mapping[str, MMSSLModel]) -> Embedded:
        """Features of strings as a modality, or a further column."""
        modality = self.further.get(name, name)
        return embed_texts(
            encoders,
            self.preprocessors[modality],
            name,
            texts,
            describe=self.model,
            batch_size=self.batch_size,
            further=self.further,
        )

    def spoken(self, source: Dataset, columns: Columns, train: Embedded) -> dict[str, Tensor]:
        """Raw features of the training rows' texts, of several captions a different one from row to row: a map
        between modalities that only ever met the first would not know the others' words."""
        out = {}
        for name, column in columns.items():
            if not isinstance(column, str) or not self.reads_text(name) or name not in train.raw:
                continue
            texts = texts_of(source, column)
            chosen = [own[key_of(self.seed, row) % len(own)] if own else None for row, own in enumerate(texts)]
            out[name] = self.texts(name, chosen, {}).raw[name]
        return out

    def beside(
        self, features: tasks.Features, test: Dataset, train: Dataset | None, columns: Columns
    ) -> tasks.Features:
        """The features with those of further columns.

        Args:
            features: of the modalities.
            test: the rows to measure on.
            train: those that the map between raw features learns from.
            columns: further column -> the data's.
        """

        def also(source: Dataset, encoders: Mapping[str, MMSSLModel]) -> Embedded:
            return embed_source(
                encoders,
                self.preprocessors,
                source,
                there(source, columns),
                describe=self.model,
                batch_size=self.batch_size,
                broken=self.broken,
                further=self.further,
            )

        learned, paired = features.train, dict(features.paired)
        if train is not None and learned is not None:
            learned = learned.beside(also(train, {}))
            paired |= self.spoken(train, there(train, columns), learned)
        counts = {name for name in columns if self.model.modality(self.further[name]).ids}
        return dataclasses.replace(
            features,
            test=features.test.beside(also(test, self.encoders)),
            train=learned,
            counts=features.counts | counts,
            paired=paired,
            _ridges={},
        )

    def run(
        self, features: tasks.Features, test: Dataset, columns: Columns, measure: Measure
    ) -> tuple[tasks.Metrics, dict[str, str]]:
        """Retrieval between all of these columns of the test rows. measure: by recalls, by ranks, among look-alikes."""
        sides = {}
        for name, column in columns.items():
            if isinstance(column, str) and self.reads_text(name):
                texts = texts_of(test, column)
                unique = sorted({text for own in texts for text in own})
                if unique:
                    items = self.texts(name, unique, self.encoders)
                    sides[name] = tasks.text_side(items, unique, texts, features.test.present[name])
            else:
                sides[name] = tasks.row_side(features.test, name)
        return measure(features, sides)
