"""Rows to batches: reads with the modalities' preprocessors, in this process or in workers, always the same batches.

The main process decides which sample is where (a sampler, or the rows of a stream); workers only decode. So the
number of workers changes nothing, and a sample's randomness depends on (seed, epoch, sample number) alone. A broken
part of a sample is absent, as one that is missing: the sample keeps its others (or, where that is asked for, loses
them) and its place in the batch, so that batches keep their size and the order of all other samples does not depend on
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from mmssl.boundary import only_below, reading_sample
from mmssl.draws import key_of
from mmssl.errors import BadSample, RunError, UserError, one_line, shown
from mmssl.limits import current, within
from mmssl.modality import Batch, Preprocessor, select
from mmssl.models.privacy import without_secrets

from .explained import stream_rows
from .memory import Memory, Watched
from .origins import fetched, fetched_if_possible, is_null, origins, places
from .quarantine import Bad
from .sampler import Sampler, in_order, order
from .sources import Columns, check_columns, used_columns
from .stored import Outputs
from .streams import Items, Row, stream_batches
from .values import as_declared, typed

if TYPE_CHECKING:
    from datasets import IterableDataset

    from .sources import Source

LONG = re.compile(r"'([^']{121,})'")
BASE64 = re.compile(r"(data:[\w/+.-]+;base64,)?[A-Za-z0-9+/_-]+={0,2}\s*")
CHOICE = "choice"


@dataclass
class Loaded:
    """One micro-batch of this process, of B samples.

    Attributes:
        batch: every modality's inputs, collated; samples that are bad or lack a modality are absent rows.
        bad: what is broken: an entry a modality and sample.
        missing: modality -> samples that lack it, where it is not broken.
        rows: (B,) int64 sample numbers, in the order of the batch.
        epoch: the pass over the data that they belong to.
        kept: other columns asked for (evaluation only): column -> B raw values.
    """

    batch: Batch
    bad: list[Bad]
    missing: dict[str, int]
    rows: Tensor
    epoch: int
    kept: dict[str, list[object]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """B, the bad ones included."""
        return len(self.rows)


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
    start_batch: int = 0,
    broken: str = "part",
    memory: float = 0.0,
    stored: Mapping[str, Outputs] | None = None,
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
        shuffle_buffer: rows that a stream is shuffled among.
        start_batch: micro-batches already done; what follows is exactly what would have followed. In constant time, but
            for a stream, whose rows are read again (not decoded) up to that place in its epoch.
        broken: what a broken part of a row costs: that "part" alone, or the whole "row".
        memory: GB of decoded samples that are kept (see `mmssl.data.memory`), by all workers together.
        stored: modality -> outputs of its frozen tower, which are read in place of its column.

    Raises:
        UserError: a column is not there, or the batch cannot be cut into equal parts or is larger than the data.
    """
    columns = columns_of(preprocessors, columns)
    check_columns(source, columns)
    batches: Iterable[Items]
    if is_stream(source):
        batches = stream_batches(
            source, _read_columns(columns, ()), seed, shuffle_buffer, batch_size, accumulation, rank, world, start_batch
        )
    else:
        sampler = Sampler(
            len(source),
            batch_size=batch_size,
            accumulation=accumulation,
            rank=rank,
            world=world,
            seed=seed,
            start=start_batch,
        )
        batches = ([(epoch, index, None) for epoch, index in items] for items in sampler)
    kept = Memory(int(memory * 1e9) // max(workers, 1))
    reader = Reader(source, preprocessors, columns, seed, broken=broken, memory=kept, stored=stored)
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
    """
    columns = columns_of(preprocessors, columns)
    check_columns(source, {**columns, **({"keep": list(keep)} if keep else {})})
    batches: Iterable[Items]
    if is_stream(source):
        needed = source.select_columns(_read_columns(columns, keep))
        rows = ((0, number, row) for number, row in enumerate(stream_rows(needed)))
        numbered = enumerate(_chunks(islice(rows, limit), batch_size))
        batches = (chunk for number, chunk in numbered if number % world == rank)
    else:
        size = len(source) if limit is None else min(limit, len(source))
        items = in_order(size, batch_size, rank=rank, world=world)
        batches = ([(epoch, index, None) for epoch, index in chunk] for chunk in items)
    return read_batches(Reader(source, preprocessors, columns, None, keep, broken), batches, workers)


def read_rows(source: Source, columns: Columns | Iterable[str], n: int, seed: int = 0) -> list[Row]:
    """Up to `n` rows to fit preprocessors on, with the raw values of these columns (null: None).

    columns: names of columns, or modality -> column(s). A random selection, in the order of the data; of a stream the
    first rows. The values are not decoded: a fit meets the broken ones too and must pass over what its `read` raises
    `BadSample` for.
    """
    columns = columns if isinstance(columns, Mapping) else {name: name for name in columns}
    check_columns(source, columns)
    chosen = source.select_columns(_read_columns(columns, ()))
    if is_stream(chosen):
        rows = islice(stream_rows(chosen), n)
    else:
        rows = chosen.__getitems__(np.sort(order(len(source), seed, 0)[:n]).tolist())
    kinds, allowed = typed(chosen.features, chosen.column_names or ()), origins(source)
    return [
        {name: as_declared(fetched_if_possible(value, allowed), kinds.get(name)) for name, value in row.items()}
        for row in rows
    ]


def presence(source: Source, columns: Columns) -> dict[str, int]:
    """Modality -> number of samples where it is not null, over the whole data (nothing is decoded)."""
    check_columns(source, columns)
    counts = dict.fromkeys(columns, 0)
    needed = _read_columns(columns, ())
    chosen = source.select_columns(needed)
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


def columns_of(preprocessors: Mapping[str, Preprocessor], columns: Columns) -> dict[str, str | Sequence[str]]:
    """The column(s) of every modality; by default the one of its name."""
    return {name: columns.get(name, name) for name in preprocessors}


# --- reading -----------------------------------------------------------------------------------------------------


@dataclass
class _Fault:
    """A UserError or RunError on its way from a worker; as an exception, torch would bury it in a traceback."""

    error: UserError | RunError


class Reader(torch.utils.data.Dataset[Loaded]):
    """Loads one list of rows: what runs in workers. seed None: evaluation, variants are not drawn."""

    def __init__(
        self,
        source: Source,
        preprocessors: Mapping[str, Preprocessor],
        columns: Columns,
        seed: int | None,
        keep: Sequence[str] = (),
        broken: str = "part",
        memory: Memory | None = None,
        stored: Mapping[str, Outputs] | None = None,
    ) -> None:
        self.stored = dict(stored or {})
        needed = _read_columns({name: wanted for name, wanted in columns.items() if name not in self.stored}, keep)
        # A stream's rows come with the items; the stream itself must not travel to the workers.
        self.source = None if is_stream(source) or not needed else source.select_columns(needed)
        # lists of whole numbers, in training the arrays that they are declared to be
        self.kinds = typed(source.features, used_columns(columns))
        self.preprocessors, self.columns, self.seed, self.keep = dict(preprocessors), columns, seed, keep
        self.broken, self.memory = broken, memory or Memory(0)
        self.origins, self.places, self.limits = origins(source), places(source), current()

    def __getitems__(self, items: Items) -> Loaded | _Fault:
        try:
            with only_below(self.places), within(self.limits):
                return self.load(items)
        except (UserError, RunError) as error:
            return _Fault(error)

    def load(self, items: Items) -> Loaded:
        samples: dict[str, list[Any]] = {name: [] for name in self.preprocessors}
        kept: dict[str, list[object]] = {name: [] for name in self.keep}
        missing = dict.fromkeys(self.preprocessors, 0)
        bad: list[Bad] = []
        known = {index: self.memory.get(index) for _, index, _ in items} if self.memory.rows else {}
        rows = iter(self.rows([item for item in items if known.get(item[1]) is None]))
        for epoch, index, _ in items:
            kept_samples = known.get(index)
            row: Row | Bad = {} if kept_samples is not None else next(rows)
            if kept_samples is not None:
                read, faults = kept_samples, list[Bad]()
            else:
                read, faults = ({}, [row]) if isinstance(row, Bad) else self.read(row, epoch, index)
            bad += faults
            for name, sample in read.items():
                missing[name] += sample is None
            for name, values in samples.items():
                values.append(read.get(name))
            for name, values in kept.items():
                values.append(None if isinstance(row, Bad) else row[name])
        batch = {n: (self.stored.get(n) or self.preprocessors[n]).collate(values) for n, values in samples.items()}
        numbers = torch.tensor([index for _, index, _ in items], dtype=torch.int64)
        return Loaded(batch, bad, missing, numbers, items[0][0], kept)

    def rows(self, items: Items) -> list[Row | Bad]:
        """The raw rows, all at once where that works, so that one that cannot be had costs only itself."""
        if self.source is None:
            return [row or {} for _, _, row in items]
        try:
            with reading_sample():
                return list(self.source.__getitems__([index for _, index, _ in items]))
        except BadSample:
            pass
        out: list[Row | Bad] = []
        for _, index, _ in items:
            try:
                with reading_sample():
                    out.append(self.source[index])
            except BadSample as error:
                out.append(Bad(index, "*", "*", _reason(error, None)))
        return out

    def read(self, row: Row, epoch: int, index: int) -> tuple[Row, list[Bad]]:
        """(modality -> decoded sample, None = absent, of all that is whole; what is broken).

        No modality at all where none is left, or where one is broken and that costs the row.
        """
        out: Row = {}
        bad: list[Bad] = []
        drawn = False
        for name, preprocessor in self.preprocessors.items():
            wanted, kept = self.columns[name], self.stored.get(name)
            choice = Watched(self.choice(epoch, index, name))
            raw = None if kept is not None else self.declared(select(row, wanted), wanted)
            try:
                with reading_sample():  # around the fetching; `read` stands behind the boundary by itself
                    if kept is not None:
                        out[name] = kept.read(index, choice)
                    else:
                        out[name] = None if is_null(raw) else preprocessor.read(fetched(raw, self.origins), choice)
            except BadSample as error:
                column = wanted if isinstance(wanted, str) else ",".join(wanted)
                bad.append(Bad(index, name, column, _reason(error, raw)))
            drawn |= choice.used
        if bad and (self.broken == "row" or all(sample is None for sample in out.values())):
            return {}, bad
        if all(sample is None for sample in out.values()):
            return {}, [Bad(index, "*", "*", "no modality present")]
        if not (bad or drawn or self.source is None):
            self.memory.put(index, out)
        return out, bad

    def choice(self, epoch: int, index: int, name: str) -> int:
        """What a preprocessor chooses a variant by."""
        return 0 if self.seed is None else key_of(self.seed, epoch, index, name, CHOICE) >> 1

    def declared(self, raw: object, wanted: str | Sequence[str]) -> Any:
        """A raw value, its lists as the arrays that their columns declare."""
        if isinstance(wanted, str):
            return as_declared(raw, self.kinds.get(wanted))
        return as_declared(raw, self.kinds) if self.kinds else raw


def read_batches(reader: Reader, batches: Iterable[Items], workers: int, ahead: int = 1) -> Iterator[Loaded]:
    """Run the reader over the batches, here or in worker processes, in order; these read at least `ahead` batches that
    nobody has asked for yet: a step's, while the one before is computed."""
    results: Iterable[Loaded | _Fault]
    if workers == 0:
        results = map(reader.__getitems__, batches)
    else:
        results = torch.utils.data.DataLoader(
            reader,
            batch_sampler=batches,  # its "indices" are whole lists of rows
            num_workers=workers,
            prefetch_factor=max(2, -(-ahead // workers)),
            collate_fn=_as_is,
            generator=torch.Generator(),  # its own: the global one must not depend on the number of workers
        )
    for result in results:
        if isinstance(result, _Fault):
            raise result.error
        yield result


def _chunks(rows: Iterable[object], size: int) -> Iterator[list[Any]]:
    rows = iter(rows)
    while chunk := list(islice(rows, size)):
        yield chunk


def _as_is(loaded: object) -> object:
    return loaded


def is_stream(source: Source) -> TypeGuard[IterableDataset]:
    import datasets

    return isinstance(source, datasets.IterableDataset)


def _read_columns(columns: Columns, keep: Sequence[str]) -> list[str]:
    """Every column that is needed, once."""
    return list(dict.fromkeys([*used_columns(columns), *keep]))


def _reason(error: BadSample, raw: object) -> str:
    """One line: what was raised, and the file where its name is known; an address without what gives access to it."""
    # a whole file in base64, say, is no reason that anybody reads
    text = one_line(LONG.sub(lambda long: f"'{long[1][:60]}...' ({len(long[1]):,} characters)", str(error)))
    if isinstance(raw, str) and len(raw) > 100 and BASE64.fullmatch(raw):
        text = f"{text}; is it base64? Store the bytes themselves"
    path = raw.get("path") if isinstance(raw, dict) else raw if isinstance(raw, str) and len(raw) < 300 else None
    path = shown(path[:300]) if isinstance(path, str) else None
    return without_secrets(text if path is None or path in text else f"{text} ({path})")
