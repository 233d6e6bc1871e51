"""What a model sees as single pictures and texts, for what shows no page: TensorBoard, trackio, Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .drawing import COLOURS, INK, figure, pixels_of, plain
from .page import patch_pictures
from .painting import Picture, large

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .embedding import Colouring, Plane
    from .looking import Seen

    Pixels = NDArray[np.uint8]

TALL = 160
"""Pixels of a sample's row, at most; plots are as they were drawn."""
GAP = 6


def sheets(seen: Seen) -> tuple[dict[str, Pixels], dict[str, str]]:
    """(name -> picture (H, W, 3) on white, name -> Markdown) of reconstructions with their masks (`made/...`), patches
    and attention (`patches/...`) and embeddings (`map/...`)."""
    drawn: dict[str, list[list[Picture]]] = {}
    for (objective, modality), samples in seen.made.items():
        drawn[f"made/{objective}/{modality}"] = [large(one.was, one.made, None, f"row {one.row}") for one in samples]
    for modality, maps in seen.maps.items():
        drawn[f"patches/{modality}"] = [patch_pictures(one, modality, None) for one in maps]
    pictures, texts = {}, {}
    for name, rows in drawn.items():
        if sheet := list(_rows(rows)):
            pictures[name] = _below(sheet)
        if text := "\n\n".join(_markdown(one) for row in rows for one in row if one.words or one.cells):
            texts[name] = text
    for modality, planes in seen.planes.items():
        colouring = seen.colourings[0] if seen.colourings else None
        pictures[f"map/{modality}"] = map_pixels(planes[0], colouring, seen.there[modality])
    return pictures, texts


def map_pixels(plane: Plane, colouring: Colouring | None, rows: Sequence[int]) -> Pixels:
    """Embeddings on a plane. rows: which one each point is."""
    with figure(5.6, 4.2, None) as (drawn, made):
        axes = drawn.add_axes((0.03, 0.09, 0.72 if colouring else 0.94, 0.88))
        places = np.asarray(plane.places)
        groups = np.asarray([colouring.group[row] for row in rows]) if colouring else np.zeros(len(rows), int)
        for group in sorted(set(groups.tolist())):
            own = places[groups == group]
            colour = COLOURS[group % len(COLOURS)] if group >= 0 else INK
            label = colouring.names[group] if colouring and group >= 0 else "unknown"
            axes.scatter(own[:, 0], own[:, 1], s=9, color=colour, marker="os^D"[group // len(COLOURS)], label=label)
        plain(axes)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(plane.how)
        if colouring:
            axes.legend(
                title=colouring.column[:18], bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=7, frameon=False
            )
    return on_white(made[0])


def on_white(uri: str) -> Pixels:
    """(H, W, 3) of a picture that an address holds; what is clear is white."""
    from PIL import Image

    image = Image.fromarray(pixels_of(uri)).convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(ground, image).convert("RGB"))


def _rows(samples: Sequence[Sequence[Picture]]) -> Iterator[Pixels]:
    """Each sample's pictures side by side, but words and cells."""
    from PIL import Image

    for pictures in samples:
        parts = []
        for one in pictures:
            if not one.uri:
                continue
            pixels = on_white(one.uri)
            height, width = one.height or len(pixels), one.width or pixels.shape[1]
            if one.strip:
                height, width = len(pixels) * max(round(width / pixels.shape[1]), 1), max(width, 3 * TALL)
            share = min(TALL / height, 1.0) if not one.wide else 1.0
            size = max(round(width * share), 1), max(round(height * share), 1)
            way = Image.Resampling.NEAREST if one.pixelated else Image.Resampling.BILINEAR
            parts.append(np.asarray(Image.fromarray(pixels).resize(size, way)))
        if parts:
            yield _beside(parts)


def _beside(parts: Sequence[Pixels]) -> Pixels:
    tall = max(len(part) for part in parts)
    return np.concatenate([_padded(part, tall, part.shape[1] + GAP) for part in parts], 1)


def _below(rows: Sequence[Pixels]) -> Pixels:
    wide = max(row.shape[1] for row in rows)
    return np.concatenate([_padded(row, len(row) + GAP, wide) for row in rows], 0)


def _padded(pixels: Pixels, tall: int, wide: int) -> Pixels:
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, tall - height), (0, wide - width), (0, 0)), constant_values=255)


def _markdown(picture: Picture) -> str:
    """Words or cells; what was hidden is set off, and what it was stands behind it."""
    said: list[Any] = []
    for mark in picture.words or picture.cells:
        own = mark.text if not mark.kind else f"**[{mark.text}]**"
        own += f" ({mark.was})" if mark.kind in ("wrong", "near") else ""
        said.append(f"{mark.name}: {own}" if mark.name else own)
    return f"*{picture.alt}* " + (", " if picture.cells else "").join(said)
