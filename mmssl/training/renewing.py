"""`data.renewed`: clusters of what the model in training makes of its rows, found anew every so many steps.

All processes embed the rows, each its batches of them, into a file of the run's folder; the first one clusters them as
`mmssl cluster` does, and tells the others. What it found is in every checkpoint, so that a run that goes on has the
same clusters. Where the order of the samples goes by them, it begins anew with each clustering: it is a function of
the seed, the epoch and the clusters.

Multistage contrast (Zhang et al. 2024) and pruning as a run goes on (Nereus-SAR-1) are this with `data.sampler`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..curation.clustering import assigned, find_clusters, refuse_levels
from ..curation.embeddings import Embeddings, Part, standardise
from ..curation.kmeans import BATCH, require_search
from ..data.loading import evaluation_batches
from ..data.orders import Order
from ..data.workers import workers_for
from ..errors import RunError, UserError, one_line
from ..models.running import evaluating, to_device
from ..recipe.renewing import level_names
from .checkpoints import State
from .engine import on_first
from .health import eagerly
from .observers import Measured, Moment, Observer, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from ..data.loading import Source
    from ..models.modeling_mmssl import MMSSLModel
    from ..models.processing_mmssl import MMSSLProcessor
    from ..recipe.config import Recipe
    from ..recipe.renewing import RenewedConfig
    from .building import Columns, TrainingData
    from .parallel import Parallel

FOLDER = "renewed"
AT_A_TIME = 64
"""Rows that the model sees at once."""
Ids = NDArray[np.int32]


@dataclass
class Held(Embeddings):
    """Embeddings in arrays, in place of a file's column.

    Attributes:
        x: (n, D), of rows without one anything.
        there: (n,) which rows have one.
    """

    x: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    there: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))

    def tables(self) -> Iterator[tuple[pa.Table, Part]]:
        """As of a file."""
        import pyarrow as pa

        for low in range(0, self.rows, BATCH):
            high = min(low + BATCH, self.rows)
            numbers = low + np.flatnonzero(self.there[low:high])
            x = np.asarray(self.x[numbers], np.float64)
            if not np.isfinite(x).all():
                raise UserError(f"{self.option}: what the model makes of '{self.column}' is not finite")
            if self.moments is not None and len(x):
                x = (x - self.moments[0]) / self.moments[1]
            yield pa.table({"row": pa.array(range(low, high), pa.int64())}), (numbers, x)


@dataclass
class Clustering:
    """What was found at one time.

    Attributes:
        ids: (levels, n) int32, from fine to coarse, -1 of rows without an embedding.
        distances: (levels, n) float32 to the centres, nan likewise.
    """

    ids: Ids
    distances: NDArray[np.float32]


class GivenColumns:
    """The columns of `data.renewed`, as they are now; what reads them is handed their place here.

    Attributes:
        levels: how many clusters, level by level.
        stages_count: whether `cluster` is told by all times so far.
        stages: the finest clusters of the times before; none where they do not count.
        now: the last clustering; None before the first.
        rows: n.
    """

    def __init__(self, levels: Sequence[int], rows: int, stages_count: bool = False) -> None:
        self.levels, self.rows, self.stages_count = list(levels), rows, stages_count
        self.stages: list[Ids] = []
        self.now: Clustering | None = None
        self.names = [name for pair in level_names(len(self.levels)) for name in pair]

    def values(self, name: str) -> list[Any]:
        """(n,) a column; None of rows without a value."""
        if self.now is None:
            return [None] * self.rows
        level, kind = divmod(self.names.index(name), 2)
        if kind:
            return [None if np.isnan(far) else far for far in self.now.distances[level].tolist()]
        ids = np.stack([*self.stages, self.now.ids[0]]) if level == 0 else self.now.ids[level][None]
        own = ids[0].astype(np.int64) if len(ids) == 1 else np.unique(ids, axis=1, return_inverse=True)[1].reshape(-1)
        own[(ids < 0).any(0)] = -1
        return [None if one < 0 else one for one in own.tolist()]


class Renewed(Observer):
    """Clusters the rows when it is time, and says in which order they come from then on.

    Attributes:
        columns: what it gives.
        order: makes the order of the samples of the columns as they are; None: it does not go by them.
        began: the place in the data, in steps, at which the present order began.
        epoch: the number of its first epoch.
    """

    name = "clusters"
    verb = "giving"

    def __init__(self, options: RenewedConfig, columns: GivenColumns, plain_steps: int, seed: int) -> None:
        """What is done when; `attach` says by what.

        Args:
            options: when, and how.
            columns: what is given.
            plain_steps: steps of an epoch in the plain order, before the first clustering.
            seed: of the clusterings.
        """
        self.options, self.columns, self.plain_steps, self.seed = options, columns, plain_steps, seed
        self.order: Callable[[], Order] | None = None
        self.began, self.epoch = 0, 0
        self.by: Order | None = None
        self.again: list[Callable[[], None]] = []  # what takes over the columns
        self._found: tuple[Clustering, Order | None] | None = None
        self._embed: Callable[[], Held] | None = None
        self._on_first: Callable[[Callable[[], Clustering]], Clustering] | None = None
        self.compiled = False

    def attach(self, embedding: Embedding) -> None:
        """Say which model embeds which rows, where."""
        self._embed, self.compiled = embedding, embedding.compiled
        self._on_first = lambda work: on_first(embedding.parallel.accelerator, work)

    def due(self, moment: Moment) -> bool:
        """At the first step that is asked for, and every `every` after it; not at the end."""
        past = moment.step - self.options.first
        if moment.last or past < 0:
            return False
        return past == 0 if self.options.every is None else past % self.options.every == 0

    def look(self, moment: Moment) -> Measured:
        """Embed the rows and cluster them; what the log says of it."""
        assert self._embed is not None and self._on_first is not None
        with eagerly(self.compiled):
            embeddings = self._embed()
        found = self._on_first(lambda: clustered(embeddings, self.options, self.seed, self.columns.now))
        before = self.columns.now, list(self.columns.stages)
        try:  # an order that cannot be is told of before anything has changed
            self._take(found)
            order = None if self.order is None else self.order()
        finally:
            self.columns.now, self.columns.stages = before
        self._found = found, order
        there = found.ids[0] >= 0
        moved = before[0] is not None and (found.ids[0] != before[0].ids[0])[there].mean()
        return {
            "renewed/clusters": float(len(np.unique(found.ids[0][there]))),
            "renewed/distance": float(found.distances[0][there].mean()),
            **({} if before[0] is None else {"renewed/moved": float(moved)}),
        }

    def note(self, moment: Moment, found: Measured) -> Verdict | None:
        """From here on it is so."""
        assert self._found is not None
        clustering, order = self._found
        steps = self.plain_steps if self.by is None else self.by.steps
        if order is not None:
            self.epoch += -(-(moment.place - self.began) // steps)
            self.began, self.by = moment.place, order
        self._take(clustering)
        self._found, self.renewed = None, True
        self._tell()
        return None

    def _tell(self) -> None:
        for take in self.again:
            take()

    def _take(self, found: Clustering) -> None:
        """Another clustering; that before becomes a stage where these count."""
        if self.columns.stages_count and self.columns.now is not None:
            self.columns.stages = [*self.columns.stages, self.columns.now.ids[0]]
        self.columns.now = found

    def since(self, first: int, accumulation: int) -> tuple[Order | None, int, int]:
        """Of the micro-batch `first`: (the order that it is in, its place there, the number of its first epoch)."""
        self.renewed = False
        return self.by, first - self.began * accumulation, self.epoch

    def state_dict(self) -> State:
        """Where the present order began."""
        return {"began": self.began, "epoch": self.epoch}

    def tensors(self) -> dict[str, Tensor]:
        """The clusters."""
        if self.columns.now is None:
            return {}
        found = {"ids": self.columns.now.ids, "distances": self.columns.now.distances}
        found |= {"stages": np.stack(self.columns.stages)} if self.columns.stages else {}
        return {name: torch.from_numpy(np.ascontiguousarray(of)) for name, of in found.items()}

    def load_state_dict(self, state: State, tensors: Mapping[str, Tensor]) -> None:
        """As it was. UserError where the clusters are of other rows, or levels."""
        self.began, self.epoch = int(state.get("began", 0)), int(state.get("epoch", 0))
        self.columns.now, self.columns.stages, self.by = None, [], None
        if "ids" not in tensors:
            return self._tell()
        ids = tensors["ids"].numpy()
        if ids.shape != (len(self.columns.levels), self.columns.rows):
            raise UserError(
                f"--resume: the checkpoint holds {ids.shape[0]} levels of clusters of {ids.shape[1]:,} rows, "
                f"data.renewed asks for {len(self.columns.levels)} of {self.columns.rows:,}"
            )
        self.columns.now = Clustering(ids, tensors["distances"].numpy())
        self.columns.stages = list(tensors["stages"].numpy()) if "stages" in tensors else []
        self.by = None if self.order is None else self.order()
        self._tell()


class Embedding:
    """What a model makes of all rows, in `renewed/` of the run's folder; the last one's is written over."""

    def __init__(
        self,
        of: str | None,
        model: MMSSLModel,
        processor: MMSSLProcessor,
        source: Source,
        read: Columns,
        recipe: Recipe,
        parallel: Parallel,
        folder: Path,
    ) -> None:
        self.name = of or next(iter(processor.preprocessors))
        self.model, self.reader, self.source, self.column = (
            model,
            processor.preprocessors[self.name],
            source,
            read[self.name],
        )
        self.parallel, self.folder, self.broken = parallel, folder / FOLDER, recipe.data.broken
        self.compiled = recipe.train.compile is True
        self.workers = workers_for(recipe.data.workers, [recipe.modalities[self.name].type])

    def __call__(self) -> Held:
        """The embeddings, normalised, as `mmssl embed` gives them. All processes call it together."""
        accelerator, rows = self.parallel.accelerator, len(self.source)
        width = self.model.embedding_width(self.model.tower_of(self.name))
        # where each holds a share of the weights all work together, on the same rows
        alone = self.parallel.cut
        rank, world = (0, 1) if alone else (accelerator.process_index, accelerator.num_processes)
        files = {"x": ((rows, width), np.float32), "there": ((rows,), bool)}

        def begin() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for what, (shape, kind) in files.items():
                np.lib.format.open_memmap(self.folder / f"{what}.npy", "w+", kind, shape).flush()

        try:
            on_first(accelerator, begin)
            x, there = (np.load(self.folder / f"{what}.npy", mmap_mode="r+") for what in files)
            batches = evaluation_batches(
                self.source,
                {self.name: self.reader},
                {self.name: self.column},
                batch_size=AT_A_TIME,
                workers=self.workers,
                rank=rank,
                world=world,
                broken=self.broken,
            )
            with evaluating([self.model]):
                for loaded in batches:
                    output = self.model.encode_batch(to_device(loaded.batch, accelerator.device), alone=True)
                    if not alone or accelerator.is_main_process:
                        x[loaded.rows.numpy()] = output["embeddings"][self.name].float().cpu().numpy()
                        there[loaded.rows.numpy()] = output["present"][self.name].cpu().numpy()
            x.flush()
            there.flush()
        except OSError as error:
            raise RunError(
                f"what the model makes of the rows cannot be kept in {self.folder}: {one_line(error)}"
            ) from error
        accelerator.wait_for_everyone()
        place = self.folder / "x.npy"
        return Held(place, self.name, "data.renewed", rows=rows, width=width, x=x, there=there)


def clustered(embeddings: Held, options: RenewedConfig, seed: int, before: Clustering | None) -> Clustering:
    """Cluster them as `mmssl cluster` would; they are called as those of `before` that they share most rows with."""
    if options.standardise:
        standardise(embeddings)
    levels = find_clusters(embeddings, options, seed)
    ids = np.full((len(levels), embeddings.rows), -1, np.int32)
    distances = np.full((len(levels), embeddings.rows), np.nan, np.float32)
    first = 0
    for table, at, labels, apart in assigned(embeddings, levels):
        for level, (own, far) in enumerate(zip(labels, apart, strict=True)):
            ids[level, first + at], distances[level, first + at] = own, far
        first += table.num_rows
    if before is not None:
        for level, count in enumerate(options.levels):
            ids[level] = called_as_before(ids[level], before.ids[level], count)
    return Clustering(ids, distances)


def called_as_before(ids: Ids, before: Ids, clusters: int) -> Ids:
    """(n,) the same clusters under other numbers: those of the earlier ones that most rows stay in, one for one."""
    from scipy.optimize import linear_sum_assignment

    both = (ids >= 0) & (before >= 0)
    shared = np.zeros((clusters, clusters), np.int64)
    np.add.at(shared, (ids[both], before[both]), 1)
    new, old = linear_sum_assignment(-shared)
    called = np.empty(clusters, np.int32)
    called[new] = old
    return np.where(ids >= 0, called[ids], np.int32(-1)).astype(np.int32)


def open_renewed(recipe: Recipe, opened: TrainingData) -> Renewed | None:
    """The observer of a recipe; None where it asks for none. UserError, before anything is computed, for what cannot
    be."""
    options = recipe.data.renewed
    if options is None:
        return None
    refuse_levels(options.levels)
    require_search(options.search)
    rows, steps, size = len(opened.source), recipe.train.steps, recipe.train.batch_size
    if options.levels[0] > rows:
        raise UserError(f"data.renewed.clusters: found {options.levels[0]:,}, but {rows:,} rows are trained on")
    if steps is not None and options.first >= steps:
        raise UserError(f"data.renewed.first: found {options.first}, but train.steps is {steps}: nothing is clustered")
    columns = GivenColumns(options.levels, rows, options.stages)
    both = [name for name in columns.names if name in (opened.source.column_names or ())]
    if both:
        raise UserError(f"data.renewed: the data have a column '{both[0]}' already, which would be meant by it")
    asked = recipe.data.sampler
    if asked is not None and asked.kind == "distinct" and asked.columns == ["cluster"] and not options.stages:
        if options.levels[0] < size:
            raise UserError(
                f"data.renewed.clusters: found {options.levels[0]}, but data.sampler is to fill batches of {size} with "
                "one row of each"
            )
    return Renewed(options, columns, rows // size, recipe.seed)
