"""One CLIP training step, ours against `open_clip` ViT-B-32 with `ClipLoss`, interleaved in one process.

Same sizes: vision 768 x 12, 12 heads, 32-pixel patches of 224, a norm in front and CLS behind; text 512 x 12, 8 heads,
77 tokens of 49,408, causal, the last one taken; embedding 512. A step is forward, backward and AdamW. Prints the ratio
of medians: above 1, ours is faster, and keeps it in `benchmarks/results/clip_step.json`. The peer runs as its users run
it (torch's default float32 products and AdamW); `--tuned-peer` gives it our settings of both, so that only the model's
code differs. `--uncausal`: our towers as recipes have them, without the causal mask of the peer's text half and the
norm in front of its vision half. `--small` is for a look at a busy machine: 4 layers each, nothing is kept.

    python -m benchmarks.clip_step [--dtype bf16 f32] [--batch 64] [--steps 5] [--tuned-peer] [--uncausal] [--small]
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.interleaved import medians
from benchmarks.pairs import Pair, ViT, branch, image_options
from mmssl.draws import Draws
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.stock.formats import open_clip
from mmssl.models.stock.pairs import Pair as Halves
from mmssl.objectives import contrastive
from mmssl.objectives.pretraining import Pretraining

TOKENS, VOCABULARY = 77, 49408
RESULT = Path(__file__).parent / "results" / "clip_step.json"


class Sizes(NamedTuple):
    """Of both halves, each 64 wide a head: width, layers and heads; and of what is seen."""

    image: ViT
    text: tuple[int, int, int]
    embedding: int
    tokens: int = TOKENS
    vocabulary: int = VOCABULARY


CLIPS = {
    "ViT-B-32": Sizes(ViT(768, 12, 12, 224, 32), (512, 12, 8), 512),
    "ViT-S-16": Sizes(ViT(384, 12, 6), (384, 12, 6), 384),
    "ViT-B-16": Sizes(ViT(768, 12, 12), (512, 12, 8), 512),
    "ViT-L-16": Sizes(ViT(1024, 24, 16), (768, 12, 12), 768),
}
"""open_clip's names -> sizes."""


def peer(sizes: Sizes) -> Any:
    from open_clip import CLIP

    vit, (width, layers, heads) = sizes.image, sizes.text
    vision = {"image_size": vit.side, "layers": vit.depth, "width": vit.width, "patch_size": vit.patch}
    text = {"context_length": sizes.tokens, "vocab_size": sizes.vocabulary, "width": width, "heads": heads}
    vision |= {"head_width": vit.width // vit.heads}
    return CLIP(embed_dim=sizes.embedding, vision_cfg=vision, text_cfg={**text, "layers": layers}).train()


def ours(sizes: Sizes, causal: bool) -> Pretraining:
    vit, (width, layers, heads) = sizes.image, sizes.text
    text = {"type": "text", "vocab_size": sizes.vocabulary, "max_length": sizes.tokens, "positions": "learned"}
    common: dict[str, Any] = {"norm_eps": 1e-5}
    towers = {
        "image": TowerConfig(
            width=vit.width, depth=vit.depth, heads=vit.heads, pooling="cls", embed_norm=causal, **common
        ),
        "text": TowerConfig(width=width, depth=layers, heads=heads, prefix=0, causal=causal, pooling="last", **common),
    }
    config = MMSSLConfig(
        modalities={"image": image_options(vit), "text": text},
        towers={n: tower_spec(t) for n, t in towers.items()},
        projection=sizes.embedding,
    )
    model = MMSSLModel(config)
    objective = contrastive.Contrastive(contrastive.Config(towers=["image", "text"]), model)
    return Pretraining(model, {"clip": objective}, {}, {}).train()


def pair(sizes: Sizes, batch: int, device: str = "cpu", causal: bool = True) -> Pair:
    """CLIP against `open_clip.CLIP` with `ClipLoss`; equal where the text half is causal, as theirs is."""
    from open_clip.loss import ClipLoss

    stock, work, clip_loss = peer(sizes), ours(sizes, causal), ClipLoss()
    if causal:
        open_clip.fill(Halves(branch(work.model, "image"), branch(work.model, "text")), stock)
        stock.logit_scale.data.copy_(work.objectives["clip"].logit_scale)  # that is written to four digits
    stock, work = stock.to(device), work.to(device)
    vit = sizes.image
    pixels = torch.randn(batch, 3, vit.side, vit.side).to(device)
    ids = torch.randint(1, sizes.vocabulary - 1, (batch, sizes.tokens)).to(device)
    ids[:, -1] = sizes.vocabulary - 1  # the end, where open_clip pools
    data = {"image": {"pixel_values": pixels}, "text": {"input_ids": ids}}

    def our_loss(number: int) -> Tensor:
        return work(data, Draws(number, batch, device=device)).total

    def peer_loss(number: int) -> Tensor:
        return clip_loss(*stock(pixels, ids)[:3])

    return Pair(
        "open_clip",
        work,
        [stock],
        our_loss,
        peer_loss,
        after_ours=lambda: work.after_step(0.0),
        decay=0.2,
        betas=(0.9, 0.98),
        device=device,
    )


def measure(dtype: str, layers: int, batch: int, steps: int, tuned_peer: bool, causal: bool) -> tuple[float, float]:
    """Median seconds of a step: (peer, ours)."""
    torch.manual_seed(0)
    sizes = CLIPS["ViT-B-32"]
    sizes = sizes._replace(image=sizes.image._replace(depth=layers), text=(512, layers, 8))
    return medians(*pair(sizes, batch, causal=causal).steps(dtype, tuned_peer), steps, tuned_peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["bf16", "f32"], choices=["bf16", "f32"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tuned-peer", action="store_true")
    parser.add_argument("--uncausal", action="store_true")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    for dtype in args.dtype:
        layers, causal, load = 4 if args.small else 12, not args.uncausal, os.getloadavg()[0]
        theirs, mine = measure(dtype, layers, args.batch, args.steps, args.tuned_peer, causal)
        print(
            f"ViT-B-32{' (4 layers)' if args.small else ''} {dtype} batch {args.batch}: open_clip {theirs:.2f} s, "
            f"mmssl {mine:.2f} s a step, ratio of medians {theirs / mine:.2f}x",
            flush=True,
        )
        if not args.small:
            keep(
                {
                    "dtype": dtype,
                    "batch": args.batch,
                    "steps": args.steps,
                    "tuned_peer": args.tuned_peer,
                    "peer's text half": "causal",
                    "our text half": "causal" if causal else "not causal",
                    "threads": torch.get_num_threads(),
                    "load": [round(load, 1), round(os.getloadavg()[0], 1)],
                    "peer_seconds": round(theirs, 3),
                    "our_seconds": round(mine, 3),
                    "ratio": round(theirs / mine, 3),
                }
            )


def keep(result: dict[str, Any]) -> None:
    """Put a result in the place of an earlier one with the same settings."""
    settings = ("dtype", "batch", "tuned_peer", "our text half")
    stored = json.loads(RESULT.read_text()) if RESULT.is_file() else []
    others = [one for one in stored if any(one[key] != result[key] for key in settings)]
    RESULT.write_text(json.dumps([*others, result], indent=1) + "\n")


if __name__ == "__main__":
    main()
