"""V-JEPA 2's encoder (Assran et al. 2025): tubelets, queries and keys turned by frame, row and column, no table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import images, transfer
from ..contract import Format, Options, Reader
from ..exportable import Branch, Exportable
from ..job import Job, Trial
from ..needs import STOCK_TOWER, Need, need, square
from ..reading import MARGINS
from .videomae import clip_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, VJEPA2Model


TITLE = "transformers.VJEPA2Model"
REQUIRED = ("video",)
MARGIN = MARGINS["VJEPA2VideoProcessor"]
FREE = ("size", "frames")
"""Options of our modality that a checkpoint does not fix."""
NEEDS = {
    "video": (
        *[n for n in STOCK_TOWER if n.key != "positions"],
        need("tower", "positions", "vjepa2", why="it turns queries and keys by frame, row and column"),
        need("tower", "rotary_base", None, 10000.0, why="its frequencies have that base"),
        need("tower", "final_norm", True, why="it has a norm behind its last block"),
        need("tower", "prefix", 0, why="V-JEPA 2 has neither a class token nor registers"),
        need("tower", "pooling", "mean", why="without a class token there is the mean of the tokens"),
        square("modality", "size", "it counts places in square frames"),
        square("modality", "patch", "it knows square patches"),
        need("modality", "resize", "crop", why="its video processor cuts frames out of the middle"),
        Need(
            "modality",
            "margin",
            MARGIN,
            lambda v: abs(v - MARGIN) < 1e-3,
            "256 / 224 = 1.142857",
            "its video processor resizes so much further than it crops",
        ),
    )
}
BLOCK = transfer.BlockNames(
    "norm1", ("attention.query", "attention.key", "attention.value"), "attention.proj", "norm2", ("mlp.fc1",), "mlp.fc2"
)
ADAPTED = {"video": (BLOCK,)}


def fill(part: Branch, stock: VJEPA2Model, out: bool) -> None:
    """Weights between our tower and a `VJEPA2Model`. Grey is spread over three channels by luma."""
    encoder, ours = stock.encoder, part.modality.proj
    theirs = encoder.embeddings.patch_embeddings.proj
    if out and part.modality.channels == 1:
        weight = ours.weight.view(len(ours.weight), 1, part.modality.tubelet, *part.modality.patch)
        spread = weight * weight.new_tensor(images.LUMA)[:, None, None, None]
        ours = SimpleNamespace(weight=spread.flatten(1), bias=ours.bias)
    transfer.linear(ours, [theirs], out)
    transfer.blocks(part.tower.trunk.blocks, encoder.layer, BLOCK, out)
    transfer.norm(part.tower.trunk.norm, encoder.layernorm, out)


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through `VJEPA2Model`, and say how to prove it."""
    from transformers import VJEPA2Config, VJEPA2Model

    part = source.part("video")
    modality, options = part.modality, part.options
    frames = int(part.preprocessor.config.frames)
    stock_options = transfer.stock_options(options)
    hidden = stock_options.pop("intermediate_size")
    # the class has a predictor in any case: one without blocks, which says zero
    stock = VJEPA2Model(
        VJEPA2Config(
            **stock_options,
            mlp_ratio=transfer.ratio_of(options.width, hidden),
            qkv_bias=options.qkv_bias,
            patch_size=int(modality.patch[0]),
            crop_size=int(modality.size[0]),
            frames_per_clip=frames,
            tubelet_size=int(modality.tubelet),
            in_chans=images.stock_channels(part),
            pred_num_hidden_layers=0,
            pred_hidden_size=8,
            pred_num_attention_heads=1,
            pred_num_mask_tokens=1,
        )
    )
    with torch.no_grad():
        for parameter in stock.predictor.parameters():
            parameter.zero_()
    images.fold_type(part)
    fill(part, stock, out=True)
    stock.save_pretrained(folder)
    write_processor(part, folder)
    grey = [images.notes(part)[0]] if modality.channels == 1 else []
    return Job(
        "transformers",
        "VJEPA2Model",
        _probes(part, frames),
        usage=usage(),
        without_pipeline="transformers has no pipeline for the features of a video",
        notes=[
            "This is the encoder. The class always has a predictor as well; the one in this folder has no blocks and "
            "only zeros, because mmssl's predictor is of another kind: call the model with `skip_predictor=True`, or "
            "`get_vision_features`.",
            f"Any number of frames, in multiples of {modality.tubelet}. Frames of another size must be square, and "
            f"their size be said when the model is loaded, `from_pretrained(..., crop_size=SIZE)`: the class counts "
            f"rows and columns by its configuration, and gives wrong positions otherwise without a word.",
            "In half precision the class computes its angles in that precision, mmssl in float32; the proof rounds on "
            "both sides.",
            f"Frames were {modality.fps:g} a second in training.",
            images.embedding_note(part, "output.last_hidden_state"),
            *grey,
            *([] if part.tower.types is None else [f"It was part of a tower of {', '.join(part.tower.modalities)}."]),
        ],
        pipeline_tag="feature-extraction",
    )


