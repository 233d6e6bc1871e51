"""Several data that are trained on together: which has how many places in an epoch, and which row is at each place.

An epoch of the mixture has a fixed number of places for each of the data, to within one sample what their weights say,
in an order of (seed, epoch). Of each of the data all rows come once, in an order of their own, before any comes again.
So which row is at a place is a pure function: a run that goes on, and any number of processes, read the same rows.

Rows are numbered over all the data: that of row r of the data numbered s is s * 2**56 + r.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmssl.boundary import only_below
from mmssl.draws import key_of
from mmssl.errors import RunError, UserError
from mmssl.limits import current, within
from mmssl.modality import Preprocessor
from mmssl.reading import GIGABYTES

from .cuts import Cuts
from .disk import Disk
from .memory import Memory
from .reader import Fault, Loaded, Loader, Reader, Sample, collated, read_batches
from .row_groups import Windows, windows_of
from .sampler import Sampler, order
from .selection import row_numbers
from .shards import Items

if TYPE_CHECKING:
    from datasets import Dataset

    from .mixed_streams import StreamPortion

BITS = 56
"""Of a row's number within its data."""
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Wish:
    """How much of one of the data is asked for: its weight among the others, or how often its rows come in an epoch.

    tokens: of a sample, on average, where weights and temperature are of tokens; else 1.
    """

    rows: int
    weight: float | None = None
    repeat: float | None = None
    tokens: float = 1.0


def places(wishes: Mapping[str, Wish], temperature: float, batch_size: int) -> dict[str, int]:
    """Places in an epoch of each of the data, all together whole batches.

    An epoch is as long as all rows, each as often as it is repeated. Without weights each of the data has a share of
    its rows (its tokens, where these are known) to the power of 1 / temperature: 1 is as many as it has, large ones are
    alike for all. A share of tokens is one of samples times their number of tokens.

    Raises UserError where there is not one batch, or one of the data would never come.
    """
    amounts = np.array([wish.rows * (wish.repeat or 1.0) for wish in wishes.values()])
    weights, tokens = [wish.weight for wish in wishes.values()], np.array([wish.tokens for wish in wishes.values()])
    shares = (amounts * tokens) ** (1 / temperature) if None in weights else np.array(weights, np.float64)
    shares = shares / tokens
    total = int(amounts.sum()) // batch_size * batch_size
    if not total:
        raise UserError(
            f"the training data has {int(amounts.sum()):,} samples, fewer than one batch "
            f"(train.batch_size is {batch_size})"
        )
    exact = shares / shares.sum() * total
    out = np.floor(exact).astype(np.int64)
    left = total - int(out.sum())
    out[np.argsort(out - exact, kind="stable")[:left]] += 1  # to those that are furthest below
    found = dict(zip(wishes, out.tolist(), strict=True))
    for name, count in found.items():
        if not count:
            raise UserError(
                f"data: of {total:,} samples in an epoch none would be of '{name}': give it a larger weight or repeat"
            )
    return found


@dataclass(frozen=True)
class Portion:
    """One of the data of a mixture.

    Attributes:
        source: the rows.
        columns: modality -> its column(s), of the modalities that these data have.
        places: of its rows in an epoch.
        tokens: of a sample, on average, where the shares are of tokens.
    """

    source: Dataset
    columns: dict[str, str | list[str]]
    places: int
    tokens: float | None = None


