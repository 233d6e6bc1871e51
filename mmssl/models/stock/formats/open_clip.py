"""open_clip's CLIP: a folder for `open_clip.create_model_and_transforms("local-dir:FOLDER")`, tokenizer included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from .. import images, pairs, texts, transfer
from ..contract import Format
from ..exportable import Branch, Exportable
from ..job import Job, Trial
from ..needs import Need, need
from . import clip

if TYPE_CHECKING:
    from open_clip.model import CLIP


TITLE = "open_clip.CLIP"
REQUIRED = ("image", "text")
NEEDS = {
    "image": (
        *[n for n in images.NEEDS if n.key not in ("embed_norm", "resize")],
        images.FINAL_NORM,
        need("modality", "resize", "crop", "squash", why="open_clip's transforms do not pad in this way"),
        Need("modality", "channels", 3, lambda v: v in (None, 1, 3), "1 or 3", "open_clip takes colour images"),
        need("tower", "prefix", 1, why="open_clip has one class token and no registers"),
        need("tower", "pooling", "cls", "mean", why="open_clip pools by the class token or the mean"),
    ),
    "text": clip.NEEDS["text"],
}
BLOCK = transfer.BlockNames("ln_1", ("attn",), "attn.out_proj", "ln_2", ("mlp.c_fc",), "mlp.c_proj")


def check(source: Exportable) -> list[str]:
    """What lies between the two towers."""
    image, text = source.part("image").options, source.part("text").options
    if "silu" in (image.activation, text.activation):
        return ["model.towers: found the activation silu, expected gelu, gelu_tanh or quick_gelu (open_clip has these)"]
    if image.activation != text.activation and "quick_gelu" in (image.activation, text.activation):
        return [
            f"model.towers: found the activations {image.activation} and {text.activation}, expected quick_gelu "
            f"in both or none (open_clip has one switch)"
        ]
    return []


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through open_clip's `CLIP`, and say how to prove it."""
    from open_clip import CLIP

    pair = pairs.Pair(source.part("image"), source.part("text"))
    image, text = pair.image, pair.text
    assert image is not None and text is not None
    config = model_config(image, text)
    stock = CLIP(**config, init_logit_scale=pair.scale)
    fill(pair, stock)
    save_file({k: v.contiguous() for k, v in stock.state_dict().items()}, folder / "open_clip_model.safetensors")
    texts.write_tokenizer(text, folder)
    config["text_cfg"]["hf_tokenizer_name"] = "."  # open_clip looks into the folder itself
    state, options = image.preprocessor.state, image.preprocessor.config
    repeat = images.stock_channels(image) // len(state["mean"])
    preprocess = {
        "mean": list(state["mean"]) * repeat,
        "std": list(state["std"]) * repeat,
        "interpolation": options.interpolation,
        "resize_mode": "shortest" if options.resize == "crop" else "squash",
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2, sort_keys=True) + "\n"
    )
    return Job(
        "open_clip",
        "",
        _probes(pair),
        usage=_usage(),
        auto=False,
        notes=_notes(pair),
        without_pipeline="transformers' pipelines do not load open_clip's models",
        pipeline_tag="zero-shot-image-classification",
    )


def model_config(image: Branch, text: Branch) -> dict[str, Any]:
    """open_clip's `model_cfg`."""

    def common(part: Branch) -> dict[str, Any]:
        options = part.options
        tanh = {"act_kwargs": {"approximate": "tanh"}} if options.activation == "gelu_tanh" else {}
        return {
            "width": options.width,
            "layers": options.depth,
            "mlp_ratio": float(options.mlp_ratio),
            "norm_kwargs": {"eps": float(options.norm_eps)},
            **tanh,
        }

    special = texts.special_ids(text)
    return {
        "embed_dim": image.embedding_width,
        "quick_gelu": image.options.activation == "quick_gelu",
        "vision_cfg": {
            **common(image),
            "head_width": image.options.width // image.options.heads,
            "image_size": int(image.modality.size[0]),
            "patch_size": int(image.modality.patch[0]),
            "no_ln_pre": not image.options.embed_norm,
            "pool_type": "tok" if image.options.pooling == "cls" else "avg",
        },
        "text_cfg": {
            **common(text),
            "heads": text.options.heads,
            "context_length": int(text.modality.max_length),
            "vocab_size": int(text.modality.vocab_size),
            "pool_type": "eos",
            "eos_id": special["eos"],
            "pad_id": special["pad"],
        },
    }


@torch.no_grad()
def fill(pair: pairs.Pair, stock: CLIP) -> None:
    """All weights of both halves and the temperature, out to open_clip's model."""
    image, text, visual = pair.image, pair.text, stock.visual
    assert image is not None and text is not None
    images.patch_map(image, visual.conv1, True)
    images.positions(image, visual.positional_embedding, [visual.class_embedding], True, with_bias=True)
    if image.tower.embed_norm is not None:
        transfer.norm(image.tower.embed_norm, visual.ln_pre, True)
    transfer.blocks(image.tower.trunk.blocks, visual.transformer.resblocks, BLOCK, True)
    transfer.norm(image.tower.trunk.norm, visual.ln_post, True)
    visual.proj.copy_(pairs.identity_or(image.projection, image.tower.width).T)
    texts.tables(text, stock.token_embedding.weight, stock.positional_embedding)
    transfer.blocks(text.tower.trunk.blocks, stock.transformer.resblocks, BLOCK, True)
    transfer.norm(text.tower.trunk.norm, stock.ln_final, True)
    stock.text_projection.copy_(pairs.identity_or(text.projection, text.tower.width).T)
    stock.logit_scale.fill_(pair.scale)


def _probes(pair: pairs.Pair) -> list[Trial]:
    outputs = {"image_embeds": "0", "text_embeds": "1"}
    # open_clip interpolates positions when it loads weights for another size, not at a call
    found = pairs.trials(pair, outputs, pairs.embeddings, None, fill=True)
    for trial in found:  # it has its own names, and no mask: padding is behind the end, where nobody looks
        trial.inputs = {"image": trial.inputs["pixel_values"], "text": trial.inputs["input_ids"]}
    scale = {"exp(logit_scale)": torch.exp(torch.tensor(pair.scale))}
    return [
        *found,
        Trial("any input", found[0].inputs, {"exp(logit_scale)": "2"}, lambda _: scale, dtypes=("float32",)),
    ]


def _usage() -> str:
    return "\n".join(
        [
            "import open_clip",
            "",
            'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")',
            'tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")',
            'images, texts, scale = model(preprocess(picture)[None], tokenizer(["a text"]))',
        ]
    )


def _notes(pair: pairs.Pair) -> list[str]:
    assert pair.image is not None
    return [
        "open_clip interpolates positions when it loads for another `force_image_size`, not at a call.",
        *pairs.scale_note(pair),
        *images.notes(pair.image),
    ]


FORMAT = Format(title=TITLE, needs=NEEDS, write=write, required=REQUIRED, check=check, projects=True)
