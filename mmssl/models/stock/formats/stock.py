"""A wrapped tower (`model.towers.X.from`) as the stock class that it wraps: a BERT goes out as a `BertModel` again.

One half of a CLIP goes out with its projection, both halves as a whole `CLIPModel`, with the temperature that training
ended with. Image processor, feature extractor or tokenizer are written beside it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....errors import UserError
from ...foreign import OpenClipTower, TransformersTower
from .. import images, pairs, sounds, texts
from ..compatibility import obstacles
from ..contract import Format
from ..exportable import Branch, Exportable
from ..job import Job, Pipeline, Trial
from ..needs import Need, need
from ..transfer import BlockNames

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor


TITLE = "the class that a wrapped tower wraps (BertModel, ViTModel, CLIPModel, Wav2Vec2Model, ...)"
REQUIRED = ()
NEEDS: dict[str, tuple[Need, ...]] = {"image": (), "text": (), "audio": ()}
IMAGE = (need("modality", "resize", "crop", "squash", why="stock image processors do not pad with a background"),)
ADAPTED: dict[str, tuple[BlockNames, ...]] = {}
HALVES = ("CLIPVisionModel", "CLIPTextModel")


def chosen(source: Exportable) -> list[Branch]:
    """The wrapped tower, or both halves of a CLIP. UserError when there is none, or when it is not clear which."""
    wrapped = [p for kind in NEEDS for p in source.parts(kind) if p.foreign]
    if not wrapped:
        raise UserError(
            f"format stock: no tower of {source.origin} wraps a stock model (model.towers.X.from), "
            f"expected one; towers of mmssl's own go to a format of `mmssl list formats`"
        )
    if len(wrapped) == 1 or _whole(wrapped):
        return wrapped
    names = ", ".join(f"{p.tower_name} ({p.wrapped})" for p in wrapped)
    raise UserError(f"format stock: several towers wrap a stock model: {names}; name one with --tower")


def _whole(parts: Sequence[Branch]) -> bool:
    return tuple(p.wrapped for p in parts) == HALVES and all(
        "projection" in p.tower.net and p.options.pooling == "cls" and p.projection is None  # type: ignore[operator]
        for p in parts
    )


def check(source: Exportable) -> list[str]:
    """What stands in the way, a clause each: a model of open_clip, a half for which there is no class, other pixels."""
    found: list[str] = []
    for part in chosen(source):
        where = f"model.towers.{part.tower_name}.from"
        if not isinstance(part.tower, TransformersTower):
            other = "one half of an open_clip model" if isinstance(part.tower, OpenClipTower) else "a model of timm"
            found.append(f"{where}: it wraps {other} ({part.wrapped}), expected a transformers model")
        elif "projection" in part.tower.net and part.wrapped not in HALVES:  # type: ignore[operator]
            found.append(
                f"{where}: it wraps one half of a pair with a projection ({part.wrapped}), for which there is "
                f"no stock class but that of CLIP's halves"
            )
        if part.type == "audio":
            found += sounds.obstacles(part)
        if part.type == "image":
            found += obstacles(part.values(), IMAGE, part.paths())
    return found


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through the wrapped model's own class, and say how to prove it."""
    parts = chosen(source)
    stock = _pair(parts) if len(parts) == 2 else _single(parts[0])
    with sounds.as_it_came(parts[0]):
        stock.save_pretrained(folder)
    for part in parts:
        if part.type == "image":
            processor(part).save_pretrained(folder)
        elif part.type == "audio":
            sounds.extractor(part).save_pretrained(folder)
        else:
            texts.write_tokenizer(part, folder)
    job = _pair_job if len(parts) == 2 else _single_job
    done = job(parts, type(stock).__name__, source.scratch)
    done.notes += [
        f"mmssl's projection of the tower '{p.tower_name}' into its shared embedding is not part of this class."
        for p in parts
        if p.projection is not None
    ]
    return done


def _single(part: Branch) -> PreTrainedModel:
    """The encoder itself, or the class that holds it with its projection."""
    import transformers

    net: Any = part.tower.net
    if "projection" not in net:
        return net["encoder"]
    config = copy.deepcopy(net["encoder"].config)
    config.projection_dim = net["projection"].out_features
    stock: Any = getattr(transformers, f"{part.wrapped}WithProjection")(config)
    _fill(part, stock)
    return stock


