"""A training step of ours and one of a peer that is to be equal to it: same weights, inputs, masks and loss.

`Pair` is what the builders in `benchmarks/*_step.py` make, what `benchmarks.steps` times on a CPU and `benchmarks.gpu`
on a GPU, and what `tests/unit/benchmarks/test_steps.py` holds to be equal.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.stock.exportable import Branch
from mmssl.models.trunk import Trunk
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Mask
from mmssl.training.optimizer import make_optimizer

Step = Callable[[int], None]


class ViT(NamedTuple):
    """Sizes of an encoder and of what it sees, in pixels."""

    width: int
    depth: int
    heads: int
    side: int = 224
    patch: int = 16

    @property
    def patches(self) -> int:
        """How many patches a picture has."""
        return (self.side // self.patch) ** 2


SIZES = {
    "vit-ti": ViT(192, 12, 3),
    "vit-s": ViT(384, 12, 6),
    "vit-b": ViT(768, 12, 12),
    "vit-l": ViT(1024, 24, 16),
    "tiny": ViT(48, 2, 4, 32, 8),
}


def nothing() -> None:
    """What follows an optimiser step where nothing does."""


@dataclass
class Pair:
    """Two trainers of one loss.

    Attributes:
        name: of the peer's package.
        work: ours.
        parts: the peer's modules, those that its optimiser trains and those that are averages.
        our_loss: of the step with this number.
        peer_loss: of the step with this number.
        after_ours: what follows our optimiser step: averages, centres.
        after_peer: what follows the peer's.
        same: (ours, the peer's) with the same masks, where the two draw their own in the steps.
        decay: weight decay of both optimisers.
        betas: of both optimisers.
    device: where both are.
    """

    name: str
    work: Pretraining
    parts: list[nn.Module]
    our_loss: Callable[[int], Tensor]
    peer_loss: Callable[[int], Tensor]
    after_ours: Callable[[], None] = nothing
    after_peer: Callable[[], None] = nothing
    same: Callable[[], tuple[Tensor, Tensor]] | None = None
    decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    device: str = "cpu"

    def losses(self) -> tuple[Tensor, Tensor]:
        """(ours, the peer's) for the same weights, inputs and masks; nothing moves."""
        if self.same is not None:
            found = self.same()
        else:
            found = self.our_loss(0), self.peer_loss(0)
        self.work.discard()
        return found

    def trained(self) -> list[nn.Parameter]:
        """The peer's parameters with a gradient."""
        found = itertools.chain(*(part.parameters() for part in self.parts))
        return [p for p in found if p.requires_grad]

    def steps(self, dtype: str, tuned_peer: bool = False, scaler: bool = False) -> tuple[Step, Step]:
        """(the peer's, ours): forward in f32, bf16 or fp16, backward, AdamW and what follows. tuned_peer: the fused
        optimiser, which ours has, for the peer too. scaler: of fp16's loss."""
        fused = {"fused": True} if tuned_peer else {}
        theirs = torch.optim.AdamW(self.trained(), lr=1e-4, betas=self.betas, weight_decay=self.decay, **fused)
        ours = make_optimizer(self.work, 1e-4, self.decay, self.betas, 1e-8)
        return (
            self._step(self.peer_loss, theirs, self.after_peer, dtype, scaler),
            self._step(self.our_loss, ours, self.after_ours, dtype, scaler),
        )

    def _step(
        self,
        loss: Callable[[int], Tensor],
        optimizer: torch.optim.Optimizer,
        after: Callable[[], None],
        dtype: str,
        scaled: bool,
    ) -> Step:
        scaler = torch.amp.GradScaler(self.device, enabled=scaled)

        def step(number: int) -> None:
            with cast(dtype, self.device):
                value = loss(number)
            scaler.scale(value).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            after()

        return step

    def compile(self, backend: str = "inductor") -> None:
        """In place: the peer's modules whole, of ours the trunks, as `train.compile` does."""
        for module in (*self.parts, *(m for m in self.work.modules() if isinstance(m, Trunk))):
            module.compile(backend=backend)


def cast(dtype: str, device: str = "cpu") -> contextlib.AbstractContextManager[object]:
    """Autocast to bf16 or fp16; nothing for f32."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device, kinds[dtype]) if dtype in kinds else contextlib.nullcontext()


def image_model(vit: ViT, **tower: Any) -> MMSSLModel:
    """Our model of one tower on pictures of three channels."""
    return MMSSLModel(
        MMSSLConfig(
            modalities={"image": image_options(vit)},
            towers={"image": tower_spec(TowerConfig(width=vit.width, depth=vit.depth, heads=vit.heads, **tower))},
        )
    )


def image_options(vit: ViT) -> dict[str, Any]:
    """The image modality of these sizes, as a config has it."""
    scale = {"mean": [0.5] * 3, "std": [0.25] * 3}
    return {"type": "image", "size": [vit.side] * 2, "patch": [vit.patch] * 2, "channels": 3, **scale}


@contextlib.contextmanager
def masked(work: Pretraining, name: str, mask: Mask) -> Iterator[None]:
    """Another mask in the place of one, for a while."""
    before, work.masks[name] = work.masks[name], mask
    try:
        yield
    finally:
        work.masks[name] = before


def branch(model: MMSSLModel, name: str) -> Branch:
    """A tower of one modality as the formats of `mmssl.models.stock` take it, which fill stock classes from it."""
    return Branch(model, name, name, name, None)  # type: ignore[arg-type]  # weights alone need no preprocessor


def apart(ours: Tensor, theirs: Tensor) -> float:
    """How far two losses are apart, relative to the peer's."""
    return float(((ours - theirs).abs() / theirs.abs().clamp(min=1e-12)).detach())
