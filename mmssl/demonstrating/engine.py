"""Questions to a model about rows of data, and their answers, without a page: search, neighbours, one's own words.

Every modality is encoded alone, as `mmssl embed` does. Modalities are compared where towers project them into one
space; of others each is searched by itself alone.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from ..boundary import only_below
from ..data.loading import evaluation_batches
from ..data.origins import places
from ..data.row_files import about_of, refuse_others
from ..data.selection import limited, row_numbers
from ..data.sources import used_columns
from ..errors import BadSample, UserError, nearest
from ..evaluation.embedded_rows import open_rows, write_rows
from ..evaluation.embedding import Collector, embed_texts, shared_space
from ..evaluation.options import EmbedConfig
from ..evaluation.own_run import with_rows
from ..evaluation.rows import label_column, reads_text
from ..evaluation.zero_shot import class_vectors, prompts
from ..files import replaceable
from ..modality import select
from ..models.locating import locate
from ..models.opening import open_model
from ..models.running import evaluating
from ..models.saving import weights_hash
from ..recipe.config import RowsConfig
from ..reporting.words import text_in_line
from ..saying import doing, say
from .hearing import playable
from .index import Hit, Index
from .options import MOST_ROWS, DemoConfig
from .uploads import Way, of_files, row_of, text_of, unreadable, way_of

if TYPE_CHECKING:
    from datasets import Dataset

    from ..modality import Preprocessor
    from ..modality.shown import Shown
    from ..models.modeling_mmssl import MMSSLModel

FEW_WORDS = 20
MOST_WORDS = 200
"""Words that a sample is compared with."""


@dataclass(frozen=True)
class Sample:
    """What is asked by: its modality, its embedding (E,), and what there is to be seen and heard of it (an address);
    row: its number, of one of the data."""

    modality: str
    vector: Tensor
    shown: Shown | None = None
    sound: str = ""
    row: int | None = None


@dataclass(frozen=True)
class Fit:
    """A word, its cosine with a sample, and its share among the words by the temperature that the model was trained
    with; None where it has none."""

    word: str
    cosine: float
    share: float | None


class Engine:
    """A model, its preprocessors, rows and their embeddings.

    Attributes:
        title: what the model is called.
        called: what the rows are.
        model: in evaluation mode.
        readers: modality -> its preprocessor.
        source: the rows.
        columns: modality -> its column(s) in the rows.
        index: their embeddings.
        names: the modalities that can be asked by, those without rows among them.
    """

    def __init__(
        self,
        model: MMSSLModel,
        readers: Mapping[str, Preprocessor],
        source: Dataset,
        columns: Mapping[str, str | list[str]],
        index: Index,
        *,
        title: str = "model",
        called: str = "rows",
        label: str | None = None,
        templates: Sequence[str] = ("{}",),
    ) -> None:
        self.model, self.readers, self.source, self.columns, self.index = model, readers, source, columns, index
        self.title, self.called, self.templates = title, called, list(templates)
        self.label = label_column(source, label)[0]
        self.names = list(readers)
        self._numbers = row_numbers(source)
        self._lock = threading.Lock()  # a page asks from several threads

    def type_of(self, name: str) -> str:
        """The kind of a modality, whatever a recipe calls it."""
        return str((self.model.config.modalities or {})[name]["type"])

    def way(self, name: str) -> Way | None:
        """How samples of a modality are given, see `uploads.way_of`."""
        reader = self.readers[name]
        return way_of(self.model.modality(name), reader, self.columns.get(name) or reader.own_columns())

    def cells(self, name: str) -> list[str]:
        """The columns of a modality that is given as a row."""
        found = self.readers[name].own_columns() or self.columns.get(name) or []
        return [found] if isinstance(found, str) else list(found)

    def targets(self, name: str) -> list[str]:
        """The modalities of the rows that a sample of `name` can find: itself, and those in one space with it."""
        others = [other for other in self.index.names if other != name]
        found = [other for other in others if shared_space(self.model, name, other)]
        return [*found, *([name] if name in self.index.names else [])]

    @property
    def text(self) -> str | None:
        """The modality that one's own words are of; None where the model has none."""
        return next((n for n in self.names if reads_text(self.model.modality(n), self.readers[n])), None)

    def classified(self) -> list[str]:
        """The modalities that can be compared with words."""
        text = self.text
        return [] if text is None else [n for n in self.names if n != text and shared_space(self.model, n, text)]

    # ------------------------------------------------------------------------------------------------- what is asked

    def given(self, name: str, raw: Any) -> Sample:
        """A raw value as `read` takes it. BadSample where it cannot be read, or nothing is in it."""
        reader = self.readers[name]
        try:
            inputs = reader([raw])
        except UserError as error:  # the cells of a row that are none of the table's, say
            raise BadSample(str(error)) from error
        with self._lock, evaluating([self.model]):
            collector = Collector({"model": self.model}, None)
            collector.add({name: inputs})
        made = collector.result()
        vector = made.embeddings["model"][name][0]
        if not bool(made.present[name][0]):
            raise BadSample("it is empty")
        if not bool(vector.isfinite().all()):
            raise BadSample("the model makes of it what is no number")
        shown = self.model.modality(name).show(inputs, reader)
        return Sample(name, vector, shown[0] if shown else None, self._sound(name, raw))

    def words(self, name: str, words: str | None) -> Sample:
        """Words, for a modality of text."""
        return self.given(name, text_of(words))

    def cells_of(self, name: str, lines: str | None) -> Sample:
        """A row of a table, from lines `column: value`."""
        return self.given(name, row_of(lines, self.cells(name)))

    def files(self, name: str, paths: Sequence[str | Path]) -> Sample:
        """A sample in files that somebody gives: they may name none but each other."""
        with tempfile.TemporaryDirectory(prefix="mmssl-demo-") as folder:
            place = Path(folder).resolve()
            try:
                with only_below([place]):
                    return self.given(name, of_files(list(paths), self.readers[name], place))
            except BadSample as error:
                reason = str(error).replace(f"{place}/", "")
                raise BadSample(unreadable(list(paths), self.readers[name], reason)) from error

    def row(self, name: str, row: object) -> Sample:
        """A row of the data, by its number. BadSample where there is none, or it lacks the modality."""
        if not isinstance(row, int | float) or not float(row).is_integer() or not 0 <= row < len(self.source):
            found = "nothing" if row is None else f"{row:g}" if isinstance(row, int | float) else repr(row)
            raise BadSample(f"found {found}, expected the number of a row, 0 to {len(self.source) - 1:,}")
        number = int(row)
        vector = self.index.vector(name, number) if name in self.index.names else None
        if vector is None:
            raise BadSample(f"row {number} has no {name}, or a broken one")
        return Sample(name, vector, self.show(name, [number])[0], self.heard(name, number), number)

    # -------------------------------------------------------------------------------------------------- what is found

    def search(self, sample: Sample, target: str, count: int = 12) -> list[Hit]:
        """The rows whose `target` is nearest to a sample; a row of the data does not find itself in its own modality.

        UserError where the two are not in one space, or no row has the target.
        """
        known = self.targets(sample.modality)
        if target not in known:
            raise UserError(
                f"{sample.modality}: '{target}' is not found by it, expected {' or '.join(known) or 'another model'}"
                f"{nearest(target, known)}"
            )
        own = sample.row if target == sample.modality else None
        return self.index.nearest(sample.vector, target, max(int(count), 1), own)

    def zero_shot(self, sample: Sample, words: Sequence[str], templates: Sequence[str] | None = None) -> list[Fit]:
        """How words, put into the templates, fit a sample: the nearest first (`evaluation.zero_shot`).

        BadSample for no word, too many, or a template without {}; UserError where the model has no text for it.
        """
        text = self.text
        if text is None or sample.modality not in self.classified():
            raise UserError(f"{sample.modality}: the model has no text in one space with it")
        chosen = list(dict.fromkeys(" ".join(word.split()) for word in words if word.strip()))
        sentences = self.templates if templates is None else [one.strip() for one in templates if one.strip()]
        if not 1 <= len(chosen) <= MOST_WORDS:
            raise BadSample(f"found {len(chosen)} words, expected 1 to {MOST_WORDS}, a line each")
        try:
            asked = prompts(chosen, sentences)
        except UserError as error:
            raise BadSample(str(error).removeprefix("evaluation.templates: ")) from error
        with self._lock:
            embedded = embed_texts({"model": self.model}, self.readers[text], text, [text_of(one) for one in asked])
        classes = class_vectors(embedded.embeddings["model"][text], len(sentences))
        cosines = classes @ sample.vector
        shares: list[float | None] = [None] * len(chosen)
        scale = self.model.config.logit_scale
        if scale is not None and self.model.config.logit_bias is None:
            shares = (cosines * math.exp(scale)).softmax(0).tolist()
        found = [Fit(*one) for one in zip(chosen, cosines.tolist(), shares, strict=True)]
        return sorted(found, key=lambda fit: -fit.cosine)

    # --------------------------------------------------------------------------------------------------- what is seen

    def show(self, name: str, rows: Sequence[int]) -> list[Shown | None]:
        """What there is to be seen of a modality of some rows; None of one that is absent, broken or has no looks."""
        own = {name: self.readers[name]}
        batches = evaluation_batches(
            self.source.select(rows), own, {name: self.columns[name]}, batch_size=max(len(rows), 1)
        )
        found: list[Shown | None] = []
        for loaded in batches:
            found += self.model.modality(name).show(loaded.batch[name], self.readers[name])
        return found if len(found) == len(rows) else [None] * len(rows)

    def cells_in(self, name: str, row: int) -> dict[str, Any]:
        """What a row of the data holds in the columns of a modality, undecoded."""
        found: dict[str, Any] = self.source.select_columns(used_columns({name: self.columns[name]}))[row]
        return found

    def heard(self, name: str, row: int) -> str:
        """The address of a row's sound, see `hearing.playable`; empty where there is none."""
        if self.type_of(name) != "audio":
            return ""
        with only_below(places(self.source)):
            return self._sound(name, select(self.cells_in(name, row), self.columns[name]))

    def _sound(self, name: str, raw: object) -> str:
        return playable(raw) if self.type_of(name) == "audio" else ""

    def name_of(self, row: int) -> str:
        """What a row is called: by its number, and by that in the data where it is one of a selection."""
        number = row if self._numbers is None else int(self._numbers[row])
        return f"row {row:,}" + (f" ({number:,} of the data)" if number != row else "")

    @property
    def known_words(self) -> list[str]:
        """The names that the data declare for their labels, to begin with; none where they are many."""
        names = getattr(self.source.features[self.label], "names", None) if self.label is not None else None
        return list(names) if names and len(names) <= FEW_WORDS else []

    def says(self, row: int) -> str:
        """What the label of a row is, in a line; empty where there is none."""
        if self.label is None:
            return ""
        value = self.source.select_columns([self.label]).with_format(None)[row][self.label]
        names = getattr(self.source.features[self.label], "names", None)
        if value is None or value != value:
            return ""
        return text_in_line(names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value, 40)


