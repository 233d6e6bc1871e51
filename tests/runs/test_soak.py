"""Two thousand steps with workers and one sample in a hundred broken: memory stays, and every fault is noted once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from toys import runs

from mmssl.training.loop import Loop

pytestmark = pytest.mark.slow

ROWS, BROKEN, STEPS, BATCH = 400, 4, 2000, 8
WARM = 500
"""Steps after which all that is kept once is there."""
SLOPE = 2.0
"""MiB a thousand steps of a process that count as flat."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 pictures of 48 x 48 pixels, of which every hundredth is cut off."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(ROWS):
        path = folder / f"{number:03}.png"
        Image.fromarray(rng.integers(0, 255, (48, 48, 3), np.uint8)).save(path)
        if number % (ROWS // BROKEN) == 0:
            path.write_bytes(path.read_bytes()[:1000])
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_flat_and_the_quarantine_exact(
    tmp_path: Path, pictures: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, list[float]]] = []
    process, real = psutil.Process(), Loop._report
    others = process.children(recursive=True)  # of other tests

    def report(self: Loop, row: Any, *rest: Any) -> None:
        real(self, row, *rest)
        # what is mapped, not what is a process's own: pages that a worker was forked with become two by and by
        own = [process, *(p for p in process.children(recursive=True) if p not in others)]
        seen.append((row["step"], [p.memory_info().rss / 2**20 for p in own]))

    monkeypatch.setattr(Loop, "_report", report)
    train = {"steps": STEPS, "batch_size": BATCH, "log_every": 20, "save_every": 200, "keep": 2, "health_every": 500}
    recipe = runs.recipe(train=train, modalities={"image": {"size": 16, "patch": 8, "resize": "squash"}})
    recipe["data"] = {"path": str(pictures), "workers": workers, "max_bad": 0.05}
    assert runs.cli(tmp_path, content=recipe) == 0
    noted = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert len(noted) == BROKEN, "each broken sample once, however often it came"
    steps = np.array([step for step, _ in seen if step > WARM])
    held = np.array([each for step, each in seen if step > WARM])
    assert held.shape[1] == 1 + workers
    slopes = np.polyfit(steps / 1000, held, 1)[0]
    print(f"{workers} workers: MiB after {steps[0]} steps {held[0].round()}, slopes {slopes.round(2)} a thousand steps")
    assert slopes.max() < SLOPE
