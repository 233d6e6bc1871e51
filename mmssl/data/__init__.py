"""From what the user has (a folder, a file, a Hub id, `builtin:NAME`, a `datasets` object) to batches of tensors.

    sources.py      opens data and says in one line what is wrong with it
    formats.py      what a file or folder is by its name
    folders.py      folders of media files
    text_files.py   csv, JSON and text files to rows, with nothing guessed
    column_types.py which type a column of text or JSON has
    builders.py     tables as a `datasets` builder, so that they are cached and streamed
    numbered.py     rows on this disk by number, without a copy: groups of them are decoded when one is asked for
    parquet_rows.py those of parquet files
    zarr_rows.py    those of Zarr stores
    row_groups.py   in which order these are read, so that each group is decoded once
    selection.py    which rows: of a split, so many of them
    values.py       undecoded media, names of files, declared number types
    explained.py    what readers raise, in one line
    builtin.py      real data that comes with scikit-learn
    sampler.py      which samples are in which batch: a pure function of (seed, epoch)
    loading.py      rows -> preprocessors -> batches, in worker processes or not
    reader.py       what workers do: rows to tensors
    workers.py      how many there are, by device and cores
    streams.py      which rows are in which batch of data that only come in order, and who reads them
    shards.py       the files of such data, from any row on
    shuffling.py    a shuffle through a buffer that can begin anywhere
    mixing.py       several data at once: which row of which of them is at each place
    mixed_streams.py the same of streams
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
