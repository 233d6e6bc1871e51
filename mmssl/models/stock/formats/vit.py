"""ViT (Dosovitskiy et al. 2021): one class token, learned positions, a norm behind the last block."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import images, transfer
from ..contract import Format, Options, Reader
from ..exportable import Branch, Exportable
from ..job import Job
from ..needs import need

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import ASTModel, IJepaModel, PretrainedConfig, ViTMAEModel, ViTModel

    from ...tower import Encoded


TITLE = "transformers.ViTModel"
REQUIRED = ("image",)
NEEDS = {
    "image": (
        *images.NEEDS,
        images.FINAL_NORM,
        need("tower", "prefix", 1, why="ViT has one class token and no registers"),
        need("tower", "pooling", "mean", "cls", why="it pools by its class token, or you take the mean of its tokens"),
    )
}

ADAPTED = {"image": (transfer.VIT_BLOCK,)}


def fill(part: Branch, stock: ViTModel | ViTMAEModel | IJepaModel, out: bool) -> None:
    """Weights between our tower and a `ViTModel`, `ViTMAEModel` or `IJepaModel`."""
    embeddings = stock.embeddings
    images.patch_map(part, embeddings.patch_embeddings.projection, out)
    token = getattr(embeddings, "cls_token", None)
    images.positions(part, embeddings.position_embeddings, [] if token is None else [token], out)
    fill_trunk(part, stock, out)


def fill_trunk(part: Branch, stock: ViTModel | ViTMAEModel | IJepaModel | ASTModel, out: bool) -> None:
    """The blocks and the last norm alone."""
    transfer.blocks(part.tower.trunk.blocks, stock.layers, transfer.VIT_BLOCK, out)
    transfer.norm(part.tower.trunk.norm, stock.layernorm, out)


def config_of(part: Branch) -> dict[str, Any]:
    """What the configurations of this family have in common."""
    return {**transfer.stock_options(part.options), **images.image_config(part), "qkv_bias": part.options.qkv_bias}


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through `ViTModel`, and say how to prove it."""
    import torch
    from transformers import ViTConfig, ViTModel

    part = source.part("image")
    # the class's pooler, which AutoModel always builds, hands the class token on
    stock: Any = ViTModel(ViTConfig(**config_of(part), pooler_act="linear"))
    fill(part, stock, out=True)
    with torch.no_grad():
        stock.pooler.dense.weight.copy_(torch.eye(part.tower.width))
        stock.pooler.dense.bias.zero_()
    stock.save_pretrained(folder)
    images.write_processor(part, folder)
    outputs = {"last_hidden_state": "last_hidden_state", "pooler_output": "pooler_output"}

    def ours(used: Branch, encoded: Encoded) -> dict[str, Tensor]:
        return {"last_hidden_state": used.states(encoded), "pooler_output": encoded.prefix[:, 0]}

    return Job(
        "transformers",
        "ViTModel",
        images.trials(part, outputs, ours, other={"interpolate_pos_encoding": True}),
        usage=images.usage("ViTModel"),
        pipelines=images.feature_pipelines(part, lambda used, encoded: used.states(encoded), source.scratch),
        without_pipeline=images.NO_PIPELINE,
        notes=[images.embedding_note(part, "output.last_hidden_state"), *images.notes(part)],
    )


# ----------------------------------------------------------------------------------------------------------- reading


def reads(config: Mapping[str, object]) -> bool:
    """Whether a configuration describes a ViT."""
    return config.get("model_type") == "vit"


def read(config: PretrainedConfig) -> Options:
    """Options of our tower and modality from a stock configuration of this family."""
    tower = transfer.trunk_options(config) | {"prefix": 1, "qkv_bias": bool(config.qkv_bias)}
    return {"tower": tower, "modality": images.read_config(config)}


def load(part: Branch, origin: str) -> None:
    """Fill our tower from a checkpoint."""
    from transformers import ViTModel

    fill(part, transfer.pretrained(ViTModel, origin, ignore=("pooler.",), add_pooling_layer=False), out=False)


FORMAT = Format(
    title=TITLE,
    needs=NEEDS,
    write=write,
    required=REQUIRED,
    adapted=ADAPTED,
    reader=Reader(reads=reads, read=read, load=load),
)
