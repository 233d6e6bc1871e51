"""One video masked-autoencoding step, ours against `transformers.VideoMAEForPreTraining`, interleaved in one process.

Same architecture (VideoMAE-S: 384 x 12 x 6, decoder 192 x 4 x 3), 16 frames of 224 px in tubelets of 2 x 16 x 16, tubes
of 0.9 hidden, its normalised targets, the same weights; a step is forward, backward and AdamW. Prints
the ratio of medians: above 1, ours is faster. The peer runs as its users run it; `--tuned-peer` gives it our float32
products and fused AdamW, so that only the model's code differs.

    python -m benchmarks.videomae_step [--dtype bf16 f32] [--batch 4] [--steps 5] [--tuned-peer]
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEForPreTraining
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from benchmarks.interleaved import medians
from benchmarks.pairs import SIZES, Pair, ViT, masked
from benchmarks.stock_weights import copy_videomae
from mmssl.draws import Draws
from mmssl.masking import Tube, split_by_order
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import mae
from mmssl.objectives.pretraining import Pretraining

FRAMES, TUBELET, RATIO, FPS = 16, 2, 0.9, 8.0
DECODER = (192, 4, 3)


def peer(vit: ViT, decoder: tuple[int, int, int]) -> VideoMAEForPreTraining:
    """transformers' model, training."""
    return VideoMAEForPreTraining(
        VideoMAEConfig(
            image_size=vit.side,
            num_frames=FRAMES,
            tubelet_size=TUBELET,
            patch_size=vit.patch,
            hidden_size=vit.width,
            num_hidden_layers=vit.depth,
            num_attention_heads=vit.heads,
            intermediate_size=4 * vit.width,
            decoder_hidden_size=decoder[0],
            decoder_num_hidden_layers=decoder[1],
            decoder_num_attention_heads=decoder[2],
            decoder_intermediate_size=4 * decoder[0],
            norm_pix_loss=True,
            qkv_bias=True,
        )
    ).train()


def tube_order(batch: int, places: int, device: str) -> Tensor:
    """(B, N) random numbers, the same for a place in all times: those that are largest are hidden as tubes."""
    return torch.rand(batch, places, device=device).repeat(1, FRAMES // TUBELET)


def hidden_tubes(order: Tensor, places: int) -> Tensor:
    """(B, N) bool, the peer's form of `tube_order`: as many places as ours hides."""
    shown = int(places * (1 - RATIO) + 1e-6)
    return (order[:, :places].argsort(1).argsort(1) >= shown).repeat(1, FRAMES // TUBELET)


def pair(vit: ViT, batch: int, decoder: tuple[int, int, int] = DECODER, device: str = "cpu") -> Pair:
    """VideoMAE against `VideoMAEForPreTraining`."""
    stock = peer(vit, decoder)
    video = {"type": "video", "size": [vit.side] * 2, "tubelet": TUBELET, "patch": [vit.patch] * 2, "channels": 3}
    scale = {"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)}  # the peer takes them for granted
    video |= {**scale, "fps": FPS, "positions": "index"}
    tower = TowerConfig(width=vit.width, depth=vit.depth, heads=vit.heads, prefix=0, final_norm=False, norm_eps=1e-12)
    model = MMSSLModel(MMSSLConfig(modalities={"video": video}, towers={"video": tower_spec(tower)}))
    narrow = mae.DecoderConfig(width=decoder[0], depth=decoder[1], heads=decoder[2])
    options = mae.Config(tower="video", mask="tubes", target={"video": "videomae"}, decoder=narrow)
    objective = mae.MAE(options, model)
    copy_videomae(model.tower("video"), "video", objective.decoders["video"], stock)  # type: ignore[arg-type]
    work = Pretraining(model, {"mae": objective}, {}, {"tubes": Tube(ratio=RATIO)}).train().to(device)
    stock = stock.to(device)  # type: ignore[arg-type]
    pixels = torch.randn(batch, FRAMES, 3, vit.side, vit.side).to(device)
    content = {"video": {"pixel_values": pixels, "times": torch.arange(FRAMES, device=device).expand(batch, -1) / FPS}}

    def our_loss(number: int) -> Tensor:
        return work(content, Draws(number, batch, device=device)).total

    def peer_loss(number: int) -> Tensor:
        order = tube_order(batch, vit.patches, device)
        return stock(pixels, bool_masked_pos=hidden_tubes(order, vit.patches)).loss

    def same() -> tuple[Tensor, Tensor]:
        hidden = hidden_tubes(tube_order(batch, vit.patches, device), vit.patches)
        share = float(hidden.float().mean())
        with masked(work, "tubes", lambda p, d: {"video": split_by_order(p["video"], hidden.float(), share)}):
            return our_loss(0), stock(pixels, bool_masked_pos=hidden).loss

    return Pair("transformers", work, [stock], our_loss, peer_loss, same=same, device=device)


def measure(dtype: str, batch: int, steps: int, tuned_peer: bool) -> tuple[float, float]:
    """Median seconds of a step: (peer, ours)."""
    torch.manual_seed(0)
    return medians(*pair(SIZES["vit-s"], batch).steps(dtype, tuned_peer), steps, tuned_peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["bf16", "f32"], choices=["bf16", "f32"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tuned-peer", action="store_true")
    args = parser.parse_args()
    for dtype in args.dtype:
        theirs, mine = measure(dtype, args.batch, args.steps, args.tuned_peer)
        print(
            f"VideoMAE-S {dtype} batch {args.batch}: transformers {theirs:.2f} s, mmssl {mine:.2f} s a step, ratio of "
            f"medians {theirs / mine:.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
