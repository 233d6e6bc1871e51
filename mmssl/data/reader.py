"""Rows to tensors: what runs in this process or in workers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from mmssl.boundary import only_below, reading_sample
from mmssl.draws import key_of
from mmssl.errors import BadSample, RunError, UserError, one_line, shown
from mmssl.limits import current, within
from mmssl.modality import Batch, Preprocessor, select
from mmssl.models.privacy import without_secrets

from .cuts import Cuts
from .disk import Disk, on_disk
from .memory import Memory, Watched
from .origins import fetched, is_null, origins, places
from .quarantine import Bad
from .raw_rows import rows_at
from .shards import Items, Row
from .sources import Columns, used_columns
from .stored import Stored
from .values import as_declared, typed
from .workers import on_gpu

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
        batch: every modality's inputs, collated; samples that are bad or lack a modality are absent rows. Of one that
            is cut (`mmssl.data.cuts`) what its views show, and itself where that is wanted.
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

    def pin_memory(self) -> Loaded:
        """With the inputs where a GPU copies them from while it computes; a DataLoader calls it."""
        return replace(self, batch={n: {k: v.pin_memory() for k, v in one.items()} for n, one in self.batch.items()})


@dataclass
class Fault:
    """A UserError or RunError on its way from a worker; as an exception, torch would bury it in a traceback."""

    error: UserError | RunError


Sample = tuple[Row, list[Bad], Row | Bad]
"""(modality -> decoded sample, None = absent; what is broken; the raw row)."""


class Loader(torch.utils.data.Dataset[Loaded]):
    """Loads one list of rows: what runs in workers."""

    def __getitems__(self, items: Items) -> Loaded | Fault:
        raise NotImplementedError


class Reader(Loader):
    """Loads rows of one source. seed None: evaluation, variants are not drawn."""

    def __init__(
        self,
        source: Source,
        preprocessors: Mapping[str, Preprocessor],
        columns: Columns,
        seed: int | None,
        keep: Sequence[str] = (),
        broken: str = "part",
        memory: Memory | None = None,
        stored: Mapping[str, Stored] | None = None,
        first: int = 0,
        cuts: Cuts | None = None,
        disk: Disk | None = None,
    ) -> None:
        """first: the number of the first row, where the rows of several data are numbered together. disk: where decoded
        samples are kept."""
        self.stored, self.first, self.cuts = dict(stored or {}), first, cuts
        needed = read_columns({name: wanted for name, wanted in columns.items() if name not in self.stored}, keep)
        # A stream's rows come with the items; the stream itself must not travel to the workers.
        self.source = None if is_stream(source) or not needed else source.select_columns(needed)
        # lists of whole numbers, in training the arrays that they are declared to be
        self.kinds = typed(source.features, used_columns(columns))
        self.preprocessors, self.columns, self.seed, self.keep = dict(preprocessors), columns, seed, keep
        self.readers = on_disk({**self.preprocessors, **({} if cuts is None else cuts.cutters)}, disk)
        self.variants = None if disk is None else disk.variants
        self.broken, self.memory = broken, memory or Memory(0)
        self.origins, self.places, self.limits = origins(source), places(source), current()

    def __getitems__(self, items: Items) -> Loaded | Fault:
        try:
            with only_below(self.places), within(self.limits):
                return self.load(items)
        except (UserError, RunError) as error:
            return Fault(error)

    def load(self, items: Items) -> Loaded:
        return collated(items, self.samples(items), self.preprocessors, self.stored, self.keep, self.cuts)

    def samples(self, items: Items) -> list[Sample]:
        """What is read of each row; of those that are kept in memory no row."""
        known = {index: self.memory.get(index) for _, index, _ in items} if self.memory.rows else {}
        rows = iter(self.rows([item for item in items if known.get(item[1]) is None]))
        out: list[Sample] = []
        for epoch, index, _ in items:
            kept_samples = known.get(index)
            if kept_samples is not None:
                out.append((kept_samples, [], {}))
                continue
            row = next(rows)
            out.append(({}, [row], row) if isinstance(row, Bad) else (*self.read(row, epoch, index), row))
        return out

    def rows(self, items: Items) -> list[Row | Bad]:
        """The raw rows, all at once where that works, so that one that cannot be had costs only itself."""
        if self.source is None:
            return [row or {} for _, _, row in items]
        try:
            with reading_sample():
                return [*rows_at(self.source, [index - self.first for _, index, _ in items])]
        except BadSample:
            pass
        out: list[Row | Bad] = []
        for _, index, _ in items:
            try:
                with reading_sample():
                    out += rows_at(self.source, [index - self.first])
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
        for name in self.preprocessors:
            wanted, kept = self.columns[name], self.stored.get(name)
            choice = Watched(self.choice(epoch, index, name))
            raw = None if kept is not None else self.declared(select(row, wanted), wanted)
            try:
                with reading_sample():  # around the fetching; `read` stands behind the boundary by itself
                    if kept is not None:
                        out[name] = kept.read(index, choice)
                    else:
                        reader = self.readers[name]
                        out[name] = None if is_null(raw) else reader.read(fetched(raw, self.origins), choice)
            except BadSample as error:
                column = wanted if isinstance(wanted, str) else ",".join(wanted)
                bad.append(Bad(index, name, column, _reason(error, raw)))
            drawn |= choice.used
        empty = all(sample is None for name, sample in out.items() if not self.preprocessors[name].beside)
        if bad and (self.broken == "row" or empty):
            return {}, bad
        if empty:
            return {}, [Bad(index, "*", "*", "no modality present")]
        if not (bad or drawn or self.source is None):
            self.memory.put(index, out)
        return out, bad

    def choice(self, epoch: int, index: int, name: str) -> int:
        """What a preprocessor chooses a variant by."""
        if self.seed is None:
            return 0
        drawn = key_of(self.seed, epoch, index, name, CHOICE) >> 1
        return drawn if self.variants is None else key_of(self.seed, drawn % self.variants, index, name, CHOICE) >> 1

    def declared(self, raw: object, wanted: str | Sequence[str]) -> Any:
        """A raw value, its lists as the arrays that their columns declare."""
        if isinstance(wanted, str):
            return as_declared(raw, self.kinds.get(wanted))
        return as_declared(raw, self.kinds) if self.kinds else raw


def collated(
    items: Items,
    read: Sequence[Sample],
    preprocessors: Mapping[str, Preprocessor],
    stored: Mapping[str, Stored] | None = None,
    keep: Sequence[str] = (),
    cuts: Cuts | None = None,
) -> Loaded:
    """A micro-batch of what was read of its rows; the other arguments are those of `Reader`."""
    samples: dict[str, list[Any]] = {name: [] for name in preprocessors}
    kept: dict[str, list[object]] = {name: [] for name in keep}
    missing = dict.fromkeys(preprocessors, 0)
    bad: list[Bad] = []
    for found, faults, row in read:
        bad += faults
        for name, sample in found.items():
            missing[name] += sample is None
        for name, values in samples.items():
            values.append(found.get(name))
        for name, values in kept.items():
            values.append(None if isinstance(row, Bad) else row[name])
    batch: Batch = {}
    for name, values in samples.items():
        if cuts is not None and name in cuts.cutters:
            batch |= cuts.batch(name, values, items)
        else:
            batch[name] = ((stored or {}).get(name) or preprocessors[name]).collate(values)
    numbers = torch.tensor([index for _, index, _ in items], dtype=torch.int64)
    return Loaded(batch, bad, missing, numbers, items[0][0], kept)


def read_batches(reader: Loader, batches: Iterable[Items], workers: int, ahead: int = 1) -> Iterator[Loaded]:
    """Run the reader over the batches, here or in worker processes, in order; these read at least `ahead` batches that
    nobody has asked for yet: a step's, while the one before is computed."""
    results: Iterable[Loaded | Fault]
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
            pin_memory=on_gpu(),
        )
    return checked(results)


