"""What eight minutes on one large GPU can answer, most worth first; each answer is written at once, as a line of JSON.

rate: what bare bf16 products reach, beside the vendor's figure. <step>: a training step of ViT-B or ViT-L in bf16, ours
and the peer's of `benchmarks.pairs`, eager and compiled, in turns: samples/s, model FLOPs utilisation (the products of
our step, counted, over the vendor's peak), memory. agreement: losses on the GPU and on the processor. chunked: CLIP's
loss of 65,536 pairs, ours in chunks and open_clip's whole. scaler: fp16 with a loss scaler. optimiser: AdamW fused and
not. loader, resume, nccl: runs of `mmssl` of their own: JPEG files feeding a step, `verify-resume`, one rank of NCCL.

A part whose time would not be left is skipped, one that fails or takes too long says so, and the next begins. Needs
transformers, timm, open_clip and, for DINO, lightly. `--device cpu --tiny` runs all of it in small, so that nothing but
the GPU itself, and the code that is compiled for it, is untried: there compiling stops at the traced graph.

    python -m benchmarks.gpu [--minutes 8] [--out gpu.jsonl] [--only PART ...] [--device cuda] [--tiny]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks import clip_step, jepa_step, mae_step, view_steps
from benchmarks.gpu_runs import Bench, fp16, loader, nccl, resume
from benchmarks.interleaved import gflop_of
from benchmarks.pairs import SIZES, Pair, Step, ViT, apart
from mmssl.training.effort import HALF, gpu_peak

Part = Callable[[Bench], dict[str, Any]]


# ------------------------------------------------------------------------------------------------------------ steps


def rate(bench: Bench) -> dict[str, Any]:
    """TFLOP/s of a bare bf16 product; the peak where the vendor's is not known."""
    side = 256 if bench.tiny else 8192
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    reached = 2e-12 * side**3 / bench.seconds(lambda: a @ b, 5)
    bench.peak = bench.peak or reached
    return {"tflops": round(reached, 3), "peak": bench.peak, "side": side}


def raced(make: Callable[[ViT, int, str], Pair], size: str, batch: int, compiled: bool) -> Part:
    """A part that races a pair of that size."""

    def part(bench: Bench) -> dict[str, Any]:
        vit, rows = (SIZES["tiny"], 4) if bench.tiny else (SIZES[size], batch)
        torch.manual_seed(0)
        small = make(vit, 4, bench.device)
        with torch.no_grad():
            difference = apart(*small.losses())
        gflop = gflop_of(small.steps("f32")[1]) / 4
        del small
        pair = make(vit, rows, bench.device)
        if compiled:
            pair.compile("aot_eager" if bench.tiny else "inductor")
        peer, ours = pair.steps("bf16", tuned_peer=True)
        found = in_turns(bench, {"peer": peer, "ours": ours}, 2 if bench.tiny else 10)
        peak = 1000 * (bench.peak or rate(bench)["peak"])
        told = {
            name: {
                **one,
                "samples_per_second": round(rows / one["seconds"], 2),
                "mfu": round(gflop * rows / one["seconds"] / peak, 4),
            }
            for name, one in found.items()
        }
        ratio = found["peer"]["seconds"] / found["ours"]["seconds"]
        return {"size": size, "batch": rows, "peer_is": pair.name, "compiled": compiled} | {
            "gflop_a_sample": round(gflop, 2),
            "losses_apart": difference,
            "ratio": round(ratio, 3),
            **told,
        }

    return part


