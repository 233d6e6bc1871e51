"""CLIP (Radford et al. 2021): both towers, or the one that the model has, with its projection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import images, pairs, texts, transfer
from ..contract import Format, Options, Reader
from ..exportable import Branch, Exportable
from ..job import Job, Pipeline, Trial
from ..needs import need

if TYPE_CHECKING:
    from transformers import (
        CLIPModel,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPVisionModel,
        CLIPVisionModelWithProjection,
        PretrainedConfig,
    )

    from ...tower import Encoded


TITLE = "transformers.CLIPModel, or its image or text half"
REQUIRED = ()
NEEDS = {
    "image": (
        *[n for n in images.NEEDS if n.key != "embed_norm"],
        images.FINAL_NORM,
        need("tower", "embed_norm", True, why="CLIP has a norm before its first block"),
        need("tower", "prefix", 1, why="CLIP has one class token and no registers"),
        need("tower", "pooling", "cls", why="CLIP's image embedding is that of the class token"),
    ),
    "text": (
        *texts.NEEDS,
        need("tower", "causal", True, why="a token sees only those before it"),
        need("tower", "pooling", "last", why="CLIP's text embedding is that of the last token, EOS"),
        need("modality", "attend_padding", False, why="padding lies behind EOS"),
    ),
}
ADAPTED = {"image": (pairs.BLOCK,), "text": (pairs.BLOCK,)}
PROJECTIONS = {"image": "visual_projection", "text": "text_projection"}


def fill_vision(part: Branch, stock: CLIPVisionModel, out: bool) -> None:
    """Weights between our tower and a `CLIPVisionModel`."""
    tower, embeddings = part.tower, stock.embeddings
    images.patch_map(part, embeddings.patch_embedding, out)
    images.positions(part, embeddings.position_embedding.weight, [embeddings.class_embedding], out, with_bias=out)
    transfer.norm(tower.embed_norm, stock.pre_layrnorm, out)
    transfer.blocks(tower.trunk.blocks, stock.encoder.layers, pairs.BLOCK, out)
    transfer.norm(tower.trunk.norm, stock.post_layernorm, out)


def fill_text(part: Branch, stock: CLIPTextModel) -> None:
    """The text half's weights, out to the stock model."""
    embeddings = stock.embeddings
    texts.tables(part, embeddings.token_embedding.weight, embeddings.position_embedding.weight)
    transfer.blocks(part.tower.trunk.blocks, stock.encoder.layers, pairs.BLOCK, True)
    transfer.norm(part.tower.trunk.norm, stock.final_layer_norm, True)


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through `CLIPModel` or one of its halves, and say how to prove it."""
    pair = pairs.Pair.of(source)
    name = "CLIPModel" if pair.image and pair.text else f"CLIP{'Vision' if pair.image else 'Text'}ModelWithProjection"
    build(pair, name).save_pretrained(folder)
    if pair.image is not None:
        images.write_processor(pair.image, folder)
    if pair.text is not None:
        texts.write_tokenizer(pair.text, folder)
    return Job(
        "transformers",
        name,
        _probes(pair, name),
        usage=pairs.usage(name, pair),
        pipelines=_pipelines(pair, source.scratch),
        without_pipeline=images.NO_PIPELINE,
        notes=[*pairs.scale_note(pair), *(images.notes(pair.image) if pair.image else [])],
        pipeline_tag="zero-shot-image-classification"
        if pair.image and pair.text
        else "image-feature-extraction"
        if pair.image
        else "feature-extraction",
    )


def build(pair: pairs.Pair, name: str) -> CLIPModel | CLIPTextModelWithProjection | CLIPVisionModelWithProjection:
    """The stock model with our weights."""
    import transformers

    width = (pair.image or pair.text).embedding_width  # type: ignore[union-attr]
    config: dict[str, Any] = {"projection_dim": width}
    if pair.image is not None:
        vision = transfer.stock_options(pair.image.options) | images.image_config(pair.image) | config
    if pair.text is not None:
        text = texts.text_config(pair.text) | config
    if name == "CLIPModel":
        stock: Any = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, logit_scale_init_value=pair.scale, **config)
        )
        with torch.no_grad():
            stock.logit_scale.fill_(pair.scale)
    elif pair.image is not None:
        stock = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**vision))
    else:
        stock = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**text))
    with torch.no_grad():
        if pair.image is not None:
            fill_vision(pair.image, stock.vision_model, out=True)
            stock.visual_projection.weight.copy_(pairs.identity_or(pair.image.projection, pair.image.tower.width))
        if pair.text is not None:
            fill_text(pair.text, stock.text_model)
            stock.text_projection.weight.copy_(pairs.identity_or(pair.text.projection, pair.text.tower.width))
    return stock


def _probes(pair: pairs.Pair, name: str) -> list[Trial]:
    outputs: dict[str, str] = {}
    if name == "CLIPModel":
        outputs = {"image_embeds": "image_embeds", "text_embeds": "text_embeds", "logits_per_image": "logits_per_image"}
    else:
        outputs = {"image_embeds" if pair.image else "text_embeds": "image_embeds" if pair.image else "text_embeds"}

    def ours(used: pairs.Pair, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if name != "CLIPModel":  # these classes do not normalise
            part = used.image or used.text
            assert part is not None
            encoded = pairs.encode_image(used, inputs) if used.image else pairs.encode_text(used, inputs)
            with torch.no_grad():
                projected = part.model.project(part.tower_name, part.pooled(encoded))
            return {next(iter(outputs)): projected}
        out = pairs.embeddings(used, inputs)
        return out | {"logits_per_image": pairs.logits(used, out)}

    return pairs.trials(pair, outputs, ours, {"interpolate_pos_encoding": True} if pair.image else None)


def _pipelines(pair: pairs.Pair, scratch: Path) -> list[Pipeline]:
    if pair.image is not None and pair.text is not None:
        return pairs.zero_shot(pair, scratch)
    if pair.image is not None:  # the class's last hidden state is taken before its last norm
        return images.feature_pipelines(pair.image, _unnormed, scratch)
    return texts.feature_pipelines(pair.text)  # type: ignore[arg-type]


def _unnormed(part: Branch, encoded: Encoded) -> Tensor:
    """(B, 1 + N, D) states before the last norm, from our tower without it."""
    kept, part.tower.trunk.norm = part.tower.trunk.norm, torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        states = part.states(part.tower({part.name: encoded.patches[part.name]}))
    part.tower.trunk.norm = kept
    return states


# ----------------------------------------------------------------------------------------------------------- reading


def reads(config: Mapping[str, object]) -> bool:
    """Whether a configuration describes CLIP."""
    return config.get("model_type") in ("clip", "clip_vision_model")


def read(config: PretrainedConfig) -> Options:
    """The architecture and preprocessing of CLIP's image half from its configuration."""
    config = getattr(config, "vision_config", config)
    tower = transfer.trunk_options(config) | {"prefix": 1, "qkv_bias": True, "embed_norm": True}
    return {"tower": tower, "modality": images.read_config(config)}


def load(part: Branch, origin: str) -> None:
    """Fill a tower with the weights of the checkpoint at a path or id. UserError when it lacks some."""
    from transformers import CLIPVisionModel

    fill_vision(part, transfer.pretrained(CLIPVisionModel, origin, ignore=()), out=False)


FORMAT = Format(
    title=TITLE,
    needs=NEEDS,
    write=write,
    adapted=ADAPTED,
    projections=PROJECTIONS,
    projects=True,
    reader=Reader(reads=reads, read=read, load=load, pair=True),
)
