"""The mean loss of what a head says of labels, over the rows that have one: of pretraining and of fine-tuning.

Shapes: B rows, C what a head gives of each (`mmssl.losses.supervised.row_losses`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...losses.supervised import Experts, Tail, row_losses
from ..base import Loss

if TYPE_CHECKING:
    from ..step import Step


def task_counts(task: str, rows: Tensor, value: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
    """What `task_loss` divides by: rows (B,) bool that have a label and are seen, and their weights (C,) by class."""
    weighted = task == "classification" and weights is not None
    # over the sum of the weights, not the number of rows, as torch.nn.CrossEntropyLoss does
    return {"rows": rows, "loss": rows * weights[value] if weighted and weights is not None else rows}


def task_loss(
    step: Step,
    task: str,
    logits: Tensor,
    value: Tensor,
    counts: dict[str, Tensor],
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    asymmetry: Sequence[float] | None = None,
    tail: Tail | Experts | None = None,
) -> Loss:
    """The mean of `row_losses` over the global batch; of classes the accuracy, too, of grades how many they are off.

    Args:
        step: its rows are counted over.
        task: see `row_losses`, also for weights, smoothing, asymmetry and tail.
        logits: (B, C); of experts (B, K, C), whose mean is what they say.
        value: (B,) or (B, C) labels; where there is none it is not looked at.
        counts: of `task_counts`.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        losses = row_losses(task, logits, value, weights, smoothing, asymmetry, tail)
        total = step.mean("loss", losses, counts["loss"])
        parts: dict[str, Tensor] = {}
        if task == "classification":
            said = logits.mean(1) if logits.ndim == 3 else logits
            parts["accuracy"] = step.mean("rows", (said.argmax(1) == value).float(), counts["rows"]).detach()
        elif task == "ordinal":
            off = ((logits > 0).sum(1) - value).abs().float()
            parts["off"] = step.mean("rows", off, counts["rows"]).detach()
    return Loss(total=total, parts=parts)