def checked(results: Iterable[Loaded | Fault]) -> Iterator[Loaded]:
    """Raises what went wrong in a worker."""
    for result in results:
        if isinstance(result, Fault):
            raise result.error
        yield result


def _as_is(loaded: object) -> object:
    return loaded


def is_stream(source: Source) -> TypeGuard[IterableDataset]:
    import datasets

    return isinstance(source, datasets.IterableDataset)


def read_columns(columns: Columns, keep: Sequence[str]) -> list[str]:
    """Every column that is needed, once."""
    return list(dict.fromkeys([*used_columns(columns), *keep]))


def _reason(error: BadSample, raw: object) -> str:
    """One line: what was raised, and the file where its name is known; an address without what gives access to it."""
    # a whole file in base64, say, is no reason that anybody reads
    text = one_line(LONG.sub(lambda long: f"'{long[1][:60]}...' ({len(long[1]):,} characters)", str(error)))
    if isinstance(raw, str) and len(raw) > 100 and BASE64.fullmatch(raw):
        text = f"{text}; is it base64? Store the bytes themselves"
    path = named_file(raw)
    return without_secrets(text if path is None or path in text else f"{text} ({path})")


def named_file(raw: object) -> str | None:
    """The file that a raw value names, as it may be shown; None where it names none."""
    path = raw.get("path") if isinstance(raw, dict) else raw if isinstance(raw, str) and len(raw) < 300 else None
    return shown(path[:300]) if isinstance(path, str) else None
