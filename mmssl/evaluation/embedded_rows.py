"""`mmssl embed`: which rows and columns its options mean. `embedding_file` writes the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import limits
from ..data.kinds import Files
from ..data.row_files import selected
from ..data.selection import limited
from ..data.sources import open_source, used_columns
from ..data.windows import Windows
from ..data.workers import types_of, workers_for
from ..modality import Preprocessor
from ..saying import say
from .embedding_file import write_embeddings
from .rows import find_columns

if TYPE_CHECKING:
    from ..data.sources import Source
    from ..models.modeling_mmssl import MMSSLModel
    from .options import EmbedConfig


def embed(
    model: MMSSLModel, preprocessors: Mapping[str, Preprocessor], options: EmbedConfig, output_parquet: str | Path
) -> dict[str, object]:
    """`write_embeddings` of the rows that `options` name. UserError also where the data has none of the modalities."""
    source, columns = open_rows(preprocessors, options)
    return write_rows(model, preprocessors, source, columns, options, output_parquet)


def open_rows(
    preprocessors: Mapping[str, Preprocessor], options: EmbedConfig
) -> tuple[Source, dict[str, str | list[str]]]:
    """The rows that options name, and the columns that are read of them. UserError as of `embed`."""
    limits.apply(options.limits)
    source = open_source(
        options.path,
        name=options.name,
        split=options.split,
        streaming=options.streaming,
        words=words_of(preprocessors, options.columns),
        fetch=options.fetch,
        reading=options.reading,
        files=Files(preprocessors, options.columns, Windows(options.windows, options.stride)),
    )
    source = limited(selected(source, options.select), options.limit)
    columns, said = find_columns(source, preprocessors, options.columns)
    for line in said:
        say(line)
    return source, columns


def write_rows(
    model: MMSSLModel,
    preprocessors: Mapping[str, Preprocessor],
    source: Source,
    columns: Mapping[str, str | list[str]],
    options: EmbedConfig,
    output_parquet: str | Path,
    reuse: bool = False,
) -> dict[str, Any]:
    """`write_embeddings` as options say."""
    return write_embeddings(
        model,
        preprocessors,
        source,
        columns,
        output_parquet,
        workers=workers_for(options.workers, types_of(model.config.modalities)),
        broken=options.broken,
        max_bad=options.max_bad,
        codes=options.codes,
        reuse=reuse,
    )


def words_of(preprocessors: Mapping[str, Preprocessor], columns: Mapping[str, str | list[str]]) -> list[str]:
    """The columns that a model may read: those that are named, of its modalities' names, and that it was fitted on."""
    own = {name: of for name, p in preprocessors.items() if (of := p.own_columns()) is not None and name not in columns}
    return used_columns({**{name: name for name in preprocessors}, **columns}) + used_columns(own)
