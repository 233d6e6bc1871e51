"""A dual encoder of any image and any text class, each with a projection, as `VisionTextDualEncoderModel` holds it:
what locked-image tuning (Zhai et al. 2022) and contrastive training of two single encoders end in.

The class projects the `pooler_output` of its halves, so what they pool by must be linear, or made so: an image tower
becomes a `ViTModel` with a pooler that hands its class token on, a causal text tower a `CLIPTextModel`, which pools at
EOS. Wrapped encoders stay what they are. Half of a pair keeps its pooler, and its projection goes into this one. Of a
ViT the pooler is made linear; of BERT and its like, which have a tanh there, it is used so close to zero that the tanh
is a straight line (`SHRINK`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...foreign import TransformersTower
from .. import images, pairs, texts, transfer
from ..compatibility import obstacles
from ..contract import Format, Options, Reader
from ..exportable import Branch, Exportable
from ..job import Job, Trial
from ..needs import need
from . import clip, vit

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from ...tower import Encoded


TITLE = "transformers.VisionTextDualEncoderModel"
REQUIRED = ("image", "text")
WARNING = (
    "The zero-shot pipeline works, though transformers prints that the model 'is not supported': the class is "
    "not in its list."
)
SHRINK = 2.0**-12
"""How far states are made smaller before a tanh: those below 10 then lose less than 2e-6 of themselves. A power of two,
so that making them larger again, within the projection, is exact."""
CLS = need("tower", "pooling", "cls", why="it takes the pooled output of its halves, which is that of the first token")
NEEDS = {
    "image": (
        *images.NEEDS,
        images.FINAL_NORM,
        need("tower", "prefix", 1, why="its image half, a ViT, has one class token and no registers"),
        CLS,
    ),
    "text": clip.NEEDS["text"],
}
WRAPPED = {
    "image": (
        CLS,
        need("modality", "resize", "crop", "squash", why="stock image processors do not pad"),
        need("modality", "channels", 3, why="its processor gives colour"),
    ),
    "text": (
        CLS,
        need("modality", "attend_padding", False, why="its encoders do not look at padding"),
        need("modality", "special_tokens", True, why="stock tokenizers put special tokens around a text"),
    ),
}


def check(source: Exportable) -> list[str]:
    """Of wrapped halves: that they pool their first token by something that can be made linear."""
    found = []
    for part in (source.part("image"), source.part("text")):
        if not part.foreign:
            continue
        if _kind(part) is None:
            known = "BertModel, CLIPTextModel" if part.type == "text" else "ViTModel, Dinov2Model, CLIPVisionModel"
            found.append(
                f"model.towers.{part.tower_name}.from: it wraps a {part.wrapped}, expected a transformers "
                f"model that pools its first token ({known}, ...)"
            )
        found += obstacles(part.values(), WRAPPED[part.type], part.paths())
    return found


def _kind(part: Branch) -> str | None:
    """How a wrapped encoder pools: "projected" (its own pooled output, then a projection), "pooled" (that output),
    "linear" and "tanh" (a map of the first token, and what stands behind it), "token" (nothing but that token);
    None: otherwise."""
    if not isinstance(part.tower, TransformersTower):
        return None
    net: Any = part.tower.net
    encoder = net["encoder"]
    if "projection" in net:
        return "projected" if net["projection"].bias is None else None
    if part.tower.pools:
        return "pooled" if encoder.config.model_type.startswith("clip") else None
    dense = getattr(getattr(encoder, "pooler", None), "dense", None)
    if isinstance(dense, nn.Linear) and dense.in_features == dense.out_features:
        if hasattr(encoder.config, "pooler_act"):
            return "linear"
        return "tanh" if isinstance(getattr(encoder.pooler, "activation", None), nn.Tanh) else None
    return "token" if encoder.config.model_type in ("dinov2", "dinov2_with_registers") else None


@torch.no_grad()
def half(part: Branch) -> tuple[PreTrainedModel, Tensor, bool]:
    """The stock model of a tower, the projection (E, D) behind what it pools, and whether a tanh stands between."""
    import transformers

    weight = pairs.identity_or(part.projection, part.tower.width)
    if not part.foreign and part.type == "image":
        stock: Any = transformers.ViTModel(transformers.ViTConfig(**vit.config_of(part), pooler_act="linear"))
        vit.fill(part, stock, out=True)
        _straight(stock.pooler.dense, 1.0)
        return stock, weight, False
    if not part.foreign:
        stock = transformers.CLIPTextModel(transformers.CLIPTextConfig(**texts.text_config(part)))
        clip.fill_text(part, stock)
        return stock, weight, False
    kind = _kind(part)
    net: Any = copy.deepcopy(part.tower.net)
    stock = net["encoder"]
    if kind == "projected":
        return stock, weight @ net["projection"].weight, False
    if kind == "linear":
        stock.config.pooler_act = "linear"
        _straight(stock.pooler.dense, 1.0)
    if kind == "tanh":
        _straight(stock.pooler.dense, SHRINK)
        weight = weight / SHRINK
    return stock, weight, kind == "tanh"


def _straight(dense: nn.Linear, factor: float) -> None:
    dense.weight.copy_(torch.eye(dense.in_features) * factor)
    dense.bias.zero_()


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through `VisionTextDualEncoderModel`, and say how to prove it."""
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel, VisionTextDualEncoderProcessor

    pair = pairs.Pair.of(source)
    image, text = pair.image, pair.text
    assert image is not None and text is not None
    (vision, seeing, bent), (words, reading, bent_too) = half(image), half(text)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision.config, words.config, projection_dim=len(seeing), logit_scale_init_value=pair.scale
    )
    stock = VisionTextDualEncoderModel(config)
    with torch.no_grad():
        stock.vision_model.load_state_dict(vision.state_dict())
        stock.text_model.load_state_dict(words.state_dict())
        stock.visual_projection.weight.copy_(seeing)
        stock.text_projection.weight.copy_(reading)
        stock.logit_scale.fill_(pair.scale)
    stock.save_pretrained(folder)
    tokenizer = texts.write_tokenizer(text, folder)
    VisionTextDualEncoderProcessor(images.image_processor(image), tokenizer).save_pretrained(folder)
    images.write_processor(image, folder)
    texts.settle_config(folder, masked=True)
    notes = [
        WARNING,
        f"The halves are a `{type(vision).__name__}` and a `{type(words).__name__}`.",
        *pairs.scale_note(pair),
        *([] if image.foreign else images.notes(image)),
    ]
    if bent or bent_too:
        notes.append(
            "The pooler of a half that has a tanh is a small multiple of the identity, where the tanh is a "
            "straight line; the projection makes up for it. In float16, whose numbers end at 6e-8, that costs "
            "some precision; float32 and bfloat16 do not mind."
        )
    return Job(
        "transformers",
        "VisionTextDualEncoderModel",
        _probes(pair),
        usage=_usage(),
        pipelines=pairs.zero_shot(pair, source.scratch),
        without_pipeline=images.NO_PIPELINE,
        notes=notes,
        pipeline_tag="zero-shot-image-classification",
    )


