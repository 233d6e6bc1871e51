"""An audio masked-autoencoding step, and our encoder's alone, against the step of `transformers.ASTModel`.

Audio Spectrogram Transformer of the size of ViT-S (384 x 12 x 6) on 1024 frames x 128 mel bins in patches of 16 x 16.
The peer encodes all 512 patches (no overlap) and is trained on a linear output. (`pair`, which `benchmarks.steps`
measures, has another peer, equal to ours: `transformers.ViTMAEForPreTraining` on a picture of one channel that is not
square.) Ours, in three parts:

all: the encoder alone on the same 512 patches and output, which compares code with code;
shown: the encoder alone on the 102 patches that a masked autoencoder shows it (0.8 hidden), the ratio of times for
    each encoded token;
whole: the masked autoencoder (Audio-MAE, Huang et al. 2022), which then decodes all with 512 x 8, the ratio of steps.

All start from the same spectrum; a step is forward, backward and AdamW. Prints ratios of medians, each pair
interleaved: above 1, ours is faster. A larger batch weighs the optimiser less, as a training run does;
`--frames 2432` has about as many patches as a stock AST, whose patches overlap (1,212 of 1024 frames).

    python -m benchmarks.audio_mae_step [--part all shown whole] [--dtype bf16 f32] [--batch 4 16]
        [--frames 1024] [--steps 5] [--decoder 512 8] [--tuned-peer]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import torch
from transformers import ASTConfig, ASTModel, ViTMAEForPreTraining

from benchmarks.interleaved import autocast, medians
from benchmarks.mae_step import DECODER, place, stock_mae
from benchmarks.pairs import Pair, ViT, masked
from benchmarks.stock_weights import copy_mae_decoder, copy_vit
from mmssl.draws import Draws
from mmssl.masking import Random, split_by_order
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import mae
from mmssl.objectives.pretraining import Pretraining
from mmssl.training.optimizer import make_optimizer

BINS, PATCH, RATIO = 128, 16, 0.8
PARTS = {
    "all": "encoder alone, all {all} patches",
    "shown": "encoder alone, the {shown} shown of {all}, for each token",
    "whole": "masked autoencoder, {shown} shown of {all}",
}


def peer(frames: int) -> ASTModel:
    return ASTModel(
        ASTConfig(
            hidden_size=384,
            num_hidden_layers=12,
            num_attention_heads=6,
            intermediate_size=1536,
            patch_size=PATCH,
            frequency_stride=PATCH,
            time_stride=PATCH,
            max_length=frames,
            num_mel_bins=BINS,
        )
    ).train()


def ours(decoder: tuple[int, int]) -> Pretraining:
    audio = {"type": "audio", "rate": 16000, "features": "mel", "mel_bins": BINS, "window": 400, "shift": 160}
    audio |= {"patch": [PATCH, PATCH], "mean": -4.27, "std": 4.57}
    tower = TowerConfig(width=384, depth=12, heads=6, norm_eps=1e-12)
    model = MMSSLModel(MMSSLConfig(modalities={"audio": audio}, towers={"audio": tower_spec(tower)}))
    narrow = mae.DecoderConfig(width=decoder[0], depth=decoder[1], heads=decoder[0] // 32)
    objective = mae.MAE(mae.Config(tower="audio", mask="most", decoder=narrow), model)
    return Pretraining(model, {"mae": objective}, {}, {"most": Random(ratio=RATIO)}).train()


class Oblong(ViTMAEForPreTraining):
    """On pictures that are not square: it has the tables that it was given in place of interpolated ones."""

    def oblong(self, height: int, width: int) -> Oblong:
        """Take pictures of that size from now on; the tables have to be set as well."""
        self.vit.embeddings.patch_embeddings.image_size = (height, width)
        self.vit.embeddings.interpolate_pos_encoding = lambda embeddings, height, width: (
            self.vit.embeddings.position_embeddings
        )
        self.decoder.interpolate_pos_encoding = lambda hidden: self.decoder.decoder_pos_embed
        return self


@torch.no_grad()
def turn(patch: int, proj: torch.nn.Linear, head: torch.nn.Linear) -> None:
    """From a picture's patches, whose rows are frames, to ours, whose rows are mel bins."""
    proj.weight.copy_(proj.weight.unflatten(1, (patch, patch)).transpose(1, 2).flatten(1))
    head.weight.copy_(head.weight.unflatten(0, (patch, patch)).transpose(0, 1).flatten(0, 1))
    head.bias.copy_(head.bias.unflatten(0, (patch, patch)).T.flatten())


