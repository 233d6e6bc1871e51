"""Audio Spectrogram Transformer (Gong et al. 2021): log-mel patches, two tokens in front, one length of sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import transfer
from ..compatibility import STOCK_TOWER, Need, need
from ..proof import Job, Probe
from ..source import Part, Source
from .vit import fill_trunk

TITLE = "transformers.ASTModel"
REQUIRED = ("audio",)
NEEDS = {
    "audio": (
        *STOCK_TOWER,
        need("tower", "final_norm", True, why="it has a norm behind its last block"),
        need("tower", "prefix", 2, why="AST has a class and a distillation token"),
        need("tower", "pooling", "mean", "cls", why="it pools by its class token, or you take the mean of its tokens"),
        need("modality", "features", "mel", why="AST takes log-mel spectra"),
        need("modality", "window_ms", 25.0, why="its feature extractor's frames"),
        need("modality", "shift_ms", 10.0, why="its feature extractor's frames"),
        Need("modality", "seconds", 10.24, lambda v: v is not None, "a number", "AST takes one length of sound"),
        Need("modality", "patch", None, lambda v: v is None or isinstance(v, int) or len(set(v)) == 1, "a square",
             "it knows square patches"),
    )
}  # fmt: skip


def frames_of(part: Part) -> int:
    """Frames of the longest sound, in whole patches."""
    across = part.modality.patch[0]
    config = part.preprocessor.config
    frames = part.modality.log_mel.frames(int(config.seconds * config.rate))
    return max(frames // across, 1) * across


def order(part: Part, frames: int) -> Tensor:
    """Our patches, time by time, in AST's order, band by band."""
    across, along = part.modality.patch
    times, bands = frames // across, part.modality.mel_bins // along
    return torch.arange(times * bands).view(times, bands).T.flatten()


def write(source: Source, folder: Path) -> Job:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    part = source.part("audio")
    modality, frames = part.modality, frames_of(part)
    side = int(modality.patch[0])
    stock: Any = ASTModel(ASTConfig(
        **transfer.stock_options(part.options), qkv_bias=part.options.qkv_bias, patch_size=side, frequency_stride=side,
        time_stride=side, max_length=frames, num_mel_bins=int(modality.mel_bins),
    ))  # fmt: skip
    embeddings, places = stock.embeddings, order(part, frames)
    transfer.linear(modality.proj, [embeddings.patch_embeddings.projection], True)
    table = part.positions({"mel": torch.zeros(1, frames, modality.mel_bins)})
    with torch.no_grad():
        embeddings.position_embeddings.zero_()
        embeddings.position_embeddings[0, 2:] = table[places]
        prefix = part.tower.prefix
        assert prefix is not None
        embeddings.cls_token.copy_(prefix.tokens[0])
        embeddings.distillation_token.copy_(prefix.tokens[1])
    fill_trunk(part, stock, out=True)
    stock.save_pretrained(folder)
    state, rate = part.preprocessor.state, int(modality.rate)
    ASTFeatureExtractor(
        sampling_rate=rate, num_mel_bins=int(modality.mel_bins), max_length=frames, mean=state["mean"],
        std=state["std"] / 2,
    ).save_pretrained(folder)  # fmt: skip
    return Job(
        "transformers",
        "ASTModel",
        [_probe(part, frames, places)],
        usage=usage(rate),
        without_pipeline="transformers has no pipeline for the features of a sound",
        notes=[
            f"The class takes {frames} frames ({frames * modality.log_mel.shift / rate:g} s) only: it does not "
            "interpolate its positions, so it was compared at one length.",
            "A shorter sound is padded by its feature extractor and attended to; in mmssl padding is not seen. Their "
            "outputs are equal for sounds of the whole length.",
            "`pooler_output` is the mean of its two first tokens. The embedding that mmssl uses is "
            + ("`output.last_hidden_state[:, 0]`." if part.options.pooling == "cls" else
               "`output.last_hidden_state[:, 2:].mean(1)`."),
        ],
        pipeline_tag="feature-extraction",
    )  # fmt: skip


def _probe(part: Part, frames: int, places: Tensor) -> Probe:
    generator = torch.Generator().manual_seed(20)
    mel = torch.randn(2, frames, part.modality.mel_bins, generator=generator)
    sizes = (frames // part.modality.patch[0] * (part.modality.mel_bins // part.modality.patch[1]),)

    def expect(dtype: torch.dtype) -> dict[str, Tensor]:
        used = part.changed(dtype)
        if dtype != torch.float32:  # the stock class holds its table in that dtype
            table = part.positions({"mel": torch.zeros(1, frames, part.modality.mel_bins)})
            used.modality.position = _Table((table - part.type_vector()).to(dtype))
        encoded = used.encode({"mel": mel.to(dtype).float()})
        states = torch.cat([encoded.prefix, encoded.tokens[used.name][:, places]], 1)
        return {"last_hidden_state": states, "pooler_output": states[:, :2].mean(1)}

    assert sizes[0] == len(places)
    outputs = {"last_hidden_state": "last_hidden_state", "pooler_output": "pooler_output"}
    return Probe(f"{frames} frames", {"input_values": mel}, outputs, expect)


class _Table(torch.nn.Module):
    """Positions of one whole input from a table (N, D)."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, coords: Tensor) -> Tensor:
        return self.table.expand(len(coords), -1, -1)


def usage(rate: int) -> str:
    return "\n".join(
        [
            "from transformers import ASTFeatureExtractor, ASTModel",
            "",
            'model = ASTModel.from_pretrained("PATH_OR_ID")',
            'extractor = ASTFeatureExtractor.from_pretrained("PATH_OR_ID")',
            f'output = model(**extractor(wave, sampling_rate={rate}, return_tensors="pt"))  # wave: (S,) in -1..1',
        ]
    )
