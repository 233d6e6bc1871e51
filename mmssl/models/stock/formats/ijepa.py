"""I-JEPA's encoder (Assran et al. 2023): a ViT without a class token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .. import images, transfer
from ..contract import Format, Options, Reader
from ..exportable import Branch, Exportable
from ..job import Job
from ..needs import need
from . import vit

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

    from ...tower import Encoded


TITLE = "transformers.IJepaModel"
REQUIRED = ("image",)
NEEDS = {
    "image": (
        *images.NEEDS,
        images.FINAL_NORM,
        need("tower", "prefix", 0, why="I-JEPA has neither a class token nor registers"),
        need("tower", "pooling", "mean", why="without a class token there is the mean of the tokens"),
    )
}

ADAPTED = vit.ADAPTED


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through `IJepaModel`, and say how to prove it."""
    from transformers import IJepaConfig, IJepaModel

    part = source.part("image")
    stock = IJepaModel(IJepaConfig(**vit.config_of(part)))
    vit.fill(part, stock, out=True)
    stock.save_pretrained(folder)
    images.write_processor(part, folder)

    def ours(used: Branch, encoded: Encoded) -> dict[str, Tensor]:
        return {"last_hidden_state": used.states(encoded)}

    return Job(
        "transformers",
        "IJepaModel",
        images.trials(part, {"last_hidden_state": "last_hidden_state"}, ours, other={"interpolate_pos_encoding": True}),
        usage=images.usage("IJepaModel"),
        pipelines=images.feature_pipelines(part, lambda used, encoded: used.states(encoded), source.scratch),
        without_pipeline=images.NO_PIPELINE,
        notes=[images.embedding_note(part, "output.last_hidden_state"), *images.notes(part)],
    )


def reads(config: Mapping[str, object]) -> bool:
    """Whether a configuration describes I-JEPA."""
    return config.get("model_type") == "ijepa"


def read(config: PretrainedConfig) -> Options:
    """The architecture and preprocessing of I-JEPA from its configuration."""
    tower = transfer.trunk_options(config) | {"prefix": 0, "qkv_bias": bool(config.qkv_bias)}
    return {"tower": tower, "modality": images.read_config(config)}


def load(part: Branch, origin: str) -> None:
    """Fill a tower with the weights of the checkpoint at a path or id. UserError when it lacks some."""
    from transformers import IJepaModel

    vit.fill(part, transfer.pretrained(IJepaModel, origin, ignore=("pooler.",)), out=False)


FORMAT = Format(
    title=TITLE,
    needs=NEEDS,
    write=write,
    required=REQUIRED,
    adapted=ADAPTED,
    reader=Reader(reads=reads, read=read, load=load),
)
