"""A stream of 64 parquet files read by four processes: how often each row is read, and what it takes to go on.

Each process reads its part of one epoch (`training_batches`, four readers with a buffer of 1,000 rows each) and counts
what it reads of the files. Then all of them begin anew early and late in the epoch, knowing what a checkpoint holds,
the lengths of the shards that all four had read to their end: rows that are read again until the first batch is there,
and the seconds of processor that it takes. The table goes into docs/how-to/streaming.md.

    python -m benchmarks.streams [--rows 5000]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import pages
from benchmarks.machine import machine
from mmssl.data import shards
from mmssl.data.loading import training_batches
from mmssl.data.shards import Lengths
from mmssl.data.sources import open_source
from mmssl.modality import Preprocessor
from mmssl.options import strict

RESULTS = Path(__file__).parent / "results" / "streams.json"
PAGE = pages.REPO / "docs" / "how-to" / "streaming.md"
MARKS = ("<!-- python -m benchmarks.streams -->", "<!-- end of python -m benchmarks.streams -->")
SHARDS, WORLD, BATCH, BUFFER = 64, 4, 256, 1000
PLACES = (0.1, 0.9)
"""Of the epoch."""


@strict
@dataclass
class Nothing:
    """No options."""


class Number(Preprocessor[Any]):
    """A row's number."""

    def read(self, raw: object, choice: int = 0) -> object:
        return int(str(raw))

    def collate(self, samples: Any) -> Any:
        return {"x": torch.tensor(samples)}


class Reading:
    """One process's batches, and what it reads for them."""

    def __init__(self, folder: str, rank: int, start: int = 0, known: dict[int, int] | None = None) -> None:
        self.lengths, self.read = Lengths(), Counter[str]()
        self.lengths.known = dict(known or {})
        real = shards.stream_rows

        def counted(source: Any) -> Iterator[Any]:
            for row in real(source):
                self.read[row["text"]] += 1
                yield row

        shards.stream_rows = counted
        source = open_source(folder, streaming=True)
        more: dict[str, Any] = {"rank": rank, "world": WORLD, "start_batch": start, "lengths": self.lengths}
        self.batches = training_batches(
            source, {"text": Number(Nothing())}, {}, seed=0, batch_size=BATCH, shuffle_buffer=BUFFER, **more
        )


def straight(given: tuple[str, int, int]) -> tuple[dict[str, int], list[int], list[dict[int, int]]]:
    """(row -> how often it was read, rows of the batches, lengths that were known at each of the places)."""
    folder, rank, steps = given
    reading, seen, known = Reading(folder, rank), list[int](), list[dict[int, int]]()
    for step, loaded in enumerate(islice(reading.batches, steps)):
        seen += loaded.batch["text"]["x"].tolist()
        if step + 1 in [int(place * steps) for place in PLACES]:
            known.append(dict(reading.lengths.known))
    return dict(reading.read), seen, known


def again(given: tuple[str, int, int, dict[int, int]]) -> tuple[int, float, list[int]]:
    """(rows read until the first batch is there, seconds of processor, the batch)."""
    folder, rank, start, known = given
    began = time.process_time()
    reading = Reading(folder, rank, start, known)
    batch = next(reading.batches).batch["text"]["x"].tolist()
    return sum(reading.read.values()), time.process_time() - began, batch


def measure(rows: int) -> dict[str, Any]:
    """All of it."""
    steps = SHARDS * rows // BATCH
    with (
        tempfile.TemporaryDirectory() as folder,
        multiprocessing.get_context("fork").Pool(WORLD, maxtasksperchild=1) as on,
    ):
        for shard in range(SHARDS):
            numbers = [str(number) for number in range(shard * rows, (shard + 1) * rows)]
            pq.write_table(pa.table({"text": numbers}), Path(folder) / f"{shard:02}.parquet", row_group_size=1000)
        found = on.map(straight, [(folder, rank, steps) for rank in range(WORLD)], chunksize=1)
        counts = sum((Counter(read) for read, _, _ in found), Counter[str]())
        places = {}
        for number, place in enumerate(PLACES):
            known: dict[int, int] = {}
            for _, _, of in found:
                known |= of[number]
            start = int(place * steps)
            back = on.map(again, [(folder, rank, start, known) for rank in range(WORLD)], chunksize=1)
            own = BATCH // WORLD
            pairs = zip(back, found, strict=True)
            same = [batch == seen[start * own : (start + 1) * own] for (_, _, batch), (_, seen, _) in pairs]
            places[str(place)] = {
                "step": start,
                "read before": start * BATCH,
                "read again": [count for count, _, _ in back],
                "seconds": [round(seconds, 3) for _, seconds, _ in back],
                "same": all(same),
            }
    return {
        "shards": SHARDS,
        "processes": WORLD,
        "rows": SHARDS * rows,
        "steps": steps,
        "read": sum(counts.values()),
        "different": len(counts),
        "twice": sum(count > 1 for count in counts.values()),
        "places": places,
    }


def table(stored: dict[str, Any] | None = None) -> str:
    """What stands between the marks of the page."""
    found = json.loads(RESULTS.read_text()) if stored is None else stored
    each, ahead = found["rows"] // found["shards"], found["twice"]
    lines = [
        f"{found['shards']} files of {each:,} rows, {found['processes']} processes, four readers with a buffer of "
        f"{BUFFER:,} rows in each\n(`python -m benchmarks.streams`): in an epoch's steps {found['different']:,} of "
        f"{found['rows']:,} rows are read, by one process\neach; {ahead:,} of them a second time, for the next epoch: "
        "they are in the buffers then.",
        "",
        "| goes on after | rows read before | read again, by process | seconds of processor | the same batch |",
        "|---|---|---|---|---|",
    ]
    for place in found["places"].values():
        told = ", ".join(f"{count:,}" for count in place["read again"])
        seconds = ", ".join(f"{one:.2f}" for one in place["seconds"])
        same = "yes" if place["same"] else "**no**"
        lines.append(
            f"| step {place['step']:,} of {found['steps']:,} | {place['read before']:,} | {told} | {seconds} | {same} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000, help="of a file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    stored = measure(args.rows) | {"machine": machine()}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    pages.write(PAGE, table(), MARKS)
    print(table())


if __name__ == "__main__":
    main()
