"""What the formats of image-text pairs share: their blocks, their trials, zero-shot classification.

A model with one of the two towers is exported as that half. Shapes: B batch, E embedding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import images, texts, transfer
from .exportable import Branch, Exportable
from .job import Pipeline, Trial

if TYPE_CHECKING:
    from torch import nn

    from ..modeling_mmssl import MMSSLModel
    from ..tower import Encoded


BLOCK = transfer.BlockNames(
    "layer_norm1",
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.out_proj",
    "layer_norm2",
    ("mlp.fc1",),
    "mlp.fc2",
)

TEMPLATE = "{}"


@dataclass
class Pair:
    """Both halves of one model, or one of them."""

    image: Branch | None
    text: Branch | None

    @classmethod
    def of(cls, source: Exportable) -> Pair:
        """The image and the text part of a model, of those that it has."""
        return cls(*(source.part(t) if source.parts(t) else None for t in ("image", "text")))

    @property
    def model(self) -> MMSSLModel:
        """The model that the parts belong to."""
        part = self.image or self.text
        assert part is not None
        return part.model

    @property
    def scale(self) -> float:
        """log(1 / temperature) that training ended with, CLIP's initial one where nothing is known."""
        found = self.model.config.logit_scale
        return 2.6592 if found is None else float(found)

    @property
    def bias(self) -> float:
        """What is added to the scaled cosines: of sigmoid losses, else 0."""
        return float(self.model.config.logit_bias or 0.0)

    def changed(self, dtype: torch.dtype, to: tuple[int, int] | None = None) -> Pair:
        """A copy in another dtype, positions as tables, those of the image interpolated `to` another grid."""
        if self.image is None:
            assert self.text is not None
            copied = self.text.changed(dtype, texts.table_of(self.text), (self.text.modality.max_length,))
            return Pair(None, copied)
        if self.image.foreign:
            image = self.image.changed(dtype)
        else:
            image = self.image.changed(dtype, images.table_of(self.image), grid_of(self.image), to=to)
        text = None
        if self.text is not None:
            text = dataclasses.replace(self.text, model=image.model)
        if text is not None and self.text is not None and not text.foreign:
            table = texts.table_of(self.text) - self.text.type_vector()
            text.modality.position = images.LearnedGrid(table.shape[1], (len(table),))
            text.modality.position.table.data.copy_(table)
            torch.nn.Module.to(text.modality.position, dtype)
        return Pair(image, text)


def grid_of(part: Branch) -> tuple[int, int]:
    """Patches down and across."""
    (height, width), (ph, pw) = part.modality.size, part.modality.patch
    return height // ph, width // pw


def identity_or(projection: nn.Linear | None, width: int) -> Tensor:
    """(E, D) the projection into the shared embedding; without one, the identity."""
    weight: Tensor = torch.eye(width) if projection is None else projection.weight.detach()
    return weight


Ours = Callable[[Pair, dict[str, Tensor]], dict[str, Tensor]]


def trials(
    pair: Pair,
    outputs: dict[str, str],
    ours: Ours,
    other: Mapping[str, object] | None,
    fill: bool = False,
    **common: Any,
) -> list[Trial]:
    """The configured image size with three texts, and (other: the class's keyword arguments there) a larger one with
    longer texts. ours: the pair in some dtype and the trial's inputs -> the stock class's outputs."""
    generator = torch.Generator().manual_seed(20)
    found = []
    for i in range(1 if other is None and pair.text is None else 2):
        inputs, name, to = {}, [], None
        if pair.image is not None:
            rows, columns = grid_of(pair.image)
            to = (rows + 1, columns + 3) if i and other is not None else (rows, columns)
            ph, pw = pair.image.modality.patch
            size = (to[0] * ph, to[1] * pw)
            inputs["pixel_values"] = torch.randn(2, images.stock_channels(pair.image), *size, generator=generator)
            name.append(f"{size[0]} x {size[1]}")
        if pair.text is not None:
            chosen = texts.sample_texts(pair.text, 11)[2 + 5 * i : 5 + 5 * i]
            inputs |= texts.inputs_of(pair.text, chosen, fill)
            name.append(f"{inputs['input_ids'].shape[1]} tokens")
        more = dict(other or {}) if i and pair.image is not None else {}
        expect = _expecting(pair, ours, dict(inputs), to, i == 0)
        found.append(Trial(" and ".join(name), inputs, outputs, expect, more, **common))
    return found


