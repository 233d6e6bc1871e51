"""One I-JEPA training step, ours against an equal model written the way facebookresearch/ijepa is, interleaved.

ViT-S/16 at 224 px, predictor 192 x 6, one context and four target blocks, EMA teacher; a step draws its masks, then
forward, backward, AdamW and the average. The peer has the reference's structure in code of our own: a plain pre-norm
ViT on `scaled_dot_product_attention` that embeds all patches and then drops, masks drawn by a Python loop over the
images, all contexts cut to the shortest, the average by a loop over parameters, torch's default AdamW and float32
products. Both see the same number of tokens: contexts are cut to `--keep`, targets are 36 of 196 patches. Prints the
ratio of medians: above 1, ours is faster. `--tuned-peer` gives the peer our setting of the products and the fused
optimiser, so that only the code differs. Also prints the peer's share of what the bare products reach here, which can
be held against the reference's own on another machine: facebookresearch/ijepa reached 45 % of it in bf16 (17.7
samples/s of 22.4 GFLOP, of 880 GFLOP/s; two Zen 5 cores, batch 16).

    python -m benchmarks.jepa_step [--dtype bf16 f32] [--batch 16] [--steps 5] [--tuned-peer]
"""

from __future__ import annotations

import argparse
import copy
import math
import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.interleaved import gflop_of, limit, medians, set_process
from benchmarks.pairs import SIZES, Pair, ViT, image_model, masked
from benchmarks.stock_weights import copy_linear, copy_norm
from mmssl.draws import Draws
from mmssl.masking import MultiBlock
from mmssl.models.positions import SinCos
from mmssl.models.stock import transfer
from mmssl.models.tower import Tower
from mmssl.objectives import jepa
from mmssl.objectives.options.jepa import PredictorConfig
from mmssl.objectives.pretraining import Pretraining
from mmssl.patches import Split

BLOCK = transfer.BlockNames("norm1", ("attention.qkv",), "attention.proj", "norm2", ("mlp.0",), "mlp.2")
"""Of the peer."""
PREDICTOR = (192, 6, 6)
TARGET = 36 / 196
"""Share of the patches in a target block."""


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def table(width: int, side: int) -> nn.Parameter:
    grid = torch.cartesian_prod(torch.arange(side) * 1.0, torch.arange(side) * 1.0)
    return nn.Parameter(SinCos(width, 2, order=(1, 0))(grid[None]), requires_grad=False)


def picked(x: Tensor, masks: list[Tensor]) -> Tensor:
    """x (B, N, D) at each of the index tensors (B, k): (len(masks) * B, k, D)."""
    return torch.cat([x.gather(1, m[..., None].expand(-1, -1, x.shape[-1])) for m in masks])