@dataclass(frozen=True)
class Mixture:
    """Name -> portion; the first one is the data that things are measured on."""

    portions: Mapping[str, Portion]
    seed: int

    @property
    def rows(self) -> int:
        """Of all the data."""
        return sum(len(portion.source) for portion in self.portions.values())

    def __len__(self) -> int:
        """Places of an epoch: whole batches."""
        return sum(portion.places for portion in self.portions.values())

    def place(self, number: int) -> tuple[str, int]:
        """(which of the data a row is of, its number there)."""
        name = list(self.portions)[number >> BITS]
        row = number & ((1 << BITS) - 1)
        numbers = row_numbers(self.portions[name].source)
        return name, row if numbers is None else int(numbers[row])

    def share(self, name: str) -> float:
        """Of the samples."""
        return self.portions[name].places / len(self)

    def shares(self, first: int, last: int, world: int = 1) -> dict[str, int]:
        """Name -> samples among those numbered `first` to `last` - 1 since the run began; any world: the same."""
        counts = np.zeros(len(self.portions), np.int64)
        starts = np.cumsum([portion.places for portion in self.portions.values()])
        while first < last:
            epoch, place = divmod(first, len(self))
            count = min(last - first, len(self) - place)
            slots = order(len(self), self.seed, epoch)[place : place + count]
            counts += np.bincount(np.searchsorted(starts, slots, "right"), minlength=len(counts))
            first += count
        return dict(zip(self.portions, counts.tolist(), strict=True))

    def seed_of(self, number: int) -> int:
        """Of the order of the rows of one of the data."""
        return key_of(self.seed, "mixture", number) if number else self.seed

    def epoch(self, epoch: int, windows: Mapping[str, Windows | None] | None = None) -> tuple[Numbers, Numbers]:
        """(places,) of each place, before they are put in order, its row, and how often that came before.

        windows: name -> those of data whose row groups are read one after the other, and so in the order of the places.
        """
        numbers, times = [], []
        when = np.argsort(order(len(self), self.seed, epoch), kind="stable")  # each place's turn
        begin = 0
        for number, (name, portion) in enumerate(self.portions.items()):
            size, first = len(portion.source), epoch * portion.places
            seed, own = self.seed_of(number), (windows or {}).get(name)
            turns = range(first // size, (first + portion.places - 1) // size + 1)
            orders = [order(size, seed, turn) if own is None else own.whole(turn) for turn in turns]
            rows = np.concatenate(orders)[first % size :][: portion.places]
            coming = np.arange(portion.places)
            if own is not None:
                coming[np.argsort(when[begin : begin + portion.places], kind="stable")] = np.arange(portion.places)
            numbers.append((number << BITS) + rows[coming])
            times.append((first + coming) // size)
            begin += portion.places
        return np.concatenate(numbers), np.concatenate(times)


def mixed_batches(
    mixture: Mixture,
    preprocessors: Mapping[str, Preprocessor],
    *,
    batch_size: int,
    accumulation: int = 1,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    start_batch: int = 0,
    broken: str = "part",
    memory: float = 0.0,
    cuts: Cuts | None = None,
    disk: Disk | None = None,
    gigabytes: float = GIGABYTES,
) -> Iterator[Loaded]:
    """Endless micro-batches of process `rank`; the arguments are those of `training_batches`."""
    sampler = Sampler(
        len(mixture),
        batch_size=batch_size,
        accumulation=accumulation,
        rank=rank,
        world=world,
        seed=mixture.seed,
        start=start_batch,
    )
    kept = Memory(int(memory * 1e9) // max(workers, 1))
    reader = MixedReader(mixture.portions, preprocessors, mixture.seed, broken, kept, cuts, disk)
    windows = {
        name: None if one.source is None else windows_of(one.source, mixture.seed_of(number), gigabytes)
        for number, (name, one) in enumerate(zip(mixture.portions, reader.readers, strict=True))
    }
    epoch_of = lru_cache(maxsize=2)(partial(mixture.epoch, windows=windows))

    def batches() -> Iterator[Items]:
        for slots in sampler:
            numbers, times = epoch_of(slots[0][0])
            yield [(int(times[slot]), int(numbers[slot]), None) for _, slot in slots]

    return read_batches(reader, batches(), workers, ahead=accumulation)


class MixedReader(Loader):
    """Loads one list of rows out of several data: each are read as their own, and may name files where they may."""

    def __init__(
        self,
        portions: Mapping[str, Portion | StreamPortion],
        preprocessors: Mapping[str, Preprocessor],
        seed: int,
        broken: str,
        memory: Memory,
        cuts: Cuts | None = None,
        disk: Disk | None = None,
    ) -> None:
        self.cuts = cuts
        self.readers = [
            Reader(
                portion.source,
                {name: preprocessors[name] for name in portion.columns},
                portion.columns,
                seed,
                broken=broken,
                memory=memory,
                first=number << BITS,
                cuts=cuts,
                disk=disk,
            )
            for number, portion in enumerate(portions.values())
        ]
        self.preprocessors, self.limits = dict(preprocessors), current()

    def __getitems__(self, items: Items) -> Loaded | Fault:
        try:
            found: list[Sample | None] = [None] * len(items)
            for number, reader in enumerate(self.readers):
                at = [place for place, (_, index, _) in enumerate(items) if index >> BITS == number]
                with only_below(reader.places), within(self.limits):
                    read = reader.samples([items[place] for place in at])
                for place, sample in zip(at, read, strict=True):
                    found[place] = self.whole(sample)
            with within(self.limits):
                samples = [sample for sample in found if sample is not None]
                return collated(items, samples, self.preprocessors, cuts=self.cuts)
        except (UserError, RunError) as error:
            return Fault(error)

    def whole(self, sample: Sample) -> Sample:
        """With the modalities that its data do not have as absent, where it is whole."""
        read, faults, row = sample
        return (read if faults and not read else {**dict.fromkeys(self.preprocessors), **read}), faults, row