def _probes(part: Branch, frames: int) -> list[Trial]:
    """The configured clip, a longer one, and one of larger frames, for which the class is told their size."""
    modality = part.modality
    size, patch = int(modality.size[0]), int(modality.patch[0])
    generator = torch.Generator().manual_seed(20)
    found = []
    for count, side in ((frames, size), (frames + 3 * modality.tubelet, size), (frames, size + 2 * patch)):
        pixels = torch.randn(2, count, images.stock_channels(part), side, side, generator=generator)
        load = {} if side == size else {"crop_size": side}
        found.append(
            Trial(
                f"{count} frames of {side} x {side}",
                {"pixel_values_videos": pixels},
                {"last_hidden_state": "last_hidden_state"},
                _expecting(part, pixels),
                {"skip_predictor": True},
                load=load,
            )
        )
    return found


def _expecting(part: Branch, pixels: Tensor) -> Callable[[torch.dtype], dict[str, Tensor]]:
    def expect(dtype: torch.dtype) -> dict[str, Tensor]:
        used = part.changed(dtype)
        used.tower.rotary[part.name].precision = dtype  # type: ignore[assignment]
        rounded = as_ours(part, pixels.to(dtype).float())
        return {"last_hidden_state": used.states(used.encode(clip_of(used, pixels.shape[1], rounded)))}

    return expect


def as_ours(part: Branch, pixels: Tensor) -> Tensor:
    """Stock clips (B, T, 3, H, W) as our model takes them."""
    return images.as_ours(part, pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])


def write_processor(part: Branch, folder: Path) -> None:
    """`preprocessor_config.json` of the stock video processor that does what ours does."""
    from transformers import VJEPA2VideoProcessor

    state, config = part.preprocessor.state, part.preprocessor.config
    repeat = images.stock_channels(part) // len(state["mean"])
    VJEPA2VideoProcessor(
        crop_size=int(part.modality.size[0]),
        resample=images.RESAMPLE[config.interpolation],
        image_mean=list(state["mean"]) * repeat,
        image_std=list(state["std"]) * repeat,
        do_rescale=bool(state["unit_range"]),
        do_convert_rgb=images.stock_channels(part) == 3,
    ).save_pretrained(folder)


def usage() -> str:
    """Code that loads the folder and computes features, for its card."""
    return "\n".join(
        [
            "from transformers import VJEPA2Model, VJEPA2VideoProcessor",
            "",
            'model = VJEPA2Model.from_pretrained("PATH_OR_ID")',
            'processor = VJEPA2VideoProcessor.from_pretrained("PATH_OR_ID")',
            'inputs = processor(frames, return_tensors="pt")  # frames: (T, H, W, C) uint8',
            "output = model(**inputs, skip_predictor=True)",
        ]
    )


# ----------------------------------------------------------------------------------------------------------- reading


def reads(config: Mapping[str, object]) -> bool:
    """Whether a configuration describes V-JEPA 2."""
    return config.get("model_type") == "vjepa2"


def read(config: PretrainedConfig) -> Options:
    """The architecture and preprocessing of V-JEPA 2 from its configuration."""
    tower = transfer.trunk_options(config, mlp_ratio="mlp_ratio") | {
        "prefix": 0,
        "qkv_bias": bool(config.qkv_bias),
        "positions": "vjepa2",
    }
    modality = {
        "size": int(config.crop_size),
        "patch": config.patch_size if isinstance(config.patch_size, int) else list(config.patch_size),
        "channels": int(config.in_chans),
        "frames": int(config.frames_per_clip),
        "tubelet": int(config.tubelet_size),
    }
    return {"tower": tower, "modality": modality}


def load(part: Branch, origin: str) -> None:
    """Fill a tower with the weights of the checkpoint at a path or id. UserError when it lacks some."""
    from transformers import VJEPA2Model

    fill(part, transfer.pretrained(VJEPA2Model, origin, ignore=("predictor.",)), out=False)


FORMAT = Format(
    title=TITLE,
    needs=NEEDS,
    write=write,
    required=REQUIRED,
    adapted=ADAPTED,
    reader=Reader(reads=reads, read=read, load=load, free=FREE),
)
