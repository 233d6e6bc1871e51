"""A tower that wraps a model of timm: `from: timm:FOLDER` with its weights, `from: timm:NAME` with random ones.

What it wraps is whatever `forward_features` gives a map or tokens of: ResNets, EfficientNets, ConvNeXts, hierarchical
transformers, plain ones. The cells of its map are the tower's tokens, at the place that they lie over; a class token is
its prefix. Classifiers, and whatever else does nothing for the map, are left out.

A batch norm sees the present rows of its process. It learns with the tower, and is part of a frozen one, or of one
that has an adapter.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..boundary import read_json_object
from ..errors import UserError, nearest, one_line
from ..modality import Modality
from ..patches import Patches
from .foreign import TIMM, ForeignTower
from .options import TowerConfig

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
RESERVED = (
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable",
    "exportable", "no_jit", "features_only", "out_indices", "num_classes", "in_chans",
)  # fmt: skip
"""Arguments of `timm.create_model` that are not a model's architecture."""


def folder_of(origin: str) -> Path | None:
    """The folder that `timm:FOLDER` names; None of `timm:NAME`. UserError where it is meant as one and is none."""
    name = origin.removeprefix(TIMM)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith(("/", ".", "~")):
        raise UserError(f"model.towers: from '{origin}': expected timm: and a folder with {CONFIG} and {WEIGHTS}")
    return None


def timm_config(origin: str) -> dict[str, Any]:
    """{"architecture": timm's name, "model_args": its arguments}, and of a folder "pretrained_cfg" too."""
    folder = folder_of(origin)
    if folder is None:
        return {"architecture": origin.removeprefix(TIMM), "model_args": {}}
    where = f"model.towers: from '{origin}'"
    if not (folder / CONFIG).is_file():
        raise UserError(f"{where}: expected timm: and a folder with {CONFIG} and {WEIGHTS}")
    config = read_json_object(folder / CONFIG, f"{where}: {CONFIG}")
    found = {key: config.get(key) or {} for key in ("model_args", "pretrained_cfg")}
    for key, value in found.items():
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: {CONFIG}: {key}: found {value!r:.60}, expected options")
    args = {key: value for key, value in found["model_args"].items() if key not in RESERVED}
    return {"architecture": config.get("architecture"), **found, "model_args": args}


def make_net(config: Mapping[str, Any], channels: int, where: str = "model.towers: foreign", **further: Any) -> Any:
    """timm's model, without a classifier, with random weights. UserError where timm has none such.

    Args:
        config: what `timm_config` gives, or a `config.json` holds.
        channels: of the input.
        where: what messages begin with.
        further: arguments beside `model_args`.
    """
    import timm

    name, args = config.get("architecture"), config.get("model_args") or {}
    if not isinstance(name, str) or not timm.is_model(name):
        near = nearest(name, timm.list_models()) if isinstance(name, str) else ""
        raise UserError(f"{where}: found {name!r:.60}, expected a folder or the name of a model of timm{near}")
    reserved = sorted(set(args) & set(RESERVED)) if isinstance(args, Mapping) else [f"{args!r:.60}"]
    if reserved:
        raise UserError(f"{where}: model_args: found {reserved[0]}, expected arguments of {name} alone")
    try:
        net = timm.create_model(name, pretrained=False, in_chans=channels, num_classes=0, **{**args, **further})
    except (TypeError, ValueError, AssertionError, RuntimeError, KeyError) as error:
        raise UserError(f"{where}: timm cannot build {name} ({one_line(error)})") from error
    if not callable(getattr(net, "forward_features", None)):
        raise UserError(f"{where}: {name} has no forward_features, expected a model that gives a map or tokens")
    return net


def is_plain_vit(origin: str) -> bool:
    """Whether `timm:FOLDER` holds a VisionTransformer, which a tower of mmssl's own can be."""
    if not origin.startswith(TIMM) or folder_of(origin) is None:
        return False
    from timm.models.vision_transformer import VisionTransformer

    config = timm_config(origin)
    with torch.device("meta"):
        net = make_net(config, 3, f"model.towers: from '{origin}'")
    return type(net) is VisionTransformer


