"""Embeddings in a parquet file, of `mmssl embed` or of anybody's, read in batches; made, where a MODEL is named."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..data.row_files import about_of
from ..data.sampler import order
from ..errors import UserError, nearest
from ..evaluation.embedded_rows import open_rows, write_rows
from ..evaluation.options import EmbedConfig
from ..evaluation.own_run import with_rows
from ..files import replaceable
from ..models.locating import locate
from ..models.opening import open_model
from ..options import changed
from ..recipe.config import RowsConfig
from ..recipe.loading import FLAGS
from ..saying import doing, say, told
from .kmeans import BATCH, Rows

if TYPE_CHECKING:
    import pyarrow as pa

    from ..data.sources import Source

SUFFIX, PRESENT = "_embedding", "_present"
"""Of the columns of `mmssl embed`: MODALITY_embedding, MODALITY_present."""
Part = tuple[NDArray[np.int64], Rows]
"""(numbers of rows that have an embedding, (n, D) these in float64)."""


@dataclass
class Embeddings:
    """A column of embeddings.

    Attributes:
        path: of the file.
        column: its name.
        option: what named the file, for messages.
        about: what the file says of the data (`mmssl.data.row_files`).
        rows: of the file, those without an embedding included.
        ids: further columns, which tell rows apart.
        width: of an embedding; None: not known before one was read.
        moments: (mean, deviation) of each number, which it is standardised by; None: it is taken as it is.
    """

    path: Path
    column: str
    option: str
    about: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    ids: list[str] = field(default_factory=list)
    width: int | None = None
    moments: tuple[Rows, Rows] | None = None

    def tables(self) -> Iterator[tuple[pa.Table, Part]]:
        """Batch after batch, in the order of the rows: its number and ids as a table, and its embeddings.

        UserError where a row is of another width, or holds what is no number.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        first = 0
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(BATCH, columns=[self.column, *self.ids]):
                row = pa.array(range(first, first + batch.num_rows), pa.int64())
                ids = pa.table({"row": row, **{name: batch.column(name) for name in self.ids}})
                numbers, x = self._numbers(batch.column(self.column), first)
                if len(x) and not np.isfinite(x).all():
                    wrong = int(numbers[~np.isfinite(x).all(1)][0])
                    raise UserError(
                        f"{self.option}: '{self.path}' row {wrong}: '{self.column}' holds what is no number"
                    )
                first += batch.num_rows
                if self.moments is not None and len(x):
                    x = (x - self.moments[0]) / self.moments[1]
                yield ids, (numbers, x)

    def __iter__(self) -> Iterator[Part]:
        """The embeddings of batch after batch."""
        yield from (part for _, part in self.tables())

    def _numbers(self, array: pa.Array, first: int) -> Part:
        """A batch of lists as an array; first: the number of its first row."""
        there = np.flatnonzero(np.asarray(array.is_valid()))
        flat = array.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        if hasattr(array.type, "list_size"):
            lengths = np.full(len(there), array.type.list_size)
        else:
            lengths = np.asarray(array.value_lengths().drop_null())
        if len(there) and self.width is None:
            self.width = int(lengths[0])
        odd = np.flatnonzero(lengths != self.width)
        if len(odd):
            wrong = f"row {first + there[odd[0]]}: found {lengths[odd[0]]} values in '{self.column}'"
            raise UserError(f"{self.option}: '{self.path}' {wrong}, expected {self.width}, as in the rows before")
        return first + there, flat.reshape(len(there), self.width or 0)

    def wide(self) -> int:
        """Values of an embedding. UserError where no row has one."""
        for _ in self:
            if self.width is not None:
                return self.width
        raise UserError(f"{self.option}: '{self.path}' has no row with a '{self.column}'")

    def vectors(self) -> Iterator[Rows]:
        """The embeddings alone, without batches that have none."""
        yield from (x for _, x in self if len(x))

    def sample(self, size: int, seed: int) -> tuple[Rows, int]:
        """(at most `size` of the embeddings, any but always the same ones; how many rows have one)."""
        chosen = np.zeros(self.rows, bool)
        chosen[order(self.rows, seed, 0)[:size]] = True
        found, count = [], 0
        for numbers, x in told(self, "reading the embeddings", self.rows, size=BATCH):
            count += len(x)
            found.append(x[chosen[numbers]])
        if not count:
            raise UserError(f"{self.option}: '{self.path}' has no row with a '{self.column}'")
        return np.concatenate(found), count

    def load(self) -> Part:
        """All of them, in memory."""
        parts = list(self)
        return np.concatenate([numbers for numbers, _ in parts]), np.concatenate([x for _, x in parts if len(x)])


