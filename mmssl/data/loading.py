"""Rows to batches: reads with the modalities' preprocessors, in this process or in workers, always the same batches.

The main process decides which sample is where (a sampler, or the rows of a stream); workers only decode. So the
number of workers changes nothing, and a sample's randomness depends on (seed, epoch, sample number) alone. A broken
part of a sample is absent, as one that is missing: the sample keeps its others (or, where that is asked for, loses
them) and its place in the batch, so that batches keep their size and the order of all other samples does not depend on
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from mmssl.modality import Preprocessor, select
from mmssl.reading import GIGABYTES

from .cuts import Cuts
from .disk import Disk
from .explained import stream_rows
from .memory import Memory
from .origins import fetched_if_possible, is_null, origins
from .raw_rows import rows_at
from .reader import Loaded, Reader, checked, is_stream, read_batches, read_columns
from .row_groups import drawn_rows, numbered_table, order_by_groups
from .sampler import Sampler, in_order
from .selection import row_numbers
from .shards import Items, Lengths, Row, Shards
from .sources import Columns, check_columns, used_columns
from .stored import Stored
from .streams import Plan, micro_batches, read_by_workers, readers_of, reading_workers
from .values import as_declared, typed

if TYPE_CHECKING:
    from .orders import Order
    from .sources import Source


def training_batches(
    source: Source,
    preprocessors: Mapping[str, Preprocessor],
    columns: Columns,
    *,
    seed: int,
    batch_size: int,
    accumulation: int = 1,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    shuffle_buffer: int = 1000,
    readers: int | None = None,
    lengths: Lengths | None = None,
    start_batch: int = 0,
    broken: str = "part",
    memory: float = 0.0,
    stored: Mapping[str, Stored] | None = None,
    cuts: Cuts | None = None,
    by: Order | None = None,
    epoch: int = 0,
    disk: Disk | None = None,
    gigabytes: float = GIGABYTES,
) -> Iterator[Loaded]:
    """Endless shuffled micro-batches of process `rank`; see `mmssl.data.sampler` for what is in which.

    Args:
        source: the data.
        preprocessors: modality -> what reads and collates it.
        columns: modality -> column(s); a modality not in it reads the column of its own name.
        seed: of the order, and of what preprocessors choose among (a caption, say).
        batch_size: samples of one optimiser step over all `world` processes, in `accumulation` micro-batches.
        accumulation: micro-batches of a step.
        rank: of this process.
        world: number of processes.
        workers: processes that decode; 0: this one does. The batches are the same.
        shuffle_buffer: rows that each reader of a stream shuffles among.
        readers: of a stream, in each process (see `mmssl.data.streams`); None: as many as are good.
        lengths: of a stream's shards, as far as they are known; what is learned is added.
        start_batch: micro-batches already done; what follows is exactly what would have followed. In constant time, of
            a stream where the `lengths` of what was read are known.
        broken: what a broken part of a row costs: that "part" alone, or the whole "row".
        memory: GB of decoded samples that are kept (see `mmssl.data.memory`), by all workers together.
        stored: modality -> outputs of its frozen tower, or labels, which are read in place of its column.
        cuts: views that are cut out of rows as they are read, of modalities that are not stored.
        by: the order of the samples, where it is not the plain one.
        epoch: the number of its first epoch, where another order came before.
        disk: where decoded samples are kept besides (see `mmssl.data.disk`).
        gigabytes: of decoded rows that are shuffled among, where they lie in parquet (see `mmssl.data.row_groups`).

    Raises:
        UserError: a column is not there, or the batch cannot be cut into equal parts or is larger than the data.
    """
    columns = columns_of(preprocessors, columns)
    told = [name for name in stored or () if preprocessors[name].beside]  # labels that no column holds
    check_columns(source, {name: wanted for name, wanted in columns.items() if name not in told})
    kept = Memory(int(memory * 1e9) // max(workers, 1))
    more: dict[str, Any] = {"memory": kept, "stored": stored, "cuts": cuts, "disk": disk}
    reader = Reader(source, preprocessors, columns, seed, broken=broken, **more)
    batches: Iterable[Items]
    if is_stream(source):
        source, own = readers_of(source, readers, world)
        plan = Plan(seed, shuffle_buffer, batch_size, accumulation, rank, world, own)
        shards, lengths = Shards(source, read_columns(columns, ())), Lengths() if lengths is None else lengths
        lengths.begin(shards.count)
        if own and (several := reading_workers(plan, workers)):
            return checked(read_by_workers(reader.__getitems__, plan, shards, lengths, start_batch, several))
        batches = micro_batches(plan, shards, lengths, start_batch)
    else:
        by = order_by_groups(reader.source, by, seed, batch_size, gigabytes, world, workers)
        sampler = Sampler(
            len(source),
            batch_size=batch_size,
            accumulation=accumulation,
            rank=rank,
            world=world,
            seed=seed,
            by=by,
            start=start_batch,
            epoch=epoch,
        )
        batches = ([(epoch, index, None) for epoch, index in items] for items in sampler)
    return read_batches(reader, batches, workers, ahead=accumulation)


def evaluation_batches(
    source: Source,
    preprocessors: Mapping[str, Preprocessor],
    columns: Columns,
    *,
    batch_size: int,
    workers: int = 0,
    limit: int | None = None,
    keep: Sequence[str] = (),
    rank: int = 0,
    world: int = 1,
    broken: str = "part",
    stored: Mapping[str, Stored] | None = None,
) -> Iterator[Loaded]:
    """All samples once, in order, the last batch short; of several captions always the first.

    Args:
        source: the data.
        preprocessors: modality -> what reads and collates it.
        columns: modality -> column(s); a modality not in it reads the column of its own name.
        batch_size: samples of a batch.
        workers: processes that decode; 0: this one does.
        limit: the first so many samples only.
        keep: other columns (labels) whose raw values come along in `Loaded.kept`.
        rank: of this process, which gets every world-th batch.
        world: number of processes.
        broken: what a broken part of a row costs: that "part" alone, or the whole "row".
        stored: what is read in place of a column, which the data need not have.
    """
    columns = columns_of(preprocessors, columns)
    held = {name: wanted for name, wanted in columns.items() if name not in (stored or ())}
    check_columns(source, {**held, **({"keep": list(keep)} if keep else {})})
    batches: Iterable[Items]
    if is_stream(source):
        needed = source.select_columns(read_columns(held, keep))
        rows = ((0, number, row) for number, row in enumerate(stream_rows(needed)))
        numbered = enumerate(_chunks(islice(rows, limit), batch_size))
        batches = (chunk for number, chunk in numbered if number % world == rank)
    else:
        size = len(source) if limit is None else min(limit, len(source))
        items = in_order(size, batch_size, rank=rank, world=world)
        batches = ([(epoch, index, None) for epoch, index in chunk] for chunk in items)
    return read_batches(Reader(source, preprocessors, columns, None, keep, broken, stored=stored), batches, workers)


def read_rows(source: Source, columns: Columns | Iterable[str], n: int, seed: int = 0) -> list[Row]:
    """Up to `n` rows to fit preprocessors on, with the raw values of these columns (null: None).

    columns: names of columns, or modality -> column(s). A random selection, in the order of the data; of a stream the
    first rows. The values are not decoded: a fit meets the broken ones too and must pass over what its `read` raises
    `BadSample` for.
    """
    columns = columns if isinstance(columns, Mapping) else {name: name for name in columns}
    check_columns(source, columns)
    chosen = source.select_columns(read_columns(columns, ()))
    if is_stream(chosen):
        rows: Iterable[Row] = islice(stream_rows(chosen), n)
    else:
        rows = rows_at(chosen, drawn_rows(chosen, n, seed).tolist())
    kinds, allowed = typed(chosen.features, chosen.column_names or ()), origins(source)
    return [
        {name: as_declared(fetched_if_possible(value, allowed), kinds.get(name)) for name, value in row.items()}
        for row in rows
    ]


def presence(source: Source, columns: Columns) -> dict[str, int]:
    """Modality -> number of samples where it is not null, over the whole data (nothing is decoded)."""
    check_columns(source, columns)
    counts = dict.fromkeys(columns, 0)
    needed = read_columns(columns, ())
    chosen = source.select_columns(needed)
    if (table := numbered_table(chosen)) is not None and not is_stream(source):
        numbers = slice(None) if (rows := row_numbers(source)) is None else rows
        whole = {name: table.valid(name)[numbers] for name in needed}
        there = {name: [whole[column] for column in used_columns({name: of})] for name, of in columns.items()}
        return {name: int(np.logical_or.reduce(of).sum()) for name, of in there.items()}
    if not is_stream(source):
        chosen = chosen.with_format("arrow")
        for table in chosen.iter(batch_size=1000):
            valid = {name: np.asarray(table[name].is_valid()) for name in needed}
            for modality, wanted in columns.items():
                names = [wanted] if isinstance(wanted, str) else wanted
                counts[modality] += int(np.logical_or.reduce([valid[name] for name in names]).sum())
        return counts
    for row in stream_rows(chosen):
        for modality, wanted in columns.items():
            counts[modality] += not is_null(select(row, wanted))
    return counts


def _chunks(rows: Iterable[object], size: int) -> Iterator[list[Any]]:
    rows = iter(rows)
    while chunk := list(islice(rows, size)):
        yield chunk


def columns_of(preprocessors: Mapping[str, Preprocessor], columns: Columns) -> dict[str, str | Sequence[str]]:
    """The column(s) of every modality; by default the one of its name."""
    return {name: columns.get(name, name) for name in preprocessors}