def _expecting(
    pair: Pair, ours: Ours, inputs: dict[str, Tensor], to: tuple[int, int] | None, native: bool
) -> Callable[[torch.dtype], dict[str, Tensor]]:
    def expect(dtype: torch.dtype) -> dict[str, Tensor]:
        used = pair if native and dtype == torch.float32 else pair.changed(dtype, to)
        rounded = {k: v.to(dtype).float() if v.is_floating_point() else v for k, v in inputs.items()}
        return ours(used, rounded)

    return expect


def encode_image(pair: Pair, inputs: dict[str, Tensor]) -> Encoded:
    """The image tower's output for stock pixels (B, 3, H, W)."""
    assert pair.image is not None
    return pair.image.encode({"pixel_values": images.as_ours(pair.image, inputs["pixel_values"])})


def encode_text(pair: Pair, inputs: dict[str, Tensor]) -> Encoded:
    """The text tower's output for ids and mask (B, L)."""
    assert pair.text is not None
    return pair.text.encode({"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]})


def embeddings(pair: Pair, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """{"image_embeds", "text_embeds"}: (B, E), normalised, of the halves that are there."""
    out = {}
    if pair.image is not None:
        out["image_embeds"] = embedding(pair.image, encode_image(pair, inputs))
    if pair.text is not None:
        out["text_embeds"] = embedding(pair.text, encode_text(pair, inputs))
    return out


def embedding(part: Branch, encoded: Encoded) -> Tensor:
    """(B, E) float32. The stock classes normalise in the model's dtype, where a rounded norm moves a whole row."""
    with torch.no_grad():
        projected = part.model.project(part.tower_name, part.pooled(encoded)).to(_dtype(part))
        return (projected / projected.norm(dim=-1, keepdim=True)).float()


def logits(pair: Pair, found: dict[str, Tensor]) -> Tensor:
    """(B, B') float32 scaled cosines of `embeddings`, compared in the model's dtype as the stock classes do it."""
    assert pair.image is not None
    image, text = (found[name].to(_dtype(pair.image)) for name in ("image_embeds", "text_embeds"))
    return (image @ text.T * torch.tensor(pair.scale).exp().to(image.dtype)).float()


def _dtype(part: Branch) -> torch.dtype:
    return next(part.tower.parameters()).dtype


def zero_shot(pair: Pair, scratch: Path, sigmoid: bool = False) -> list[Pipeline]:
    """`zero-shot-image-classification` of a picture among labels, against our own processor and model."""
    image, text = pair.image, pair.text
    if image is None or text is None or not images.has_pipeline(image):
        return []
    path = scratch / "picture.png"
    array = images.save_picture(image, path)
    labels = sorted(set(texts.sample_texts(text, 5)))
    pixels = image.preprocessor([array])
    picture = image.embed(image.encode(pixels))
    words = text.embed(text.encode(text.preprocessor(labels)))
    logits = torch.exp(torch.tensor(pair.scale)) * (picture @ words.T)[0]
    scores = torch.sigmoid(logits + pair.bias) if sigmoid else logits.softmax(-1)
    expect = dict(zip(labels, scores.tolist(), strict=True))
    kwargs: dict[str, object] = {"candidate_labels": labels, "hypothesis_template": TEMPLATE}
    return [Pipeline("zero-shot-image-classification", str(path), expect, kwargs=kwargs)]


def usage(name: str, pair: Pair) -> str:
    """Code that loads the folder and compares a picture with texts, for its card."""
    lines = [
        f"from transformers import AutoImageProcessor, AutoTokenizer, {name}",
        "",
        f'model = {name}.from_pretrained("PATH_OR_ID")',
    ]
    inputs = []
    if pair.image is not None:
        lines.append('images = AutoImageProcessor.from_pretrained("PATH_OR_ID")([picture], return_tensors="pt")')
        inputs.append("**images")
    if pair.text is not None:
        filled = pair.text.preprocessor.config.attend_padding
        padding = '"max_length"' if filled else "True"
        lines.append(
            f'texts = AutoTokenizer.from_pretrained("PATH_OR_ID")(["a text"], padding={padding}, '
            f'truncation=True, return_tensors="pt")'
        )
        inputs.append("**texts")
    return "\n".join([*lines, f"output = model({', '.join(inputs)})"])


def scale_note(pair: Pair) -> list[str]:
    """What to say of a temperature that no training found; nothing otherwise."""
    if pair.image is None or pair.text is None or pair.model.config.logit_scale is not None:
        return []
    return [
        "The model knows no temperature (it was not trained by contrast across towers): CLIP's initial one is "
        "used, which changes probabilities, not their order."
    ]
