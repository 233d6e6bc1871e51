"""`TaskModel`: an encoder with its task head, as `mmssl finetune` leaves it. It saves, reloads and predicts.

The head lies in `head.safetensors`, what it means in `mmssl_task.json`, beside a model folder or an adapter folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..boundary import read_json_object, reading_of
from ..data.labels import Target
from ..errors import UserError
from ..modality import Batch
from ..models.locating import HEAD, TASK, WORDS, locate
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import open_model
from ..models.processing_mmssl import MMSSLProcessor
from ..models.running import device_of, evaluating, to_device
from .supervised import Kept, TaskHead, pooled, pooled_width


@dataclass
class TaskModel:
    """A fine-tuned model, ready to predict.

    Attributes:
        model: the encoder; an adapter is merged into it.
        processor: reads what it is given.
        head: on the pooled outputs of `towers`.
        target: what it answers.
        towers: names of the towers the head sees, in its order.
        modalities: what a sample may come with.
    """

    model: MMSSLModel
    processor: MMSSLProcessor
    head: TaskHead
    target: Target
    towers: list[str]
    modalities: list[str]

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, C) logits or standardised numbers, (B,) bool: any modality is there. Without gradient."""
        device = device_of(self.model)
        moved = to_device({name: batch[name] for name in self.modalities}, device)
        with evaluating([self.model, self.head]):
            features, present = pooled(self.model, self.towers, moved, self.head.kept is not None)
            return self.head(features), present

    def present(self, batch: Batch) -> Tensor:
        """(B,) bool: any modality is there, as `logits` says; without encoding anything."""
        moved = to_device({name: batch[name] for name in self.modalities}, device_of(self.model))
        names = [name for tower in self.towers for name in self.model.tower(tower).modalities if name in moved]
        with torch.no_grad():
            return torch.stack([self.model.modality(n).patchify(moved[n]).present for n in names]).any(0)

    def predict(self, **raw: Sequence[object]) -> list[dict[str, Any] | None]:
        """Answers for samples as a user has them: `predict(image=["a.png", None])`.

        Args:
            **raw: modality -> one raw value a sample, None where it lacks it.

        Returns:
            One answer a sample: {"label", "score", "scores"} for classes, {"labels", "scores"} for several labels,
            {column: number} for regression; None for a sample without any modality.

        Raises:
            ValueError: a modality that the task was not trained on, or none.
        """
        for name in raw:
            if name not in self.modalities:
                raise ValueError(f"this task was trained on {', '.join(self.modalities)}, not on '{name}'")
        if not raw:
            raise ValueError(f"nothing to predict from: pass some of {', '.join(self.modalities)}")
        length = len(next(iter(raw.values())))
        batch = {n: self.processor.preprocessors[n](list(raw.get(n, [None] * length))) for n in self.modalities}
        logits, present = self.logits(batch)
        return [self._answer(row) if there else None for row, there in zip(logits, present.tolist(), strict=True)]

    def _answer(self, row: Tensor) -> dict[str, object]:
        target = self.target
        if target.task == "regression":
            numbers = row.double() * torch.tensor(target.std) + torch.tensor(target.mean)
            return dict(zip(target.columns, numbers.tolist(), strict=True))
        names = target.names or target.classes
        if target.task == "multilabel":
            scores = dict(zip(names, row.sigmoid().tolist(), strict=True))
            return {"labels": [name for name, score in scores.items() if score > 0.5], "scores": scores}
        scores = dict(zip(names, row.softmax(0).tolist(), strict=True))
        best = max(scores, key=lambda name: scores[name])
        return {"label": best, "score": scores[best], "scores": scores}


def write_task(head: TaskHead, target: Target, towers: Sequence[str], modalities: Sequence[str], folder: Path) -> None:
    """Put head and task into a folder that holds the encoder or its adapter."""
    save_file({k: v.detach().cpu().contiguous() for k, v in head.state_dict().items()}, folder / HEAD)
    kept = head.kept
    spec: dict[str, Any] = {
        "target": target.to_dict(),
        "towers": list(towers),
        "modalities": list(modalities),
        "kept": None
        if kept is None
        else {"hidden": kept.fc1.out_features, "norm": kept.kind, "layers": 1 + len(kept.more)},
    }
    if head.count > 1:
        spec["experts"] = head.count
    (folder / TASK).write_text(json.dumps(spec, indent=2) + "\n")


def _kept(width: int, spec: dict[str, Any]) -> Kept:
    norm = {True: "layer", False: "none"}.get(spec["norm"], spec["norm"])  # as it was written before 'batch' was there
    return Kept(width, int(spec["hidden"]), str(norm), int(spec.get("layers", 1)))


def load_task(path: str | Path, base: str | None = None) -> TaskModel:
    """What `mmssl finetune` left, ready to predict. UserError, in one line, when it is damaged or lacks its base."""
    found = locate(path)
    if not found.task:
        raise UserError(f"{path}: {WORDS[found.kind]} without {TASK}, expected what `mmssl finetune` wrote")
    model, processor = open_model(found, base)
    folder = found.folder()
    with reading_of(f"{folder}: the task cannot be loaded"):
        spec = read_json_object(folder / TASK, f"{folder}: its {TASK}")
        target, towers, kept = Target(**spec["target"]), list(spec["towers"]), spec["kept"]
        width = pooled_width(model, towers, kept is not None)
        first = None if kept is None else _kept(width, kept)
        head = TaskHead(width, target.outputs, first, int(spec.get("experts", 1)))
        head.load_state_dict(load_file(folder / HEAD))
        modalities = list(spec["modalities"])
    return TaskModel(model, processor, head.eval(), target, towers, modalities)
