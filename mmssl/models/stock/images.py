"""What all image formats share: stock channels, patch weights, position tables, test inputs, the image processor.

Shapes: B batch, C channels, H, W pixels, N patches, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..positions import LearnedGrid
from ..tower import Encoded
from . import transfer
from .exportable import Branch
from .job import Pipeline, Trial
from .needs import STOCK_TOWER, Need, need, square

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PretrainedConfig
    from transformers.image_processing_utils import BaseImageProcessor


LUMA = (0.299, 0.587, 0.114)
"""How colour becomes grey (ITU-R BT.601), as in Pillow and in mmssl's own decoder."""

NEEDS: tuple[Need, ...] = (
    *STOCK_TOWER,
    square("modality", "size", "it knows square images"),
    square("modality", "patch", "it knows square patches"),
    need("modality", "resize", "crop", "squash", why="stock image processors do not pad with a background"),
)
"""What every image format asks."""

FINAL_NORM = need("tower", "final_norm", True, why="it has a norm behind its last block")

RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}


def stock_channels(part: Branch) -> int:
    """3 for grey images: pipelines read every file as colour, and grey is a linear map of it."""
    channels = int(part.modality.channels)
    return 3 if channels == 1 else channels


def as_ours(part: Branch, pixels: Tensor) -> Tensor:
    """Stock pixels (B, 3, H, W) as our model of grey images takes them, (B, 1, H, W); others as they are."""
    if part.modality.channels == 1:
        return (pixels * pixels.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    return pixels


def image_config(part: Branch) -> dict[str, int]:
    """The fields of a stock configuration that describe pictures and patches."""
    return {
        "image_size": int(part.modality.size[0]),
        "patch_size": int(part.modality.patch[0]),
        "num_channels": stock_channels(part),
    }


def patch_map(part: Branch, theirs: nn.Conv2d, out: bool) -> None:
    """Our map of a patch and their convolution. Grey is spread over three channels by luma."""
    ours = part.modality.proj
    if out and part.modality.channels == 1 and theirs.weight.shape[1] == 3:
        weight = ours.weight.view(len(ours.weight), 1, *part.modality.patch)
        spread = weight * weight.new_tensor(LUMA)[:, None, None]
        ours = SimpleNamespace(weight=spread.flatten(1), bias=ours.bias)
    if theirs.bias is None:  # it goes into the positions instead
        ours = SimpleNamespace(weight=ours.weight, bias=None)
    transfer.linear(ours, [theirs], out)
    if not out and theirs.bias is None:
        nn.init.zeros_(part.modality.proj.bias)


def native(part: Branch) -> dict[str, Tensor]:
    """An input of one sample in the size that was configured."""
    return {"pixel_values": torch.zeros(1, part.modality.channels, *part.modality.size)}


def fold_type(part: Branch) -> None:
    """What a tower of several modalities adds to its tokens goes into the bias of the patch map."""
    if part.tower.types is not None:
        with torch.no_grad():
            part.modality.proj.bias.add_(part.type_vector())
            part.tower.types.weight.zero_()


def table_of(part: Branch, with_bias: bool = False) -> Tensor:
    """(N, D) our positions, for a class that holds them in a table; with the patch map's bias where it has none."""
    table = part.positions(native(part))
    return table + part.modality.proj.bias.detach().float() if with_bias else table


@torch.no_grad()
def positions(
    part: Branch,
    theirs: Tensor,
    prefix: Sequence[Tensor],
    out: bool,
    with_bias: bool = False,
    count: int | None = None,
    grid: tuple[int, int] | None = None,
    resize: dict[str, Any] | None = None,
) -> None:
    """Position table (.., P + N, D) of theirs, and their prefix tokens.

    count: P, entries for prefix tokens, 0 or 1 by the table's length when not given; grid: rows and columns of N, a
    square when not given; with_bias: the patch map's bias goes into the table; resize: how the class interpolates it,
    where not as ViT does (`LearnedGrid.resize`). Ours has no position for its prefix:
    theirs become zero, and are added to ours when read.
    """
    theirs = theirs.view(-1, theirs.shape[-1])
    tokens = part.tower.prefix.tokens if part.tower.prefix is not None else None
    if out:
        table = table_of(part, with_bias)
        count = len(theirs) - len(table)
        theirs[:count].zero_()
        theirs[count:].copy_(table)
        for i, token in enumerate(prefix):
            assert tokens is not None
            token.view(-1).copy_(tokens[i])
        return
    count = _leading(theirs) if count is None else count
    side = round((len(theirs) - count) ** 0.5)
    old = LearnedGrid(theirs.shape[1], grid or (side, side))
    old.table.copy_(theirs[count:])
    old.resize(part.modality.position.sizes, **(resize or {}))
    part.modality.position.table.copy_(old.table)
    for i, token in enumerate(prefix):
        assert tokens is not None
        tokens[i].copy_(token.view(-1) + (theirs[i] if i < count else 0))


def _leading(table: Tensor) -> int:
    """1 when the table has an entry more than a square grid."""
    side = round((table.shape[0] - 1) ** 0.5)
    return int(side * side == table.shape[0] - 1)


# ------------------------------------------------------------------------------------------------------------ trials

Ours = Callable[[Branch, Encoded], dict[str, Tensor]]


def trials(
    part: Branch,
    outputs: dict[str, str],
    ours: Ours,
    interpolates: bool = True,
    other: Mapping[str, object] | None = None,
    antialias: bool = False,
    batch: int = 2,
    **common: Any,
) -> list[Trial]:
    """The configured size and, where the class interpolates its positions, a wider and higher one.

    ours: our part and its output -> the same outputs. other: keyword arguments of the stock class at the other size.
    """
    (height, width), (ph, pw) = part.modality.size, part.modality.patch
    grids = [(height // ph, width // pw)]
    if interpolates:
        grids.append((height // ph + 1, width // pw + 3))
    generator = torch.Generator().manual_seed(20)
    found = []
    for i, (rows, columns) in enumerate(grids):
        pixels = torch.randn(batch, stock_channels(part), rows * ph, columns * pw, generator=generator)
        more = dict(other or {}) if i else {}
        expect = _expecting(part, ours, pixels, grids[0], (rows, columns), antialias)
        name = f"{rows * ph} x {columns * pw}"
        found.append(Trial(name, {"pixel_values": pixels}, outputs, expect, more, **common))
    return found


def _expecting(
    part: Branch, ours: Ours, pixels: Tensor, grid: tuple[int, int], to: tuple[int, int], antialias: bool
) -> Callable[[torch.dtype], dict[str, Tensor]]:
    def expect(dtype: torch.dtype) -> dict[str, Tensor]:
        if part.tower.rotary or (dtype == torch.float32 and to == grid):
            used = part.changed(dtype)  # the model as it is: rotary positions are defined at any size
        else:
            table = part.positions(native(part))
            used = part.changed(dtype, table, grid, antialias, to)
        return ours(used, used.encode({"pixel_values": as_ours(part, pixels.to(dtype).float())}))

    return expect


def read_config(config: PretrainedConfig) -> dict[str, object]:
    """Options of our image modality from a stock configuration; its positions are a table."""
    size, patch = config.image_size, config.patch_size
    return {
        "size": size if isinstance(size, int) else list(size),
        "patch": patch if isinstance(patch, int) else list(patch),
        "channels": int(config.num_channels),
        "positions": "learned",
    }


def usage(name: str, processor: str = "AutoImageProcessor") -> str:
    """Code that loads the folder and computes features, for its card."""
    return "\n".join(
        [
            f"from transformers import {processor}, {name}",
            "",
            f'model = {name}.from_pretrained("PATH_OR_ID")',
            f'processor = {processor}.from_pretrained("PATH_OR_ID")',
            'output = model(**processor(image, return_tensors="pt"))  # image: a PIL picture',
        ]
    )


# --------------------------------------------------------------------------------------------------------- processor


def write_processor(part: Branch, folder: Path) -> None:
    """`preprocessor_config.json` of the stock image processor that does what ours does."""
    image_processor(part).save_pretrained(folder)


def image_processor(part: Branch) -> BaseImageProcessor:
    """The stock image processor that does what ours does."""
    from transformers import CLIPImageProcessor, ViTImageProcessor

    config: Any = part.preprocessor.config
    state = part.preprocessor.state
    repeat = stock_channels(part) // len(state["mean"])
    height, width = part.modality.size
    common: dict[str, Any] = {
        "resample": RESAMPLE[config.interpolation],
        "image_mean": list(state["mean"]) * repeat,
        "image_std": list(state["std"]) * repeat,
        "do_rescale": bool(state["unit_range"]),
        "do_convert_rgb": stock_channels(part) == 3,
    }
    if config.resize == "squash":
        return ViTImageProcessor(size={"height": height, "width": width}, **common)
    crop = {"height": height, "width": width}
    return CLIPImageProcessor(size={"shortest_edge": height}, crop_size=crop, **common)


def picture(part: Branch) -> NDArray[np.uint8]:
    """(H, W, 3) a colour picture of the configured size: what is compared is the model, not two ways to resize."""
    height, width = part.modality.size
    random = np.random.default_rng(7)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def has_pipeline(part: Branch) -> bool:
    """Pipelines read picture files as RGB."""
    return stock_channels(part) == 3 and bool(part.preprocessor.state["unit_range"])


NO_PIPELINE = "pipelines read colour pictures, this model takes other images"


def feature_pipelines(
    part: Branch, ours: Callable[[Branch, Encoded], Tensor], scratch: Path, shuffled: bool = False
) -> list[Pipeline]:
    """`image-feature-extraction` on a picture file, against our own processor and model."""
    if not has_pipeline(part):
        return []
    path = scratch / "picture.png"
    array = save_picture(part, path)
    used = part.changed(torch.float32)
    expect = ours(used, used.encode(part.preprocessor([array])))
    return [Pipeline("image-feature-extraction", str(path), expect, shuffled=shuffled)]


def save_picture(part: Branch, path: Path) -> NDArray[np.uint8]:
    """Write `picture` to a file; (H, W, 3) uint8 what the file holds."""
    from PIL import Image

    array = picture(part)
    if part.modality.channels == 1:  # grey, so that nothing is rounded in between
        array[:] = array[..., :1]
    Image.fromarray(array).save(path)
    return array


def notes(part: Branch) -> list[str]:
    """What a user of any exported image encoder should know."""
    out = []
    if part.modality.channels == 1:
        out.append(
            "The model was trained on grey images. It takes colour ones, as pipelines give, and turns them into "
            "grey by luma within its first layer."
        )
    if part.modality.position_kind == "sincos" and not part.tower.rotary:
        out.append(
            "Its positions are a table here. At other sizes the stock class interpolates that table, while the "
            "model in mmssl computes its sine-cosine positions anew; the proof interpolates on both sides."
        )
    if part.tower.types is not None:
        out.append(
            f"It was part of a tower of {', '.join(part.tower.modalities)}; this is what it gives for a sample "
            f"that has {part.name} only."
        )
    if part.options.layer_scale is not None:
        out.append("Where the stock class has no layer scale, it is multiplied into the maps before it.")
    return out


def embedding_note(part: Branch, first: str) -> str:
    """How mmssl's own embedding is had from the last hidden state, R prefix tokens in front."""
    r = part.tower.prefix_count
    tokens = f"{first}[:, {r}:]" if r else first
    more = "; the projection into the shared embedding is not part of this class" if part.projection is not None else ""
    return f"{part.said_of_embedding(f'{first}[:, 0]', tokens)}{more}."
