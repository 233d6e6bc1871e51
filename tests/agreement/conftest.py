"""One encoder and one small real data set for commands that must agree about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pytest
from toys import tuned

from mmssl.cli import main

TEST_ROWS = 200


@dataclass(frozen=True)
class Judged:
    """base: a model folder; data: a folder of parquet files."""

    base: Path
    data: Path

    def tuned(self, out: Path, *words: str) -> dict[str, dict[str, float]]:
        """What `mmssl finetune` reports: task -> column -> accuracy. The rate is so small that nothing moves."""
        quick = ["train.steps=2", "train.batch_size=16", "train.lr=1e-12", "eval_every=1"]
        command = ["finetune", str(self.base), "--data", str(self.data), "--label", "label", "--output", str(out)]
        assert main([*command, *quick, *words]) == 0
        tasks = json.loads((out / "evaluation.json").read_text())["tasks"]
        return {task: metrics["image/accuracy"] for task, metrics in tasks.items()}


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """A random encoder and handwritten digits: 300 to learn from, 200 to test on.

    A fifth of the training labels is wrong, so that it matters how strongly a probe is regularised.
    """
    from sklearn.datasets import load_digits

    folder, rng = tmp_path_factory.mktemp("judged"), np.random.default_rng(0)
    x, y = load_digits(return_X_y=True)
    rows = rng.permutation(len(x))[: 300 + TEST_ROWS]
    pictures, labels = (x[rows].reshape(-1, 8, 8) * 15).astype(np.uint8), y[rows].copy()
    labels[rng.permutation(300)[:60]] = rng.integers(10, size=60)
    text = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64"), "person": text})
    data = folder / "data"
    data.mkdir()
    for split, part in (("train", slice(0, 300)), ("test", slice(300, None))):
        people = [f"{who}" for who in rng.integers(12, size=len(labels[part]))]
        columns = {"image": list(pictures[part]), "label": labels[part], "person": people}
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(data / f"{split}.parquet")
    return Judged(tuned.image_base(folder / "model"), data)


@pytest.fixture
def evaluated(judged: Judged, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, float]]:
    """What `mmssl evaluate` prints for the accuracy of a task: column -> number, exact with 200 test rows."""

    def run(task: str, *more: str) -> dict[str, float]:
        capsys.readouterr()
        words = ["evaluate", str(judged.base), "--data", str(judged.data), "--task", task, "label=label"]
        assert main([*words, *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        line = next(line for line in lines if line.startswith(task) and "image/accuracy" in line)
        numbers = [float(word) for word in line.split()[2:] if "(" not in word]
        assert numbers[-1] == TEST_ROWS
        return dict(zip(("pretrained", "untrained", "raw features", "chance"), numbers[:-1], strict=True))

    return run