def _fill(part: Branch, stock: PreTrainedModel) -> None:
    net: Any = part.tower.net
    half, projection = (
        ("text_model", "text_projection") if part.type == "text" else ("vision_model", "visual_projection")
    )
    getattr(stock, half).load_state_dict(net["encoder"].state_dict())
    getattr(stock, projection).load_state_dict(net["projection"].state_dict())


def _pair(parts: Sequence[Branch]) -> CLIPModel:
    import transformers

    nets: list[Any] = [part.tower.net for part in parts]
    image, text = (net["encoder"].config.to_dict() for net in nets)
    width = parts[0].tower.width
    stock = transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config=image | {"projection_dim": width},
            text_config=text | {"projection_dim": width},
            projection_dim=width,
        )
    )
    for part in parts:
        _fill(part, stock)
    with torch.no_grad():
        stock.logit_scale.fill_(pairs.Pair(*parts).scale)
    return stock


def processor(part: Branch) -> BaseImageProcessor:
    """Our image processor as a stock one; a model of grey pictures stays one."""
    made: Any = images.image_processor(part)
    if part.modality.channels == 1:
        made.image_mean, made.image_std = list(part.preprocessor.state["mean"]), list(part.preprocessor.state["std"])
        made.do_convert_rgb = False
    return made


# ------------------------------------------------------------------------------------------------------------ trials


def _single_job(parts: Sequence[Branch], cls: str, scratch: Path) -> Job:
    part = parts[0]
    if part.type == "audio":
        return sounds.job(part, cls)
    if part.type == "text":
        trials, pipelines = _text_probes(part, _text_outputs(part)), _text_pipelines(part)
        usage, tag = pairs.usage(cls, pairs.Pair(None, part)), "feature-extraction"
    else:
        trials, pipelines = _image_probes(part), _image_pipelines(part, scratch)
        usage, tag = images.usage(cls), "image-feature-extraction"
    output = "output.image_embeds" if part.type == "image" else "output.text_embeds"
    projected = "projection" in part.tower.net  # type: ignore[operator]
    states = "output.last_hidden_state"
    pooled = "output.pooler_output" if part.tower.pools else f"{states}[:, 0]"
    mean = f"the mean of {states} over " + ("what is no padding" if part.type == "text" else "its patches")
    note = part.said_of_embedding(output if projected else pooled, states, mean)
    more = ", of its projected tokens" if projected and part.options.pooling != "cls" else ""
    return Job(
        "transformers",
        cls,
        trials,
        usage=usage,
        pipelines=pipelines,
        without_pipeline="" if pipelines else images.NO_PIPELINE,
        pipeline_tag=tag,
        notes=[f"{note}{more}."],
    )


def _image_probes(part: Branch) -> list[Trial]:
    """The configured size, through our tower; and a larger one, which our tower does not take, where the class
    interpolates its positions."""
    encoder: Any = part.tower.net["encoder"]  # type: ignore[index]
    projected = "projection" in part.tower.net  # type: ignore[operator]
    (height, width), (ph, pw) = part.modality.size, part.modality.patch
    generator = torch.Generator().manual_seed(20)
    pixels = torch.randn(2, part.modality.channels, height, width, generator=generator)

    def expect(dtype: torch.dtype) -> dict[str, Tensor]:
        used = part.changed(dtype)
        encoded = used.encode({"pixel_values": pixels.to(dtype).float()})
        pooled = projected or used.tower.pools
        return {name: encoded.prefix[:, 0] if pooled else used.states(encoded)}

    name = "image_embeds" if projected else "pooler_output" if part.tower.pools else ("last_hidden_state")
    found = [Trial(f"{height} x {width}", {"pixel_values": pixels}, {name: name}, expect)]
    if "interpolate_pos_encoding" not in inspect.signature(encoder.forward).parameters:
        return found
    larger = torch.randn(2, part.modality.channels, height + ph, width + 3 * pw, generator=generator)
    more = {"interpolate_pos_encoding": True}

    def expect_larger(dtype: torch.dtype) -> dict[str, Tensor]:
        net: Any = part.changed(dtype).tower.net
        with torch.no_grad():
            output = net["encoder"](pixel_values=larger.to(dtype), **more)
            return {name: net["projection"](output.pooler_output) if projected else getattr(output, name)}

    size = f"{height + ph} x {width + 3 * pw}"
    return [*found, Trial(size, {"pixel_values": larger}, {name: name}, expect_larger, kwargs=more)]


Outputs = Callable[[Branch, dict[str, Tensor]], dict[str, Tensor]]


