"""Training steps against the fastest peer that installs here, one command, one table in docs/benchmarks/speed.md.

Each step is measured against a peer of the same architecture, dtype, batch and threads that starts from the same
weights; before anything is timed both are given the same inputs and masks, and a pair whose losses differ is refused.
Then they run in turns. A round is one step of each that is timed, after one that is not (what the other's turn did to
memory falls on that); told are the medians over the rounds, their ratio, the smallest and largest ratio of a round, and
how long the bare matrix products of our step take: no step can be faster with these kernels. Peers run as their users
run them: torch's default float32 products and AdamW. On one thread the processor's time counts, on several the clock's.

    make bench
    python -m benchmarks.steps [--only mae byol ...] [--dtype f32 bf16] [--batch 4] [--rounds 3] [--threads N]
    python -m benchmarks.steps --table    writes the page from what is stored
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import audio_mae_step, clip_step, jepa_step, mae_step, pages, videomae_step, view_steps
from benchmarks.interleaved import own_clock, products_alone, set_process
from benchmarks.machine import machine
from benchmarks.pairs import SIZES, Pair, Step, apart
from mmssl.training.device import bf16_slowdown

RESULTS = Path(__file__).parent / "results" / "steps.json"
MARKS = ("<!-- python -m benchmarks.steps -->", "<!-- end of python -m benchmarks.steps -->")
EQUAL = 1e-5
"""Losses of a pair that are further apart, relative to the peer's, are not the same loss."""
VIT = SIZES["vit-s"]

PAIRS: dict[str, tuple[str, Callable[[int], Pair]]] = {
    "mae": ("MAE, decoder 512 x 8", lambda batch: mae_step.pair(VIT, batch)),
    "videomae": ("VideoMAE, 16 frames, decoder 192 x 4", lambda batch: videomae_step.pair(VIT, batch)),
    "audio_mae": ("audio MAE, 1,024 x 128, decoder 512 x 8", lambda batch: audio_mae_step.pair(VIT, batch)),
    "ijepa": ("I-JEPA, predictor 192 x 6, four targets", lambda batch: jepa_step.pair(VIT, batch)),
    "clip": ("CLIP, text 384 x 12", lambda batch: clip_step.pair(clip_step.CLIPS["ViT-S-16"], batch)),
    "simclr": ("SimCLR, head 2,048, 128", lambda batch: view_steps.simclr(VIT, batch)),
    "dino": ("DINO, two views, 2,048 prototypes", lambda batch: view_steps.dino(VIT, batch)),
    "byol": ("BYOL, head and predictor 4,096, 256", lambda batch: view_steps.byol(VIT, batch)),
    "barlow": ("Barlow Twins, head 3 x 2,048", lambda batch: view_steps.barlow(VIT, batch)),
}
"""Name -> what the table calls it, and what makes the pair for a batch."""


def race(peer: Step, ours: Step, rounds: int) -> dict[str, list[float]]:
    """Seconds of the rounds of each, in turns, the first of them in turns as well."""
    steps = {"peer": peer, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    clock = own_clock()
    for number in range(-1, rounds):
        for name in ("peer", "ours") if number % 2 else ("ours", "peer"):
            set_process(tuned=name == "ours")
            steps[name](number)
            if number < 0:  # the optimiser's memory is made in the first step of all
                continue
            start = clock()
            steps[name](number)
            seconds[name].append(clock() - start)
    return seconds


def measure(name: str, dtype: str, batch: int, rounds: int) -> dict[str, Any]:
    """One row of the table. SystemExit where the two losses differ."""
    torch.manual_seed(0)
    pair = PAIRS[name][1](batch)
    set_process(tuned=False)
    with torch.no_grad():
        difference = apart(*pair.losses())
    if not difference <= EQUAL:
        raise SystemExit(f"{name}: the losses differ by {difference:.1e} of the peer's, expected at most {EQUAL:.0e}")
    load = os.getloadavg()[0]
    peer, ours = pair.steps(dtype)
    seconds = race(peer, ours, rounds)
    alone, gflop = products_alone(ours)
    ratios = [theirs / mine for theirs, mine in zip(seconds["peer"], seconds["ours"], strict=True)]
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        "step": name,
        "dtype": dtype,
        "batch": batch,
        "peer": pair.name,
        "losses_apart": float(f"{difference:.1e}"),
        "rounds": rounds,
        "peer_seconds": round(medians["peer"], 3),
        "our_seconds": round(medians["ours"], 3),
        "ratio": round(medians["peer"] / medians["ours"], 3),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "products_seconds": round(alone, 3),
        "products_gflop": round(gflop, 1),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "machine": machine(),
    }


