"""timm's VisionTransformer: a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ....boundary import reading_of
from ....errors import UserError
from ...timm_tower import is_plain_vit
from .. import images, transfer
from ..contract import Format, Options, Reader
from ..exportable import Branch, Exportable
from ..job import Job
from ..needs import Need, need

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

    from ...tower import Encoded


TITLE = "timm.models.VisionTransformer"
REQUIRED = ("image",)
NEEDS = {
    "image": (
        *[n for n in images.NEEDS if n.key != "embed_norm"],
        images.FINAL_NORM,
        Need("tower", "prefix", 1, lambda v: v >= 0, "at least 0", "a class token, then registers"),
        need("tower", "norm_eps", 1e-6, why="the epsilon of timm's norms"),
        need("tower", "pooling", "mean", "cls", why="timm pools by the class token or the mean"),
    )
}
BLOCK = transfer.BlockNames("norm1", ("attn.qkv",), "attn.proj", "norm2", ("mlp.fc1",), "mlp.fc2")
SCALED = dataclasses.replace(BLOCK, scale1="ls1.gamma", scale2="ls2.gamma")
ADAPTED = {"image": (SCALED, BLOCK)}
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "silu": "silu"}
BASE = "vit_base_patch16_224"


def model_args(part: Branch) -> dict[str, Any]:
    """Arguments of timm's `VisionTransformer`, without a classifier."""
    options, count = part.options, part.tower.prefix_count
    return {
        "img_size": int(part.modality.size[0]),
        "patch_size": int(part.modality.patch[0]),
        "in_chans": images.stock_channels(part),
        "embed_dim": options.width,
        "depth": options.depth,
        "num_heads": options.heads,
        "mlp_ratio": float(options.mlp_ratio),
        "qkv_bias": options.qkv_bias,
        "init_values": options.layer_scale,
        "class_token": count > 0,
        "reg_tokens": max(count - 1, 0),
        "pre_norm": options.embed_norm,
        "act_layer": ACTIVATIONS[options.activation],
        "dynamic_img_size": True,
        "norm_layer": "layernorm",
        "global_pool": "token" if options.pooling == "cls" else "avg",
        "fc_norm": False,
        "final_norm": True,
    }