def open_embeddings(path: str | Path, column: str | None, option: str) -> Embeddings:
    """The column of embeddings of a file; UserError where there is none, or several and none is named.

    option: what names the file, for messages.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = about_of(path, option)
    schema = pq.read_schema(path)
    lists = [f.name for f in schema if _is_vector(f.type)]
    if column is None:
        if len(lists) != 1:
            expected = "column=NAME, which of them is meant" if lists else "a file of `mmssl embed`"
            found = (
                f"the embeddings {', '.join(lists)}" if lists else f"no embeddings among {', '.join(schema.names[:8])}"
            )
            raise UserError(f"{option}: '{path}': found {found}, expected {expected}")
        column = lists[0]
    elif column not in lists:
        known = ", ".join(lists) or "none"
        raise UserError(f"column: '{path}' has no embeddings '{column}', it has {known}{nearest(column, lists)}")
    ids = [
        f.name for f in schema if f.name != "row" and not f.name.endswith(PRESENT) and not pa.types.is_nested(f.type)
    ]
    return Embeddings(Path(path), column, option, about, int(pq.read_metadata(path).num_rows), ids)


def embedding_columns(path: str | Path) -> list[str]:
    """All columns of embeddings of a file."""
    import pyarrow.parquet as pq

    return [f.name for f in pq.read_schema(path) if _is_vector(f.type)]


def standardise(embeddings: Embeddings, *others: Embeddings) -> None:
    """Have embeddings standardised, number by number, over the rows of the first ones; others by the same moments."""
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for x in embeddings.vectors():
        count, total, squares = count + len(x), total + x.sum(0), squares + (x**2).sum(0)
    mean = total / max(count, 1)
    deviation = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    for one in (embeddings, *others):
        one.moments = (mean, np.where(deviation > 1e-12, deviation, 1.0))  # what is constant stays at 0


def _is_vector(kind: pa.DataType) -> bool:
    import pyarrow as pa

    lists = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return lists and pa.types.is_floating(kind.value_type)


def is_embeddings(name: str | Path) -> bool:
    """Whether a name is that of a file of embeddings, and not of a model."""
    if str(name).lower().endswith((".parquet", ".pq")):
        return True
    if not os.path.isfile(name):
        return False
    with open(name, "rb") as file:  # data of another kind are none
        return file.read(4) == b"PAR1"


def refuse_rows(options: RowsConfig, name: str | Path) -> None:
    """UserError where options say which rows are embedded, but these are embedded already."""
    for one in dataclasses.fields(RowsConfig):
        if changed(options, one.name):
            option = FLAGS.get(one.name, one.name)
            raise UserError(
                f"{option}: found it beside '{name}', which holds embeddings, expected it with a MODEL alone"
            )


class Embedder:
    """A MODEL, and the rows that the options name, opened; UserError where one of them cannot be."""

    def __init__(self, model: str | Path, options: RowsConfig, base: str | None = None) -> None:
        """base: the model that an adapter belongs on, where it has moved."""
        found = locate(model)
        rows = {f.name: getattr(options, f.name) for f in dataclasses.fields(RowsConfig)}
        self.asked = with_rows(EmbedConfig(**rows), found)
        with doing("loading the model"):
            self.model, self.processor = open_model(found, base)
        self.source, self.columns = open_rows(self.processor.preprocessors, self.asked)


def made_embeddings(
    model: str | Path,
    options: RowsConfig,
    place: Path,
    column: str | None,
    base: str | None = None,
    look: Callable[[Source], None] = lambda rows: None,
) -> tuple[Embeddings, Source]:
    """Those that a MODEL gives of the rows that the options name, in `place`, from where they are taken another time;
    and these rows. look: called with them before anything is embedded.

    Raises UserError as `mmssl embed` does, and before anything is embedded where a model of several modalities gives
    several and `column` names none of them.
    """
    replaceable(place)
    by = Embedder(model, options, base)
    source, names = by.source, [f"{name}{SUFFIX}" for name in by.columns]
    if column not in names and (column is not None or len(names) > 1):
        said = "null" if column is None else f"'{column}'"
        raise UserError(f"column: found {said}, expected one of {', '.join(names)}{nearest(str(column), names)}")
    look(source)
    summary = write_rows(by.model, by.processor.preprocessors, source, by.columns, by.asked, place, reuse=True)
    if summary["resumed"]:
        say(f"{place}: {summary['resumed']:,} rows were embedded already")
    return open_embeddings(place, column, "--data"), source


def embeddings_beside(output: str | Path) -> Path:
    """Where embeddings that are made for an output are kept."""
    return Path(output).with_name(f"{Path(output).stem}.embeddings.parquet")


def placed(values: Any, at: Any, count: int, kind: pa.DataType) -> pa.Array:
    """Values at their places among `count` rows, null elsewhere."""
    import pyarrow as pa

    whole = np.zeros(count, values.dtype)
    whole[at] = values
    lacking = np.ones(count, bool)
    lacking[at] = False
    return pa.array(whole, kind, mask=lacking)
