"""`mmssl cluster`: the cluster of every row, and how far it is from its centre, in a parquet file beside the rows' ids.

Embeddings are read in batches, once for the sample, once a pass, and once to write; in memory lie the sample, the
centres and a batch. The file takes the place of an older one when it is whole: what is interrupted begins again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..data.row_files import parquet_place, read_values, refuse_nested, with_about
from ..data.selection import column_names
from ..errors import RunError, UserError, nearest, one_line
from ..files import replaceable, whole_file
from ..recipe.renewing import KMeansOptions, level_names
from ..saying import doing
from .classing import domains_of, domains_of_file, refuse_beside_domains, write_classes
from .embeddings import (
    Embeddings,
    embeddings_beside,
    is_embeddings,
    made_embeddings,
    open_embeddings,
    placed,
    refuse_rows,
    standardise,
)
from .kmeans import KMeans, Labels, Rows, cluster, distances, require_search, unit
from .pairing import mined

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from ..data.sources import Source
    from .options import ClusterConfig


def cluster_as(
    source: str | Path, options: ClusterConfig, output: str | Path, base: str | None = None
) -> dict[str, Any]:
    """`mmssl cluster`: of a file of embeddings, or of those that a MODEL gives, which are kept beside the output.

    source: the file, or the model.
    """
    parquet_place(output, options.path, source)
    refuse_levels(options.levels)
    require_search(options.search)
    refuse_beside_domains(options)
    rows: Source | None = None
    domains: list[tuple[list[str], Labels]] = []
    if is_embeddings(source):
        refuse_rows(options, source)
        embeddings = open_embeddings(source, options.column, "cluster")
        if options.domain is not None:
            domains.append(domains_of_file(embeddings, options))
    else:

        def look(rows: Source) -> None:
            if options.domain is not None:
                domains.append(domains_of(rows, options))

        embeddings, rows = made_embeddings(source, options, embeddings_beside(output), options.column, base, look)
    instances = None if options.instance is None else instances_of(embeddings, options.instance, rows)
    if options.standardise:
        standardise(embeddings)
    if domains:
        return write_classes(embeddings, options, output, *domains[0])
    if options.kind == "neighbours":
        return write_neighbours(embeddings, options, output, instances)
    return write_clusters(embeddings, options, output)


def instances_of(embeddings: Embeddings, name: str, rows: Source | None) -> list[Any]:
    """(rows,) the instance of each row: a column of the embeddings' file, or of the rows. UserError where neither has
    it."""
    own = [] if rows is None else column_names(rows)
    if name in embeddings.ids or name not in own:
        known = [*embeddings.ids, *own]
        if name not in known:
            expected = f"one of {', '.join(known)}" if known else f"a MODEL and --data, as '{embeddings.path}' has none"
            raise UserError(f"instance: found no column '{name}', expected {expected}{nearest(name, known)}")
        values = read_values(embeddings.path, name, "instance")
    else:
        values = list(cast("Dataset", rows).with_format(None)[name])
    refuse_nested(values, name, "instance")
    return values


def write_neighbours(
    embeddings: Embeddings, options: ClusterConfig, output: str | Path, instances: Sequence[Any] | None
) -> dict[str, Any]:
    """`write_clusters` of rows that belong together (`mmssl.curation.pairing`), all in memory: `cluster` is null where
    a row is alone, `distance` where none of its own neighbours is in its group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(output)
    replaceable(path)
    with doing("reading the embeddings"):
        numbers, x = embeddings.load()
    own = None if instances is None else [instances[row] for row in numbers.tolist()]
    found = {"nearest": options.nearest, "least": options.least, "most": options.most}
    groups, apart = mined(unit(x).astype(np.float32), own, **found)  # type: ignore[arg-type]
    grouped, near = groups >= 0, ~np.isnan(apart)
    about = {key: embeddings.about.get(key) for key in ("rows", "columns", "sha256")}
    about["clusters"] = {"of": embeddings.column, "kind": options.kind, "instance": options.instance, **found}
    table = pa.concat_tables([ids for ids, _ in embeddings.tables()]) if embeddings.rows else pa.table({})
    count = embeddings.rows
    table = table.append_column("cluster", placed(groups[grouped], numbers[grouped], count, pa.int32()))
    table = table.append_column("distance", placed(apart[near], numbers[near], count, pa.float32()))
    try:
        with whole_file(path) as partial:
            pq.write_table(table.cast(with_about(table.schema, about)), partial)
    except OSError as error:
        raise RunError(f"could not write {path}: {one_line(error)}") from error
    sizes = np.bincount(groups[grouped]) if grouped.any() else np.zeros(1, np.int64)
    far = float(apart[near].mean()) if near.any() else 0.0
    level = {"clusters": len(np.unique(groups[grouped])), "least": int(sizes.min()), "most": int(sizes.max())}
    return {"rows": count, "clustered": int(grouped.sum()), "levels": [{**level, "distance": far}]}


