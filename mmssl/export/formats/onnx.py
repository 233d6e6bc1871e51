"""ONNX: the image encoder at its configured size, dynamic in the batch, checked in onnxruntime."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UserError
from .. import images
from ..compatibility import ADDITIVE, need
from ..proof import Job
from ..source import Part, Source

TITLE = "an encoder.onnx for onnxruntime"
REQUIRED = ("image",)
NEEDS = {
    "image": (
        ADDITIVE,
        need("tower", "causal", False, why="what is written looks both ways"),
        need("tower", "pooling", "mean", "cls", "attention", why="what is written pools in one of these ways"),
    )
}
FILE = "encoder.onnx"


class Encoder(nn.Module):
    """pixel_values (B, C, H, W; grey from colour) -> last_hidden_state (B, R + N, D), embedding (B, E).

    The tower with all it needs in plain tensors; projected and normalised where the model projects.
    """

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = [part]  # a list: the model's other parts do not become parts of this module
        self.tower = part.tower
        self.projection = part.projection
        self.table = nn.Buffer(images.table_of(part))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        part, tower = self.part[0], self.tower
        pixels, proj, patch = images.as_ours(part, pixel_values), part.modality.proj, part.modality.patch
        kernel = proj.weight.view(len(proj.weight), -1, *patch)  # `patchify` would fix the size of the batch
        x = nn.functional.conv2d(pixels, kernel, proj.bias, stride=patch).flatten(2).transpose(1, 2) + self.table
        r = tower.prefix_count
        if tower.prefix is not None:
            x = torch.cat([tower.prefix.tokens[None].expand(x.shape[0], -1, -1), x], 1)
        if tower.embed_norm is not None:
            x = tower.embed_norm(x)
        x = tower.trunk(x)[0]
        if tower.pool is not None:
            pooled = tower.pool(x[:, r:], torch.ones_like(x[:, r:, 0], dtype=torch.bool))
        else:
            pooled = x[:, 0] if tower.pooling == "cls" else x[:, r:].mean(1)
        if self.projection is not None:
            pooled = nn.functional.normalize(self.projection(pooled), dim=-1)
        return x, pooled


def write(source: Source, folder: Path) -> Job:
    part = source.part("image")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"format onnx needs the package '{error.name}': pip install 'mmssl[onnx]'") from error
    encoder = Encoder(part).eval()
    example = torch.zeros(2, images.stock_channels(part), *part.modality.size)
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder, (example,), str(folder / FILE), input_names=["pixel_values"], dynamo=True, external_data=False,
            output_names=["last_hidden_state", "embedding"], verbose=False,
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
        )  # fmt: skip
    logging.getLogger("torch.onnx").setLevel(level)
    images.write_processor(part, folder)
    outputs = {"last_hidden_state": "last_hidden_state", "embedding": "embedding"}

    def ours(used: Part, encoded: Any) -> dict[str, Tensor]:
        embedding = used.embed(encoded) if used.projection is not None else used.pooled(encoded)
        return {"last_hidden_state": used.states(encoded), "embedding": embedding}

    probes = images.probes(part, outputs, ours, interpolates=False, dtypes=("float32",))
    more = images.probes(part, outputs, ours, interpolates=False, dtypes=("float32",), batch=5)
    probes[0].name, more[0].name = f"2 of {probes[0].name}", f"5 of {probes[0].name}"
    return Job(
        "onnx", "", [*probes, *more], usage=_usage(), auto=False, file=FILE,
        without_pipeline="transformers' pipelines do not load this file",
        notes=["float32 and one image size; the batch is dynamic. `embedding` is projected and normalised where the "
               "model has a projection."],
        pipeline_tag="image-feature-extraction", tags=["onnx"],
    )  # fmt: skip


def _usage() -> str:
    return "\n".join(
        [
            "import onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("FOLDER/{FILE}")',
            'states, embedding = session.run(None, {"pixel_values": pixels})  # (B, C, H, W) float32, normalised',
        ]
    )
