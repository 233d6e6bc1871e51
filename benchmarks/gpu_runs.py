"""Where `benchmarks.gpu` runs and how it measures, and its parts that are runs of `mmssl` in processes of their own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Bench:
    """Where everything runs, and how large it is."""

    device: str
    tiny: bool
    folder: Path
    peak: float | None = None
    """TFLOP/s; None where the vendor's figure is not known: then it is what bare products reach."""

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def memory(self) -> float | None:
        """GiB at most since it was last asked for; None on a processor."""
        if self.device != "cuda":
            return None
        most = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return round(most, 2)

    def seconds(self, work: Callable[[], object], repeats: int) -> float:
        """Median of `repeats`, after one that is not counted."""
        taken = []
        for number in range(repeats + 1):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            if number:
                taken.append(time.perf_counter() - start)
        return statistics.median(taken)


def run(bench: Bench, command: list[str], limit: float) -> str:
    """What `python -m` says of a command. RuntimeError with its last lines where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=bench.folder, capture_output=True, text=True, timeout=limit
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {(done.stderr + done.stdout)[-600:]}")
    return done.stdout


def pictures(bench: Bench) -> Path:
    """A folder of JPEG files of 500 x 375, smooth noise that is as large as a photograph's file."""
    import numpy as np
    from PIL import Image

    folder = bench.folder / "pictures"
    if not folder.exists():
        folder.mkdir()
        rng = np.random.default_rng(0)
        for number in range(32 if bench.tiny else 2048):
            coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    return folder


def recipe(bench: Bench, steps: int, *changes: str) -> list[str]:
    """The arguments of a run of `image_mae` on those pictures: a ViT-B of 224 px, or a tiny one."""
    width, depth, heads, batch, size, patch = (32, 2, 2, 8, 32, 8) if bench.tiny else (768, 12, 12, 256, 224, 16)
    tower = f"{{width: {width}, depth: {depth}, heads: {heads}}}"
    sizes = [f"model.towers.image={tower}", f"modalities.image={{size: {size}, patch: {patch}, resize: crop}}"]
    where = [f"data.path={pictures(bench)}", "evaluation.tasks=[]", "train.trackers=[]"]
    return ["image_mae", *sizes, *where, f"train.steps={steps}", f"train.batch_size={batch}", *changes]


def metrics(folder: Path) -> dict[str, Any]:
    """The last line of a run's `metrics.jsonl`."""
    found: dict[str, Any] = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {k: v for k, v in found.items() if not isinstance(v, dict)}


def loader(bench: Bench) -> dict[str, Any]:
    """A run that is fed from JPEG files: samples/s, and the share of time that a step waits for data."""
    log = "train.log_every=4" if bench.tiny else "train.log_every=10"
    kind = "bf16" if bench.device == "cuda" else "no"
    steps = 8 if bench.tiny else 40
    run(
        bench,
        ["mmssl", "pretrain", *recipe(bench, steps, log, f"train.mixed_precision={kind}"), "--output", "fed"],
        150,
    )
    return metrics(bench.folder / "fed")


def fp16(bench: Bench) -> dict[str, Any]:
    """A run in fp16, whose scaler is Accelerate's; on a processor, which it is refused on, in bf16."""
    kind = "fp16" if bench.device == "cuda" else "bf16"
    more = (f"train.mixed_precision={kind}", "train.log_every=4")
    run(bench, ["mmssl", "pretrain", *recipe(bench, 8, *more), "--output", "half"], 120)
    return metrics(bench.folder / "half")


def resume(bench: Bench) -> dict[str, Any]:
    """`verify-resume`: a run that is killed twice against one that is not."""
    command = ["mmssl", "verify-resume", *recipe(bench, 6), "--steps", "6", "--kills", "1", "--json"]
    found: dict[str, Any] = json.loads(run(bench, command, 240))
    return found


def nccl(bench: Bench) -> dict[str, Any]:
    """One rank under torchrun: NCCL on a GPU, gloo on a processor."""
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "1", "-m", "mmssl", "pretrain"]
    run(bench, [*launch, *recipe(bench, 8, "train.log_every=4"), "--output", "ranked"], 120)
    return metrics(bench.folder / "ranked")
