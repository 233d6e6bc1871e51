"""Options of the image modality, and its `Preprocessor`: raw images to normalised pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from mmssl import modality as base
from mmssl.modality import Inputs, with_present
from mmssl.modality.endings import PICTURES
from mmssl.modality.looked import Looked, of_picture
from mmssl.modality.pixels.decode import Shrink, adapt_channels, decode
from mmssl.modality.pixels.moments import Survey, configured
from mmssl.modality.pixels.options import pair, smaller
from mmssl.modality.pixels.resample import fit_size
from mmssl.modality.raw import Array
from mmssl.modality.table import Column

from .cutting import PictureCutter, cropped
from .options import Config

COUNTS, LEAST_SIDE = (1, 3, 4), 8
"""Channels of arrays that are taken for pictures where nobody says so, and pixels of their shorter side at least."""
ENOUGH_WHEN_CONFIGURED = 100
"""Images that `fit` looks at where the user says channels, mean and std: only the range of values is unknown."""


class Preprocessor(base.Preprocessor[Array]):
    """Images to {"pixel_values": (B, C, H, W) float32 normalised, "present": (B,) bool, left out when all are}.

    state: `PixelState`.
    """

    reads = PICTURES
    noun = "an image"
    fitted_by = "call fit(samples), or set channels, mean and std"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.size, self.background = pair(config.size), config.behind
        self.state = dict(configured(config) or {})

    def fits(self, column: Column) -> bool:
        """Files of the kind, and arrays of three axes of which one are the colours."""
        shape = column.shape if column.media is None else ()
        array = len(shape) == 3 and (shape[0] in COUNTS or shape[2] in COUNTS) and sorted(shape)[1] >= LEAST_SIDE
        return column.media == "image" or array

    def fit(self, samples: Iterable[object]) -> Self:
        """Find the channel count, and mean and standard deviation of each channel after resizing.

        Grey and colour images mixed are seen as colour; of other counts the most frequent wins, and images that do
        not fit it are broken samples later.

        Raises:
            UserError: no sample can be read.
        """
        survey, known = Survey(), configured(self.config) is not None
        for image in self.readable(samples, self._decode):
            survey.add(image)
            if known and survey.seen >= ENOUGH_WHEN_CONFIGURED:
                break
        self.state = dict(survey.state(self.config, "images", grey_joins_colour=True))
        return self

    def suggest(self, samples: Iterable[object]) -> tuple[dict[str, int], str]:
        """`size` and `patch` of pictures that are smaller than the recipe's: enlarged, they would cost more and say no
        more."""
        sides = [min(image.shape[:2]) for image in self.readable(samples, self.whole)]
        return smaller(self.config, sides, "pictures")

    def whole(self, raw: object, shrink: Shrink | None = None) -> Array | None:
        """Raw to (H, W, C) uint8, uint16 or float32 as it was stored; see `mmssl.modality.pixels.decode.decode`."""
        return decode(raw, self.background, self.config.channels, self.config.layout, shrink)

    def look(self, raw: object) -> Looked | None:
        """Pixels a side, and the colours."""
        image = self.whole(raw)
        return None if image is None else of_picture(image)

    def _decode(self, raw: object) -> Array | None:
        """Raw to (H, W, C) uint8 or float32 of the model's size; C is that of the image unless it is configured."""
        image = self.whole(raw)
        return None if image is None else self._fit(image)

    def _fit(self, image: Array) -> Array:
        wanted = self.config.channels or image.shape[2]
        if image.shape[2] != 1 or (self.config.resize == "pad" and len(set(self.background)) > 1):
            image = adapt_channels(image, wanted)
        image = fit_size(image, self.size, self.config.resize, self.config.interpolation, self.background)
        return adapt_channels(image, wanted)  # grey to colour: a third of the memory when it is done last

    def read(self, raw: object, choice: int = 0) -> Array | None:
        """One raw image to (H, W, C) uint8, or float32 where it was no 8-bit image, of the model's size.

        Args:
            raw: what `mmssl.modality.pixels.decode.decode` takes.
            choice: of no use here.

        Returns:
            None when it is null.

        Raises:
            BadSample: it cannot be decoded, or its channels do not fit.
        """
        image = self.whole(raw)
        return None if image is None else self.sized(image)

    def sized(self, image: Array) -> Array:
        """What `read` makes of a picture (H, W, C) as it was stored."""
        return adapt_channels(self._fit(image), self.fitted()["channels"])

    def cutter(self, views: Mapping[str, Mapping[str, Any]]) -> PictureCutter | None:
        """Of all views with a crop of each picture's own."""
        found = cropped(views)
        return PictureCutter(self, found) if found else None

    def variants(self, raw: object) -> int:
        """1: a value is read alike each time."""
        return 1

    def collate(self, samples: Sequence[Array | None]) -> Inputs:
        """What `read` returned (None = absent) to normalised pixels; absent rows are zero."""
        state = self.fitted()
        pixels = torch.zeros(len(samples), state["channels"], *self.size)
        for row, image in zip(pixels, samples, strict=True):
            if image is not None:
                row.copy_(_channels_first(image))
                if image.dtype == np.uint8:
                    row.div_(255)
        pixels.sub_(torch.tensor(state["mean"])[:, None, None]).div_(torch.tensor(state["std"])[:, None, None])
        inputs = with_present({"pixel_values": pixels}, samples)
        if "present" in inputs:
            pixels[~inputs["present"]] = 0  # after normalising, which made them -mean / std
        return inputs

    def sizes(self) -> dict[str, object]:
        """What the `Modality` is built with."""
        return {
            "size": list(self.size),
            "patch": list(pair(self.config.patch)),
            "positions": self.config.positions,
            **self.fitted(),
        }


def _channels_first(image: Array) -> Tensor:
    image = np.ascontiguousarray(image)
    if not image.flags.writeable:  # Pillow's own memory; torch warns about sharing it
        image = image.copy()
    return torch.from_numpy(image).permute(2, 0, 1)
