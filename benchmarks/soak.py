"""Two thousand steps with two workers, asynchronous checkpoints, and one sample in a hundred broken: whether memory
stays as it is, and whether the quarantine lists each broken sample once and no other.

The run is a process of its own, which is watched from outside: resident memory of it and of each of its workers at
every step that it logs. The slope is of a line through what was seen behind the first quarter. The line goes into
docs/how-to/resume.md.

    python -m benchmarks.soak [--steps 2000] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import pages
from benchmarks.machine import machine

RESULTS = Path(__file__).parent / "results" / "soak.json"
MARKS = ("<!-- python -m benchmarks.soak -->", "<!-- end of python -m benchmarks.soak -->")
ROWS, BROKEN, SIDE = 400, 4, 48
WORDS = [
    "name=soak",
    "modalities.image={size: 16, patch: 8, resize: squash}",
    "model.towers.image={width: 16, depth: 2, heads: 2}",
    "objectives.mae.decoder={width: 16, depth: 1, heads: 2}",
    "data.max_bad=0.05",
    "data.broken=part",
    "train.epochs=null",
    "train.batch_size=8",
    "train.log_every=20",
    "train.save_every=200",
    "train.save_async=true",
    "train.keep=2",
    "train.health_every=500",
    "train.trackers=[]",
    "train.report=false",
    "evaluation.tasks=[]",
]


def pictures(folder: Path) -> list[str]:
    """Pictures, every hundredth of which is cut off; the names of these."""
    rng, broken = np.random.default_rng(0), []
    for number in range(ROWS):
        path = folder / f"{number:03}.png"
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(path)
        if number % (ROWS // BROKEN) == 0:
            path.write_bytes(path.read_bytes()[:1000])
            broken.append(path.name)
    return broken


def resident(pid: int) -> dict[int, float]:
    """Process -> its resident MB: of this one and of all that it started."""
    found: dict[int, float] = {}
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmRSS:")]
        children = [int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in _children(task)]
    except OSError:  # it has ended meanwhile
        return found
    found[pid] = sum(kilobytes) / 1024
    for child in children:
        found |= resident(child)
    return found


def _children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except OSError:
        return []


def logged(path: Path) -> int:
    """The last step of a metrics.jsonl; 0 where there is none."""
    rows = path.read_text().splitlines() if path.exists() else []
    return int(json.loads(rows[-1])["step"]) if rows and rows[-1].endswith("}") else 0


def soak(steps: int, workers: int) -> dict[str, Any]:
    """Run it and watch it."""
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "pictures", Path(folder) / "run"
        data.mkdir()
        broken = pictures(data)
        words = [f"data.path={data}", *WORDS, f"train.steps={steps}", f"data.workers={workers}", "--output", str(run)]
        child = subprocess.Popen([sys.executable, "-m", "mmssl", "pretrain", "image_mae", *words])
        seen: list[tuple[int, dict[int, float]]] = []
        while child.poll() is None:
            step = logged(run / "metrics.jsonl")
            if step and (not seen or step != seen[-1][0]):
                seen.append((step, resident(child.pid)))
            time.sleep(0.05)
        if child.returncode:
            raise SystemExit(f"the run ended with exit code {child.returncode}")
        listed = [json.loads(line)["reason"] for line in (run / "quarantine.jsonl").read_text().splitlines()]
    warm = [(step, held) for step, held in seen if step > steps // 4]
    always = sorted(set.intersection(*(set(held) for _, held in warm if held)))
    own = [(step, [round(held[pid], 2) for pid in always]) for step, held in warm if held]
    return {
        "steps": steps,
        "workers": workers,
        "samples": ROWS,
        "broken": len(broken),
        "listed": len(listed),
        "right": sum(any(name in reason for reason in listed) for name in broken),
        "resident": own,
    }


def slopes(stored: dict[str, Any]) -> list[float]:
    """kB a step of each process, the main one first."""
    at = np.array([step for step, _ in stored["resident"]])
    held = np.array([each for _, each in stored["resident"]])
    return [float(one) for one in 1024 * np.polyfit(at, held, 1)[0]]


def table(stored: dict[str, Any] | None = None) -> str:
    """What stands between the marks of the page."""
    stored = json.loads(RESULTS.read_text()) if stored is None else stored
    main, *others = slopes(stored)
    first, last = stored["resident"][0][1], stored["resident"][-1][1]
    told = ", ".join(f"{one:+.2f}" for one in others)
    on = stored["machine"]
    before, after = (", ".join(f"{one:.1f}" for one in each[1:]) for each in (first, last))
    return (
        f"A run of {stored['steps']:,} steps with {stored['workers']} workers, {stored['broken']} broken samples of "
        f"{stored['samples']} and a checkpoint written beside it every 200\nsteps (`python -m benchmarks.soak`): "
        f"behind a quarter of it the main process grew by {main:+.2f} kB a step ({first[0]:.1f} to {last[0]:.1f} MB), "
        f"the\nworkers by {told} ({before} to {after} MB). The quarantine listed {stored['listed']} samples, "
        f"{stored['right']} of the\n{stored['broken']} broken ones. ({on['processor']}, {on['cores']} cores.)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    stored = soak(args.steps, args.workers) | {"machine": machine()}
    RESULTS.write_text(json.dumps(stored, indent=None) + "\n")
    pages.write(pages.REPO / "docs" / "how-to" / "resume.md", table(), MARKS)
    print(table())


if __name__ == "__main__":
    main()