def fill(part: Branch, stock: VisionTransformer, out: bool) -> None:
    """All weights but the projection, out to timm's model or in from it."""
    tower = part.tower
    assert stock.pos_embed is not None
    images.patch_map(part, stock.patch_embed.proj, out)
    registers = [] if stock.reg_token is None else list(stock.reg_token[0])
    prefix: list[Tensor] = [*([] if stock.cls_token is None else [stock.cls_token]), *registers]
    images.positions(
        part,
        stock.pos_embed,
        prefix,
        out,
        with_bias=out and stock.patch_embed.proj.bias is None,
        count=0 if stock.no_embed_class else stock.num_prefix_tokens,
        grid=stock.patch_embed.grid_size,
    )
    if tower.embed_norm is not None:
        transfer.norm(tower.embed_norm, stock.norm_pre, out)
    scaled = tower.trunk.depth > 0 and hasattr(stock.blocks[0].ls1, "gamma")
    transfer.blocks(tower.trunk.blocks, stock.blocks, SCALED if scaled else BLOCK, out)
    transfer.norm(tower.trunk.norm, stock.norm, out)


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through timm's `VisionTransformer`, and say how to prove it."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    part = source.part("image")
    args = model_args(part)
    stock = timm.create_model(BASE, num_classes=0, **args)
    assert isinstance(stock, VisionTransformer)
    fill(part, stock, out=True)
    save_file({k: v.contiguous() for k, v in stock.state_dict().items()}, folder / "model.safetensors")
    state = part.preprocessor.state
    repeat = images.stock_channels(part) // len(state["mean"])
    size = int(part.modality.size[0])
    config = {
        "architecture": BASE,
        "num_classes": 0,
        "num_features": part.options.width,
        "model_args": args,
        "pretrained_cfg": {
            "input_size": [images.stock_channels(part), size, size],
            "mean": list(state["mean"]) * repeat,
            "std": list(state["std"]) * repeat,
            "interpolation": part.preprocessor.config.interpolation,
            "crop_pct": 1.0,
            "crop_mode": "center" if part.preprocessor.config.resize == "crop" else "squash",
            "num_classes": 0,
            "fixed_input_size": False,
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    def ours(used: Branch, encoded: Encoded) -> dict[str, Tensor]:
        return {"forward_features": used.states(encoded)}

    found = images.trials(
        part, {"forward_features": ""}, ours, antialias=True, method="forward_features", positional=True
    )
    pooled = images.trials(
        part, {"embedding": ""}, lambda used, e: {"embedding": used.pooled(e)}, antialias=True, positional=True
    )
    return Job(
        "timm",
        "",
        [*found, *pooled],
        usage=_usage(),
        auto=False,
        notes=images.notes(part),
        without_pipeline="transformers' pipelines do not load this folder",
        pipeline_tag="image-feature-extraction",
    )


def _usage() -> str:
    return "\n".join(
        [
            "import timm",
            "",
            'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()',
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
            "embedding = model(transform(picture)[None])  # model.forward_features gives the tokens",
        ]
    )


# ----------------------------------------------------------------------------------------------------------- reading


def reads(config: Mapping[str, object]) -> bool:
    """Whether a configuration describes a folder of timm's, of a VisionTransformer; others are wrapped."""
    return config.get("model_type") == "timm" and is_plain_vit(str(config["origin"]))


def _model(origin: str) -> VisionTransformer:
    """The timm model at `timm:FOLDER`."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    name = origin.partition(":")[2]
    if not Path(name).is_dir():
        raise UserError(f"model.towers: from '{origin}': expected timm: and a folder with config.json and weights")
    if not (Path(name) / "model.safetensors").is_file():  # timm would go on to pickled weights
        raise UserError(f"model.towers: from '{origin}': found no model.safetensors in it")
    with reading_of(f"model.towers: from '{origin}': timm cannot load it"):
        model = timm.create_model(f"local-dir:{name}", pretrained=True)
    if type(model) is not VisionTransformer or not hasattr(model, "pos_embed"):
        raise UserError(f"model.towers: from '{origin}': found a {type(model).__name__}, expected a VisionTransformer")
    return model


def _refuse(origin: str, model: Any) -> None:
    """What our tower has no place for."""
    from timm.layers import LayerScale, Mlp

    block = model.blocks[0]
    odd = {
        "a norm of the pooled embedding instead of the tokens": not isinstance(model.norm, torch.nn.LayerNorm),
        f"a perceptron of the kind {type(block.mlp).__name__}": type(block.mlp) is not Mlp,
        "norms of queries and keys": hasattr(block.attn, "q_norm") and len(list(block.attn.q_norm.parameters())) > 0,
        f"a scale of the kind {type(block.ls1).__name__}": not isinstance(block.ls1, (torch.nn.Identity, LayerScale)),
    }
    for what, there in odd.items():
        if there:
            raise UserError(f"model.towers: from '{origin}': it has {what}, which mmssl's tower has not")


def read(origin: str) -> Options:
    """The architecture and preprocessing of the timm model at `timm:FOLDER`. UserError when ours has none such."""
    model = _model(origin)
    _refuse(origin, model)
    block: Any = model.blocks[0]
    names = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "GELU_": "gelu", "SiLU": "silu"}
    kind = type(block.mlp.act).__name__
    if kind not in names:
        raise UserError(f"model.towers: from '{origin}': its activation {kind} is none of mmssl's")
    scale = getattr(block.ls1, "gamma", None)
    tower = {
        "width": int(model.embed_dim),
        "depth": len(model.blocks),
        "heads": int(block.attn.num_heads),
        "mlp_ratio": block.mlp.fc1.out_features / model.embed_dim,
        "norm_eps": float(block.norm1.eps),
        "activation": names[kind],
        "prefix": int(model.num_prefix_tokens),
        "qkv_bias": block.attn.qkv.bias is not None,
        "positions": "additive",
        "layer_scale": None if scale is None else 1e-5,
        "embed_norm": not isinstance(model.norm_pre, torch.nn.Identity),
    }
    patch = model.patch_embed
    modality = {
        "size": list(patch.img_size),
        "patch": list(patch.patch_size),
        "channels": int(patch.proj.in_channels),
        "positions": "learned",
    }
    return {"tower": tower, "modality": modality}


def load(part: Branch, origin: str) -> None:
    """Fill a tower with the weights of the checkpoint at a path or id. UserError when it lacks some."""
    fill(part, _model(origin), out=False)


FORMAT = Format(
    title=TITLE,
    needs=NEEDS,
    write=write,
    required=REQUIRED,
    adapted=ADAPTED,
    reader=Reader(reads=reads, read=read, load=load),
)
