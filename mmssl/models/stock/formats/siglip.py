"""SigLIP (Zhai et al. 2023): images pooled by a learned query, texts filled up and pooled at their last place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import images, pairs, texts, transfer
from ..contract import Format, Options, Reader
from ..exportable import Branch, Exportable
from ..job import Job, Pipeline, Trial
from ..needs import need

if TYPE_CHECKING:
    from transformers import PretrainedConfig, Siglip2VisionModel, SiglipTextModel, SiglipVisionModel


TITLE = "transformers.SiglipModel, or its image or text half"
REQUIRED = ()
PIPELINE_LENGTH = 64  # tokens, written into transformers' pipeline
PROJECTION = need("model", "projection", None, why="SigLIP has no projection: its towers are equally wide")
NEEDS = {
    "image": (
        *images.NEEDS,
        images.FINAL_NORM,
        PROJECTION,
        need("tower", "prefix", 0, why="SigLIP has neither a class token nor registers"),
        need("tower", "pooling", "attention", why="SigLIP pools by a learned query"),
    ),
    "text": (
        *texts.NEEDS,
        PROJECTION,
        need("tower", "causal", False, why="its attention looks both ways"),
        need("tower", "pooling", "last", why="SigLIP's text embedding is that of the last place"),
        need("modality", "attend_padding", True, why="SigLIP fills texts up and attends to the padding"),
    ),
}
NAFLEX = ("siglip2", "siglip2_vision_model")
"""Types of models that are given patches of pictures of any shape; SigLIP 2 of one size is a `siglip`."""
ADAPTED = {"image": (pairs.BLOCK,), "text": (pairs.BLOCK,)}


def fill_vision(part: Branch, stock: SiglipVisionModel, out: bool) -> None:
    """Weights between our tower and a `SiglipVisionModel`; its head is our learned query, where the tower has one."""
    images.patch_map(part, stock.embeddings.patch_embedding, out)
    images.positions(part, stock.embeddings.position_embedding.weight, [], out)
    _fill_trunk(part, stock, out)


def take_naflex(part: Branch, stock: Siglip2VisionModel) -> None:
    """Our tower from a `Siglip2VisionModel`, which is given patches: numbers by row, column and channel. It resizes its
    positions as `interpolate` does it linearly with antialiasing."""
    theirs, (height, width) = stock.embeddings.patch_embedding, part.modality.patch
    by_channel = theirs.weight.view(-1, height, width, part.modality.channels).permute(0, 3, 1, 2)
    transfer.linear(part.modality.proj, [SimpleNamespace(weight=by_channel, bias=theirs.bias)], out=False)
    linear = {"mode": "bilinear", "antialias": True}
    images.positions(part, stock.embeddings.position_embedding.weight, [], out=False, count=0, resize=linear)
    _fill_trunk(part, stock, out=False)


def _fill_trunk(part: Branch, stock: SiglipVisionModel | Siglip2VisionModel, out: bool) -> None:
    tower = part.tower
    transfer.blocks(tower.trunk.blocks, stock.encoder.layers, pairs.BLOCK, out)
    transfer.norm(tower.trunk.norm, stock.post_layernorm, out)
    pool: Any = tower.pool
    if pool is None:
        return
    head = stock.head
    transfer.vector(pool.query, head.probe, out)
    transfer.linear(pool.qkv, [transfer.find(head, "attention")], out)
    transfer.linear(pool.proj, [head.attention.out_proj], out)
    transfer.norm(pool.norm, head.layernorm, out)
    transfer.linear(pool.mlp.fc1, [head.mlp.fc1], out)
    transfer.linear(pool.mlp.fc2, [head.mlp.fc2], out)


def fill_text(part: Branch, stock: SiglipTextModel) -> None:
    """The text half's weights, out to the stock model."""
    embeddings = stock.embeddings
    texts.tables(part, embeddings.token_embedding.weight, embeddings.position_embedding.weight)
    transfer.blocks(part.tower.trunk.blocks, stock.encoder.layers, pairs.BLOCK, True)
    transfer.norm(part.tower.trunk.norm, stock.final_layer_norm, True)
    with torch.no_grad():
        stock.head.weight.copy_(torch.eye(part.tower.width))
        stock.head.bias.zero_()


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through `SiglipModel` or its vision half, and say how to prove it."""
    import transformers

    pair = pairs.Pair.of(source)
    vision = transfer.stock_options(pair.image.options) | images.image_config(pair.image) if pair.image else {}
    text = texts.text_config(pair.text) if pair.text else {}
    if pair.image and pair.text:
        name = "SiglipModel"
        stock: Any = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
        with torch.no_grad():
            stock.logit_scale.fill_(pair.scale)
            stock.logit_bias.fill_(pair.bias)
    elif pair.image:
        name = "SiglipVisionModel"
        stock = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**vision))
    else:
        name = "SiglipTextModel"
        stock = transformers.SiglipTextModel(transformers.SiglipTextConfig(**text))
    if pair.image:
        fill_vision(pair.image, stock.vision_model if pair.text else stock, out=True)
        images.write_processor(pair.image, folder)
    if pair.text:
        fill_text(pair.text, stock.text_model if pair.image else stock)
        texts.write_tokenizer(pair.text, folder)
    stock.save_pretrained(folder)
    notes = [*pairs.scale_note(pair), *(images.notes(pair.image) if pair.image else [])]
    if pair.text:
        length = int(pair.text.modality.max_length)
        notes.append(f"Texts are filled up to {length} tokens.")
    return Job(
        "transformers",
        name,
        _probes(pair, name),
        usage=pairs.usage(name, pair),
        pipelines=_pipelines(pair, source.scratch),
        without_pipeline=_without_pipeline(pair),
        auto=name != "SiglipTextModel",
        notes=notes,
        pipeline_tag="zero-shot-image-classification"
        if pair.image and pair.text
        else "image-feature-extraction"
        if pair.image
        else "feature-extraction",
    )


def _probes(pair: pairs.Pair, name: str) -> list[Trial]:
    if name == "SiglipModel":
        outputs = {"image_embeds": "image_embeds", "text_embeds": "text_embeds", "logits_per_image": "logits_per_image"}
    else:
        outputs = {"last_hidden_state": "last_hidden_state", "pooler_output": "pooler_output"}

    def ours(used: pairs.Pair, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if name == "SiglipModel":
            out = pairs.embeddings(used, inputs)
            return out | {"logits_per_image": pairs.logits(used, out) + used.bias}
        part = used.image or used.text
        assert part is not None
        encoded = pairs.encode_image(used, inputs) if used.image else pairs.encode_text(used, inputs)
        return {"last_hidden_state": part.states(encoded), "pooler_output": part.pooled(encoded)}

    found = pairs.trials(pair, outputs, ours, {"interpolate_pos_encoding": True} if pair.image else None)
    for trial in found:  # padding is attended to
        trial.inputs.pop("attention_mask", None)
    return found


def _without_pipeline(pair: pairs.Pair) -> str:
    if pair.image is None:
        return "AutoModel does not know SiglipTextModel"
    if pair.text is None or _fits(pair.text):
        return images.NO_PIPELINE
    length = pair.text.modality.max_length
    return f"transformers' zero-shot pipeline fills SigLIP's texts up to 64 tokens, this model takes {length}"


def _fits(text: Branch) -> bool:
    return int(text.modality.max_length) == PIPELINE_LENGTH


def _pipelines(pair: pairs.Pair, scratch: Path) -> list[Pipeline]:
    if pair.image is not None and pair.text is not None:
        return pairs.zero_shot(pair, scratch, sigmoid=True) if _fits(pair.text) else []
    if pair.image is not None:
        return images.feature_pipelines(pair.image, lambda used, encoded: used.states(encoded), scratch)
    return []


# ----------------------------------------------------------------------------------------------------------- reading


def reads(config: Mapping[str, object]) -> bool:
    """Whether a configuration describes SigLIP, or SigLIP 2 of any picture shape (NaFlex; the others are SigLIPs)."""
    return config.get("model_type") in ("siglip", "siglip_vision_model", *NAFLEX)


def read(config: PretrainedConfig) -> Options:
    """The architecture and preprocessing of SigLIP's image half from its configuration."""
    config = getattr(config, "vision_config", config)
    tower = transfer.trunk_options(config) | {"prefix": 0, "qkv_bias": True}
    if config.model_type not in NAFLEX:
        return {"tower": tower, "modality": images.read_config(config)}
    patch, channels = int(config.patch_size), int(config.num_channels)
    size = math.isqrt(int(config.num_patches)) * patch
    return {"tower": tower, "modality": {"size": size, "patch": patch, "channels": channels, "positions": "learned"}}


def load(part: Branch, origin: str) -> None:
    """Fill a tower with the weights of the checkpoint at a path or id. UserError when it lacks some."""
    from transformers import AutoConfig, Siglip2VisionModel, SiglipVisionModel

    if AutoConfig.from_pretrained(origin, trust_remote_code=False).model_type in NAFLEX:
        take_naflex(part, transfer.pretrained(Siglip2VisionModel, origin, ignore=("head.",)))
        return
    fill_vision(part, transfer.pretrained(SiglipVisionModel, origin, ignore=("head.",)), out=False)


FORMAT = Format(
    title=TITLE, needs=NEEDS, write=write, adapted=ADAPTED, reader=Reader(reads=reads, read=read, load=load, pair=True)
)
