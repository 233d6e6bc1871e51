"""One row and seed: pretrain, and what the run's own evaluation found."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import mmssl

from .preparing import prepared
from .rows import Row, read_rows, store

ARMS = {"model": "pretrained", "untrained": "untrained", "raw": "raw"}


def measure(row: Row, seed: int, folder: Path) -> dict[str, Any]:
    """Run it in a folder that other rows share, store what was found, and give it back."""
    began = time.process_time()
    run = trained(row, seed, folder)
    spent = time.process_time() - began
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    tasks = json.loads((run / "evaluation.json").read_text())["tasks"]
    found: dict[str, Any] = {
        # of retrieval there is one for each way between two columns
        f"{task} {metric if task == 'retrieval' else metric.partition('/')[2] or metric}": {
            name: round(scores[arm], 4) for arm, name in ARMS.items() if scores.get(arm) is not None
        }
        for task, metrics in tasks.items()
        for metric, scores in metrics.items()
        if not metric.endswith("ECE")
    }
    found |= {"loss": [round(losses[0], 4), round(losses[-1], 4)], "cpu_seconds": round(spent, 1)}
    store(row, seed, found)
    return found


def trained(row: Row, seed: int, folder: Path) -> Path:
    """The run's folder; made, with the one that comes before it, where it is not there."""
    output = folder / f"{row.name}-{seed}"
    if (output / "model").is_dir():
        return output
    recipe = row.recipe()
    if row.first is not None:
        before = trained(read_rows([row.first])[0], seed, folder)
        recipe = json.loads(json.dumps(recipe).replace('"RUN"', json.dumps(str(before))))
    if row.prepare is not None:
        recipe["data"]["path"] = prepared(row.prepare, recipe["data"]["path"], folder)
    recipe["train"] = {"trackers": [], "health_every": None, **recipe["train"]}
    mmssl.pretrain({"name": row.name, **recipe, "seed": seed}, output=output)
    return output
