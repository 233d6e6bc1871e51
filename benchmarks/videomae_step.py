"""One video masked-autoencoding step, ours against `transformers.VideoMAEForPreTraining`, interleaved in one process.

Same architecture (VideoMAE-S: 384 x 12 x 6, decoder 192 x 4 x 3), 16 frames of 224 px in tubelets of 2 x 16 x 16, tubes
of 0.9 hidden, normalised targets, the same encoder and decoder weights; a step is forward, backward and AdamW. Prints
the ratio of medians: above 1, ours is faster. The peer runs as its users run it; `--tuned-peer` gives it our float32
products and fused AdamW, so that only the model's code differs.

    python -m benchmarks.videomae_step [--dtype bf16 f32] [--batch 4] [--steps 5] [--tuned-peer]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from benchmarks.interleaved import autocast, medians
from benchmarks.stock_weights import copy_linear, copy_norm
from mmssl.draws import Draws
from mmssl.masking import Tube
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.trunk import Block
from mmssl.objectives import mae
from mmssl.objectives.pretraining import Pretraining
from mmssl.training.optimizer import make_optimizer

FRAMES, SIDE, RATIO = 16, 224, 0.9


def peer() -> VideoMAEForPreTraining:
    return VideoMAEForPreTraining(
        VideoMAEConfig(
            image_size=SIDE,
            num_frames=FRAMES,
            tubelet_size=2,
            patch_size=16,
            hidden_size=384,
            num_hidden_layers=12,
            num_attention_heads=6,
            intermediate_size=1536,
            decoder_hidden_size=192,
            decoder_num_hidden_layers=4,
            decoder_num_attention_heads=3,
            decoder_intermediate_size=768,
            norm_pix_loss=True,
            qkv_bias=True,
        )
    ).train()


def ours(stock: Any) -> Pretraining:
    video = {"type": "video", "size": [SIDE, SIDE], "tubelet": 2, "patch": [16, 16], "channels": 3}
    video |= {"mean": [0.5] * 3, "std": [0.25] * 3, "fps": 8.0}
    tower = TowerConfig(width=384, depth=12, heads=6, prefix=0, norm_eps=1e-12)
    model = MMSSLModel(MMSSLConfig(modalities={"video": video}, towers={"video": tower_spec(tower)}))
    decoder = mae.DecoderConfig(width=192, depth=4, heads=3)
    objective = mae.MAE(mae.Config(tower="video", mask="tubes", decoder=decoder), model)
    copy_linear(model.modality("video").proj, stock.videomae.embeddings.patch_embeddings.projection)  # type: ignore[arg-type]
    copy_blocks(model.tower("video").trunk.blocks, stock.videomae.encoder.layer)
    if stock.videomae.layernorm is not None:
        copy_norm(model.tower("video").trunk.norm, stock.videomae.layernorm)
    narrow: Any = objective.decoders["video"]
    narrow.project.weight.data.copy_(stock.encoder_to_decoder.weight)
    copy_blocks(narrow.trunk.blocks, stock.decoder.decoder_layers)
    copy_norm(narrow.trunk.norm, stock.decoder.norm)
    return Pretraining(model, {"mae": objective}, {}, {"tubes": Tube(ratio=RATIO)}).train()


@torch.no_grad()
def copy_blocks(blocks: Any, layers: Any) -> None:
    """`VideoMAELayer`s; their keys have no bias."""
    for block, layer in zip(blocks, layers, strict=True):
        assert isinstance(block, Block)
        a = layer.attention.attention
        block.attention.qkv.weight.copy_(torch.cat([a.query.weight, a.key.weight, a.value.weight]))
        block.attention.qkv.bias.copy_(torch.cat([a.query.bias, torch.zeros_like(a.query.bias), a.value.bias]))
        copy_linear(block.attention.proj, layer.attention.output.dense)
        copy_linear(block.mlp.fc1, layer.intermediate.dense)
        copy_linear(block.mlp.fc2, layer.output.dense)
        copy_norm(block.norm1, layer.layernorm_before)
        copy_norm(block.norm2, layer.layernorm_after)


def tube_mask(batch: int) -> torch.Tensor:
    """(B, N) bool, the peer's form: the same random places in all times, as many as ours hides."""
    places = (SIDE // 16) ** 2
    hidden = places - int(places * (1 - RATIO) + 1e-6)
    order = torch.rand(batch, places).argsort(1)
    return (order < hidden).repeat(1, FRAMES // 2)


def measure(dtype: str, batch: int, steps: int, tuned_peer: bool) -> tuple[float, float]:
    """Median seconds of a step: (peer, ours)."""
    torch.manual_seed(0)
    stock = peer()
    work = ours(stock)
    pixels = torch.randn(batch, FRAMES, 3, SIDE, SIDE)
    times = torch.arange(FRAMES).expand(batch, -1) / 8
    fused = {"fused": True} if tuned_peer else {}
    optimizers = (
        torch.optim.AdamW(stock.parameters(), lr=1e-4, weight_decay=0.05, **fused),
        make_optimizer(work, 1e-4, 0.05, (0.9, 0.95), 1e-8),
    )

    def step(loss: Callable[[], Any], optimizer: torch.optim.Optimizer) -> None:
        with autocast(dtype):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    mask = tube_mask(batch)
    content = {"video": {"pixel_values": pixels, "times": times}}
    return medians(
        lambda number: step(lambda: stock(pixels, bool_masked_pos=mask).loss, optimizers[0]),
        lambda number: step(lambda: work(content, Draws(1, batch)).total, optimizers[1]),
        steps,
        tuned_peer,
    )


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
