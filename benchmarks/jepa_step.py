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
import statistics

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.interleaved import autocast, gflop_of, limit, medians, set_process
from mmssl.draws import Draws
from mmssl.masking import MultiBlock
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.positions import SinCos
from mmssl.objectives import jepa
from mmssl.objectives.options.jepa import PredictorConfig
from mmssl.objectives.pretraining import Pretraining
from mmssl.training.optimizer import make_optimizer

SIDE, PATCH, WIDTH, DEPTH, HEADS = 14, 16, 384, 12, 6
PREDICTOR = (192, 6, 6)
SCALE = 36 / SIDE**2


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


def table(width: int) -> nn.Parameter:
    grid = torch.cartesian_prod(torch.arange(SIDE) * 1.0, torch.arange(SIDE) * 1.0)
    return nn.Parameter(SinCos(width, 2, order=(1, 0))(grid[None]), requires_grad=False)


def picked(x: Tensor, masks: list[Tensor]) -> Tensor:
    """x (B, N, D) at each of the index tensors (B, k): (len(masks) * B, k, D)."""
    return torch.cat([x.gather(1, m[..., None].expand(-1, -1, x.shape[-1])) for m in masks])


class PeerEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.table = table(WIDTH)
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, pixels: Tensor, masks: list[Tensor] | None = None) -> Tensor:
        x = self.embed(pixels).flatten(2).transpose(1, 2) + self.table
        if masks is not None:
            x = picked(x, masks)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class PeerPredictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width, depth, heads = PREDICTOR
        self.embed, self.proj = nn.Linear(WIDTH, width), nn.Linear(width, WIDTH)
        self.mask = nn.Parameter(torch.zeros(1, 1, width))
        self.table = table(width)
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


def loop_masks(batch: int, keep: int) -> tuple[list[Tensor], list[Tensor]]:
    """One context and four targets an image, by a loop: sizes drawn once, places for each image."""

    def side_lengths(share: float, low: float, high: float) -> tuple[int, int]:
        aspect = low + random.random() * (high - low)
        area = share * SIDE**2
        h, w = (int(round(math.sqrt(area * s))) for s in (aspect, 1 / aspect))
        return min(h, SIDE), min(w, SIDE)

    def block(h: int, w: int) -> Tensor:
        mask = torch.zeros(SIDE, SIDE, dtype=torch.int32)
        top = int(torch.randint(0, SIDE - h + 1, (1,)))
        left = int(torch.randint(0, SIDE - w + 1, (1,)))
        mask[top : top + h, left : left + w] = 1
        return mask

    target, context = side_lengths(SCALE, 0.75, 1.5), side_lengths(0.85 + 0.15 * random.random(), 1.0, 1.0)
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
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.predictor = PeerEncoder(), PeerPredictor()
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


def ours(keep: int) -> Pretraining:
    scale = {"mean": [0.5] * 3, "std": [0.25] * 3}
    image = {"type": "image", "size": [SIDE * PATCH] * 2, "patch": [PATCH] * 2, "channels": 3, **scale}
    tower = TowerConfig(width=WIDTH, depth=DEPTH, heads=HEADS, prefix=0)
    model = MMSSLModel(MMSSLConfig(modalities={"image": image}, towers={"image": tower_spec(tower)}))
    width, depth, heads = PREDICTOR
    predictor = PredictorConfig(width=width, depth=depth, heads=heads)
    objective = jepa.JEPA(jepa.Config(tower="image", mask="blocks", predictor=predictor), model)
    mask = MultiBlock(scale=[SCALE, SCALE], keep=keep / SIDE**2)
    return Pretraining(model, {"jepa": objective}, {}, {"blocks": mask}).train()


def measure(dtype: str, batch: int, steps: int, keep: int, tuned_peer: bool) -> tuple[dict[str, float], float, float]:
    """Median seconds of a step of each, the tokens of the peer's contexts on average, and GFLOP of a peer's step."""
    torch.manual_seed(0)
    random.seed(0)
    peer, work = Peer().train(), ours(keep)
    pixels = torch.randn(batch, 3, SIDE * PATCH, SIDE * PATCH)
    fused = {"fused": True} if tuned_peer else {}
    trained = [p for p in peer.parameters() if p.requires_grad]
    peer_optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05, **fused)
    our_optimizer = make_optimizer(work, 1e-4, 0.05, (0.9, 0.999), 1e-8)
    lengths: list[int] = []

    def step_peer(number: int) -> None:
        seen, asked = loop_masks(batch, keep)
        lengths.append(seen[0].shape[1])
        with autocast(dtype):
            loss = peer(pixels, seen, asked)
        loss.backward()
        peer_optimizer.step()
        peer_optimizer.zero_grad()
        peer.average(0.996)

    def step_ours(number: int) -> None:
        with autocast(dtype):
            loss = work({"image": {"pixel_values": pixels}}, Draws(number, batch)).total
        loss.backward()
        our_optimizer.step()
        our_optimizer.zero_grad()
        work.after_step(0.0)

    seconds = medians(step_peer, step_ours, steps, tuned_peer)
    return dict(zip(("peer", "ours"), seconds, strict=True)), statistics.mean(lengths), gflop_of(step_peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["bf16", "f32"], choices=["bf16", "f32"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--keep", type=int, default=56, help="patches of a context")
    parser.add_argument("--tuned-peer", action="store_true")
    args = parser.parse_args()
    for dtype in args.dtype:
        seconds, tokens, gflop = measure(dtype, args.batch, args.steps, args.keep, args.tuned_peer)
        rates = ", ".join(f"{name} {args.batch / s:.1f} samples/s" for name, s in seconds.items())
        print(
            f"{dtype} batch {args.batch}: {rates} (contexts of {tokens:.0f} and {args.keep} patches), "
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