def preprocessing(origin: str) -> dict[str, Any]:
    """Options of the image modality as the weights of `timm:FOLDER` were trained; nothing of a name."""
    config = timm_config(origin)
    trained = config.get("pretrained_cfg") or {}
    out: dict[str, Any] = {}
    shape = trained.get("input_size")
    if isinstance(shape, (list, tuple)) and len(shape) == 3:
        out["channels"], out["size"] = int(shape[0]), [int(x) for x in shape[1:]]
        with torch.device("meta"):
            net = make_net(config, out["channels"], f"model.towers: from '{origin}'")
        grid = _Shape.of(net, out["channels"], out["size"], f"model.towers: from '{origin}'").grid
        # a patch is what one cell of the map lies over
        if all(side % cells == 0 for side, cells in zip(out["size"], grid, strict=True)):
            out["patch"] = [side // cells for side, cells in zip(out["size"], grid, strict=True)]
    for key in ("mean", "std"):
        if isinstance(trained.get(key), (list, tuple)):
            out[key] = [float(x) for x in trained[key]]
    if trained.get("interpolation") in ("bilinear", "bicubic"):
        out["interpolation"] = trained["interpolation"]
    if out:
        out["resize"] = "squash" if trained.get("crop_mode") == "squash" else "crop"
    return out


class _Shape:
    """What a net makes of pictures of one size, found out without computing anything.

    Attributes:
        width: of a token.
        prefix: tokens in front.
        grid: (rows, columns) of the tokens behind.
        last: the channels lie behind rows and columns.
        idle: names of parameters that do nothing for the tokens.
    """

    def __init__(self, width: int, prefix: int, grid: tuple[int, int], last: bool, idle: list[str]) -> None:
        self.width, self.prefix, self.grid, self.last, self.idle = width, prefix, grid, last, idle

    @classmethod
    def of(cls, net: nn.Module, channels: int, size: Any, where: str) -> _Shape:
        """UserError, with timm's reason, where it takes no such pictures, or gives neither a map nor tokens."""
        name = type(net).__name__
        with torch.device("meta"):
            twin: Any = copy.deepcopy(net).to("meta").eval()
            try:
                out = twin.forward_features(torch.zeros(2, channels, *size))
            except (RuntimeError, ValueError, AssertionError, TypeError, NotImplementedError) as error:
                raise UserError(f"{where}: {name} takes no pictures of {list(size)} ({one_line(error)})") from error
        if not isinstance(out, Tensor) or out.ndim not in (3, 4):
            raise UserError(f"{where}: {name} gives neither a map nor tokens and cannot be wrapped")
        out.sum().backward()
        idle = [n for n, p in twin.named_parameters() if p.grad is None]
        width = int(net.num_features)  # type: ignore[arg-type]
        if out.ndim == 4:
            last = out.shape[1] != width
            if (out.shape[3] if last else out.shape[1]) != width:
                raise UserError(f"{where}: {name} gives a map of {list(out.shape)}, expected {width} channels")
            rows, columns = out.shape[1:3] if last else out.shape[2:]
            return cls(width, 0, (int(rows), int(columns)), last, idle)
        prefix = int(getattr(net, "num_prefix_tokens", 0))
        count = out.shape[1] - prefix
        height = _rows(count, size)
        if out.shape[2] != width or height is None:
            raise UserError(f"{where}: {name} gives {count} tokens, expected those of a grid over {list(size)}")
        return cls(width, prefix, (height, count // height), True, idle)


def _rows(count: int, size: Any) -> int | None:
    """Rows of a grid of so many cells that has the shape of the picture."""
    rows = round(math.sqrt(count * size[0] / size[1]))
    return rows if rows and count % rows == 0 and count // rows * size[0] == rows * size[1] else None


def _cells(patches: Patches, rows: int, columns: int) -> Patches:
    """The cells of a map over these patches, at their places in patches, without content."""
    assert patches.extent is not None
    device, batch, count = patches.coords.device, patches.batch, rows * columns
    grid = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    share = torch.stack(grid, -1).flatten(0, 1).float() / torch.tensor([rows, columns], device=device)
    coords = share * patches.extent[:, None]
    valid = patches.present[:, None].expand(-1, count)
    return Patches(
        coords.new_zeros(batch, count, 1), coords, valid, patches.full, extent=patches.extent, raw=patches.raw
    )


def _fixed_size(config: Mapping[str, Any]) -> list[int] | None:
    """(H, W) that a model takes alone unless it is told another; None where it takes any."""
    import timm

    known = timm.get_pretrained_cfg(str(config.get("architecture")), allow_unregistered=True)
    if known is None or not known.fixed_input_size or "img_size" in (config.get("model_args") or {}):
        return None
    return [int(x) for x in known.input_size[1:]]


def _strip(net: nn.Module, idle: list[str]) -> None:
    """Leave out the parts of a net that do nothing for its tokens: heads and pools behind them."""
    for name, part in list(net.named_children()):
        own = [f"{name}.{inner}" for inner, _ in part.named_parameters()]
        if own and set(own) <= set(idle):
            setattr(net, name, nn.Identity())


class TimmTower(ForeignTower):
    """A model of timm. Its map's cells are tokens; `depth` is 0, as of all wrapped models."""

    def __init__(self, options: TowerConfig, modalities: Mapping[str, Modality], config: Mapping[str, object]) -> None:
        modality: Any = next(iter(modalities.values()))
        where = f"model.towers.{next(iter(modalities))}: from '{TIMM}{config.get('architecture')}'"
        if modality.ids or not hasattr(modality, "rows_and_columns") or len(modality.axes()) != 2:
            raise UserError(f"{where}: timm's models take pictures, expected a tower of one modality of images")
        size = [int(x) for x in modality.size]
        further = {"img_size": size} if _fixed_size(config) not in (None, size) else {}
        net = make_net(config, modality.channels, where, **further)
        lost = [name for name, part in net.named_modules() if part._non_persistent_buffers_set]
        if lost:
            raise UserError(f"{where}: its '{lost[0]}' computes tables that no saved model holds; it cannot be wrapped")
        shape = _Shape.of(net, modality.channels, size, where)
        _strip(net, shape.idle)
        for part in net.modules():
            part._is_hf_initialized = True  # timm has drawn its weights; transformers must not draw them anew
        self.front = shape.prefix  # first: what pooling there may be depends on it
        super().__init__(options, modalities, net, shape.width)
        self.channels_last, self.map = shape.last, shape.grid
        # behind a mask there must be a token for each patch
        self.patch_grid: tuple[int, int] = modality.rows_and_columns(modality.channels, *size)
        self.replaces = self.map == self.patch_grid

    @property
    def classes(self) -> bool:
        """Whether there is a class token in front."""
        return self.front > 0

    @property
    def norms(self) -> list[nn.Module]:
        """Batch norms: what one row gets depends on the others while they learn."""
        return [part for part in self.net.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]

    @property
    def mixes_rows(self) -> bool:
        """Whether training it in parts of a batch is another training: it has batch norms, and they learn."""
        return not self.frozen and any(p.requires_grad for part in self.norms for p in part.parameters())

    def train(self, mode: bool = True) -> TimmTower:
        """Batch norms that do not learn keep their statistics: those of a tower that has an adapter."""
        super().train(mode)
        for part in self.norms:
            if not any(p.requires_grad for p in part.parameters()):
                part.eval()
        return self

    def pretrained(self, origin: str) -> Mapping[str, Tensor]:
        """As `ForeignTower.pretrained`, without those of a classifier; of a name the random ones that are there."""
        from safetensors.torch import load_file

        folder, mine = folder_of(origin), self.net.state_dict()
        if folder is None:
            return mine
        if not (folder / WEIGHTS).is_file():  # timm would go on to pickled weights
            raise UserError(f"model.towers: from '{origin}': found no {WEIGHTS} in it")
        theirs = load_file(folder / WEIGHTS)
        odd = sorted(set(mine) - set(theirs)) or sorted(k for k in mine if mine[k].shape != theirs[k].shape)
        if odd:
            there = tuple(theirs[odd[0]].shape) if odd[0] in theirs else None
            raise UserError(
                f"model.towers: from '{origin}': {len(odd)} tensors do not fit, the first is '{odd[0]}' "
                f"({there} there, {tuple(mine[odd[0]].shape)} here)"
            )
        return {key: theirs[key] for key in mine}

    def run(self, patches: Patches, hidden: Tensor | None) -> tuple[Tensor, Tensor, Patches]:
        """As `ForeignTower.run`; absent pictures are not looked at, and the tokens are the cells of the map."""
        pixels, there = self.pixels(patches, hidden), None if patches.full else patches.present
        out = self.net.forward_features(pixels if there is None else pixels[there])  # type: ignore[operator]
        rows, columns = self.map
        if out.ndim == 4:
            rows, columns = out.shape[1:3] if self.channels_last else out.shape[2:]
            out = out.flatten(1, 2) if self.channels_last else out.flatten(2).mT
        if there is not None:
            whole = out.new_zeros(len(pixels), *out.shape[1:])
            out = whole.masked_scatter(there[:, None, None].expand_as(whole), out)
        prefix, tokens = out[:, : self.front], out[:, self.front :]
        return prefix, tokens, _cells(patches, rows, columns)

    def pixels(self, patches: Patches, hidden: Tensor | None) -> Tensor:
        """As `ForeignTower.pixels`, of pictures of any size."""
        modality: Any = self.modalities[self.name]
        values = patches.values.nan_to_num(0.0)
        if hidden is not None:
            values = values.masked_fill(hidden[..., None], 0.0)
        rows, columns = self.patch_grid
        if rows * columns != patches.count:
            assert patches.extent is not None
            rows, columns = (int(x) for x in patches.extent[0].tolist())
        size = (rows * modality.patch[0], columns * modality.patch[1])
        like = torch.empty(len(values), modality.channels, *size, device="meta")
        pixels: Tensor = modality.unpatchify(values, {"pixel_values": like})["pixel_values"]
        return pixels
