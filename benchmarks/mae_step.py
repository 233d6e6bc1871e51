"""One masked-autoencoding training step, ours against `transformers.ViTMAEForPreTraining`, interleaved in one process.

Same architecture (ViT-S/16, 224 px, decoder 512 x 8), same weights, batch and mask ratio; a step is forward, backward
and AdamW. Prints the ratio of medians: above 1, ours is faster. The peer runs as its users run it (torch's default
float32 products and AdamW); `--tuned-peer` gives it our settings of both, so that only the model's code differs.

    python -m benchmarks.mae_step [--dtype bf16 f32] [--batch 16] [--steps 7] [--tuned-peer]
"""

from __future__ import annotations

import argparse

import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from benchmarks.interleaved import autocast, medians
from benchmarks.stock_weights import copy_mae_decoder, copy_vit
from mmssl.draws import Draws
from mmssl.masking import Random
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import mae
from mmssl.objectives.pretraining import Pretraining
from mmssl.training.optimizer import make_optimizer

SIZES = {"vit-s": (384, 12, 6), "vit-b": (768, 12, 12), "vit-ti": (192, 12, 3)}


def peer(width: int, depth: int, heads: int, ratio: float) -> ViTMAEForPreTraining:
    return ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            mask_ratio=ratio,
            norm_pix_loss=True,
            decoder_hidden_size=512,
            decoder_num_hidden_layers=8,
            decoder_num_attention_heads=16,
            decoder_intermediate_size=2048,
            image_size=224,
            patch_size=16,
        )
    ).train()


def ours(stock: ViTMAEForPreTraining, width: int, depth: int, heads: int, ratio: float) -> Pretraining:
    scale = {"mean": [0.5] * 3, "std": [0.25] * 3}
    image = {"type": "image", "size": [224, 224], "patch": [16, 16], "channels": 3, **scale}
    tower = TowerConfig(width=width, depth=depth, heads=heads, norm_eps=1e-12)
    model = MMSSLModel(MMSSLConfig(modalities={"image": image}, towers={"image": tower_spec(tower)}))
    objective = mae.MAE(mae.Config(tower="image", mask="random"), model)
    copy_vit(model.towers["image"], "image", stock.vit)  # type: ignore[arg-type]
    copy_mae_decoder(objective.decoders["image"], stock.decoder, 3, 16)  # type: ignore[arg-type]
    return Pretraining(model, {"mae": objective}, {}, {"random": Random(ratio=ratio)}).train()


def measure(dtype: str, size: str, batch: int, steps: int, tuned_peer: bool) -> tuple[float, float]:
    """Median seconds of a step: (peer, ours)."""
    torch.manual_seed(0)
    architecture = SIZES[size]
    stock = peer(*architecture, ratio=0.75)
    work = ours(stock, *architecture, ratio=0.75)
    pixels = torch.randn(batch, 3, 224, 224)
    fused = {"fused": True} if tuned_peer else {}
    stock_optimizer = torch.optim.AdamW(stock.parameters(), lr=1e-4, weight_decay=0.05, **fused)
    our_optimizer = make_optimizer(work, 1e-4, 0.05, (0.9, 0.95), 1e-8)

    def step_peer(number: int) -> None:
        with autocast(dtype):
            loss = stock(pixels).loss
        loss.backward()
        stock_optimizer.step()
        stock_optimizer.zero_grad()

    def step_ours(number: int) -> None:
        with autocast(dtype):
            loss = work({"image": {"pixel_values": pixels}}, Draws(1, batch)).total
        loss.backward()
        our_optimizer.step()
        our_optimizer.zero_grad()

    return medians(step_peer, step_ours, steps, tuned_peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["bf16", "f32"], choices=["bf16", "f32"])
    parser.add_argument("--size", default="vit-s", choices=list(SIZES))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--tuned-peer", action="store_true")
    args = parser.parse_args()
    for dtype in args.dtype:
        theirs, mine = measure(dtype, args.size, args.batch, args.steps, args.tuned_peer)
        print(
            f"{args.size} {dtype} batch {args.batch}: transformers {theirs:.2f} s, mmssl {mine:.2f} s a step, "
            f"ratio of medians {theirs / mine:.2f}x"
        )


if __name__ == "__main__":
    main()