def _text_outputs(part: Branch) -> Outputs:
    def ours(used: Branch, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        encoded = used.encode(inputs)
        if "projection" in used.tower.net:  # type: ignore[operator]
            return {"text_embeds": encoded.prefix[:, 0]}
        if used.tower.pools:
            return {"pooler_output": encoded.prefix[:, 0]}
        tokens = encoded.tokens[used.name]
        if inputs["attention_mask"].all():
            return {"last_hidden_state": tokens}
        return {"last_hidden_state.0": tokens[0], "last_hidden_state.1.0": tokens[1, 0]}

    return ours


def _text_probes(part: Branch, ours: Outputs) -> list[Trial]:
    """One short text; and the longest of several with the shortest beside it, of which, because it is padded, the first
    token is compared."""
    several = texts.by_length(part)
    found = []
    for batch in ([several[0]], [several[-1], several[0]]):
        inputs = texts.trimmed(part, batch)

        def expect(dtype: torch.dtype, inputs: dict[str, Tensor] = inputs) -> dict[str, Tensor]:
            return ours(part.changed(dtype), inputs)

        names = list(ours(part, inputs))
        name = f"{len(batch)} text{'s' * (len(batch) > 1)} of up to {inputs['input_ids'].shape[1]} tokens"
        found.append(Trial(name, inputs, dict(zip(names, names, strict=True)), expect))
    return found


def _image_pipelines(part: Branch, scratch: Path) -> list[Pipeline]:
    if part.modality.channels != 3 or not images.has_pipeline(part):
        return []
    path = scratch / "picture.png"
    pixels = part.preprocessor([images.save_picture(part, path)])["pixel_values"]
    net: Any = part.tower.net
    with torch.no_grad():
        expect = net["encoder"](pixel_values=pixels).last_hidden_state
    return [Pipeline("image-feature-extraction", str(path), expect)]


def _text_pipelines(part: Branch) -> list[Pipeline]:
    text = texts.sample_texts(part, 7)[6]
    net: Any = part.tower.net
    with torch.no_grad():
        expect = net["encoder"](**texts.trimmed(part, [text])).last_hidden_state
    options = {
        "truncation": True,
        **(
            {"padding": "max_length", "max_length": int(part.modality.max_length)}
            if part.preprocessor.config.attend_padding
            else {}
        ),
    }
    return [Pipeline("feature-extraction", text, expect, options={"tokenize_kwargs": options})]


def _pair_job(parts: Sequence[Branch], cls: str, scratch: Path) -> Job:
    pair = pairs.Pair(*parts)
    image, text = parts
    generator = torch.Generator().manual_seed(20)
    pixels = torch.randn(2, image.modality.channels, *image.modality.size, generator=generator)
    names = ("image_embeds", "text_embeds", "logits_per_image")
    found = []
    several = texts.by_length(text)
    for batch in (several[:3], several[-3:]):
        inputs = {"pixel_values": pixels, **texts.trimmed(text, batch)}

        def expect(dtype: torch.dtype, inputs: dict[str, Tensor] = inputs) -> dict[str, Tensor]:
            used = image if dtype == torch.float32 else image.changed(dtype)
            return _pair_outputs(
                used, Branch(used.model, text.tower_name, text.name, text.type, text.preprocessor), inputs, dtype
            )

        name = f"{pixels.shape[2]} x {pixels.shape[3]} and {inputs['input_ids'].shape[1]} tokens"
        found.append(Trial(name, inputs, dict(zip(names, names, strict=True)), expect))
    colour = image.modality.channels == 3
    return Job(
        "transformers",
        cls,
        found,
        usage=pairs.usage(cls, pair),
        pipelines=pairs.zero_shot(pair, scratch) if colour else [],
        without_pipeline=images.NO_PIPELINE,
        notes=pairs.scale_note(pair),
        pipeline_tag="zero-shot-image-classification",
    )


def _pair_outputs(image: Branch, text: Branch, inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    pixels = inputs["pixel_values"].to(dtype).float()
    words = {k: v for k, v in inputs.items() if k != "pixel_values"}
    out = {
        "image_embeds": pairs.embedding(image, image.encode({"pixel_values": pixels})),
        "text_embeds": pairs.embedding(text, text.encode(words)),
    }
    return out | {"logits_per_image": pairs.logits(pairs.Pair(image, text), out)}


FORMAT = Format(title=TITLE, needs=NEEDS, write=write, wrapped=True, check=check, adapted=ADAPTED)
