"""Plots and pictures as a page can hold them: SVG that takes the page's colours, and PNG or JPEG in the page itself."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from .panels import Line

COLOURS = ("#2f7ed8", "#d9622b", "#1a9e77", "#b8860b", "#cf4a8a", "#7d6ee0", "#4b9b2f", "#c94040")
"""Of lines, readable on light and on dark ground."""
DASHES = ("-", "--", "-.", ":")
"""So that lines are told apart without colours as well."""
INK, PALE = "#010203", "#040506"
"""Stand for the page's own colours until the SVG is finished."""
LIVING = {INK: "currentColor", PALE: "var(--pale)"}
SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": PALE,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": PALE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "font.size": 9,
    "text.parse_math": False,  # names of others are no formulas
}


@contextmanager
def figure(width: float, height: float, salt: str | None) -> Iterator[tuple[Figure, list[str]]]:
    """A figure of so many inches; behind the block the list holds its SVG.

    salt: so that no two of a page share ids; None: the list holds an address with its pixels, on clear ground.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    made: list[str] = []
    ground: Any = {"svg.hashsalt": salt} if salt is not None else {"axes.edgecolor": "#999999", "grid.color": "#cccccc"}
    with matplotlib.rc_context({**SETTINGS, **ground}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # who reads the page has fonts of his own
        drawn = Figure(figsize=(width, height))
        canvas = FigureCanvasAgg(drawn) if salt is None else FigureCanvasSVG(drawn)
        yield drawn, made  # not by pyplot: no window system, no global state
        if isinstance(canvas, FigureCanvasAgg):
            canvas.draw()
            made.append(data_uri(np.asarray(canvas.buffer_rgba())))
            return
        assert salt is not None
        file = io.StringIO()
        drawn.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
        made.append(_cleaned(file.getvalue(), salt))


def _cleaned(text: str, salt: str) -> str:
    """An SVG to stand in a page: without what stands around it, with the page's colours, its ids told from others'."""
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(text)
    for child in [child for child in root if child.tag.endswith("metadata")]:
        root.remove(child)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("aria-hidden", "true")  # the figure around it has the words
    root.set("focusable", "false")
    used = set(re.findall(r"#([\w-]+)", " ".join(v for e in root.iter() for v in e.attrib.values())))
    for element in root.iter():
        own = element.get("id")
        if own is not None and own not in used:
            del element.attrib["id"]
        elif own is not None:
            element.set("id", f"{salt}-{own}")
        for key, value in list(element.attrib.items()):
            if key == LINK:
                element.attrib.pop(key)
                element.set("href", f"#{salt}-{value[1:]}")
            elif key != "id":
                value = value.replace("url(#", f"url(#{salt}-")
                for colour, living in LIVING.items():
                    value = value.replace(colour, living)
                element.set(key, value)
    return ElementTree.tostring(root, encoding="unicode")


def plain(axes: Axes) -> None:
    """No box around the axes, a faint grid."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(alpha=0.5, linewidth=0.5)
    axes.tick_params(length=2, width=0.5)


def apart(values: Sequence[float]) -> list[str]:
    """Numbers in as few digits, four or more, as say where each stands among the others."""
    near = 0.01 * (max(values) - min(values))
    for digits in range(4, 12):
        said = [f"{value:.{digits}g}" for value in values]
        if all(abs(float(text) - value) <= near for text, value in zip(said, values, strict=True)):
            break
    return said


def line_plot(lines: list[Line], salt: str) -> str:
    """An SVG of lines over steps."""
    from matplotlib.ticker import MaxNLocator

    with figure(4.4, 2.5, salt) as (drawn, made):
        axes = drawn.add_axes((0.15, 0.14, 0.83, 0.82))
        for number, line in enumerate(lines):
            few = len(line.steps) < 12
            axes.plot(
                line.steps,
                line.values,
                color=COLOURS[line.colour % len(COLOURS)],
                linestyle=dash_of(lines, number),
                linewidth=1.4,
                marker="o" if few else None,
                markersize=2.5,
            )
        limits, ticks = axes.get_ylim(), axes.get_yticks().tolist()
        axes.set_yticks(ticks, labels=apart(ticks))  # no offset in a corner
        axes.set_ylim(*limits)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        plain(axes)
    return made[0]


def _repeated(lines: list[Line]) -> bool:
    """Whether several lines have one colour."""
    return len({line.colour for line in lines}) < len(lines)


def dash_of(lines: list[Line], number: int) -> str:
    """How a line is drawn, for the legend: "-", "--", "-." or ":"."""
    return DASHES[number % 4] if _repeated(lines) else DASHES[number // len(COLOURS) % len(DASHES)]


def data_uri(pixels: NDArray[np.uint8], lossy: bool = False) -> str:
    """Pixels (H, W), (H, W, 3) or (H, W, 4) as an address that holds them."""
    from PIL import Image

    file = io.BytesIO()
    image = Image.fromarray(pixels)
    if lossy and pixels.ndim == 3 and pixels.shape[2] == 3:
        image.save(file, format="JPEG", quality=82)
        kind = "jpeg"
    else:
        image.save(file, format="PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def pixels_of(uri: str) -> NDArray[np.uint8]:
    """The pixels (H, W) or (H, W, C) that `data_uri` has put into an address."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image)


def resized(pixels: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """Pixels (H, W, C) with at most `most` rows and columns."""
    from PIL import Image

    height, width = pixels.shape[:2]
    share = most / max(height, width)
    if share >= 1:
        return pixels
    size = max(round(width * share), 1), max(round(height * share), 1)
    return np.asarray(Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1:] == (1,) else pixels).resize(size))


def heat(values: NDArray[Any], low: float, high: float, name: str = "magma") -> NDArray[np.uint8]:
    """Numbers (H, W) as colours (H, W, 4); NaN is left clear."""
    import matplotlib

    share = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-9)
    found = (matplotlib.colormaps[name](np.clip(share, 0, 1)) * 255).astype(np.uint8)
    found[..., 3] = np.where(np.isnan(values), 0, 255)
    return found
