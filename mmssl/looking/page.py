"""The page that `mmssl check` writes: one file, no script, nothing fetched; every word of the data is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..boundary import reading_sample
from ..data.loading import read_rows
from ..errors import BadSample
from ..markup import templates
from ..modality import Preprocessor, select
from ..modality.looked import Looked
from ..modality.table import joined

if TYPE_CHECKING:
    from .check import Checked
    from .decoding import Facts
    from .rows import Rows

TEMPLATE = Path(__file__).with_name("check.html.j2")
SAMPLES, SIDE = 8, 96
"""Samples of each modality that are drawn; pixels of a picture's longer side."""
CHANNELS, COLUMNS = 60, 12
"""Channels (columns of a table) whose numbers are told of a split; columns that a heading names."""
POINTS, TRACES = 240, 4
"""Of a signal's line; channels that are drawn."""


@dataclass
class Drawn:
    """A sample on the page.

    Attributes:
        row: its number.
        picture: of an image, as the address of a PNG in itself.
        lines: of signals, (name, points in a box of 240 by 40) of the first channels.
        more: channels that are not drawn.
        text: of language.
        caption: its sizes.
    """

    row: int
    picture: str = ""
    lines: Sequence[tuple[str, str]] = ()
    more: int = 0
    text: str = ""
    caption: str = ""


def page(found: Checked, data: Rows | None, facts: Mapping[str, Sequence[Facts]]) -> str:
    """The page as HTML.

    Args:
        found: what is told.
        data: the rows, for pictures of some of them; None: without.
        facts: of the rows that were read.
    """
    drawn = {} if data is None or not facts else _drawn(data, facts)
    said = {"number": lambda value: f"{value:,.6g}", "named": _named, "bars": _bars, "told_first": _told_first}
    html: str = templates(TEMPLATE.parent).get_template(TEMPLATE.name).render(found=found, drawn=drawn, **said)
    return html


def _named(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else joined(names, COLUMNS)


def _told_first(channels: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Channels as they come; of more than `CHANNELS` so many, those with something to tell of first."""
    if len(channels) <= CHANNELS:
        return dict(channels)
    faults = {name: sum(len(of[kind]) for kind in ("flat", "saturated", "outliers")) for name, of in channels.items()}
    return {name: channels[name] for name in sorted(channels, key=lambda name: -faults[name])[:CHANNELS]}


def _bars(counts: Sequence[float], width: int = 240, height: int = 48) -> list[dict[str, float]]:
    """Bars of a histogram, as boxes."""
    step, most = width / max(len(counts), 1), max([*counts, 1])
    return [
        {
            "x": round(n * step, 2),
            "w": round(step * 0.9, 2),
            "h": round(height * c / most, 2),
            "y": round(height - height * c / most, 2),
        }
        for n, c in enumerate(counts)
    ]


def _drawn(data: Rows, facts: Mapping[str, Sequence[Facts]]) -> dict[str, list[Drawn]]:
    """Some samples of each modality."""
    split = next(iter(data.splits))
    rows = [one["row"] for one in facts[split] if not one["bad"]][:SAMPLES]
    if not rows:
        return {}
    source = data.splits[split].select(rows)
    columns = [c for of in data.columns.values() for c in ([of] if isinstance(of, str) else of)]
    values = read_rows(source, list(dict.fromkeys(columns)), len(rows))
    out: dict[str, list[Drawn]] = {}
    for name, reader in data.readers.items():
        found = [_draw(reader, select(value, data.columns[name]), row) for value, row in zip(values, rows, strict=True)]
        out[name] = [one for one in found if one is not None]
    return {name: drawn for name, drawn in out.items() if drawn}


def _draw(reader: Preprocessor, raw: object, row: int) -> Drawn | None:
    try:
        with reading_sample():
            found = reader.look(raw)
    except BadSample:
        return None
    if found is None or not (found.channels or found.text):
        return None
    caption = ", ".join(f"{key} {value:,.4g}" for key, value in found.sizes.items())
    if found.text is not None:
        return Drawn(row, text=found.text[:280], caption=caption)
    if found.signal:
        lines = [(name, _line(np.asarray(values))) for name, values in list(found.channels.items())[:TRACES]]
        return Drawn(row, lines=lines, more=len(found.channels) - len(lines), caption=caption)
    picture = _picture(found)
    return None if picture is None else Drawn(row, picture=picture, caption=caption)


def _line(values: NDArray[Any]) -> str:
    """The points of a signal: the mean of each stretch, so that a long one has no more than a short one."""
    flat = np.nan_to_num(values.astype(np.float64).reshape(-1))
    if len(flat) > POINTS:
        edges = np.linspace(0, len(flat), POINTS + 1).astype(int)[:-1]
        flat = np.add.reduceat(flat, edges) / np.diff([*edges, len(flat)])
    low, high = float(flat.min()), float(flat.max())
    heights = 38 - 36 * (flat - low) / (high - low if high > low else 1.0)
    return " ".join(f"{240 * n / max(len(flat) - 1, 1):.1f},{y:.1f}" for n, y in enumerate(heights))


def _picture(found: Looked) -> str | None:
    from PIL import Image

    planes = [np.asarray(plane, dtype=np.float64) for plane in list(found.channels.values())[:3]]
    planes = [plane[len(plane) // 2] if plane.ndim == 3 else plane for plane in planes]  # the middle of a volume
    if any(plane.ndim != 2 for plane in planes):
        return None
    planes = planes if len(planes) == 3 else planes[:1] * 3
    stacked = np.nan_to_num(np.stack(planes, -1))
    low, high = stacked.min(), stacked.max()
    if low < 0 or high > 255 or high <= 1:
        stacked = 255 * (stacked - low) / (high - low if high > low else 1.0)
    image = Image.fromarray(stacked.astype(np.uint8))
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
