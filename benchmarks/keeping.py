"""What is kept so that nobody waits for it: decoded clips and sounds on disk, checkpoints beside the training.

decoded, kept: samples a second of `training_batches` in this process, decoded and from `data.cache` (four variants),
rounds in turns, clips and sounds of the shared folder ($MMSSL_SHARED_DATA); writes: of the first epoch, which fills it.
at once, beside: seconds for which a training waits for a checkpoint of 21 M parameters with AdamW's state, written by
`mmssl.training.writing`, and with `train.save_async`, rounds in turns.

Samples are a second of the processor's, as the machine is shared; waiting is by the clock. The tables
go into docs/benchmarks/speed.md.

    python -m benchmarks.keeping [--rounds 2]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks import pages
from benchmarks.machine import machine
from benchmarks.readers import DATA
from mmssl.data.disk import Disk
from mmssl.data.loading import training_batches
from mmssl.data.sources import open_source
from mmssl.modality import load_modality
from mmssl.training.writing import Beside, Content, save

RESULTS = Path(__file__).parent / "results" / "keeping.json"
MARKS = ("<!-- python -m benchmarks.keeping -->", "<!-- end of python -m benchmarks.keeping -->")
VIDEO: dict[str, Any] = {"frames": 16, "size": 112, "fps": 12.5}
SETS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "weizmann4, clips": ("weizmann4", "video", VIDEO, "16 frames of 112 pixels"),
    "grid_s1_av, clips": ("grid_s1_av", "video", VIDEO, "16 frames of 112 pixels"),
    "grid_s1_av, sound": ("grid_s1_av", "audio", {"rate": 16000, "seconds": 2.0}, "2 s at 16 kHz"),
    "fsdd": ("fsdd/train.parquet", "audio", {"rate": 16000, "seconds": 0.25}, "0.25 s, resampled to 16 kHz"),
}
"""Name -> data, modality, its options, and these in words."""
ROWS, BATCH, VARIANTS = 24, 8, 4
WIDTH, LAYERS = 1536, 9
"""Of the layers whose weights a checkpoint holds: 21 M."""


def stream(data: str, modality: str, options: dict[str, Any], disk: Disk | None) -> Iterator[Any]:
    """Batches of the first rows of some data."""
    column = "video" if data == "grid_s1_av" else modality  # a clip's file has its sound
    rows = open_source(DATA / data).select(range(ROWS))
    package = load_modality(modality)
    reader = package.Preprocessor(package.Config(**options))
    reader.fit([rows[row][column] for row in range(8)])
    columns = {modality: column}
    return iter(training_batches(rows, {modality: reader}, columns, seed=0, batch_size=BATCH, disk=disk))


def rate(batches: Iterator[Any], epochs: int = 1) -> float:
    """Samples a second of some epochs."""
    start, count = time.process_time(), epochs * (ROWS // BATCH)
    for _ in islice(batches, count):
        pass
    return count * BATCH / (time.process_time() - start)


def decoding(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Data -> way -> samples a second in each round."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, (data, modality, options, _) in SETS.items():
        rates: dict[str, list[float]] = {"decoded": [], "writes": [], "kept": []}
        for _round in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                rates["decoded"].append(rate(stream(data, modality, options, None)))
                kept = stream(data, modality, options, Disk(folder, 10**10, VARIANTS))
                rates["writes"].append(rate(kept))
                rate(kept, 3 * VARIANTS)  # until nearly all variants of nearly all rows were drawn
                rates["kept"].append(rate(kept))
        found[name] = {way: [round(one, 1) for one in each] for way, each in rates.items()}
        print(name, found[name], flush=True)
    return found


def waiting(rounds: int) -> dict[str, list[float]]:
    """Way -> seconds for which a training waits for a checkpoint."""
    module = torch.nn.Sequential(*[torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)])
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, WIDTH)).sum().backward()
    optimizer.step()
    content = Content.of(module, optimizer, {"step": 1, "healthy": None}, {})
    seconds: dict[str, list[float]] = {"at once": [], "beside": []}
    with tempfile.TemporaryDirectory() as folder:
        beside = Beside()
        for number in range(1, rounds + 1):
            start = time.perf_counter()
            save(Path(folder) / "once", number, content, 1)
            seconds["at once"].append(round(time.perf_counter() - start, 3))
            start = time.perf_counter()
            beside.begin(content, partial(save, Path(folder) / "beside", number, keep=1))
            seconds["beside"].append(round(time.perf_counter() - start, 3))
            error = beside.wait()
            if error is not None:
                raise error
    print(seconds, flush=True)
    return seconds


def table(stored: dict[str, Any] | None = None) -> str:
    """What stands between the marks of the page."""
    stored = json.loads(RESULTS.read_text()) if stored is None else stored
    lines = [
        "| samples a second of the processor | decoded | first epoch with `data.cache` | from disk | |",
        "|---|---|---|---|---|",
    ]
    for name, rates in stored["decoding"].items():
        mid = {way: statistics.median(each) for way, each in rates.items()}
        told = " | ".join(f"{mid[way]:,.0f}" for way in ("decoded", "writes", "kept"))
        lines.append(f"| {name}, {SETS[name][3]} | {told} | {mid['kept'] / mid['decoded']:.1f}x |")
    lines += ["", "| the training waits for a checkpoint of 21 M parameters | median | range |", "|---|---|---|"]
    for way, each in stored["waiting"].items():
        named = {"at once": "written at once", "beside": "`train.save_async`: copied, and written beside it"}[way]
        lines.append(f"| {named} | {statistics.median(each):.2f} s | {min(each):.2f} to {max(each):.2f} s |")
    on = stored["machine"]
    told_of = f"{on['processor']} ({', '.join(on['features'])}; {on['cores']} cores), one thread"
    load = f"load of the machine {stored['load'][0]:.1f} to {stored['load'][1]:.1f}"
    rounds = len(stored["waiting"]["beside"])
    return "\n".join([*lines, "", f"{told_of}; {load}; in turns; waiting by the clock, of {rounds} rounds."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    stored = {"decoding": decoding(args.rounds), "waiting": waiting(max(args.rounds, 5))}
    loads = [round(load, 1), round(os.getloadavg()[0], 1)]
    stored |= {"load": loads, "machine": machine()}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    pages.write(pages.SPEED, table(), MARKS)
    print(table())


if __name__ == "__main__":
    main()
