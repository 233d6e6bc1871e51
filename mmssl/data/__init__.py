"""From what the user has (a folder, a file, a Hub id, `builtin:NAME`, a `datasets` object) to batches of tensors.

    sources.py      opens data and says in one line what is wrong with it
    folders.py      folders of arrays that `datasets` does not know, and splits by file name
    builtin.py      real data that comes with scikit-learn
    sampler.py      which samples are in which batch: a pure function of (seed, epoch)
    loading.py      rows -> preprocessors -> batches, in worker processes or not
    streams.py      the same for data that only comes in order
    quarantine.py   broken samples: listed, counted, and the end of the run when there are too many

`datasets`, pyarrow, Pillow and scikit-learn are imported by the functions that need them.
"""

from __future__ import annotations

from .loading import Loaded, evaluation_batches, presence, read_rows, training_batches
from .quarantine import Bad, Quarantine
from .sampler import Sampler
from .sources import open_source

__all__ = [
    "Bad",
    "Loaded",
    "Quarantine",
    "Sampler",
    "evaluation_batches",
    "open_source",
    "presence",
    "read_rows",
    "training_batches",
]
