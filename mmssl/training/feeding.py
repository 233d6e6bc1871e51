"""The training rows of a recipe as the loop takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

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
from ..modality.columns import further_columns, with_further
from ..models.processing_mmssl import MMSSLProcessor
from ..recipe.config import DataConfig, Recipe
from ..recipe.mixture import FIRST
from .building import Columns
from .labels import Labels, with_labels
from .loop import Batches
from .mixture import Mixed
from .renewing import Renewed

if TYPE_CHECKING:
    from ..data.loading import Source


def disk_of(data: DataConfig) -> Disk | None:
    """Where decoded samples are kept. UserError where nothing can be written there."""
    cache = data.cache
    return None if cache is None else Disk(cache.path, int(cache.gigabytes * 1e9), data.variants)


def feed(
    recipe: Recipe,
    source: Source,
    columns: Columns,
    processor: MMSSLProcessor,
    accelerator: Accelerator,
    stored: Mapping[str, Outputs],
    lengths: Mapping[str, Lengths],
    mixture: Mixed | None,
    labels: Labels,
    alone: bool = False,
    cuts: Cuts | None = None,
    by: Order | None = None,
    renewed: Renewed | None = None,
) -> Batches:
    """This process's micro-batches of the training rows, from any one on.

    Args:
        recipe: how they are read.
        source: the rows.
        columns: modality, or further column of a view -> its column(s).
        processor: reads and collates them.
        accelerator: the processes.
        stored: what frozen towers make of them.
        lengths: name of the data -> what is known of the shards of a stream.
        mixture: the rows of several data, in place of those of `source`.
        labels: the columns that objectives learn from, which come along.
        by: the order of the samples (`data.sampler`).
        renewed: says which order it is instead, where that changes.
        alone: as if there were no other process: the rows of all of them.
        cuts: views that are cut out of rows as they are read.
    """
    preprocessors = with_further(processor.preprocessors, further_columns(recipe.views)) | labels.readers
    columns = {**columns, **labels.columns}
    mixture = with_labels(mixture, labels)
    types = [part.type for part in recipe.modalities.values()]
    workers = workers_for(recipe.data.workers, types, beside_a_step=True)
    disk = disk_of(recipe.data)
    rank, world = (0, 1) if alone else (accelerator.process_index, accelerator.num_processes)

    def batches(first: int) -> Iterator[Loaded]:
        if isinstance(mixture, MixedStreams):
            size, parts = recipe.train.batch_size, recipe.train.accumulation
            return mixed_stream_batches(
                mixture,
                preprocessors,
                lengths,
                Plan(recipe.seed, recipe.data.shuffle_buffer, size, parts, rank, world, 1),
                workers=workers,
                start_batch=first,
                broken=recipe.data.broken,
                cuts=cuts,
                disk=disk,
            )
        if mixture is not None:
            return mixed_batches(
                mixture,
                preprocessors,
                batch_size=recipe.train.batch_size,
                accumulation=recipe.train.accumulation,
                rank=rank,
                world=world,
                workers=workers,
                start_batch=first,
                broken=recipe.data.broken,
                memory=recipe.train.memory,
                cuts=cuts,
                disk=disk,
                gigabytes=recipe.data.shuffle_gigabytes,
            )
        order, start, epoch = (by, first, 0) if renewed is None else renewed.since(first, recipe.train.accumulation)
        return training_batches(
            source,
            preprocessors,
            columns,
            seed=recipe.seed,
            batch_size=recipe.train.batch_size,
            accumulation=recipe.train.accumulation,
            rank=rank,
            world=world,
            workers=workers,
            shuffle_buffer=recipe.data.shuffle_buffer,
            readers=recipe.data.readers,
            lengths=lengths.get(FIRST),
            start_batch=start,
            broken=recipe.data.broken,
            memory=recipe.train.memory,
            stored={**stored, **labels.given},
            cuts=cuts,
            by=by if order is None else order,
            epoch=epoch,
            disk=disk,
            gigabytes=recipe.data.shuffle_gigabytes,
        )

    return batches
