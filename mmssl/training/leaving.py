"""What stays of a run that cannot be: nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import UserError
from .choosing import KEPT
from .lock import HOLDER, LOCK, RunLock
from .run_log import NAME, RunLog

BEFORE_STEPS = {LOCK, HOLDER, NAME, KEPT, "tensorboard", "wandb"}
"""What a run writes before it has anything that is worth keeping."""


@contextmanager
def nothing_left(lock: RunLock, log: RunLog) -> Iterator[None]:
    """A folder that was made within the block for a run that cannot be, goes with what a run writes before its first
    step; one in which there is more, or was anything, stays."""
    try:
        yield
    except UserError:
        made = lock.made
        if made is not None and not {path.name for path in made.iterdir()} - BEFORE_STEPS:
            log.drop()
            lock.release()
            shutil.rmtree(made, ignore_errors=True)
        raise
