"""A run up to its first step, in a folder that goes: what fails here, fails before anything is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..data.sampler import Sampler
from ..data.shards import Lengths
from ..distributed import lost_peers_told
from ..models.processing_mmssl import MMSSLProcessor
from .choosing import Asked, refuse_placeholder
from .engine import make_parallel
from .lock import RunLock
from .loop import Loop
from .preparing import Begun, begin, loop_of, processor_of, weighed
from .run_log import RunLog
from .starting import check_adapters


@dataclass(frozen=True)
class Ready:
    """A run that could begin.

    Attributes:
        begun: its folder and data.
        processor: fitted to these.
        loop: at its first step.
        per_epoch: steps of an epoch.
        lengths: what is known of the lengths of streams.
    """

    begun: Begun
    processor: MMSSLProcessor
    loop: Loop
    per_epoch: float
    lengths: dict[str, Lengths]


@contextmanager
def ready(asked: Asked) -> Iterator[Ready]:
    """What is asked for up to the first step, without trackers; all of it goes at the end. UserError as of a run."""
    quiet = asked.given({"train.trackers": []})
    recipe = quiet.recipe()
    refuse_placeholder(recipe)
    check_adapters(recipe.model, recipe.name)
    parallel = make_parallel(recipe.train)
    with (
        tempfile.TemporaryDirectory(prefix="mmssl-ready-") as folder,
        RunLog() as log,
        RunLock() as lock,
        lost_peers_told(),
    ):
        begun = begin(quiet, recipe, parallel, log, lock, Path(folder) / "run", False)
        processor = processor_of(begun)
        begun = weighed(begun, processor)
        run = Ready(begun, processor, *loop_of(begun, processor))
        rows, train = begun.rows, begun.recipe.train
        if hasattr(rows, "__len__"):  # there is a batch of them
            processes = parallel.accelerator.num_processes
            Sampler(len(rows), batch_size=train.batch_size, accumulation=train.accumulation, world=processes)
        yield run
