"""DINOv3 (Siméoni et al. 2025): registers, layer scale, rotary positions by the place in the picture, gated or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...trunk import GATED
from .. import images, transfer
from ..contract import Format, Options, Reader
from ..exportable import Branch, Exportable
from ..job import Job
from ..needs import Need, need

if TYPE_CHECKING:
    from transformers import DINOv3ViTModel, PretrainedConfig

    from ...tower import Encoded


TITLE = "transformers.DINOv3ViTModel"
REQUIRED = ("image",)
NEEDS = {
    "image": (
        *[n for n in images.NEEDS if n.key not in ("positions", "activation")],
        images.FINAL_NORM,
        need("tower", "positions", "dinov3", why="it turns queries and keys by a patch's place in the picture"),
        Need("tower", "prefix", 1, lambda v: v >= 1, "at least 1", "DINOv3 has a class token, then registers"),
        need("tower", "pooling", "cls", "mean", why="it pools by its class token, or you take the mean of its tokens"),
    )
}
BLOCK = transfer.BlockNames(
    "norm1",
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.o_proj",
    "norm2",
    ("mlp.up_proj",),
    "mlp.down_proj",
    "layer_scale1.lambda1",
    "layer_scale2.lambda1",
)
GATED_BLOCK = dataclasses.replace(BLOCK, fc1=("mlp.gate_proj", "mlp.up_proj"))
ADAPTED = {"image": (GATED_BLOCK, BLOCK)}
GATES = {stock: ours for ours, stock in GATED.items()}
"""Activations of a gate -> our names of the gated perceptrons."""


def fill(part: Branch, stock: DINOv3ViTModel, out: bool) -> None:
    """All weights but the projection, out to the stock model or in from it."""
    embeddings, tower = stock.embeddings, part.tower
    images.patch_map(part, embeddings.patch_embeddings, out)
    assert tower.prefix is not None
    transfer.vector(part.modality.mask.token, embeddings.mask_token, out)
    for ours, theirs in zip(tower.prefix.tokens, [embeddings.cls_token, *embeddings.register_tokens[0]], strict=True):
        transfer.vector(ours, theirs, out)
    names = GATED_BLOCK if stock.config.use_gated_mlp else BLOCK
    transfer.blocks(tower.trunk.blocks, stock.model.layer, names, out)
    transfer.norm(tower.trunk.norm, stock.norm, out)


def config_of(part: Branch) -> dict[str, Any]:
    """Fields of `DINOv3ViTConfig`. A bias of queries, keys or values is there where any block has one."""
    options, rotary = part.options, part.tower.rotary[part.name]
    biases = dict.fromkeys(("query_bias", "key_bias", "value_bias"), False)
    if options.qkv_bias:
        for block in part.tower.trunk.blocks:
            thirds: tuple[Tensor, ...] = block.attention.qkv.bias.chunk(3)  # type: ignore[union-attr, operator]
            biases = {name: was or bool(b.any()) for (name, was), b in zip(biases.items(), thirds, strict=True)}
    return {
        **transfer.stock_options(options),
        **images.image_config(part),
        **biases,
        "use_gated_mlp": options.activation in GATED,
        "num_register_tokens": part.tower.prefix_count - 1,
        "rope_theta": float(rotary.base),  # type: ignore[arg-type]
        "pos_embed_rescale": None,
    }


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through `DINOv3ViTModel`, and say how to prove it."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    part = source.part("image")
    images.fold_type(part)
    stock = DINOv3ViTModel(DINOv3ViTConfig(**config_of(part)))
    fill(part, stock, out=True)
    stock.save_pretrained(folder)
    images.write_processor(part, folder)

    def ours(used: Branch, encoded: Encoded) -> dict[str, Tensor]:
        return {"last_hidden_state": used.states(encoded), "pooler_output": encoded.prefix[:, 0]}

    outputs = {"last_hidden_state": "last_hidden_state", "pooler_output": "pooler_output"}
    return Job(
        "transformers",
        "DINOv3ViTModel",
        images.trials(part, outputs, ours),
        usage=images.usage("DINOv3ViTModel"),
        pipelines=images.feature_pipelines(part, lambda used, encoded: used.states(encoded), source.scratch),
        without_pipeline=images.NO_PIPELINE,
        notes=[
            images.embedding_note(part, "output.last_hidden_state"),
            "The class can move and stretch its positions at random while it trains; here it does not "
            "(`pos_embed_shift`, `pos_embed_jitter` and `pos_embed_rescale` are null).",
            *images.notes(part),
        ],
    )


# ----------------------------------------------------------------------------------------------------------- reading


def reads(config: Mapping[str, object]) -> bool:
    """Whether a configuration describes DINOv3's ViT."""
    return config.get("model_type") == "dinov3_vit"


def read(config: PretrainedConfig) -> Options:
    """The architecture and preprocessing of DINOv3 from its configuration."""
    tower = transfer.trunk_options(config) | {
        "prefix": 1 + int(config.num_register_tokens),
        "qkv_bias": bool(config.query_bias or config.key_bias or config.value_bias),
        "layer_scale": float(config.layerscale_value) or 1e-5,
        "positions": "dinov3",
        "rotary_base": float(config.rope_theta),
    }
    if config.use_gated_mlp:
        tower["activation"] = GATES.get(tower["activation"])
    modality = {key: value for key, value in images.read_config(config).items() if key != "positions"}
    return {"tower": tower, "modality": modality}


def load(part: Branch, origin: str) -> None:
    """Fill a tower with the weights of the checkpoint at a path or id. UserError when it lacks some."""
    from transformers import DINOv3ViTModel

    stock = transfer.pretrained(DINOv3ViTModel, origin, ignore=())
    with torch.no_grad():
        fill(part, stock, out=False)


FORMAT = Format(
    title=TITLE,
    needs=NEEDS,
    write=write,
    required=REQUIRED,
    adapted=ADAPTED,
    reader=Reader(reads=reads, read=read, load=load),
)
