"""The encoder of a masked autoencoder (He et al. 2022). As ViT; the class masks while it encodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .. import images, transfer
from ..contract import Format, Reader
from ..exportable import Branch, Exportable
from ..job import Job
from . import vit

if TYPE_CHECKING:
    from torch import Tensor

    from ...tower import Encoded


TITLE = "transformers.ViTMAEModel"
REQUIRED = ("image",)
NEEDS = vit.NEEDS
ADAPTED = vit.ADAPTED


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through `ViTMAEModel`, and say how to prove it."""
    import torch
    from transformers import ViTMAEConfig, ViTMAEModel

    part = source.part("image")
    stock = ViTMAEModel(ViTMAEConfig(**vit.config_of(part), mask_ratio=0.0))
    vit.fill(part, stock, out=True)
    stock.save_pretrained(folder)
    images.write_processor(part, folder)

    def ours(used: Branch, encoded: Encoded) -> dict[str, Tensor]:
        return {"last_hidden_state": used.states(encoded)}

    found = images.trials(
        part, {"last_hidden_state": "last_hidden_state"}, ours, other={"interpolate_pos_encoding": True}
    )
    for trial in found:  # the class shuffles the patches by `noise`; sorted noise leaves them in place
        pixels = trial.inputs["pixel_values"]
        count = pixels.shape[2] * pixels.shape[3] // (part.modality.patch[0] * part.modality.patch[1])
        trial.inputs["noise"] = torch.linspace(0, 1, count).repeat(len(pixels), 1)
        trial.exact_inputs = ("noise",)
    return Job(
        "transformers",
        "ViTMAEModel",
        found,
        usage=images.usage("ViTMAEModel"),
        # tokens come in a random order: what does not depend on it is compared
        pipelines=images.feature_pipelines(
            part, lambda used, encoded: used.states(encoded), source.scratch, shuffled=True
        ),
        without_pipeline=images.NO_PIPELINE,
        notes=[
            "`mask_ratio` is 0, so that the class sees all patches; set it to pretrain on. The class shuffles the "
            "patches at each call: pass `noise` in ascending order to keep them in place. The decoder is not exported.",
            images.embedding_note(part, "output.last_hidden_state"),
            *images.notes(part),
        ],
    )


def reads(config: Mapping[str, object]) -> bool:
    """Whether a configuration describes ViT-MAE."""
    return config.get("model_type") == "vit_mae"


read = vit.read


def load(part: Branch, origin: str) -> None:
    """Fill a tower with the weights of the checkpoint at a path or id. UserError when it lacks some."""
    from transformers import ViTMAEModel

    vit.fill(part, transfer.pretrained(ViTMAEModel, origin, ignore=("decoder.",)), out=False)


FORMAT = Format(
    title=TITLE,
    needs=NEEDS,
    write=write,
    required=REQUIRED,
    adapted=ADAPTED,
    reader=Reader(reads=reads, read=read, load=load),
)