class PeerEncoder(nn.Module):
    def __init__(self, vit: ViT) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, vit.width, vit.patch, vit.patch)
        self.table = table(vit.width, vit.side // vit.patch)
        self.blocks = nn.ModuleList(Block(vit.width, vit.heads) for _ in range(vit.depth))
        self.norm = nn.LayerNorm(vit.width, eps=1e-6)

    def forward(self, pixels: Tensor, masks: list[Tensor] | None = None) -> Tensor:
        x = self.embed(pixels).flatten(2).transpose(1, 2) + self.table
        if masks is not None:
            x = picked(x, masks)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class PeerPredictor(nn.Module):
    def __init__(self, vit: ViT, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        width, depth, heads = sizes
        self.embed, self.proj = nn.Linear(vit.width, width), nn.Linear(width, vit.width)
        self.mask = nn.Parameter(torch.zeros(1, 1, width))
        self.table = table(width, vit.side // vit.patch)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor, seen: list[Tensor], asked: list[Tensor]) -> Tensor:
        k = x.shape[1]
        places = self.table.expand(len(x), -1, -1)
        x = (self.embed(x) + picked(places, seen)).repeat(len(asked), 1, 1)
        x = torch.cat([x, self.mask + picked(places, asked)], 1)
        for block in self.blocks:
            x = block(x)
        return self.proj(self.norm(x)[:, k:])


Masks = tuple[list[Tensor], list[Tensor]]
"""Contexts and targets: index tensors (B, k) in lists."""


def loop_masks(batch: int, keep: int, side: int, scale: float) -> Masks:
    """One context and four targets an image, by a loop: sizes drawn once, places for each image."""

    def side_lengths(share: float, low: float, high: float) -> tuple[int, int]:
        aspect = low + random.random() * (high - low)
        area = share * side**2
        h, w = (int(round(math.sqrt(area * s))) for s in (aspect, 1 / aspect))
        return min(h, side), min(w, side)

    def block(h: int, w: int) -> Tensor:
        mask = torch.zeros(side, side, dtype=torch.int32)
        top = int(torch.randint(0, side - h + 1, (1,)))
        left = int(torch.randint(0, side - w + 1, (1,)))
        mask[top : top + h, left : left + w] = 1
        return mask

    target, context = side_lengths(scale, 0.75, 1.5), side_lengths(0.85 + 0.15 * random.random(), 1.0, 1.0)
    seen, asked = [], []
    for _ in range(batch):
        blocks = [block(*target) for _ in range(4)]
        asked.append([b.flatten().nonzero()[:, 0] for b in blocks])
        left = block(*context)
        for b in blocks:
            left = left * (1 - b)
        seen.append(left.flatten().nonzero()[:, 0])
    shortest = min(keep, *(len(s) for s in seen))
    return [torch.stack([s[:shortest] for s in seen])], [torch.stack([a[i] for a in asked]) for i in range(4)]


class Peer(nn.Module):
    def __init__(self, vit: ViT, predictor: tuple[int, int, int]) -> None:
        super().__init__()
        self.encoder, self.predictor = PeerEncoder(vit), PeerPredictor(vit, predictor)
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)

    def forward(self, pixels: Tensor, seen: list[Tensor], asked: list[Tensor]) -> Tensor:
        with torch.no_grad():
            h = self.target(pixels)
            h = picked(F.layer_norm(h, (h.shape[-1],)), asked)
        return F.smooth_l1_loss(self.predictor(self.encoder(pixels, seen), seen, asked), h)

    @torch.no_grad()
    def average(self, momentum: float) -> None:
        for q, k in zip(self.encoder.parameters(), self.target.parameters(), strict=True):
            k.data.mul_(momentum).add_((1.0 - momentum) * q.detach().data)


def pair(
    vit: ViT,
    batch: int,
    device: str = "cpu",
    predictor: tuple[int, int, int] = PREDICTOR,
    keep: int = 56,
    scale: float = TARGET,
) -> Pair:
    """I-JEPA against the plain model. keep: patches of a context; scale: the share of patches in a target."""
    peer = Peer(vit, predictor).train().to(device)
    model = image_model(vit, prefix=0)
    width, depth, heads = predictor
    options = PredictorConfig(width=width, depth=depth, heads=heads)
    objective = jepa.JEPA(jepa.Config(tower="image", mask="blocks", predictor=options), model)
    mask = MultiBlock(scale=[scale, scale], keep=keep / vit.patches)
    copy_peer(peer, model.tower("image"), objective)
    work = Pretraining(model, {"jepa": objective}, {}, {"blocks": mask}).train().to(device)
    inputs = {"pixel_values": torch.randn(batch, 3, vit.side, vit.side).to(device)}

    def our_loss(number: int) -> Tensor:
        return work({"image": inputs}, Draws(number, batch, device=device)).total

    def peer_loss(number: int, masks: Masks | None = None) -> Tensor:
        seen, asked = masks or loop_masks(batch, keep, vit.side // vit.patch, scale)
        return peer(inputs["pixel_values"], [m.to(device) for m in seen], [m.to(device) for m in asked])

    def same() -> tuple[Tensor, Tensor]:
        patches = {"image": work.model.modality("image").patchify(inputs)}
        split = mask(patches, Draws(0, batch, device=device)("mask", "blocks"))["image"]
        length = int((split.keep >= 0).sum(1).min())
        cut = Split(split.keep[:, :length], split.hide, full=True)  # the peer cuts all contexts to the shortest
        with masked(work, "blocks", lambda p, d: {"image": cut}):
            return our_loss(0), peer_loss(0, ([cut.keep], list(cut.hide.unbind(1))))

    return Pair(
        "ijepa's code",
        work,
        [peer],
        our_loss,
        peer_loss,
        after_ours=lambda: work.after_step(0.0),
        after_peer=lambda: peer.average(0.996),
        same=same,
        betas=(0.9, 0.999),
        device=device,
    )


@torch.no_grad()
def copy_peer(peer: Peer, tower: Tower, objective: jepa.JEPA) -> None:
    """Give both of ours, and our teacher, the peer's weights."""
    modality: Any = tower.modalities["image"]
    copy_linear(modality.proj, peer.encoder.embed)  # type: ignore[arg-type]
    predictor: Any = objective.predictors["image"]
    for trunk, theirs in ((tower.trunk, peer.encoder), (predictor.trunk, peer.predictor)):
        transfer.blocks(trunk.blocks, theirs.blocks, BLOCK, False)  # type: ignore[arg-type]
        copy_norm(trunk.norm, theirs.norm)
    copy_linear(predictor.project, peer.predictor.embed)
    copy_linear(predictor.head, peer.predictor.proj)
    predictor.mask.tokens.copy_(peer.predictor.mask[0])
    objective.teacher.update(tower, 0.0)


def measure(dtype: str, batch: int, steps: int, keep: int, tuned_peer: bool) -> tuple[dict[str, float], float]:
    """Median seconds of a step of each, and GFLOP of a peer's step."""
    torch.manual_seed(0)
    random.seed(0)
    peer, ours = pair(SIZES["vit-s"], batch, keep=keep).steps(dtype, tuned_peer)
    seconds = medians(peer, ours, steps, tuned_peer)
    return dict(zip(("peer", "ours"), seconds, strict=True)), gflop_of(peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["bf16", "f32"], choices=["bf16", "f32"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--keep", type=int, default=56, help="patches of a context")
    parser.add_argument("--tuned-peer", action="store_true")
    args = parser.parse_args()
    for dtype in args.dtype:
        seconds, gflop = measure(dtype, args.batch, args.steps, args.keep, args.tuned_peer)
        rates = ", ".join(f"{name} {args.batch / s:.1f} samples/s" for name, s in seconds.items())
        print(
            f"{dtype} batch {args.batch}: {rates} (contexts of at most {args.keep} patches), "
            f"ratio of medians {seconds['peer'] / seconds['ours']:.2f}x",
            flush=True,
        )
        set_process(tuned=args.tuned_peer)
        reached, best = gflop / seconds["peer"], limit(dtype)
        print(
            f"  the peer's step: {gflop / args.batch:.1f} GFLOP a sample, {reached:.0f} of the {best:.0f} GFLOP/s that "
            f"bare products reach, {reached / best:.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
