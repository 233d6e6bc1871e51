"""Samples as what a page shows: pictures, plots, words, cells. `large` for the sections about a sample, `small` for
neighbours and the map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import shown as visible
from ..modality.shown import Cells, Curves, Frames, Nodes, Shown, Spectrum, Words
from .drawing import COLOURS, INK, data_uri, figure, heat, plain, resized

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

LARGE, SMALL = 176, 48
"""Pixels of a side at most."""
MOST_FRAMES = 4
MOST_CHANNELS = 8
MOST_TIMES = 500
MOST_WORDS, MOST_CELLS, FEW = 80, 40, 4
HATCH = (84, 118, 168), (122, 154, 200)
"""Two blues, in stripes, stand for what was hidden."""
ENLARGED = 96
"""Pixels of a side that smaller pictures are brought to."""


@dataclass(frozen=True)
class Mark:
    """A word or a cell. kind: "" as it is, "hidden", or of what was guessed "right", "wrong", or "near" of a
    number."""

    text: str
    kind: str = ""
    name: str = ""
    was: str = ""


@dataclass(frozen=True)
class Picture:
    """What a page shows of something; one of `uri`, `svg`, `words` and `cells`.

    Attributes:
        alt: in words, for who does not see it.
        caption: above it.
        uri: of a picture that the page itself holds.
        pixelated: it is enlarged without smoothing.
        width, height: that the page gives it, in its own pixels.
        strip: it lies along the time of the plot above it.
        svg: of a plot.
        words: of a text.
        cells: of a table's row.
        wide: it wants the width of the page.
    """

    alt: str
    caption: str = ""
    uri: str = ""
    pixelated: bool = False
    width: int = 0
    height: int = 0
    strip: bool = False
    svg: str = ""
    words: list[Mark] = field(default_factory=list)
    cells: list[Mark] = field(default_factory=list)
    wide: bool = False


def picture(pixels: Pixels, alt: str, caption: str = "", lossy: bool = False) -> Picture:
    """Pixels (H, W, C) as a picture."""
    height, width = pixels.shape[:2]
    small = height < ENLARGED
    factor = 1.0 if not small else min(ENLARGED / height, 4 * ENLARGED / width)
    return Picture(
        alt,
        caption,
        data_uri(pixels, lossy and max(height, width) > 24),
        small,
        round(width * factor),
        round(height * factor),
    )


# ------------------------------------------------------------------------------------------------------ three of a kind


def large(was: Shown, made: Shown | None, salt: str | None, words: str) -> list[Picture]:
    """What was, with what a mask hid of it, and what was predicted there.

    Args:
        was: the sample, which says what was hidden of it, if anything was.
        made: the same with what was predicted in place of what was hidden; None: nothing that could be shown.
        salt: tells this picture's parts from those of others on the page; None: there is none, plots are pixels, too.
        words: what the sample is called.
    """
    for kind, paint in PAINTERS:
        if isinstance(was, kind):
            return list(paint(was, made, salt, words))
    raise TypeError(f"nothing paints {type(was).__name__}")


def _frames(was: Frames, made: Frames | None, salt: str | None, words: str) -> Iterator[Picture]:
    chosen = _spread(len(was.pixels), MOST_FRAMES)
    whole = _side_by_side([_large(was.pixels[i]) for i in chosen])
    yield picture(whole, words, "original", lossy=True)
    if was.hidden is not None:
        masked = [_hatched(_large(was.pixels[i]), was.hidden[i]) for i in chosen]
        yield picture(_side_by_side(masked), f"{words}, what the mask left of it", "masked")
    if made is not None:
        filled = _side_by_side([_large(made.pixels[i]) for i in chosen])
        yield picture(filled, f"{words}, with what was predicted in the hidden places", "reconstructed", lossy=True)


def _spectrum(was: Spectrum, made: Spectrum | None, salt: str | None, words: str) -> Iterator[Picture]:
    low, high = _range(was.values)

    def drawn(values: Any, hidden: Any = None) -> Pixels:
        colours = heat(values, low, high)
        colours = colours if hidden is None else _hatched(colours, hidden)
        return resized(np.ascontiguousarray(colours.swapaxes(0, 1)[::-1]), 2 * LARGE)

    long = f"{len(was.values) * was.step:.3g} s"
    yield picture(
        drawn(was.values), f"spectrogram of {words}, {long}, low frequencies at the bottom", f"original, {long}"
    )
    if was.hidden is not None:
        yield picture(drawn(was.values, was.hidden), f"spectrogram of {words}, what the mask left of it", "masked")
    if made is not None:
        alt = f"spectrogram of {words}, with what was predicted in the hidden places"
        yield picture(drawn(made.values), alt, "reconstructed")


def _curves(was: Curves, made: Curves | None, salt: str | None, words: str) -> Iterator[Picture]:
    count, total = min(len(was.values), MOST_CHANNELS), was.values.shape[1]
    with figure(7.2, 0.5 + 0.5 * count if count > 1 else 1.6, salt) as (drawn, svg):
        bottom = 0.42 / drawn.get_figheight()
        draw_curves(drawn.add_axes((0.1, bottom, 0.88, 0.97 - bottom)), was, made)
    more = f", {count} of {len(was.values)} channels" if count < len(was.values) else ""
    caption = f"{total * was.step:.3g} s{more}"
    if was.hidden is not None:
        caption += ": hidden stretches shaded" + (", what was predicted there in colour" if made is not None else "")
    yield _plot(svg[0], f"{words}, {caption}", caption, wide=True)


def _plot(drawn: str, alt: str, caption: str, wide: bool = False) -> Picture:
    """What `figure` gave."""
    pixels = drawn.startswith("data:")
    return Picture(alt, caption, uri=drawn if pixels else "", svg="" if pixels else drawn, wide=wide)


def draw_curves(axes: Axes, was: Curves, made: Curves | None) -> None:
    """The first channels one below the other, hidden stretches shaded, what was predicted there in colour."""
    count, total = min(len(was.values), MOST_CHANNELS), was.values.shape[1]
    every = max(-(-total // MOST_TIMES), 1)
    times = np.arange(0, total, every) * was.step
    for number in range(count):
        own = was.values[number, ::every]
        middle, reach = _scale(own)
        place = -number
        axes.plot(times, place + (own - middle) / reach, color=INK, linewidth=0.8)
        if was.hidden is not None:
            hidden = was.hidden[number, ::every]
            axes.fill_between(times, place - 0.5, place + 0.5, where=hidden, color=COLOURS[0], alpha=0.18, linewidth=0)
            if made is not None:
                guessed = np.where(hidden, made.values[number, ::every], np.nan)
                guessed = np.clip((guessed - middle) / reach, -0.7, 0.7)
                axes.plot(times, place + guessed, color=COLOURS[1], linewidth=1.3)
    _label_channels(axes, [visible(name) for name in was.names[:count]])


def _label_channels(axes: Axes, names: list[str]) -> None:
    plain(axes)
    axes.grid(False)
    axes.set_yticks([-number for number in range(len(names))], [name[:12] for name in names])
    axes.set_ylim(0.8 - len(names) - 0.15, 0.75)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0)
    axes.set_xlabel("s")


def _words(was: Words, made: Words | None, salt: str | None, words: str) -> Iterator[Picture]:
    hidden = was.hidden or [False] * len(was.tokens)
    marks = []
    for number, (token, gone) in enumerate(zip(was.tokens[:MOST_WORDS], hidden, strict=False)):
        guess = made.tokens[number] if made is not None and gone else None
        if not gone:
            marks.append(Mark(token))
        elif guess is None:
            marks.append(Mark(token, "hidden"))
        else:
            marks.append(Mark(guess, "right" if guess == token else "wrong", was=token))
    caption = "words that were hidden are marked" + (", with what was predicted" if made is not None else "")
    yield Picture(words, caption if was.hidden else "", words=marks, wide=True)


def _cells(was: Cells, made: Cells | None, salt: str | None, words: str) -> Iterator[Picture]:
    hidden = was.hidden or [False] * len(was.names)
    marks = []
    for number, (name, value, gone) in enumerate(zip(was.names, was.values, hidden, strict=True)):
        guess = made.values[number] if made is not None and gone else None
        kind = "" if not gone else "hidden" if guess is None else "right" if guess == value else "wrong"
        if kind == "wrong" and _is_number(guess) and _is_number(value):
            kind = "near"  # a number is never met exactly
        marks.append(Mark(value if guess is None else guess, kind, name, value))
    marks.sort(key=lambda mark: not mark.kind)  # hidden ones first, before some are left out
    caption = "hidden cells come first" if was.hidden else ""
    yield Picture(words, caption, cells=marks[:MOST_CELLS], wide=True)


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def _nodes(was: Nodes, made: Nodes | None, salt: str | None, words: str) -> Iterator[Picture]:
    places = _layout(was)
    caption = f"{len(was.kinds)} nodes, coloured by their largest feature" + (
        ", hidden ones ringed" * (was.hidden is not None)
    )
    yield _plot(_graph(was, places, salt and f"{salt}a"), f"graph of {words}: {caption}", caption)
    if made is not None:
        wrong = int((made.kinds != was.kinds)[was.hidden].sum()) if was.hidden is not None else 0
        caption = f"with what was predicted of the hidden ones, {wrong} otherwise"
        yield _plot(_graph(made, places, salt and f"{salt}b"), f"graph of {words} {caption}", caption)


def _graph(nodes: Nodes, places: Any, salt: str | None) -> str:
    with figure(3.2, 2.6, salt) as (drawn, svg):
        axes = drawn.add_axes((0.02, 0.02, 0.96, 0.96))
        axes.axis("off")
        for first, second in nodes.edges[:600]:
            axes.plot(*places[[first, second]].T, color=INK, linewidth=0.4, alpha=0.5)
        colours = [COLOURS[int(kind) % len(COLOURS)] for kind in nodes.kinds]
        rings = [2.0 if nodes.hidden is not None and nodes.hidden[i] else 0.0 for i in range(len(nodes.kinds))]
        axes.scatter(places[:, 0], places[:, 1], s=36, c=colours, edgecolors=INK, linewidths=rings, zorder=2)
    return svg[0]


def _layout(nodes: Nodes) -> Any:
    """(n, 2) places by the second and third eigenvector of the Laplacian, which lay neighbours side by side."""
    n = len(nodes.kinds)
    near = np.zeros((n, n))
    near[nodes.edges[:, 0], nodes.edges[:, 1]] = near[nodes.edges[:, 1], nodes.edges[:, 0]] = 1
    _, vectors = np.linalg.eigh(np.diag(near.sum(1)) - near)
    found = np.zeros((n, 2))
    found[:, : max(min(n - 1, 2), 0)] = vectors[:, 1:3]
    return np.sign(found) * np.sqrt(np.abs(found))  # outliers nearer


PAINTERS: tuple[tuple[type, Callable[..., Iterator[Picture]]], ...] = (
    (Frames, _frames),
    (Spectrum, _spectrum),
    (Curves, _curves),
    (Words, _words),
    (Cells, _cells),
    (Nodes, _nodes),
)


# ------------------------------------------------------------------------------------------------------------- small


def small(shown: Shown, words: str, side: int = SMALL) -> Picture:
    """A sample among others, `side` pixels high."""
    pixels = thumb(shown, side)
    if pixels is not None:
        height, width = pixels.shape[:2]
        return replace(picture(pixels, words, lossy=True), width=round(width * side / height), height=side)
    return Picture(words, words=[Mark(text_of(shown))])


def thumb(shown: Shown, side: int = SMALL) -> Pixels | None:
    """(h, w, C) at most `side` pixels; None for what is words."""
    if isinstance(shown, Frames):
        return resized(_rgb(shown.pixels[len(shown.pixels) // 2]), side)
    if isinstance(shown, Spectrum):
        colours = heat(shown.values, *_range(shown.values))[..., :3]
        return resized(np.ascontiguousarray(colours.swapaxes(0, 1)[::-1]), side)
    if isinstance(shown, Curves):
        return _stroke(shown.values[0], side)
    return None


def text_of(shown: Shown, most: int = 120) -> str:
    """A sample in a line."""
    if isinstance(shown, Words):
        text = "".join(shown.tokens).strip()
    elif isinstance(shown, Cells):
        text = ", ".join(f"{name}={value}" for name, value in zip(shown.names, shown.values, strict=True))
    elif isinstance(shown, Nodes):
        text = f"{len(shown.kinds)} nodes, {len(shown.edges)} edges"
    else:
        text = ""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _stroke(values: Any, side: int) -> Pixels:
    """One channel as a line on clear ground."""
    from PIL import Image, ImageDraw

    width, height = 2 * side, side
    own = values[:: max(len(values) // width, 1)][:width]
    middle, reach = _scale(own)
    image = Image.new("RGBA", (width, height))
    points = [
        (x * width / max(len(own), 1), height / 2 - float(np.clip((y - middle) / reach, -0.5, 0.5)) * (height - 2))
        for x, y in enumerate(own)
        if not np.isnan(y)
    ]
    if len(points) > 1:
        ImageDraw.Draw(image).line(points, fill=COLOURS[0], width=1)
    return np.asarray(image)


# ------------------------------------------------------------------------------------------------------------- tools


def _spread(count: int, most: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def _rgb(pixels: Any) -> Pixels:
    """(H, W, C) in 0..1 as bytes of at most `LARGE` pixels a side; what is not there grey."""
    filled: Pixels = (np.nan_to_num(pixels, nan=0.5).clip(0, 1) * 255).round().astype(np.uint8)
    filled = np.repeat(filled, 3, -1) if filled.shape[-1] == 1 else filled
    return resized(filled, LARGE)


def _large(pixels: Any) -> Pixels:
    """The same, small ones enlarged by a whole factor."""
    filled = _rgb(pixels)
    factor = max(-(-ENLARGED // min(filled.shape[:2])), 1) if max(filled.shape[:2]) < ENLARGED else 1
    return filled.repeat(factor, 0).repeat(factor, 1)


def _hatched(pixels: Pixels, hidden: Any) -> Pixels:
    """With stripes where it was hidden; hidden: (H, W), of whatever size, brought to that of the pixels."""
    height, width = pixels.shape[:2]
    rows = np.arange(height) * hidden.shape[0] // height
    columns = np.arange(width) * hidden.shape[1] // width
    where = hidden[rows][:, columns]
    stripe = (np.add.outer(np.arange(height), np.arange(width)) // max(min(height, width) // 24, 1)) % 2
    colours = np.asarray(HATCH, np.uint8)[stripe]
    out = pixels.copy()
    out[where, :3] = colours[where]
    if out.shape[2] == 4:
        out[where, 3] = 255
    return out


def _side_by_side(frames: list[Pixels]) -> Pixels:
    gap = np.full((frames[0].shape[0], 2, frames[0].shape[2]), 128, np.uint8)
    parts = [part for frame in frames for part in (gap, frame)][1:]
    return np.concatenate(parts, 1)


def _range(values: Any) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(np.percentile(known, 1)), float(np.percentile(known, 99))) if known.size else (0.0, 1.0)


def _scale(values: Any) -> tuple[float, float]:
    """(middle, reach) by which a channel is brought into a band of height 1."""
    low, high = _range(values)
    return (low + high) / 2, max(high - low, 1e-9) * 1.1
