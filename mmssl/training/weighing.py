"""`data.weigh: tokens`: how many tokens a sample of each of the data of a mixture has.

Counted on some rows of each, always the same ones (of a stream its first), as their modalities cut them into patches
before anything is masked: those of all modalities that a sample has, of one that is broken none. So the shares of a run
that goes on are the same, as long as its data are.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..data.loading import evaluation_batches
from ..data.selection import limited
from ..errors import UserError
from ..modality.lookup import load_modality
from ..models.processing_mmssl import MMSSLProcessor
from .mixture import Mixed, parts_of

SAMPLED, AT_A_TIME = 512, 64
"""Rows of each of the data that are looked at, and at once."""
WIDTH = 96
"""Of the tokens, on which their number does not depend."""


def tokens_a_sample(mixture: Mixed, processor: MMSSLProcessor, types: Mapping[str, str]) -> dict[str, float]:
    """Name of the data -> tokens of a sample, on average.

    types: name of a modality -> its type. UserError where none of the rows of some data has any.
    """
    cutters = {
        name: load_modality(types[name]).Modality(WIDTH, **preprocessor.sizes())
        for name, preprocessor in processor.preprocessors.items()
    }
    found = {}
    for name, (source, columns) in parts_of(mixture).items():
        own = {column: of for column, of in columns.items() if column in cutters}
        readers = {column: processor.preprocessors[column] for column in own}
        tokens = rows = 0
        for loaded in evaluation_batches(limited(source, SAMPLED), readers, own, batch_size=AT_A_TIME):
            rows += loaded.size
            tokens += sum(int(cutters[column].patchify(loaded.batch[column]).valid.sum()) for column in own)
        if not tokens:
            raise UserError(
                f"data.weigh: found tokens, but none of {rows} rows of '{name}' has any: expected data that can be "
                "read, or data.weigh: samples"
            )
        found[name] = tokens / rows
    return found