def pair(
    vit: ViT, batch: int, decoder: tuple[int, int, int] = DECODER, device: str = "cpu", frames: int = 1024
) -> Pair:
    """A masked autoencoder of spectrograms against `ViTMAEForPreTraining` on the same numbers as a picture."""
    stock = stock_mae(vit, decoder, Oblong, mask_ratio=RATIO, image_size=vit.side, num_channels=1).oblong(frames, BINS)
    audio = {"type": "audio", "rate": 16000, "features": "mel", "mel_bins": BINS, "window": 400, "shift": 160}
    audio |= {"patch": [vit.patch] * 2, "mean": 0.0, "std": 1.0}
    tower = TowerConfig(width=vit.width, depth=vit.depth, heads=vit.heads, norm_eps=1e-12)
    model = MMSSLModel(MMSSLConfig(modalities={"audio": audio}, towers={"audio": tower_spec(tower)}))
    options = mae.DecoderConfig(width=decoder[0], depth=decoder[1], heads=decoder[2])
    objective = mae.MAE(mae.Config(tower="audio", mask="most", decoder=options), model)
    copy_vit(model.tower("audio"), "audio", stock.vit)
    net: Any = objective.decoders["audio"]
    copy_mae_decoder(net, stock.decoder, 1, vit.patch)
    turn(vit.patch, model.modality("audio").proj, net.head)  # type: ignore[arg-type]
    mel = torch.randn(batch, frames, BINS).to(device)
    coords = model.modality("audio").patchify({"mel": mel[:1].cpu()}).coords
    place(stock, model.tower("audio"), "audio", net, coords)
    work = Pretraining(model, {"mae": objective}, {}, {"most": Random(ratio=RATIO)}).train().to(device)
    stock = stock.to(device)

    def our_loss(number: int) -> torch.Tensor:
        return work({"audio": {"mel": mel}}, Draws(number, batch, device=device)).total

    def peer_loss(number: int, noise: torch.Tensor | None = None) -> torch.Tensor:
        return stock(mel[:, None], noise=noise, interpolate_pos_encoding=True).loss

    def same() -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.rand(batch, coords.shape[1], device=device)
        with masked(work, "most", lambda p, d: {"audio": split_by_order(p["audio"], noise, RATIO)}):
            return our_loss(0), peer_loss(0, noise)

    return Pair("transformers", work, [stock], our_loss, peer_loss, same=same, device=device)


def measure(
    dtype: str, batch: int, frames: int, steps: int, decoder: tuple[int, int], tuned_peer: bool, part: str
) -> tuple[float, float]:
    """Median seconds of a step: (peer, ours)."""
    whole = part == "whole"
    torch.manual_seed(0)
    stock, work = peer(frames), ours(decoder)
    head, own_head = torch.nn.Linear(384, 10), torch.nn.Linear(384, 10)
    spectrum = torch.randn(batch, frames, BINS)
    fused = {"fused": True} if tuned_peer else {}
    trained = [*stock.parameters(), *head.parameters()]
    optimizers = (
        torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05, **fused),
        make_optimizer(work if whole else torch.nn.ModuleList([work.model, own_head]), 1e-4, 0.05, (0.9, 0.95), 1e-8),
    )

    def step(loss: Callable[[], Any], optimizer: torch.optim.Optimizer) -> None:
        with autocast(dtype):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    content = {"audio": {"mel": spectrum}}

    def loss_of_ours() -> torch.Tensor:
        if whole:
            total = work(content, Draws(1, batch)).total
            assert total is not None
            return total
        if part == "shown":
            pooled, _ = work.step(content, Draws(1, batch)).pooled("audio", mask="most")
        else:
            pooled = work.model.encode_batch(content).pooled["audio"]
        return own_head(pooled).float().square().mean()

    return medians(
        lambda number: step(lambda: head(stock(spectrum).pooler_output).float().square().mean(), optimizers[0]),
        lambda number: step(loss_of_ours, optimizers[1]),
        steps,
        tuned_peer,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--dtype", nargs="+", default=["bf16", "f32"], choices=["bf16", "f32"])
    parser.add_argument("--batch", nargs="+", type=int, default=[4])
    parser.add_argument("--frames", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--decoder", nargs=2, type=int, default=[512, 8], metavar=("WIDTH", "DEPTH"))
    parser.add_argument("--tuned-peer", action="store_true")
    args = parser.parse_args()
    decoder = (args.decoder[0], args.decoder[1])
    count = args.frames // PATCH * (BINS // PATCH)
    tokens = {"all": count, "shown": count - round(RATIO * count)}
    for dtype, batch, part in itertools.product(args.dtype, args.batch, args.part):
        theirs, mine = measure(dtype, batch, args.frames, args.steps, decoder, args.tuned_peer, part)
        ratio = theirs / mine * (tokens["shown"] / tokens["all"] if part == "shown" else 1)
        print(
            f"AST-S {dtype} batch {batch}, {PARTS[part].format(**tokens)}: transformers {theirs:.2f} s, "
            f"mmssl {mine:.2f} s a step, ratio of medians {ratio:.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
