"""Random resized crops cut out of pictures as they were decoded, in one resampling, when their rows are read.

Shapes: B batch, C channels, h, w a view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmssl.draws import Draws
from mmssl.modality import Inputs, with_present
from mmssl.modality.cutting import Cutter
from mmssl.modality.pixels.boxes import Box, boxes_in, least_side
from mmssl.modality.pixels.decode import adapt_channels
from mmssl.modality.pixels.options import View, pair
from mmssl.modality.pixels.resample import resize_part, shown
from mmssl.modality.raw import Array

if TYPE_CHECKING:
    from .preprocessor import Preprocessor

CUT, BOX = "cut", "box"
"""Keys of what was cut for a view: (B, C, h, w) uint8, or float32 before normalisation where a picture was no 8-bit
one; and (B, 5) float32 where that lies: top, left, height and width in pixels of the whole picture as it would be
fitted to the model's size, which may lie outside of it where it cuts the picture; and 1 where left is right."""


def cropped(views: Mapping[str, Mapping[str, Any]]) -> dict[str, View]:
    """Those of the views that crop each picture by itself, before anything that looks at others of the batch."""
    built = {name: View.build(spec) for name, spec in views.items()}
    return {name: view for name, view in built.items() if view.crop_scale and not (view.alike or view.style)}


class PictureCutter(Cutter[Array]):
    """Reads pictures in the size that they have, or of JPEG files in the smallest at which the smallest crop that a
    view may draw still has as many pixels as it is given to the model in."""

    def __init__(self, preprocessor: Preprocessor, views: Mapping[str, View]) -> None:
        self.preprocessor, self.options, self.views = preprocessor, views, tuple(views)

    def out(self, view: View) -> tuple[int, int]:
        """(h, w) of a view."""
        return self.preprocessor.size if view.crop_size is None else pair(view.crop_size)

    def shrink(self, height: int, width: int) -> int:
        """By how much a JPEG file of this size may be read smaller."""
        most = min(least_side(view, height, width) / max(self.out(view)) for view in self.options.values())
        return next((factor for factor in (8, 4, 2) if factor <= most), 1)

    def read(self, raw: object, choice: int = 0) -> Array | None:
        """One raw image to (H, W, C) uint8, uint16 or float32, in its own size and channels."""
        image = self.preprocessor.whole(raw, None if self.whole else self.shrink)
        if image is not None:
            adapt_channels(image[:1, :1], self.preprocessor.fitted()["channels"])  # raises where they do not fit
        return image

    def cut(self, samples: Sequence[Array | None], view: str, draws: Sequence[Draws]) -> Inputs:
        """{"cut", "box"} of the view, and "present" where some are absent; absent rows are zero."""
        options, state, config = self.options[view], self.preprocessor.fitted(), self.preprocessor.config
        sizes = [self.preprocessor.size if image is None else image.shape[:2] for image in samples]
        out = self.out(options)
        boxes, mirrored = boxes_in(options, draws, sizes, out)
        edges = torch.stack([boxes.left, boxes.top, boxes.left + boxes.width, boxes.top + boxes.height], 1)
        parts = []
        for image, edge in zip(samples, edges.tolist(), strict=True):
            if image is not None:
                image = resize_part(
                    image, out, (edge[0], edge[1], edge[2], edge[3]), config.interpolation, state["mean"]
                )
                image = adapt_channels(image, state["channels"])
            parts.append(image)
        eight = all(part is None or part.dtype == np.uint8 for part in parts)
        pixels = np.zeros((len(parts), state["channels"], *out), np.uint8 if eight else np.float32)
        for row, part, turned in zip(pixels, parts, mirrored, strict=True):
            if part is not None:
                part = (part[:, ::-1] if turned else part).transpose(2, 0, 1)
                np.copyto(row, part if part.dtype == pixels.dtype else part / np.float32(255))
        return with_present({CUT: torch.from_numpy(pixels), BOX: self._placed(boxes, sizes)}, samples)

    def _placed(self, boxes: Box, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """(B, 5) the boxes in pixels of the fitted pictures."""
        size, how = self.preprocessor.size, self.preprocessor.config.resize
        left, top, right, bottom = torch.tensor([shown(whole, size, how) for whole in sizes]).unbind(1)
        tall, wide = size[0] / (bottom - top), size[1] / (right - left)
        mirrored = torch.zeros_like(top) if boxes.mirrored is None else boxes.mirrored.float()
        placed = [(boxes.top - top) * tall, (boxes.left - left) * wide, boxes.height * tall, boxes.width * wide]
        return torch.stack([*placed, mirrored], 1)

    def collate(self, samples: Sequence[Array | None]) -> Inputs:
        """As `Preprocessor.collate`."""
        return self.preprocessor.collate([None if one is None else self.preprocessor.sized(one) for one in samples])


def box_cut(inputs: Inputs) -> Box:
    """Where what was cut lies in the fitted pictures."""
    top, left, height, width, mirrored = inputs[BOX].unbind(1)
    return Box(top, left, height, width, mirrored > 0, (inputs[CUT].shape[-2], inputs[CUT].shape[-1]))
