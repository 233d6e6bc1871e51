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
from typing import Any

import torch

from benchmarks.interleaved import autocast, medians
from mmssl.draws import Draws
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import contrastive
from mmssl.objectives.pretraining import Pretraining
from mmssl.training.optimizer import make_optimizer

TOKENS, VOCABULARY = 77, 49408
RESULT = Path(__file__).parent / "results" / "clip_step.json"


def peer(layers: int) -> Any:
    from open_clip import CLIP

    vision = {"image_size": 224, "layers": layers, "width": 768, "patch_size": 32}
    text = {"context_length": TOKENS, "vocab_size": VOCABULARY, "width": 512, "heads": 8, "layers": layers}
    return CLIP(embed_dim=512, vision_cfg=vision, text_cfg=text).train()


def ours(layers: int, causal: bool) -> Pretraining:
    scale = {"mean": [0.5] * 3, "std": [0.25] * 3}
    image = {"type": "image", "size": [224, 224], "patch": [32, 32], "channels": 3, **scale}
    text = {"type": "text", "vocab_size": VOCABULARY, "max_length": TOKENS, "positions": "learned"}
    towers = {
        "image": TowerConfig(width=768, depth=layers, heads=12, prefix=1, pooling="cls", embed_norm=causal),
        "text": TowerConfig(width=512, depth=layers, heads=8, prefix=0, causal=causal, pooling="last"),
    }
    config = MMSSLConfig(
        modalities={"image": image, "text": text}, towers={n: tower_spec(t) for n, t in towers.items()}, projection=512
    )
    model = MMSSLModel(config)
    objective = contrastive.Contrastive(contrastive.Config(towers=["image", "text"]), model)
    return Pretraining(model, {"clip": objective}, {}, {}).train()


def measure(dtype: str, layers: int, batch: int, steps: int, tuned_peer: bool, causal: bool) -> tuple[float, float]:
    """Median seconds of a step: (peer, ours)."""
    from open_clip.loss import ClipLoss

    torch.manual_seed(0)
    stock, work, clip_loss = peer(layers), ours(layers, causal), ClipLoss()
    pixels, ids = torch.randn(batch, 3, 224, 224), torch.randint(1, VOCABULARY, (batch, TOKENS))
    ids[:, -1] = VOCABULARY - 1  # the end, where open_clip pools
    fused = {"fused": True} if tuned_peer else {}
    stock_optimizer = torch.optim.AdamW(stock.parameters(), lr=1e-4, weight_decay=0.2, **fused)
    our_optimizer = make_optimizer(work, 1e-4, 0.2, (0.9, 0.98), 1e-6)
    data = {"image": {"pixel_values": pixels}, "text": {"input_ids": ids}}

    def step_peer(number: int) -> None:
        with autocast(dtype):
            loss = clip_loss(*stock(pixels, ids)[:3])
        loss.backward()
        stock_optimizer.step()
        stock_optimizer.zero_grad()

    def step_ours(number: int) -> None:
        with autocast(dtype):
            loss = work(data, Draws(1, batch)).total
        loss.backward()
        our_optimizer.step()
        our_optimizer.zero_grad()

    return medians(step_peer, step_ours, steps, tuned_peer)


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