def keep(row: dict[str, Any], path: Path = RESULTS) -> None:
    """Put a row in the place of an earlier one of the same step, dtype and machine."""
    stored = read(path)

    def key(one: dict[str, Any]) -> tuple[Any, ...]:
        on = one["machine"]
        return one["step"], one["dtype"], on["processor"], on["model"], on["threads"]

    others = [one for one in stored if key(one) != key(row)]
    order = list(PAIRS)
    rows = sorted([*others, row], key=lambda one: (order.index(one["step"]), one["dtype"] == "bf16"))
    path.write_text(json.dumps(rows, indent=1) + "\n")


def read(path: Path = RESULTS) -> list[dict[str, Any]]:
    """The stored rows; none where there is no file yet."""
    return json.loads(path.read_text()) if path.is_file() else []


HEAD = (
    "| step, ViT-S/16 | dtype | peer | peer, s | mmssl, s | ratio (of rounds) | bare products, s | of the limit | "
    "ratio at most |\n|---|---|---|---|---|---|---|---|---|"
)


def row_text(row: dict[str, Any]) -> str:
    """A row of the table."""
    low, high = row["ratios"][0], row["ratios"][-1]
    share, most = row["products_seconds"] / row["our_seconds"], row["peer_seconds"] / row["products_seconds"]
    return (
        f"| {PAIRS[row['step']][0]} | {row['dtype']} | {row['peer']} | {row['peer_seconds']:.2f} | "
        f"{row['our_seconds']:.2f} | {row['ratio']:.2f}x ({low:.2f}-{high:.2f}) | {row['products_seconds']:.2f} | "
        f"{share:.0%} | {most:.2f}x |"
    )


def table(rows: list[dict[str, Any]] | None = None) -> str:
    """What stands between the marks of the page: a table for each machine, and what it is."""

    def where(row: dict[str, Any]) -> str:
        return json.dumps([row["machine"], row["batch"], row["rounds"]], sort_keys=True)

    rows = read() if rows is None else rows
    parts = []
    for _, same in itertools.groupby(sorted(rows, key=where), key=where):
        group = list(same)
        parts.append("\n".join([said(group), "", HEAD, *map(row_text, group)]))
    return "\n\n".join(parts)


def said(group: list[dict[str, Any]]) -> str:
    """The sentence above a table."""
    first, loads = group[0], [load for row in group for load in row["load"]]
    on, threads = first["machine"], first["machine"]["threads"]
    packages = ", ".join(f"{name} {version}" for name, version in on["packages"].items())
    kind = "of the processor on one thread" if threads == 1 else f"on {threads} threads"
    return (
        f"{on['processor']} ({on['model']}; {', '.join(on['features'])}; {on['cores']} cores), batch {first['batch']}, "
        f"{first['rounds']} rounds, seconds {kind}; load of the machine {min(loads):.1f} to {max(loads):.1f}. "
        f"{packages}. Losses of the pairs before timing: at most {max(row['losses_apart'] for row in group):.0e} apart."
    )


def wanted(dtypes: list[str]) -> Iterator[str]:
    """Those of the dtypes that this processor multiplies; the others are said."""
    for dtype in dtypes:
        slower = bf16_slowdown() if dtype == "bf16" else 0.0
        if slower > 1:
            print(
                f"bf16 is left out: this processor takes {slower:.2g} times as long for it as for float32", flush=True
            )
        else:
            yield dtype


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--dtype", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: torch's, one a core")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the page from what is stored")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.table:
        print(HEAD, flush=True)
        for dtype, name in itertools.product(list(wanted(args.dtype)), args.only):
            row = measure(name, dtype, args.batch, args.rounds)
            keep(row)
            print(row_text(row), flush=True)
    pages.write(pages.SPEED, table(), MARKS)


if __name__ == "__main__":
    main()
