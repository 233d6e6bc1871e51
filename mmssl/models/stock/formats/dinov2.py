"""DINOv2 (Oquab et al. 2023), with registers (Darcet et al. 2024) where the tower has them: a ViT with layer scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .. import images, transfer
from ..contract import Format, Options, Reader
from ..exportable import Branch, Exportable
from ..job import Job
from ..needs import Need, need

if TYPE_CHECKING:
    from torch import nn
    from transformers import Dinov2Model, Dinov2WithRegistersModel, PretrainedConfig

    from ...tower import Encoded


TITLE = "transformers.Dinov2Model, or Dinov2WithRegistersModel"
REQUIRED = ("image",)
NEEDS = {
    "image": (
        *images.NEEDS,
        images.FINAL_NORM,
        Need("tower", "prefix", 1, lambda v: v >= 1, "at least 1", "DINOv2 has a class token, then registers"),
        Need("tower", "mlp_ratio", 4.0, lambda v: float(v).is_integer(), "a whole number", "its config takes one"),
        need("tower", "pooling", "cls", "mean", why="it pools by its class token, or you take the mean of its tokens"),
    )
}
BLOCK = transfer.BlockNames(
    "norm1",
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.o_proj",
    "norm2",
    ("mlp.fc1",),
    "mlp.fc2",
    "layer_scale1.lambda1",
    "layer_scale2.lambda1",
)
REGISTERS_BLOCK = transfer.BlockNames(
    "norm1",
    tuple(f"attention.attention.{n}" for n in ("query", "key", "value")),
    "attention.output.dense",
    "norm2",
    ("mlp.fc1",),
    "mlp.fc2",
    "layer_scale1.lambda1",
    "layer_scale2.lambda1",
)
ADAPTED = {"image": (BLOCK, REGISTERS_BLOCK)}


def fill(part: Branch, stock: Dinov2Model | Dinov2WithRegistersModel, out: bool) -> None:
    """All weights but the projection, out to the stock model or in from it."""
    embeddings, tower = stock.embeddings, part.tower
    images.patch_map(part, embeddings.patch_embeddings.projection, out)
    registers = getattr(embeddings, "register_tokens", None)
    prefix: list[Tensor] = [embeddings.cls_token, *([] if registers is None else registers[0])]
    images.positions(part, embeddings.position_embeddings, prefix, out)
    layers = stock.encoder.layer
    transfer.blocks(tower.trunk.blocks, layers, block_names(layers[0]) if len(layers) else BLOCK, out)
    transfer.norm(tower.trunk.norm, stock.layernorm, out)


def block_names(layer: nn.Module) -> transfer.BlockNames:
    """The two classes keep different names in memory."""
    return BLOCK if hasattr(layer.attention, "q_proj") else REGISTERS_BLOCK


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through `Dinov2Model` or `Dinov2WithRegistersModel`, and say how to prove it."""
    import transformers

    part = source.part("image")
    registers = part.tower.prefix_count - 1
    name = "Dinov2WithRegisters" if registers else "Dinov2"
    options = transfer.stock_options(part.options) | images.image_config(part)
    options["mlp_ratio"] = int(part.options.mlp_ratio)
    options.pop("intermediate_size")
    options |= {"num_register_tokens": registers} if registers else {}
    config = getattr(transformers, f"{name}Config")(**options, qkv_bias=part.options.qkv_bias)
    stock = getattr(transformers, f"{name}Model")(config)
    fill(part, stock, out=True)
    stock.save_pretrained(folder)
    images.write_processor(part, folder)

    def ours(used: Branch, encoded: Encoded) -> dict[str, Tensor]:
        return {"last_hidden_state": used.states(encoded), "pooler_output": encoded.prefix[:, 0]}

    outputs = {"last_hidden_state": "last_hidden_state", "pooler_output": "pooler_output"}
    return Job(
        "transformers",
        f"{name}Model",
        images.trials(part, outputs, ours, antialias=bool(registers)),
        usage=images.usage(f"{name}Model"),
        pipelines=images.feature_pipelines(part, lambda used, encoded: used.states(encoded), source.scratch),
        without_pipeline=images.NO_PIPELINE,
        notes=[images.embedding_note(part, "output.last_hidden_state"), *images.notes(part)],
    )


def reads(config: Mapping[str, object]) -> bool:
    """Whether a configuration describes DINOv2, with registers or without, of plain MLPs."""
    return config.get("model_type") in ("dinov2", "dinov2_with_registers") and not config.get("use_swiglu_ffn")


def read(config: PretrainedConfig) -> Options:
    """The architecture and preprocessing of DINOv2, with registers or without, of plain MLPs from its configuration."""
    tower = transfer.trunk_options(config, mlp_ratio="mlp_ratio") | {
        "prefix": 1 + int(getattr(config, "num_register_tokens", 0)),
        "qkv_bias": bool(config.qkv_bias),
        "layer_scale": float(config.layerscale_value) or 1e-5,
    }
    return {"tower": tower, "modality": images.read_config(config)}


def load(part: Branch, origin: str) -> None:
    """Fill a tower with the weights of the checkpoint at a path or id. UserError when it lacks some."""
    import transformers
    from transformers import AutoConfig

    registers = AutoConfig.from_pretrained(origin, trust_remote_code=False).model_type == "dinov2_with_registers"
    cls = transformers.Dinov2WithRegistersModel if registers else transformers.Dinov2Model
    fill(part, transfer.pretrained(cls, origin, ignore=()), out=False)


FORMAT = Format(
    title=TITLE,
    needs=NEEDS,
    write=write,
    required=REQUIRED,
    adapted=ADAPTED,
    reader=Reader(reads=reads, read=read, load=load),
)