def refuse_levels(clusters: Sequence[int]) -> None:
    """UserError for no level, or levels that do not get coarser."""
    if not clusters:
        raise UserError("clusters: found none, expected a number of clusters, or several that fall, as [1000,100]")
    for fine, coarse in zip(clusters, clusters[1:], strict=False):
        if coarse >= fine:
            raise UserError(f"clusters: found {coarse} behind {fine}, expected fewer: levels go from fine to coarse")


def find_clusters(embeddings: Embeddings, options: KMeansOptions, seed: int) -> list[KMeans]:
    """The levels, from fine to coarse: those of the rows, and of the centres of the level before, which count alike
    however many rows they have (Vo et al. 2024, arXiv 2405.15613). UserError where there are too few rows."""
    with doing("reading a sample of the embeddings"):
        sample, rows = embeddings.sample(options.sample, seed)
    k, spherical = options.levels[0], options.kind == "spherical"
    if k > len(sample):
        what = f"{rows:,} rows have an embedding" if rows == len(sample) else f"sample is {options.sample:,}"
        raise UserError(f"clusters: found {k:,}, but {what}, expected at most as many clusters")
    more: Any = {"spherical": spherical, "balanced": options.balanced, "iterations": options.iterations}
    more |= {"restarts": options.restarts, "seed": seed, "search": options.search}
    with doing(f"finding {k:,} clusters"):
        begin = None if rows == len(sample) else embeddings.vectors
        levels = [cluster(sample, begin, rows, k, **more)]
    for k in options.levels[1:]:
        with doing(f"finding {k:,} clusters of the {len(levels[-1].centres):,}"):
            levels.append(cluster(levels[-1].centres, None, len(levels[-1].centres), k, **more))
    return levels


def parents(levels: Sequence[KMeans]) -> list[Labels]:
    """For each level but the finest, (k of the level before,) the cluster that each of those lies in."""
    return [above.assigning()(below.centres) for below, above in zip(levels, levels[1:], strict=False)]


def assigned(
    embeddings: Embeddings, levels: Sequence[KMeans]
) -> Iterator[tuple[pa.Table, Labels, list[Labels], list[Rows]]]:
    """Batch after batch: ids of its rows, places in it of those with an embedding, and of each level their clusters and
    distances (n,)."""
    give, up, spherical = levels[0].assigning(), parents(levels), levels[0].spherical
    first, width = 0, levels[0].centres.shape[1]
    for ids, (numbers, x) in embeddings.tables():
        rows = unit(x) if spherical else x
        labels = [give(rows) if len(rows) else np.empty(0, np.int64)]
        labels += [*accumulate(up, lambda own, parent: parent[own], initial=labels[0])][1:]
        pairs = zip(levels, labels, strict=True)
        apart = [distances(rows.reshape(-1, width), of.centres[own], spherical) for of, own in pairs]
        yield ids, numbers - first, labels, apart
        first += ids.num_rows


def write_clusters(embeddings: Embeddings, options: ClusterConfig, output: str | Path) -> dict[str, Any]:
    """Cluster the rows of a file, and write a parquet file: `row`, the columns that tell rows apart, and of each level
    `cluster` (int32) and `distance` (float32); null where a row has no embedding.

    Returns:
        {"rows", "clustered": rows with an embedding, "levels": [{"clusters", "least", "most", "distance": mean}]}.

    Raises:
        UserError: too few rows, embeddings that are no numbers, an output that is no regular file.
        RunError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(output)
    replaceable(path)
    levels = find_clusters(embeddings, options, options.seed)
    names = level_names(len(levels))
    sizes = [np.zeros(len(level.centres), np.int64) for level in levels]
    sums = np.zeros(len(levels))
    about = {key: embeddings.about.get(key) for key in ("rows", "columns", "sha256")}
    about["clusters"] = {"of": embeddings.column, "levels": options.levels, "kind": options.kind}
    writer: pq.ParquetWriter | None = None
    try:
        with (
            doing("writing the clusters", embeddings.rows) as advance,
            whole_file(path) as partial,
            ExitStack() as ends,
        ):
            for ids, at, labels, apart in assigned(embeddings, levels):
                table = ids
                for level, (own, far) in enumerate(zip(labels, apart, strict=True)):
                    table = table.append_column(names[level][0], placed(own, at, len(ids), pa.int32()))
                    table = table.append_column(names[level][1], placed(far, at, len(ids), pa.float32()))
                    sizes[level] += np.bincount(own, minlength=len(sizes[level]))
                    sums[level] += far.sum()
                schema = with_about(table.schema, about)
                if writer is None:
                    writer = ends.enter_context(pq.ParquetWriter(partial, schema))
                writer.write_table(table.cast(schema))
                advance(int(table["row"][-1].as_py()) + 1)
    except OSError as error:
        raise RunError(f"could not write {path}: {one_line(error)}") from error
    count = int(sizes[0].sum())
    told = [
        {"clusters": len(size), "least": int(size.min()), "most": int(size.max()), "distance": float(total / count)}
        for size, total in zip(sizes, sums, strict=True)
    ]
    return {"rows": embeddings.rows, "clustered": count, "levels": told}
