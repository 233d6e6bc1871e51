"""Audio Spectrogram Transformer (Gong et al. 2021): log-mel patches, two tokens in front, one length of sound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...positions import LearnedGrid
from .. import transfer
from ..contract import Format, Options, Reader
from ..exportable import Branch, Exportable
from ..job import Job, Trial
from ..needs import STOCK_TOWER, Need, need
from .vit import fill_trunk

if TYPE_CHECKING:
    from transformers import PretrainedConfig


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
        need("modality", "positions", "learned", "sincos", why="its positions are a table"),
        Need(
            "modality",
            "patch",
            None,
            lambda v: v is None or isinstance(v, int) or len(set(v)) == 1,
            "a square",
            "it knows square patches",
        ),
        Need(
            "modality",
            "stride",
            None,
            lambda v: v is None or isinstance(v, int) or len(v) == 2,
            "one or two numbers",
            "its patches lie on a grid",
        ),
    )
}


def frames_of(part: Branch) -> int:
    """Frames of the longest sound, in whole patches."""
    across, right = part.modality.patch[0], part.modality.stride[0]
    config = part.preprocessor.config
    frames = part.modality.log_mel.frames(round(config.seconds * config.rate))
    return max((frames - across) // right, 0) * right + across


def order(part: Branch, frames: int) -> Tensor:
    """Our patches, time by time, in AST's order, band by band."""
    times, bands = part.modality.grid(frames)
    return torch.arange(times * bands).view(times, bands).T.flatten()


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through `ASTModel`, and say how to prove it."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    part = source.part("audio")
    modality, frames = part.modality, frames_of(part)
    side = int(modality.patch[0])
    stock = ASTModel(
        ASTConfig(
            **transfer.stock_options(part.options),
            qkv_bias=part.options.qkv_bias,
            patch_size=side,
            frequency_stride=modality.stride[1],
            time_stride=modality.stride[0],
            max_length=frames,
            num_mel_bins=int(modality.mel_bins),
        )
    )
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
        sampling_rate=rate,
        num_mel_bins=int(modality.mel_bins),
        max_length=frames,
        mean=state["mean"],
        std=state["std"] / 2,
    ).save_pretrained(folder)
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
            "`pooler_output` is the mean of its two first tokens. "
            + part.said_of_embedding("output.last_hidden_state[:, 0]", "output.last_hidden_state[:, 2:]")
            + ".",
        ],
        pipeline_tag="feature-extraction",
    )


def _probe(part: Branch, frames: int, places: Tensor) -> Trial:
    generator = torch.Generator().manual_seed(20)
    mel = torch.randn(2, frames, part.modality.mel_bins, generator=generator)

    def expect(dtype: torch.dtype) -> dict[str, Tensor]:
        used = part.changed(dtype)
        if dtype != torch.float32:  # the stock class holds its table in that dtype
            table = part.positions({"mel": torch.zeros(1, frames, part.modality.mel_bins)})
            used.modality.position = _Table((table - part.type_vector()).to(dtype))
        encoded = used.encode({"mel": mel.to(dtype).float()})
        states = torch.cat([encoded.prefix, encoded.tokens[used.name][:, places]], 1)
        return {"last_hidden_state": states, "pooler_output": states[:, :2].mean(1)}

    outputs = {"last_hidden_state": "last_hidden_state", "pooler_output": "pooler_output"}
    return Trial(f"{frames} frames", {"input_values": mel}, outputs, expect)


