"""VideoMAE's encoder (Tong et al. 2022): tubelets, fixed positions counted along the clip, one size of clip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import images, transfer
from ..contract import Format, Options, Reader
from ..exportable import Branch, Exportable
from ..job import Job, Trial
from ..needs import STOCK_TOWER, need, square

if TYPE_CHECKING:
    from transformers import PretrainedConfig, VideoMAEModel


TITLE = "transformers.VideoMAEModel"
REQUIRED = ("video",)
NEEDS = {
    "video": (
        *STOCK_TOWER,
        square("modality", "size", "it knows square frames"),
        square("modality", "patch", "it knows square patches"),
        need("modality", "resize", "crop", "squash", why="stock video processors do not pad with a background"),
        need("modality", "positions", "index", why="its positions are a fixed table over the tubelets' numbers"),
        need("tower", "prefix", 0, why="VideoMAE has neither a class token nor registers"),
        need("tower", "pooling", "mean", why="without a class token there is the mean of the tokens"),
    )
}
BLOCK = transfer.BlockNames(
    "layernorm_before",
    ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attention.output.dense",
    "layernorm_after",
    ("intermediate.dense",),
    "output.dense",
)
ADAPTED = {"video": (BLOCK,)}


def fill(part: Branch, stock: VideoMAEModel, out: bool) -> None:
    """All weights but the projection, out to the stock model or in from it."""
    tower = part.tower
    transfer.linear(part.modality.proj, [stock.embeddings.patch_embeddings.projection], out)
    transfer.blocks(tower.trunk.blocks, stock.encoder.layer, BLOCK, out)
    if stock.layernorm is not None:
        transfer.norm(tower.trunk.norm, stock.layernorm, out)


def clip_of(part: Branch, frames: int, pixels: Tensor) -> dict[str, Tensor]:
    """Our inputs of clips (B, T, C, H, W) at the usual frame rate."""
    times = torch.arange(frames, dtype=torch.float32) / part.modality.fps
    return {"pixel_values": pixels, "times": times.expand(len(pixels), -1)}


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through `VideoMAEModel`, and say how to prove it."""
    from transformers import VideoMAEConfig, VideoMAEModel

    part = source.part("video")
    modality, options, config = part.modality, part.options, part.preprocessor.config
    frames = int(config.frames)
    stock = VideoMAEModel(
        VideoMAEConfig(
            **transfer.stock_options(options),
            image_size=int(modality.size[0]),
            patch_size=int(modality.patch[0]),
            num_channels=int(modality.channels),
            num_frames=frames,
            tubelet_size=int(modality.tubelet),
            qv_bias=options.qkv_bias,
            use_mean_pooling=not options.final_norm,
        )
    )
    images.fold_type(part)
    fill(part, stock, out=True)
    stock.save_pretrained(folder)
    write_processor(part, folder)
    generator = torch.Generator().manual_seed(20)
    pixels = torch.randn(2, frames, modality.channels, *modality.size, generator=generator)

    def expect(dtype: torch.dtype) -> dict[str, Tensor]:
        used = part.changed(dtype)
        rounded = pixels.to(dtype).float()
        return {"last_hidden_state": used.states(used.encode(clip_of(used, frames, rounded)))}

    name = f"{frames} frames of {modality.size[0]} x {modality.size[1]}"
    trial = Trial(name, {"pixel_values": pixels}, {"last_hidden_state": "last_hidden_state"}, expect)
    return Job(
        "transformers",
        "VideoMAEModel",
        [trial],
        usage=usage(),
        without_pipeline="transformers has no pipeline for the features of a video",
        notes=[
            f"The class takes clips of {frames} frames of {modality.size[0]} x {modality.size[1]} only: it does not "
            "interpolate its positions, so it was compared at one size.",
            f"Frames were {modality.fps:g} a second in training.",
            images.embedding_note(part, "output.last_hidden_state"),
            *([] if part.tower.types is None else [f"It was part of a tower of {', '.join(part.tower.modalities)}."]),
        ],
        pipeline_tag="feature-extraction",
    )


def write_processor(part: Branch, folder: Path) -> None:
    """`preprocessor_config.json` of the stock video processor that does what ours does."""
    from transformers import VideoMAEImageProcessor

    state, config = part.preprocessor.state, part.preprocessor.config
    height, width = part.modality.size
    common: dict[str, Any] = {
        "resample": images.RESAMPLE[config.interpolation],
        "image_mean": list(state["mean"]),
        "image_std": list(state["std"]),
        "do_rescale": bool(state["unit_range"]),
    }
    if config.resize == "squash":
        size: dict[str, Any] = {"size": {"height": height, "width": width}, "do_center_crop": False}
    else:
        edge = min(part.preprocessor.cover)  # type: ignore[attr-defined]
        size = {"size": {"shortest_edge": edge}, "crop_size": {"height": height, "width": width}}
    VideoMAEImageProcessor(**size, **common).save_pretrained(folder)


def usage() -> str:
    """Code that loads the folder and computes features, for its card."""
    return "\n".join(
        [
            "from transformers import VideoMAEImageProcessor, VideoMAEModel",
            "",
            'model = VideoMAEModel.from_pretrained("PATH_OR_ID")',
            'processor = VideoMAEImageProcessor.from_pretrained("PATH_OR_ID")',
            'output = model(**processor(frames, return_tensors="pt"))  # frames: a list of pictures',
        ]
    )


# ----------------------------------------------------------------------------------------------------------- reading


def reads(config: Mapping[str, object]) -> bool:
    """Whether a configuration describes VideoMAE."""
    return config.get("model_type") == "videomae"


def read(config: PretrainedConfig) -> Options:
    """The architecture and preprocessing of VideoMAE from its configuration."""
    tower = transfer.trunk_options(config) | {
        "prefix": 0,
        "qkv_bias": bool(config.qv_bias),
        "final_norm": not config.use_mean_pooling,
    }
    modality = {
        "size": config.image_size if isinstance(config.image_size, int) else list(config.image_size),
        "patch": config.patch_size if isinstance(config.patch_size, int) else list(config.patch_size),
        "channels": int(config.num_channels),
        "frames": int(config.num_frames),
        "tubelet": int(config.tubelet_size),
        "positions": "index",
    }
    return {"tower": tower, "modality": modality}


def load(part: Branch, origin: str) -> None:
    """Fill a tower with the weights of the checkpoint at a path or id. UserError when it lacks some."""
    from transformers import VideoMAEModel

    fill(part, transfer.pretrained(VideoMAEModel, origin, ignore=("decoder.",)), out=False)


FORMAT = Format(
    title=TITLE,
    needs=NEEDS,
    write=write,
    required=REQUIRED,
    adapted=ADAPTED,
    reader=Reader(reads=reads, read=read, load=load),
)
