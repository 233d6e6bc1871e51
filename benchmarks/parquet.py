"""Local parquet by number, where it lies, against the copy in the cache of `datasets`: the start, disk, memory, speed.

Both train on the same rows of one parquet file of JPEG files (photographs of the shared folder, $MMSSL_SHARED_DATA, cut
to 500 x 375, in row groups of 100 as `datasets` writes them): decoded, cropped, mirrored, in batches of 64, as in
`benchmarks.loader`.

copy: `data.copy=true`, what was done before: the rows are copied into the cache first.
numbers: as it is done now; all row groups fit into `data.shuffle_gigabytes`, and the order is that of the copy.
windows: as of larger data: a tenth of the rows is shuffled among.

Every side runs in processes of its own, in turns, each with an empty cache. Told are seconds from opening the data to
the first batch, bytes that then lie in the cache, images a second from there on to the end of an epoch, and the largest
memory that is not of files (`RssAnon`), workers together. Seconds are those of processors, all processes together, as
the machine is shared with others. The table goes into docs/benchmarks/speed.md.

    python -m benchmarks.parquet [--images 2000] [--rounds 3] [--workers 0 2]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.machine import machine, processes, processor

RESULTS = Path(__file__).parent / "results" / "parquet.json"
MARKS = ("<!-- python -m benchmarks.parquet -->", "<!-- end of python -m benchmarks.parquet -->")
SIDES = ("copy", "numbers", "windows")
BATCH, SIZE = 64, 224
VIEW = {"crop_scale": [0.35, 1.0], "flip": 0.5}


def write(place: Path, images: int) -> int:
    """A parquet file of so many different JPEG files; its bytes."""
    import datasets
    from PIL import Image

    from benchmarks.readers import column

    found = column("flickr8k_mini/train.parquet", "image", 800)
    rows = []
    for number in range(images):
        picture = Image.open(io.BytesIO(found[number % len(found)]["bytes"])).convert("RGB").resize((560, 420))
        left = 5 * (number // len(found))
        out = io.BytesIO()
        picture.crop((left, left, left + 500, left + 375)).save(out, "JPEG", quality=90)
        rows.append({"bytes": out.getvalue(), "path": None})
    data = datasets.Dataset.from_dict({"image": rows}).cast_column("image", datasets.Image(decode=False))
    data.to_parquet(place, batch_size=100)
    return place.stat().st_size


def measure(side: str, place: Path, workers: int) -> dict[str, float]:
    """What one side takes, in this process."""
    import datasets
    import torch

    from mmssl.data.cuts import Cuts
    from mmssl.data.loading import training_batches
    from mmssl.data.sources import open_source
    from mmssl.modality import load_modality
    from mmssl.reading import Reading
    from mmssl.training.memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    package = load_modality("image")
    start = processor()
    rows = open_source(place, columns={"image": "image"}, reading=Reading(copy=side == "copy"))
    reader = package.Preprocessor(package.Config(size=SIZE, channels=3))
    reader.fit(rows.select(range(8))["image"])
    cutter = reader.cutter({"view": VIEW})
    cutter.whole = False
    gigabytes = place.stat().st_size / 1e10 if side == "windows" else 1.0
    named: dict[str, Any] = {"seed": 0, "batch_size": BATCH, "workers": workers, "gigabytes": gigabytes}
    batches = training_batches(rows, {"image": reader}, {"image": "image"}, cuts=Cuts(0, {"image": cutter}), **named)
    next(batches)
    first = processor() - start
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    disk = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    start, count, most = processor(), len(rows) // BATCH - 1, 0
    for _ in range(count):
        next(batches)
        most = max(most, memory())
    rate = count * BATCH / (processor() - start)
    return {"first": first, "disk": disk, "rate": rate, "memory": most}


def memory() -> int:
    """Bytes of this process and its children that are not of files."""
    total = 0
    for one in processes():
        for line in Path(f"/proc/{one}/status").read_text().splitlines():
            total += int(line.split()[1]) * 1024 if line.startswith("RssAnon") else 0
    return total


def table(stored: dict[str, Any] | None = None) -> str:
    """What stands between the marks of the page."""
    stored = json.loads(RESULTS.read_text()) if stored is None else stored
    lines = [
        "| workers | | seconds to the first batch | in the cache | images/s | memory |",
        "|---|---|---|---|---|---|",
    ]
    told = {"copy": "copied first (`data.copy=true`)", "numbers": "by number", "windows": "by number, in windows"}
    for workers, sides in stored["sides"].items():
        for side, rounds in sides.items():
            mid = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            lines.append(
                f"| {workers} | {told[side]} | {mid['first']:.1f} | {mid['disk'] / 1e6:,.0f} MB | {mid['rate']:,.0f} "
                f"| {mid['memory'] / 1e6:,.0f} MB |"
            )
    on = stored["machine"]
    rounds = len(next(iter(next(iter(stored["sides"].values())).values())))
    end = (
        f"{stored['images']:,} JPEG files, {stored['bytes'] / 1e6:,.0f} MB of parquet; {on['processor']} "
        f"({', '.join(on['features'])}; {on['cores']} cores), one thread; seconds of processors; load "
        f"{stored['load'][0]:.1f} to "
        f"{stored['load'][1]:.1f}; medians of {rounds} rounds in turns."
    )
    return "\n".join([*lines, "", end])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2])
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "FILE", "WORKERS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.one[0], Path(args.one[1]), int(args.one[2]))))
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "train.parquet"
        size = write(place, args.images)
        sides: dict[str, Any] = {str(w): {side: [] for side in SIDES} for w in args.workers}
        for _ in range(args.rounds):
            for workers in args.workers:
                for side in SIDES:
                    with tempfile.TemporaryDirectory(dir=folder) as cache:
                        command = [sys.executable, "-m", "benchmarks.parquet", "--one", side, str(place), str(workers)]
                        environment = {**os.environ, "HF_DATASETS_CACHE": cache}
                        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                    sides[str(workers)][side].append(json.loads(done.stdout.splitlines()[-1]))
                    print(workers, side, done.stdout.splitlines()[-1], flush=True)
    loads = [round(load, 1), round(os.getloadavg()[0], 1)]
    stored = {"images": args.images, "bytes": size, "sides": sides, "load": loads, "machine": machine()}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    pages.write(pages.SPEED, table(), MARKS)
    print(table())


if __name__ == "__main__":
    main()
