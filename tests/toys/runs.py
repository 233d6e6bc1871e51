"""Tiny pretraining runs on the built-in digits, shared by the tests of the run, the loop and the model folder."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmssl.cli import main
from mmssl.options import plainyaml
from mmssl.training.loop import Loop

ROWS = 320
"""Training samples: twenty batches of 16, and more than a look at the health takes. All 1,437 would be decoded for each
run of six steps."""

IMAGE: dict[str, Any] = {
    "name": "tiny",
    "data": {"path": "builtin:digits", "limit": ROWS},
    "modalities": {"image": {"size": 8, "patch": 4, "resize": "squash"}},
    "model": {"towers": {"image": {"width": 16, "depth": 2, "heads": 2, "dropout": 0.1}}},
    "masks": {"half": {"type": "random", "ratio": 0.5}},
    "objectives": {"mae": {"tower": "image", "mask": "half", "decoder": {"width": 16, "depth": 1, "heads": 2}}},
    "train": {"steps": 6, "batch_size": 16, "log_every": 2, "save_every": 2, "lr": 1e-3, "trackers": []},
    "evaluation": {"tasks": []},
}


def image_text() -> dict[str, Any]:
    """CLIP shape: contrastive across two towers, and masked autoencoding of the image."""
    out = recipe()
    out["modalities"]["text"] = {"vocab_size": 300, "max_length": 16}
    out["model"]["projection"] = 8
    out["model"]["towers"]["text"] = {"width": 16, "depth": 1, "heads": 2}
    out["model"]["towers"]["image"].pop("dropout")
    out["objectives"]["clip"] = {"type": "contrastive", "towers": ["image", "text"]}
    return out


def recipe(**sections: dict[str, Any]) -> dict[str, Any]:
    """`IMAGE` with some keys of some sections changed."""
    out = copy.deepcopy(IMAGE)
    for section, keys in sections.items():
        out[section] = {**out[section], **keys}
    return out


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(plainyaml.dump(content))
    return path


def cli(folder: Path, *words: str, content: dict[str, Any] | None = None, output: str = "run") -> int:
    """Exit code of `mmssl pretrain` with the run in `folder`/`output`."""
    path = write(folder, content or recipe())
    return main(["pretrain", str(path), *words, "--output", str(folder / output)])


class Killed(BaseException):
    """A process that is killed writes nothing more."""


@contextlib.contextmanager
def killed_at(step: int) -> Iterator[None]:
    """A run within is killed once it has logged this step, before its checkpoint."""
    real = Loop._report

    def report(self: Loop, row: dict[str, Any], *rest: Any) -> None:
        real(self, row, *rest)
        if row["step"] == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Loop, "_report", report)
        yield


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in metrics(run)}


def checkpoints(run: Path) -> list[str]:
    """Names of what lies in the run's checkpoints folder, hidden things too."""
    return sorted(p.name for p in (run / "checkpoints").iterdir())


def errors(text: str) -> list[str]:
    """The lines of standard error that say what ended the command."""
    return [line for line in text.splitlines() if line.startswith("error: ")]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint: model, objectives, optimiser, and what observers keep."""
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return {f"{p.name}/{k}": v for p in sorted(newest.glob("*.safetensors")) for k, v in load_file(p).items()}


def assert_same_weights(run: Path, other: Path) -> None:
    """The newest checkpoints of both hold the same bits."""
    a, b = weights(run), weights(other)
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, msg=name)
