"""`mmssl cluster domain=COLUMN`: which domains there are, and the classes that were found out of them, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.row_files import with_about
from ..errors import RunError, UserError, nearest, one_line
from ..files import whole_file
from ..options import changed
from ..saying import doing
from .domains import latent_classes, numbered
from .embeddings import Embeddings, placed
from .kmeans import Labels

if TYPE_CHECKING:
    from ..data.sources import Source
    from .options import ClusterConfig

CELLS = 4
"""Of each class, where nobody says how many: with more of them, each has too few rows to say what is frequent."""


def refuse_beside_domains(options: ClusterConfig) -> None:
    """UserError for a domain without classes, or with what is of clusters alone."""
    if options.domain is None:
        return
    if options.domain_classes is None:
        raise UserError("domain_classes: found none beside domain, expected how many classes there are")
    if len(options.levels) > 1:
        raise UserError("clusters: found several levels with domain, expected one number: into how many cells it looks")
    for name in ("balanced", "kind", "iterations", "restarts", "sample"):
        if changed(options, name):
            raise UserError(f"{name}: found {getattr(options, name)} with domain, which finds classes, not clusters")


def domains_of_file(embeddings: Embeddings, options: ClusterConfig) -> tuple[list[str], Labels]:
    """`domains.numbered` of the rows with an embedding; the others have number -1."""
    import pyarrow.parquet as pq

    column, names = str(options.domain), pq.read_schema(embeddings.path).names
    if column not in names:
        raise UserError(
            f"domain: '{embeddings.path}' has no column '{column}'{nearest(column, names)}; expected it there, or a "
            "MODEL and --data that have it"
        )
    table = pq.read_table(embeddings.path, columns=[column, embeddings.column])
    there = np.asarray(table[embeddings.column].is_valid())
    return _everywhere(table[column].to_pylist(), there, options)


def domains_of(rows: Source, options: ClusterConfig) -> tuple[list[str], Labels]:
    """The same of data that are to be embedded."""
    column, names = str(options.domain), list(rows.column_names or [])
    if column not in names:
        raise UserError(f"domain: the data has no column '{column}'{nearest(column, names)}")
    values = [row[column] for row in rows.select_columns([column])]
    return _everywhere(values, np.ones(len(values), bool), options)


def _everywhere(values: list[Any], there: Any, options: ClusterConfig) -> tuple[list[str], Labels]:
    assert options.domain_classes is not None
    known = [value for value, present in zip(values, there, strict=True) if present]
    names, numbers = numbered(known, options.domain_classes, str(options.domain))
    found = np.full(len(values), -1, np.int64)
    found[there] = numbers
    return names, found


def write_classes(
    embeddings: Embeddings, options: ClusterConfig, output: str | Path, names: list[str], domains: Labels
) -> dict[str, Any]:
    """Find latent classes (`mmssl.curation.domains`), and write a parquet file: `row`, the columns that tell rows
    apart, `class` (int32) and its `chance` (float32); null where a row has no embedding. All rows are in memory.

    Returns:
        {"rows", "clustered", "priors": domain -> share of each class}.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert options.domain_classes is not None
    at, x = embeddings.load()
    cells = options.levels[0] if changed(options, "clusters") else CELLS * options.domain_classes
    found = latent_classes(x, domains[at], len(names), options.domain_classes, cells, options.seed)
    priors = {name: [round(share, 4) for share in own] for name, own in zip(names, found.priors.tolist(), strict=True)}
    table = pa.concat_tables([ids for ids, _ in embeddings.tables()])
    table = table.append_column("class", placed(found.chances.argmax(1), at, len(table), pa.int32()))
    table = table.append_column("chance", placed(found.chances.max(1), at, len(table), pa.float32()))
    about = {key: embeddings.about.get(key) for key in ("rows", "columns", "sha256")}
    about["classes"] = {"of": embeddings.column, "domain": options.domain, "priors": priors}
    try:
        with doing("writing the classes"), whole_file(Path(output)) as partial:
            pq.write_table(table.cast(with_about(table.schema, about)), partial)
    except OSError as error:
        raise RunError(f"could not write {output}: {one_line(error)}") from error
    return {"rows": embeddings.rows, "clustered": len(x), "priors": priors}
