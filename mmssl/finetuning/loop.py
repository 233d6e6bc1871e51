"""The training loop with a look at the validation rows now and then, and layer-wise learning rates."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError
from ..training import checkpoints
from ..training.engine import on_first
from ..training.loop import Loop, Meter
from ..training.metrics import MetricsFile
from ..training.optimizer import make_optimizer

logger = logging.getLogger("mmssl")
_LAYER = re.compile(r"\.(?:blocks|layers?|resblocks|h)\.(\d+)\.")
_FIRST = re.compile(r"(?:embed|\.modalities\.|\.prefix\.|\.types\.|\.relations\.|cls_token|position|conv1|patch)")

Look = Callable[[], tuple[float, float]]
"""(loss, score) on the validation rows; a higher score is better."""


def layer_scale(names: list[str], decay: float) -> dict[str, float]:
    """Parameter name -> factor of the learning rate: decay ** (layers above it).

    Layer-wise decay as in BEiT (Bao et al. 2022, arXiv 2106.08254) and MAE's fine-tuning: the embedding is layer 0,
    block i is i + 1, what comes after the blocks and every head have the full rate. The depth is each tower's own.
    """

    def owner(name: str) -> str:
        return ".".join(name.split(".")[:3])  # model.towers.NAME

    depth: dict[str, int] = {}
    for name in names:
        found = _LAYER.search(name)
        if found:
            depth[owner(name)] = max(depth.get(owner(name), 0), int(found[1]) + 1)
    out = {}
    for name in names:
        above = depth.get(owner(name), 0) + 1
        found = _LAYER.search(name)
        if not name.startswith("model.towers."):
            level = above
        else:
            level = int(found[1]) + 1 if found else 0 if _FIRST.search(name) else above
        out[name] = decay ** (above - level)
    return out


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


class TuningLoop(Loop):
    """A `Loop` that looks at the validation rows every `every` steps, stops when `patience` looks brought no gain, and
    keeps the best weights (`restore`). The start, step 0, is a candidate as well. Its checkpoints hold all that.

    origin: what the run started from; a checkpoint of another origin is refused.
    """

    def __init__(
        self, *args: Any, layer_decay: float = 1.0, origin: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self.layer_decay, self.origin = layer_decay, origin or {}
        super().__init__(*args, **kwargs)
        self.look: Look | None = None
        self.every, self.patience, self.monitor = 1, 0, "loss"
        self.best, self.best_step, self.gone = math.inf, 0, 0
        self.kept: dict[str, Tensor] = {}

    def new_optimizer(self) -> torch.optim.Optimizer:
        s = self.settings
        names = [name for name, p in self.pretraining.named_parameters() if p.requires_grad]
        factors = layer_scale(names, self.layer_decay)
        return make_optimizer(
            self.pretraining, s.lr, s.weight_decay, (s.betas[0], s.betas[1]), s.eps, factors.__getitem__
        )

    def watch(self, look: Look, every: int, patience: int | None, monitor: str) -> None:
        """Look now and then; patience None: never stop, but keep the best weights."""
        self.look, self.every, self.monitor = look, every, monitor
        self.patience = patience if patience is not None else 1 << 30
        if self.start == 0:
            self._look(0)
        elif self.gone >= self.patience:
            self.steps = self.start  # it had stopped early

    def more_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        best = {"value": self.best if self.kept else None, "step": self.best_step, "gone": self.gone}
        return {"origin": self.origin, "best": best}, self.kept

    def _load(self, path: Path) -> dict[str, Any]:
        """Early stopping's state too. UserError when the run was started from something else."""
        origin = checkpoints.read_state(path).get("origin")
        for key, value in self.origin.items():
            if origin is not None and origin.get(key) != value:
                raise UserError(
                    f"--resume: the run was started with other {key} ({_short(origin.get(key))}, "
                    f"now {_short(value)}); name what it was started with"
                )
        state = super()._load(path)
        best = state.get("best") or {}
        if best.get("value") is not None:
            self.best, self.best_step, self.gone = float(best["value"]), int(best["step"]), int(best["gone"])
            device = self.accelerator.device
            self.kept = {name: value.to(device) for name, value in load_file(path / checkpoints.BEST).items()}
        return state

    def _update(self, step: int, meter: Meter) -> Tensor | None:
        norm = super()._update(step, meter)
        done = step + 1
        if self.look is not None and (done % self.every == 0 or done == self.steps):
            self._look(done)
            if self.gone >= self.patience and done < self.steps:
                if self.accelerator.is_main_process:
                    print(f"stopping early after step {done}: the best was step {self.best_step}", flush=True)
                self.steps = done
        return norm

    def _look(self, step: int) -> None:
        """Measure, on the first process; keep the weights, on all, where it is the best so far."""
        look = self.look
        assert look is not None
        loss, score = on_first(self.accelerator, look)
        value = loss if self.monitor == "loss" else -score
        if value < self.best:
            self.best, self.best_step, self.gone = value, step, 0
            self.kept = {n: p.detach().clone() for n, p in self.pretraining.named_parameters() if p.requires_grad}
        else:
            self.gone += 1
        if self.accelerator.is_main_process:
            row = {"step": step, "validation/loss": loss, "validation/score": score}
            MetricsFile(self.folder / "metrics.jsonl", step).write(row)
            print(f"validation after step {step}: loss {loss:.4f}, score {score:.4f}", flush=True)

    @torch.no_grad()
    def restore(self) -> int:
        """The best weights again; returns the step they are of."""
        for name, parameter in self.pretraining.named_parameters():
            if name in self.kept:
                parameter.copy_(self.kept[name])
        return self.best_step if self.kept else self.steps