def _probes(pair: pairs.Pair) -> list[Trial]:
    """Short and long texts with pictures of the configured size; and, where the image half is ours, larger pictures
    alone: the class interpolates positions in `get_image_features` only."""
    image, text = pair.image, pair.text
    assert image is not None and text is not None
    size = tuple(image.modality.size)
    pixels = torch.randn(2, images.stock_channels(image), *size, generator=torch.Generator().manual_seed(20))
    several, found = texts.by_length(text), []
    for i, batch in enumerate((several[:3], several[-3:])):
        inputs = {"pixel_values": pixels, **texts.trimmed(text, batch)}

        def expect(dtype: torch.dtype, inputs: dict[str, Tensor] = inputs) -> dict[str, Tensor]:
            used = pair if dtype == torch.float32 else pair.changed(dtype)
            rounded = {k: v.to(dtype).float() if v.is_floating_point() else v for k, v in inputs.items()}
            out = pairs.embeddings(used, rounded)
            return out | {"logits_per_image": pairs.logits(used, out)}

        name = f"{size[0]} x {size[1]} and {'long' if i else 'short'} texts, {inputs['input_ids'].shape[1]} tokens"
        found.append(Trial(name, inputs, {n: n for n in ("image_embeds", "text_embeds", "logits_per_image")}, expect))
    if not image.foreign:
        found += images.trials(
            image,
            {"image_features": "pooler_output"},
            _features,
            method="get_image_features",
            other={"interpolate_pos_encoding": True},
        )[1:]
    return found


def _features(used: Branch, encoded: Encoded) -> dict[str, Tensor]:
    with torch.no_grad():
        return {"image_features": used.model.project(used.tower_name, used.pooled(encoded))}


def _usage() -> str:
    return "\n".join(
        [
            "from transformers import VisionTextDualEncoderModel, VisionTextDualEncoderProcessor",
            "",
            'model = VisionTextDualEncoderModel.from_pretrained("PATH_OR_ID")',
            'processor = VisionTextDualEncoderProcessor.from_pretrained("PATH_OR_ID")',
            'inputs = processor(text=["a text"], images=[picture], padding=True, truncation=True, return_tensors="pt")',
            "output = model(**inputs)",
        ]
    )


# ----------------------------------------------------------------------------------------------------------- reading


def reads(config: Mapping[str, object]) -> bool:
    """Those whose image half is a ViT; for others `from` wraps."""
    vision = config.get("vision_config")
    if config.get("model_type") != "vision-text-dual-encoder" or not isinstance(vision, Mapping):
        return False
    return bool(vision.get("model_type") == "vit")


def read(config: PretrainedConfig) -> Options:
    """The architecture and preprocessing of the image half from its configuration."""
    return vit.read(config.vision_config)


def load(part: Branch, origin: str) -> None:
    """Fill a tower with the weights of the checkpoint at a path or id. UserError when it lacks some."""
    from transformers import VisionTextDualEncoderModel

    vit.fill(part, transfer.pretrained(VisionTextDualEncoderModel, origin, ignore=()).vision_model, out=False)


FORMAT = Format(
    title=TITLE,
    needs=NEEDS,
    write=write,
    required=REQUIRED,
    wrapped=True,
    check=check,
    projects=True,
    reader=Reader(reads=reads, read=read, load=load, pair=True),
)