def in_turns(bench: Bench, steps: dict[str, Step], repeats: int) -> dict[str, dict[str, Any]]:
    """Name -> seconds a step, memory, and what the first step took, which compiles."""
    found: dict[str, dict[str, Any]] = {}
    for name, step in steps.items():
        bench.memory()
        start = time.perf_counter()
        step(0)
        step(1)
        bench.wait()
        found[name] = {"first_seconds": round(time.perf_counter() - start, 2), "gib": bench.memory()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(2):
        for name, step in steps.items():
            taken[name].append(bench.seconds(lambda step=step: step(2), repeats))  # type: ignore[misc]
    for name, values in taken.items():
        found[name] |= {"seconds": round(min(values), 5), "rounds": [round(v, 5) for v in values]}
    return found


def clip_pair(vit: ViT, batch: int, device: str) -> Pair:
    """CLIP whose vision half has these sizes."""
    names = {768: "ViT-B-16", 1024: "ViT-L-16"}
    sizes = clip_step.Sizes(vit, (32, 2, 4), 16, 12, 100)
    return clip_step.pair(clip_step.CLIPS[names[vit.width]] if vit.width in names else sizes, batch, device)


def jepa_pair(vit: ViT, batch: int, device: str) -> Pair:
    """I-JEPA, predictor 384 x 12; tiny, as small as its grid of 16 allows."""
    if vit.side < 64:
        return jepa_step.pair(vit._replace(side=64), batch, device, (32, 2, 4), 14, 0.2)
    return jepa_step.pair(vit, batch, device, (384, 12, 12))


def mae_pair(vit: ViT, batch: int, device: str) -> Pair:
    """MAE with the decoder of 512 x 8."""
    return mae_step.pair(vit, batch, mae_step.DECODER if vit.side > 64 else (32, 2, 4), device)


def dino_pair(vit: ViT, batch: int, device: str) -> Pair:
    """DINO with two global views and 65,536 prototypes, as published."""
    return view_steps.dino(vit, batch, device, prototypes=65_536 if vit.side > 64 else 32)


# ------------------------------------------------------------------------------------------------------- other parts


def agreement(bench: Bench) -> dict[str, Any]:
    """[on a processor, on the device]: the losses of small pairs in float32."""
    found: dict[str, list[float]] = {}
    for name, make in {"mae": mae_pair, "ijepa": jepa_pair, "clip": clip_pair, "dino": dino_pair}.items():
        for device in ("cpu", bench.device):
            torch.manual_seed(0)  # weights and inputs are drawn on the processor
            found.setdefault(name, []).append(float(make(SIZES["tiny"], 4, device).our_loss(0).detach()))
    return found


def chunked(bench: Bench) -> dict[str, Any]:
    """CLIP's loss of 65,536 pairs of 512 numbers, forward and backward in float32."""
    from benchmarks.chunked_loss import loss_of

    count, width = (256, 32) if bench.tiny else (65_536, 512)
    found: dict[str, Any] = {"pairs": count}
    for kind in ("ours", "peer"):
        loss = loss_of(kind, 64 if bench.tiny else 4096)
        torch.manual_seed(0)
        x, y = (F.normalize(torch.randn(count, width, device=bench.device), dim=-1).requires_grad_() for _ in range(2))
        scale = torch.tensor(1 / 0.07, device=bench.device, requires_grad=True)
        bench.memory()
        try:
            found[f"{kind}_loss"] = float(loss(x, y, scale).detach())
            seconds = bench.seconds(lambda: torch.autograd.grad(loss(x, y, scale), (x, y, scale)), 2)  # noqa: B023
            found[f"{kind}_seconds"], found[f"{kind}_gib"] = round(seconds, 4), bench.memory()
        except torch.OutOfMemoryError as error:
            found[f"{kind}_memory"] = str(error).partition(".")[0]
    return found


def scaler(bench: Bench) -> dict[str, Any]:
    """Twenty steps of MAE in fp16 with a loss scaler: the loss at both ends, and whether all weights stay finite."""
    torch.manual_seed(0)
    pair = mae_pair(SIZES["tiny" if bench.tiny else "vit-b"], 4 if bench.tiny else 64, bench.device)
    # fp16 products are for GPUs: a processor takes bf16 through the same scaler
    _, ours = pair.steps("fp16" if bench.device == "cuda" else "bf16", scaler=True)
    first = float(pair.our_loss(0).detach())
    seconds = bench.seconds(lambda: ours(0), 20)
    finite = all(bool(p.isfinite().all()) for p in pair.work.parameters())
    return {"seconds": round(seconds, 5), "loss": [first, float(pair.our_loss(0).detach())], "finite": finite}


def optimiser(bench: Bench) -> dict[str, Any]:
    """Seconds of one AdamW step over a ViT-L, by torch's three ways."""
    vit = SIZES["tiny" if bench.tiny else "vit-l"]
    model = view_steps.image_model(vit).to(bench.device)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    ways: dict[str, dict[str, bool]] = {
        "fused": {"fused": True},
        "foreach": {"foreach": True},
        "loop": {"foreach": False},
    }
    made = {name: torch.optim.AdamW(model.parameters(), lr=1e-6, **options) for name, options in ways.items()}
    return {name: round(bench.seconds(optimizer.step, 5), 6) for name, optimizer in made.items()}


PARTS: dict[str, tuple[float, Part]] = {
    "rate": (5, rate),
    "mae-l": (30, raced(mae_pair, "vit-l", 128, False)),
    "mae-l-compiled": (80, raced(mae_pair, "vit-l", 128, True)),
    "clip-b": (25, raced(clip_pair, "vit-b", 256, False)),
    "ijepa-l": (30, raced(jepa_pair, "vit-l", 64, False)),
    "dino-b": (25, raced(dino_pair, "vit-b", 64, False)),
    "agreement": (10, agreement),
    "chunked": (15, chunked),
    "loader": (60, loader),
    "resume": (80, resume),
    "nccl": (40, nccl),
    "fp16": (40, fp16),
    "scaler": (10, scaler),
    "optimiser": (5, optimiser),
    "mae-b": (20, raced(mae_pair, "vit-b", 256, False)),
    "clip-b-compiled": (70, raced(clip_pair, "vit-b", 256, True)),
    "dino-b-compiled": (70, raced(dino_pair, "vit-b", 64, True)),
    "ijepa-l-compiled": (80, raced(jepa_pair, "vit-l", 64, True)),
    "mae-b-compiled": (60, raced(mae_pair, "vit-b", 256, True)),
    "clip-l": (40, raced(clip_pair, "vit-l", 128, False)),
}
"""Name -> the seconds it should take at most, and what it does; in order of worth."""
LIMIT = 2.0
"""A part that takes so many times what it should is stopped."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """TimeoutError after so long, as far as Python gets to run."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tell(out: Path, name: str, found: dict[str, Any]) -> None:
    """One line, on the screen and in the file, which is there whatever happens next."""
    line = json.dumps({"part": name, **found}, default=str)
    print(line, flush=True)
    with out.open("a") as file:
        file.write(line + "\n")


def go(bench: Bench, names: list[str], minutes: float, out: Path, limit: float = LIMIT) -> None:
    """Run the parts, each as far as the time that is left allows."""
    began = time.monotonic()
    for name in names:
        needs, part = PARTS[name]
        left = 60 * minutes - (time.monotonic() - began)
        if left < needs and not bench.tiny:
            tell(out, name, {"skipped": f"{needs:.0f} s wanted, {left:.0f} s left"})
            continue
        start = time.monotonic()
        try:
            with at_most(max(min(limit * needs, left), 1.0) if not bench.tiny else 300.0):
                found = part(bench)
        except Exception as error:  # the next part may well do; what failed is told and not hidden
            found = {"failed": f"{type(error).__name__}: {error}"[:800]}
        tell(out, name, found | {"took": round(time.monotonic() - start, 1)})
        torch._dynamo.reset()
        if bench.device == "cuda":
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(PARTS))
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu: found no GPU; --device cpu --tiny tries everything without one")
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        peak = gpu_peak(name, HALF)  # as `mfu` of a run's log has it
        bench = Bench(args.device, args.tiny, Path(folder), None if peak is None else peak / 1e12)
        tell(args.out, "machine", {"device": name, "torch": torch.__version__, "tiny": args.tiny})
        go(bench, args.only or list(PARTS), args.minutes, args.out.absolute())


if __name__ == "__main__":
    main()
