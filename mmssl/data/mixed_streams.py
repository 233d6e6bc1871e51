"""Mixtures of data that only come in order: how many rows of each are in a step, and where each of them goes on.

Of n samples of a process, the first of the data have had floor(n w), the next one what their weights together give less
that, and so on: each its share of any stretch to within one sample, and how many that were after any step is known by
arithmetic. So a run that goes on finds its place in each stream as in one alone (`mmssl.data.streams`). Each process
has one reader in each stream, with shards of its own; of a stream with fewer shards than processes all read all rows,
and each keeps every world-th. No row is left out at the end of an epoch, and none is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING

import numpy as np

from mmssl.draws import key_of
from mmssl.modality import Preprocessor

from .cuts import Cuts
from .disk import Disk
from .memory import Memory
from .mixing import BITS, MixedReader
from .reader import Loaded, read_batches, read_columns
from .sampler import philox
from .shards import Items, Lengths, Shards
from .streams import Plan, endless, readers_of

if TYPE_CHECKING:
    from datasets import IterableDataset

UNIT = 1 << 40
"""Weights are counted in parts of it, so that sums are exact."""


@dataclass(frozen=True)
class StreamPortion:
    """One of the streams of a mixture; columns: modality -> its column(s), of the modalities that it has; weight: of
    its samples; tokens: as of `Portion`."""

    source: IterableDataset
    columns: dict[str, str | list[str]]
    weight: float
    tokens: float | None = None


@dataclass(frozen=True)
class MixedStreams:
    """Name -> portion; the first one is the data that things are measured on."""

    portions: Mapping[str, StreamPortion]
    seed: int

    @property
    def rows(self) -> None:
        """Of all the data: not known."""
        return None

    def share(self, name: str) -> float:
        """Of the samples."""
        return self.portions[name].weight / sum(portion.weight for portion in self.portions.values())

    def place(self, number: int) -> tuple[str, int]:
        """(which of the data a row is of, its number there)."""
        return list(self.portions)[number >> BITS], number & ((1 << BITS) - 1)

    def given(self, samples: int) -> list[int]:
        """How many of the first so many samples of a process are of each."""
        total, upto, before, out = sum(p.weight for p in self.portions.values()), 0.0, 0, []
        for number, portion in enumerate(self.portions.values(), 1):
            upto += portion.weight
            bound = UNIT if number == len(self.portions) else round(upto / total * UNIT)
            now = samples * bound // UNIT
            out.append(now - before)
            before = now
        return out

    def shares(self, first: int, last: int, world: int) -> dict[str, int]:
        """Name -> samples among those numbered `first` to `last` - 1, which are of whole steps."""
        before, after = self.given(first // world), self.given(last // world)
        return {name: world * (b - a) for name, a, b in zip(self.portions, before, after, strict=True)}


def mixed_stream_batches(
    mixture: MixedStreams,
    preprocessors: Mapping[str, Preprocessor],
    lengths: Mapping[str, Lengths],
    plan: Plan,
    *,
    workers: int = 0,
    start_batch: int = 0,
    broken: str = "part",
    cuts: Cuts | None = None,
    disk: Disk | None = None,
) -> Iterator[Loaded]:
    """Endless micro-batches of a process; the main process reads rows, workers decode them.

    Args:
        mixture: the streams.
        preprocessors: modality -> what reads and collates it.
        lengths: name -> of the shards of that stream, as far as they are known; what is learned is added.
        plan: seed, buffer of each reader, batch, and which process this is.
        workers, start_batch, broken, cuts, disk: as of `training_batches`.
    """
    reader = MixedReader(mixture.portions, preprocessors, mixture.seed, broken, Memory(0), cuts, disk)
    items = _micro_batches(mixture, lengths, plan, start_batch)
    return read_batches(reader, items, workers, ahead=plan.accumulation)


def _micro_batches(mixture: MixedStreams, lengths: Mapping[str, Lengths], plan: Plan, start: int) -> Iterator[Items]:
    local, micro = plan.parts
    step, done = divmod(start, plan.accumulation)
    gone = mixture.given(step * local)
    streams = [
        _stream(mixture, name, number, lengths[name], plan, gone[number])
        for number, name in enumerate(mixture.portions)
    ]
    for at in count(step):
        now = mixture.given((at + 1) * local)
        rows = [item for stream, a, b in zip(streams, gone, now, strict=True) for item in islice(stream, b - a)]
        gone = now
        drawn = philox(key_of(mixture.seed, "mixture", plan.rank), at).random_raw(local)
        rows = [rows[place] for place in np.argsort(drawn, kind="stable").tolist()]
        for low in range(done * micro, local, micro):
            yield rows[low : low + micro]
        done = 0


def _stream(
    mixture: MixedStreams, name: str, number: int, lengths: Lengths, plan: Plan, gone: int
) -> Iterator[tuple[int, int, dict[str, object] | None]]:
    """This process's rows of one stream, without the first `gone` of them."""
    portion = mixture.portions[name]
    source, own = readers_of(portion.source, 1, plan.world) if plan.world > 1 else (portion.source, 1)
    shards = Shards(source, read_columns(portion.columns, ()))
    lengths.begin(shards.count)
    seed = key_of(mixture.seed, "mixture", number) if number else mixture.seed
    if own:
        items = endless(seed, plan.buffer, shards, lengths, plan.rank, plan.world, gone)
    else:
        every = endless(seed, plan.buffer, shards, lengths, 0, 1, gone * plan.world + plan.rank)
        items = islice(every, 0, None, plan.world)
    for epoch, row, values in items:
        yield epoch, (number << BITS) + row, values
