"""Symmetric InfoNCE over a large batch, ours in chunks against `open_clip.ClipLoss`: time and memory.

Forward and backward on N normalised pairs of width D, float32. Times are interleaved in one process, ratio of medians.
Extra memory is measured each in a process of its own: the peak of the resident set during forward and backward, minus
what was resident before (Linux). The peer runs as its users run it; `--tuned-peer` gives it our setting for float32
products (see `mmssl.models.dispatch`). The dense loss of N = 32,768 takes 16 GiB: `--peer-up-to` says up to which N the
peer runs.

    python -m benchmarks.chunked_loss [--n 8192 16384 32768] [--peer-up-to 16384] [--chunk 512] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.interleaved import set_products
from mmssl.losses.contrastive import info_nce_both

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def loss_of(kind: str, chunk: int) -> Loss:
    if kind == "peer":
        from open_clip.loss import ClipLoss

        peer: Loss = ClipLoss()
        return peer

    def ours(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        forth, back = info_nce_both(x, y, scale, None, chunk)
        return (forth.mean() + back.mean()) / 2

    return ours


def pair(n: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, y = (F.normalize(torch.randn(n, width), dim=-1).requires_grad_() for _ in range(2))
    return x, y, torch.tensor(1 / 0.07, requires_grad=True)


def step(loss: Loss, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """Seconds of forward and backward."""
    start = time.perf_counter()
    torch.autograd.grad(loss(*inputs), inputs)
    return time.perf_counter() - start


def alone(kind: str, n: int, width: int, chunk: int) -> dict[str, float]:
    """In a process of its own: GiB that forward and backward need beyond what is resident before, and the processor's
    time, which a busy machine changes less than the clock's."""
    words = ["--child", kind, "--n", str(n), "--width", str(width), "--chunk", str(chunk)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chunked_loss", *words], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def child(kind: str, n: int, width: int, chunk: int) -> None:
    loss = loss_of(kind, chunk)
    set_products(tuned=kind == "ours")
    step(loss, pair(256, width))  # libraries are loaded, kernels are made
    inputs = pair(n, width)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, spent = resident("VmRSS"), time.process_time()
    step(loss, inputs)
    cpu_seconds = time.process_time() - spent
    print(json.dumps({"gib": resident("VmHWM") - before, "cpu_seconds": cpu_seconds}))


def resident(what: str) -> float:
    """GiB of this process that are resident now (VmRSS) or were at most (VmHWM)."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(what))
    return int(line.split()[1]) / 2**20


def compare(n: int, width: int, chunk: int, rounds: int, peer: bool, tuned_peer: bool) -> dict[str, float]:
    inputs = pair(n, width)
    losses = {kind: loss_of(kind, chunk) for kind in (["peer", "ours"] if peer else ["ours"])}
    times: dict[str, list[float]] = {kind: [] for kind in losses}
    for kind, loss in losses.items():
        set_products(tuned=kind == "ours" or tuned_peer)
        step(loss, pair(1024, width))
    for _ in range(rounds):
        for kind, loss in losses.items():
            set_products(tuned=kind == "ours" or tuned_peer)
            times[kind].append(step(loss, inputs))
    found = {f"{kind}_seconds": statistics.median(taken) for kind, taken in times.items()}
    for kind in losses:
        found |= {f"{kind}_{what}": value for what, value in alone(kind, n, width, chunk).items()}
    if peer:
        found["ratio"] = found["peer_seconds"] / found["ours_seconds"]
        value = {kind: loss(*inputs).item() for kind, loss in losses.items()}
        found["difference"] = abs(value["peer"] - value["ours"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[8192, 16384, 32768])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-up-to", type=int, default=16384)
    parser.add_argument("--tuned-peer", action="store_true")
    parser.add_argument("--child", choices=("peer", "ours"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.n[0], args.width, args.chunk)
        return
    for n in args.n:
        peer = n <= args.peer_up_to
        found = compare(n, args.width, args.chunk, args.rounds, peer, args.tuned_peer)
        theirs = (
            f"open_clip {found['peer_seconds']:.2f} s ({found['peer_cpu_seconds']:.2f} s of processor) and "
            f"{found['peer_gib']:.2f} GiB extra, "
            if peer
            else ""
        )
        ratio = f", ratio of medians {found['ratio']:.2f}x, losses differ by {found['difference']:.1e}" if peer else ""
        print(
            f"N {n:,} D {args.width}: {theirs}mmssl {found['ours_seconds']:.2f} s ({found['ours_cpu_seconds']:.2f} s "
            f"of processor) and {found['ours_gib']:.2f} GiB extra{ratio}",
            flush=True,
        )


if __name__ == "__main__":
    main()
