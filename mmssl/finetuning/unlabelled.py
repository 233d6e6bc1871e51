"""Rows without labels: which they are, and how they are read beside the labelled ones once something labelled them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data.kinds import Files
from ..data.labels import encode_all
from ..data.row_groups import one_behind_another
from ..data.sources import Columns, check_columns, open_source, used_columns
from ..data.stored import Stored
from ..data.windows import Windows
from ..errors import UserError, one_line
from ..evaluation.embedded_rows import words_of
from ..modality import Inputs, Preprocessor
from .options import REST, FinetuneConfig

if TYPE_CHECKING:
    from datasets import Dataset

    from .partition import Pool


def open_unlabelled(
    pool: Pool, others: NDArray[np.int64], modalities: Mapping[str, Preprocessor], options: FinetuneConfig
) -> Dataset:
    """The rows of --unlabelled.

    Args:
        pool: the rows of the data; those that are measured on are not among its training rows.
        others: numbers of the training rows whose labels are not used.
        modalities: the model's, with their preprocessors.
        options: of the run.

    Raises:
        UserError: there are none, or they lack a column that is read.
    """
    assert options.unlabelled is not None and pool.target is not None
    if pool.target.task != "classification":
        raise UserError(f"--unlabelled: found a {pool.target.task} task, expected classes, of which rows can be sure")
    if options.unlabelled == REST:
        unknown = [row for row, label in enumerate(encode_all(pool.rows, pool.target)) if label is None]
        found = [part for part in (pool.train.source.select(others), pool.rows.select(unknown)) if len(part)]
        if not found:
            raise UserError("--unlabelled rest: every training row has a label that is learned from")
        return cast("Dataset", found[0] if len(found) == 1 else one_behind_another(found))
    said, words = options.self_training, set(words_of(modalities, options.columns)) - set(options.label_columns)
    source = open_source(
        options.unlabelled,
        name=said.name,
        split=said.split,
        limit=said.limit,
        words=words,
        fetch=options.fetch,
        reading=options.reading,
        files=Files(modalities, options.columns, Windows(options.windows, options.stride)),
    )
    check_columns(source, pool.columns, "--unlabelled")
    return cast("Dataset", source)


def joined(first: Dataset, second: Dataset, columns: Columns) -> Dataset:
    """The rows of both, one behind the other, of their columns those that are read. UserError where these differ.

    What they name may be fetched where rows of either may, and files here only where those of both may.
    """
    names = used_columns(columns)
    parts = [part.select_columns(names) for part in (first, second)]
    try:
        found = one_behind_another(parts)
    except (ValueError, TypeError) as error:
        raise UserError(f"--unlabelled: its columns are not what those of --data are: {one_line(error)}") from None
    addresses: dict[str, Any] = {}
    for part in parts:
        addresses |= part.info.download_checksums or {}
    found.info.download_checksums = addresses or None
    return cast("Dataset", found)


@dataclass
class Learned:
    """What a training reads.

    Attributes:
        source: its rows.
        stored: what is known of them and in no column.
        weights: (n,) how often each comes, in proportion; None: all alike.
    """

    source: Dataset
    stored: dict[str, Stored] = field(default_factory=dict)
    weights: NDArray[np.float64] | None = None


@dataclass
class Pseudo:
    """m rows that something labelled (`mmssl.finetuning.pseudo`), to be learned from as if it were right.

    Attributes:
        source: the rows.
        labels: (m,) class numbers.
        weights: (m,) what each counts, where a labelled row counts 1.
        features: (m, D) of the encoder as it came.
    """

    source: Dataset
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    features: Tensor


class Told:
    """Values that are known of each row, read in place of a column (`mmssl.data.stored.Stored`)."""

    def __init__(self, values: Sequence[Any], preprocessor: Preprocessor) -> None:
        """values: one a row, as `preprocessor` reads them."""
        self.values, self.preprocessor = values, preprocessor

    def read(self, index: int, choice: int = 0) -> Any:
        """Of row `index`."""
        return self.values[index]

    def collate(self, samples: Sequence[Any]) -> Inputs:
        """As the preprocessor does."""
        return self.preprocessor.collate(samples)
