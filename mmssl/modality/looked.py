"""What is told of a raw value before it is cut and scaled for a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Looked:
    """A raw value as it was recorded.

    Attributes:
        sizes: how large it is, in what words say: seconds, rate, width, words, nodes.
        channels: name -> its numbers, of any shape; NaN where nothing was measured.
        signal: whether they are signals over time, which do not rest at their extremes.
        unit: of the numbers; empty: none.
        cells: column -> its value as a number, of a row of a table, without those that are missing.
        text: the words themselves, of what is language.
        doubts: what of it no such sample has, in words; what differs between two samples stands in brackets.
    """

    sizes: dict[str, float] = field(default_factory=dict)
    channels: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    signal: bool = False
    unit: str = ""
    cells: dict[str, float] = field(default_factory=dict)
    text: str | None = None
    doubts: list[str] = field(default_factory=list)


COLOURS = {1: ("grey",), 2: ("grey", "alpha"), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}


def of_picture(image: NDArray[Any]) -> Looked:
    """A picture (H, W, C)."""
    height, width, count = image.shape
    names = COLOURS.get(count) or tuple(map(str, range(count)))
    sizes = {"width": float(width), "height": float(height), "channels": float(count)}
    return Looked(sizes, {name: np.asarray(image[..., number]) for number, name in enumerate(names)})
