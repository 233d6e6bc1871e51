"""What a finished run can say of itself, for the card of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..errors import RunError, one_line
from ..hub import picture
from ..hub.card import Facts
from .building import Columns
from .health import Health
from .loop import Loop
from .metrics import last_health, last_losses
from .mixture import counted, noted

if TYPE_CHECKING:
    from ..data.loading import Source
    from .mixture import Mixed


def facts_of(loop: Loop, source: Source, columns: Columns, mixture: Mixed | None = None) -> Facts:
    """What the card says about the run."""
    sized = hasattr(source, "__len__")
    samples = (len(source) if sized else None) if mixture is None else mixture.rows
    shares: dict[str, tuple[int | None, float]] = {}
    if mixture is not None:
        of = mixture.portions.items()
        shares = {n: (len(p.source) if sized else None, mixture.share(n)) for n, p in of}
    metrics = loop.folder / "metrics.jsonl"
    try:
        drawn = picture.draw_training(metrics, loop.folder / "model" / picture.PICTURE)
    except OSError as error:
        raise RunError(f"the picture of the run could not be written: {one_line(error)}") from error
    return Facts(
        samples=samples,
        presence=counted(source, columns, mixture) if sized else {},
        broken_samples=loop.quarantine.summary(),
        steps=loop.steps,
        seen=loop.steps * loop.settings.batch_size,
        seconds=loop.seconds,
        loss=last_losses(metrics),
        health=last_health(metrics),
        health_samples=sum(o.samples for o in loop.observers.members if isinstance(o, Health)),
        guard=[f"after step {e['step']} {e['action']}: {e['reason']}" for e in loop.course.events],
        fingerprint=noted(source, columns, mixture),
        mixture=shares,
        picture=picture.PICTURE if drawn else None,
        parameters=sum(p.numel() for p in loop.pretraining.model.parameters()),
        trainable=sum(p.numel() for p in loop.pretraining.model.parameters() if p.requires_grad),
        processes=loop.accelerator.num_processes,
        device=_device_name(loop.accelerator.device),
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