class _Table(torch.nn.Module):
    """Positions of one whole input from a table (N, D)."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, coords: Tensor) -> Tensor:
        return self.table.expand(len(coords), -1, -1)


def usage(rate: int) -> str:
    """Code that loads the folder and computes features, for its card."""
    return "\n".join(
        [
            "from transformers import ASTFeatureExtractor, ASTModel",
            "",
            'model = ASTModel.from_pretrained("PATH_OR_ID")',
            'extractor = ASTFeatureExtractor.from_pretrained("PATH_OR_ID")',
            f'output = model(**extractor(wave, sampling_rate={rate}, return_tensors="pt"))  # wave: (S,) in -1..1',
        ]
    )


# ----------------------------------------------------------------------------------------------------------- reading

FREE = ("seconds", "mel_bins")
"""A sound of another length, or of other bands, is another part of the table of positions, or an interpolated one."""
ADAPTED = {"audio": (transfer.VIT_BLOCK,)}
WINDOW_MS, SHIFT_MS = 25.0, 10.0


def reads(config: Mapping[str, object]) -> bool:
    """Whether a configuration describes AST."""
    return config.get("model_type") == "audio-spectrogram-transformer"


def seconds_of(config: PretrainedConfig) -> float:
    """The length of a sound whose frames fill the class's patches and no more: it leaves out those behind the last."""
    times = (config.max_length - config.patch_size) // config.time_stride
    frames = times * config.time_stride + config.patch_size
    return round(((frames - 1) * SHIFT_MS + WINDOW_MS) / 1000, 6)


def read(config: PretrainedConfig) -> Options:
    """The architecture and preprocessing of AST from its configuration."""
    tower = transfer.trunk_options(config) | {"prefix": 2, "qkv_bias": bool(config.qkv_bias)}
    side = int(config.patch_size)
    modality = {
        "features": "mel",
        "mel_bins": int(config.num_mel_bins),
        "window_ms": WINDOW_MS,
        "shift_ms": SHIFT_MS,
        "patch": [side, side],
        "stride": [int(config.time_stride), int(config.frequency_stride)],
        "seconds": seconds_of(config),
        "positions": "learned",
    }
    return {"tower": tower, "modality": modality}


def preprocessing(found: dict[str, Any]) -> dict[str, Any]:
    """Options of our modality from the feature extractor's file, which divides by two deviations."""
    out: dict[str, object] = {"rate": int(found.get("sampling_rate", 16000))}
    if not found.get("do_normalize", True):
        return out | {"mean": 0.0, "std": 1.0}
    # what the file leaves out is the class's own
    return out | {"mean": float(found.get("mean", -4.2677393)), "std": 2 * float(found.get("std", 4.5689974))}


@torch.no_grad()
def load(part: Branch, origin: str) -> None:
    """Fill a tower with the weights of the checkpoint at a path or id. UserError when it lacks some."""
    from transformers import ASTModel

    stock = transfer.pretrained(ASTModel, origin, ignore=())
    embeddings, modality = stock.embeddings, part.modality
    transfer.linear(modality.proj, [embeddings.patch_embeddings.projection], False)
    bands, times = embeddings.get_shape(stock.config)
    table, width = embeddings.position_embeddings[0], stock.config.hidden_size
    grid = table[2:].view(bands, times, width).transpose(0, 1)
    fit(modality.position, grid)
    assert part.tower.prefix is not None
    for i, token in enumerate((embeddings.cls_token, embeddings.distillation_token)):
        part.tower.prefix.tokens[i].copy_(token.view(-1) + table[i])  # ours has no position for its prefix
    fill_trunk(part, stock, out=False)


@torch.no_grad()
def fit(position: LearnedGrid, grid: Tensor) -> None:
    """Fill our table from theirs (times, bands, D). Of fewer times it is the beginning, since the stock class counts
    from the start of a sound and pads a shorter one; more times, or other bands, are interpolated."""
    times = position.sizes[0]
    grid = grid[:times]
    old = LearnedGrid(position.width, grid.shape[:2])
    old.table.copy_(grid.reshape(-1, position.width))
    old.resize(position.sizes)
    position.table.copy_(old.table)


FORMAT = Format(
    title=TITLE,
    needs=NEEDS,
    write=write,
    required=REQUIRED,
    adapted=ADAPTED,
    reader=Reader(reads=reads, read=read, load=load, free=FREE, preprocessing=preprocessing),
)
