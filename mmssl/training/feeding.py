"""The training rows of a recipe as the loop takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from ..data.cuts import Cuts
from ..data.disk import Disk
from ..data.loading import Loaded, training_batches
from ..data.mixed_streams import MixedStreams, mixed_stream_batches
from ..data.mixing import mixed_batches
from ..data.orders import Order
from ..data.shards import Lengths
from ..data.stored import Outputs
from ..data.streams import Plan
from ..data.workers import workers_for
from ..modality import Preprocessor
from ..modality.columns import further_columns, with_further
from ..models.processing_mmssl import MMSSLProcessor
from ..recipe.config import DataConfig, Recipe
from ..recipe.mixture import FIRST
from .building import Columns
from .labels import Labels, with_labels
from .mixture import Mixed
from .renewing import Renewed

if TYPE_CHECKING:
    from ..data.loading import Source


def disk_of(data: DataConfig) -> Disk | None:
    """Where decoded samples are kept. UserError where nothing can be written there."""
    cache = data.cache
    return None if cache is None else Disk(cache.path, int(cache.gigabytes * 1e9), data.variants)


@dataclass(frozen=True)
class Feed:
    """This process's micro-batches of the training rows, from any one on.

    Attributes:
        recipe: how they are read.
        source: the rows.
        columns: modality, or further column of a view -> its column(s).
        processor: reads and collates them.
        accelerator: the processes.
        stored: what frozen towers make of them.
        lengths: name of the data -> what is known of the shards of a stream.
        mixture: the rows of several data, in place of those of `source`.
        labels: the columns that objectives learn from, which come along.
        alone: as if there were no other process: the rows of all of them.
        cuts: views that are cut out of rows as they are read.
        by: the order of the samples (`data.sampler`).
        renewed: says which order it is instead, where that changes.
    """

    recipe: Recipe
    source: Source
    columns: Columns
    processor: MMSSLProcessor
    accelerator: Accelerator
    stored: Mapping[str, Outputs]
    lengths: Mapping[str, Lengths]
    mixture: Mixed | None = None
    labels: Labels = field(default_factory=Labels)
    alone: bool = False
    cuts: Cuts | None = None
    by: Order | None = None
    renewed: Renewed | None = None

    def __call__(self, first: int) -> Iterator[Loaded]:
        """Those from the micro-batch `first` on."""
        mixture = with_labels(self.mixture, self.labels)
        if isinstance(mixture, MixedStreams):
            return self._streams(mixture, first)
        data, train = self.recipe.data, self.recipe.train
        rank, world = self._place
        more: dict[str, Any] = {
            "batch_size": train.batch_size,
            "accumulation": train.accumulation,
            "rank": rank,
            "world": world,
            "broken": data.broken,
            "memory": train.memory,
            "gigabytes": data.shuffle_gigabytes,
            **self._shared,
        }
        if mixture is not None:
            return mixed_batches(mixture, self._readers, start_batch=first, **more)
        renewed = self.renewed
        order, start, epoch = (None, first, 0) if renewed is None else renewed.since(first, train.accumulation)
        return training_batches(
            self.source,
            self._readers,
            {**self.columns, **self.labels.columns},
            seed=self.recipe.seed,
            shuffle_buffer=data.shuffle_buffer,
            readers=data.readers,
            lengths=self.lengths.get(FIRST),
            start_batch=start,
            stored={**self.stored, **self.labels.given},
            by=self.by if order is None else order,
            epoch=epoch,
            **more,
        )

    def _streams(self, mixture: MixedStreams, first: int) -> Iterator[Loaded]:
        data, train, (rank, world) = self.recipe.data, self.recipe.train, self._place
        plan = Plan(self.recipe.seed, data.shuffle_buffer, train.batch_size, train.accumulation, rank, world, 1)
        more = {"start_batch": first, "broken": data.broken, **self._shared}
        return mixed_stream_batches(mixture, self._readers, self.lengths, plan, **more)

    @property
    def _place(self) -> tuple[int, int]:
        """(rank, world)."""
        return (0, 1) if self.alone else (self.accelerator.process_index, self.accelerator.num_processes)

    @property
    def _readers(self) -> dict[str, Preprocessor]:
        return with_further(self.processor.preprocessors, further_columns(self.recipe.views)) | self.labels.readers

    @property
    def _shared(self) -> dict[str, Any]:
        """What all kinds of data are read with."""
        types = [part.type for part in self.recipe.modalities.values()]
        workers = workers_for(self.recipe.data.workers, types, beside_a_step=True)
        return {"workers": workers, "cuts": self.cuts, "disk": disk_of(self.recipe.data)}
