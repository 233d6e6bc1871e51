"""One masked-autoencoding training step, ours against `transformers.ViTMAEForPreTraining`, interleaved in one process.

Same architecture (ViT-S/16, 224 px, decoder 512 x 8), same weights, batch and mask ratio; a step is forward, backward
and AdamW. Prints the ratio of medians: above 1, ours is faster. The peer runs as its users run it (torch's default
float32 products and AdamW); `--tuned-peer` gives it our settings of both, so that only the model's code differs.

    python -m benchmarks.mae_step [--dtype bf16 f32] [--batch 16] [--steps 7] [--tuned-peer]
"""

from __future__ import annotations

import argparse
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from benchmarks.interleaved import medians
from benchmarks.pairs import SIZES, Pair, ViT, image_model, masked
from benchmarks.stock_weights import copy_mae_decoder, copy_vit
from mmssl.draws import Draws
from mmssl.masking import Random, split_by_order
from mmssl.models.decoder import Decoder
from mmssl.models.tower import Tower
from mmssl.objectives import mae
from mmssl.objectives.pretraining import Pretraining

RATIO = 0.75
DECODER = (512, 8, 16)


M = TypeVar("M", bound=ViTMAEForPreTraining)


def stock_mae(vit: ViT, decoder: tuple[int, int, int], kind: type[M], **options: Any) -> M:
    """transformers' masked autoencoder, training."""
    config = ViTMAEConfig(
        hidden_size=vit.width,
        num_hidden_layers=vit.depth,
        num_attention_heads=vit.heads,
        intermediate_size=4 * vit.width,
        norm_pix_loss=True,
        decoder_hidden_size=decoder[0],
        decoder_num_hidden_layers=decoder[1],
        decoder_num_attention_heads=decoder[2],
        decoder_intermediate_size=4 * decoder[0],
        patch_size=vit.patch,
        **options,
    )
    return kind(config).train()


@torch.no_grad()
def place(stock: ViTMAEForPreTraining, tower: Tower, name: str, decoder: Decoder, coords: Tensor) -> None:
    """Fill both position tables of a stock model, whose first place is the class token's, with ours of the patches at
    coords (1, N, K)."""
    modality: Any = tower.modalities[name]
    pairs = (
        (stock.vit.embeddings, "position_embeddings", modality.position),
        (stock.decoder, "decoder_pos_embed", decoder.positions),
    )
    for part, table, positions in pairs:
        placed = positions(coords)
        rows = torch.cat([torch.zeros_like(placed[:, :1]), placed], 1)
        setattr(part, table, torch.nn.Parameter(rows, requires_grad=False))


def pair(vit: ViT, batch: int, decoder: tuple[int, int, int] = DECODER, device: str = "cpu") -> Pair:
    """MAE on pictures against `ViTMAEForPreTraining`."""
    stock = stock_mae(vit, decoder, ViTMAEForPreTraining, mask_ratio=RATIO, image_size=vit.side)
    model = image_model(vit, norm_eps=1e-12)
    narrow = mae.DecoderConfig(width=decoder[0], depth=decoder[1], heads=decoder[2])
    objective = mae.MAE(mae.Config(tower="image", mask="random", decoder=narrow), model)
    copy_vit(model.towers["image"], "image", stock.vit)  # type: ignore[arg-type]
    copy_mae_decoder(objective.decoders["image"], stock.decoder, 3, vit.patch)  # type: ignore[arg-type]
    pixels = torch.randn(batch, 3, vit.side, vit.side).to(device)
    coords = model.modality("image").patchify({"pixel_values": pixels[:1].cpu()}).coords
    place(stock, model.tower("image"), "image", objective.decoders["image"], coords)  # type: ignore[arg-type]
    work = Pretraining(model, {"mae": objective}, {}, {"random": Random(ratio=RATIO)}).train()
    work, stock = work.to(device), stock.to(device)  # type: ignore[arg-type]
    batch_of = {"image": {"pixel_values": pixels}}

    def our_loss(number: int) -> Tensor:
        return work(batch_of, Draws(number, batch, device=device)).total

    def same() -> tuple[Tensor, Tensor]:
        noise = torch.rand(batch, vit.patches, device=device)
        with masked(work, "random", lambda p, d: {"image": split_by_order(p["image"], noise, RATIO)}):
            return our_loss(0), stock(pixels, noise=noise).loss

    return Pair("transformers", work, [stock], our_loss, lambda number: stock(pixels).loss, same=same, device=device)


def measure(dtype: str, size: str, batch: int, steps: int, tuned_peer: bool) -> tuple[float, float]:
    """Median seconds of a step: (peer, ours)."""
    torch.manual_seed(0)
    return medians(*pair(SIZES[size], batch).steps(dtype, tuned_peer), steps, tuned_peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["bf16", "f32"], choices=["bf16", "f32"])
    parser.add_argument("--size", default="vit-s", choices=["vit-ti", "vit-s", "vit-b", "vit-l"])
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