# ------------------------------------------------------------------------------------------------------------- opening


def open_engine(model: str | Path, asked: DemoConfig, base: str | None = None) -> Engine:
    """The engine that `mmssl demo` asks: the model opened, the rows embedded or their embeddings read.

    Raises:
        UserError: no such model or data, embeddings of other rows or of another model, a stream.
        RunError: embeddings cannot be written.
    """
    place = None if asked.embeddings is None else Path(asked.embeddings)
    if place is not None and not place.is_file():
        replaceable(place)  # said now, not after the model is loaded
    if asked.streaming:
        raise UserError("streaming: found true, but rows are looked up by their numbers, expected false")
    found = locate(model)
    asked = with_rows(asked, found)
    with doing("loading the model"):
        opened, processor = open_model(found, base)
    readers = processor.preprocessors
    rows = EmbedConfig(**{one.name: getattr(asked, one.name) for one in fields(RowsConfig)})
    with doing(f"opening {asked.path}"):
        source, columns = open_rows(readers, rows)
    source, every = cast("Dataset", source), len(source)
    if asked.limit is None and place is None and every > MOST_ROWS:
        source = cast("Dataset", limited(source, MOST_ROWS))
        say(f"{MOST_ROWS:,} of {every:,} rows are searched (limit=N: so many; --embeddings FILE: all, once)")
    label_column(source, asked.label)  # a wrong name shows before anything is embedded
    index = _index(opened, readers, source, columns, rows, place)
    many = f"{len(source):,}" + (f" of {every:,}" if len(source) < every else "")
    return Engine(
        opened,
        readers,
        source,
        {name: column for name, column in columns.items() if name in index.names},
        index,
        title=found.title,
        called=f"{many} rows of {asked.path} ({asked.split})",
        label=asked.label,
        templates=asked.templates,
    )


def _index(
    model: MMSSLModel,
    readers: Mapping[str, Preprocessor],
    source: Dataset,
    columns: Mapping[str, str | list[str]],
    rows: EmbedConfig,
    place: Path | None,
) -> Index:
    """Their embeddings: out of the file, or made (and written, where a file is named)."""
    if place is None:
        with tempfile.TemporaryDirectory(prefix="mmssl-demo-") as folder:
            made = Path(folder) / "embeddings.parquet"
            write_rows(model, readers, source, columns, rows, made)
            return Index.of_file(made, list(columns))
    if place.is_file():
        about = about_of(place, "embeddings")
        refuse_others(place, about, source, "embeddings")
        weights = about.get("made", {}).get("weights")
        if weights not in (None, weights_hash(model.state_dict().items())):
            raise UserError(
                f"embeddings: '{place}' was made by another model, expected one of this model's, or no file"
            )
        if about.get("made", {}).get("pooled"):
            raise UserError(f"embeddings: '{place}' holds states before the projection, expected `mmssl embed`'s own")
    else:
        write_rows(model, readers, source, columns, rows, place)
    return Index.of_file(place, list(columns))
