"""One page of HTML about one run or several: a file that needs no network and no other file.

Everything in it that somebody else may have written (names, texts, labels, cells) goes through Jinja2's escaping; the
page also forbids itself, by a content security policy, to load anything or to run any script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..files import write_whole
from ..markup import templates
from ..options import plainyaml
from .drawing import COLOURS, DASHES, dash_of, data_uri, heat, line_plot
from .painting import Picture, large, picture, small, text_of, thumb
from .panels import Panel, panels
from .record import MOST_LINES, Record
from .settings import changed, differences

if TYPE_CHECKING:
    from ..modality.shown import Shown
    from .embedding import Near
    from .looking import Map, Seen

NAME = "report.html"
LARGEST = 5_000_000
"""Bytes of the page."""
MOST_RUNS = len(COLOURS)
TEMPLATES = Path(__file__).parent / "templates"
SIDE = 40
"""Pixels of a sample that the map shows while it is pointed at."""
ACROSS = 20
"""Samples in a row of the picture that holds them all."""


@dataclass(frozen=True)
class Detail:
    """How much of what was seen is shown: less where the page would be too large."""

    pictures: int
    queries: int
    thumbs: bool


DETAILS = (Detail(6, 10, True), Detail(3, 6, True), Detail(2, 3, False), Detail(0, 0, False))


@dataclass
class Point:
    """A sample on the map: title: in words; groups: of each colouring; thumb: its number in the picture of all."""

    row: int
    title: str
    xs: list[float]
    ys: list[float]
    groups: list[int]
    thumb: int | None = None


@dataclass
class Chart:
    """The map of one modality. ways: how it was laid out; sprite: the samples side by side, `tall` rows of them."""

    modality: str
    ways: list[str]
    points: list[Point]
    legends: list[tuple[str, list[str]]]
    sprite: str = ""
    tall: int = 1


@dataclass
class Group:
    """pictures: of each sample, by its title."""

    title: str
    samples: list[tuple[str, list[Picture]]] = field(default_factory=list)


@dataclass
class Row:
    """A sample, and those that were found for it, with what is said of each."""

    title: str
    query: Picture
    found: list[tuple[str, Picture, bool]]


@dataclass
class View:
    """What a page says of one run."""

    record: Record
    number: int
    changed: list[tuple[str, str, str]]
    yaml: str
    called: str = ""
    made: list[Group] = field(default_factory=list)
    maps: list[Group] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    near: list[tuple[str, list[Row]]] = field(default_factory=list)
    found: list[tuple[str, list[Row]]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    less: bool = False


def write_report(runs: Sequence[tuple[Record, Seen | None]], path: Path) -> int:
    """Write the page, whole or not at all; returns its bytes. OSError when it cannot be written.

    runs: what their folders say, and what their models see.
    """
    text = report_text(runs)
    write_whole(path, text)
    return len(text.encode())


def report_text(runs: Sequence[tuple[Record, Seen | None]]) -> str:
    """The page, with as much of what was seen as its size allows."""
    drawn = _drawn({record.name: record.rows for record, _ in runs})
    text = ""
    for detail in DETAILS:
        if len(runs) > 2:
            detail = replace(detail, pictures=min(detail.pictures, 3), queries=min(detail.queries, 5))
        views = [_view(record, seen, number, detail) for number, (record, seen) in enumerate(runs)]
        text = _rendered(views, drawn)
        if len(text.encode()) < LARGEST:
            break
    return text


def _rendered(views: Sequence[View], drawn: list[Any]) -> str:
    records = [view.record for view in views]
    looked = [view for view in views if view.made or view.maps]
    scored = [view for view in views if view.record.scores.get("tasks")]
    mapped = [view for view in views if view.charts or view.near or view.found]
    sections = [("runs", "Run" if len(views) == 1 else "Runs"), *([("scores", "Scores")] if scored else [])]
    sections += [(anchor, heading) for anchor, heading, _ in drawn]
    sections += [("sees", "What the model sees")] if looked else []
    sections += [("map", "Embeddings")] if mapped else []
    sections += [("settings", "Settings"), ("said", "Warnings")]
    script = (TEMPLATES / "map.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        templates(TEMPLATES)
        .get_template("page.html.j2")
        .render(
            views=views,
            sections=sections,
            looked=looked,
            scored=scored,
            mapped=mapped,
            title=", ".join(record.name for record in records),
            groups=drawn,
            differences=differences([record.settings for record in records]) if len(records) > 1 else [],
            colours=COLOURS,
            script=script,
            digest=digest,
            side=SIDE,
            across=ACROSS,
            most_lines=MOST_LINES,
            version=__version__,
        )
    )


# ------------------------------------------------------------------------------------------------------------ curves


Drawn = list[tuple[Panel, str, str, list[tuple[str, str, int]]]]
"""Of each panel itself, its SVG, what it shows in words, its legend."""


def _drawn(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, str, Drawn]]:
    """(anchor, heading, its panels)."""
    found: dict[str, Drawn] = {}
    for number, panel in enumerate(panels(rows)):
        svg = line_plot(panel.lines, f"p{number}")
        legend = [
            (line.label, COLOURS[line.colour % len(COLOURS)], DASHES.index(dash_of(panel.lines, i)))
            for i, line in enumerate(panel.lines)
        ]
        found.setdefault(panel.group, []).append((panel, svg, _told(panel), legend))
    return [(f"group-{number}", heading, panels_) for number, (heading, panels_) in enumerate(found.items())]


def _told(panel: Panel) -> str:
    """A panel in words."""
    said = [f"{line.label} from {line.values[0]:.4g} to {line.values[-1]:.4g}" for line in panel.lines]
    return (
        f"{panel.title} over steps {panel.lines[0].steps[0]:.0f} to {panel.lines[0].steps[-1]:.0f}: {'; '.join(said)}"
    )


# -------------------------------------------------------------------------------------------------------------- runs


def _view(record: Record, seen: Seen | None, number: int, detail: Detail) -> View:
    own = [] if record.recipe is None else changed(record.recipe)
    view = View(record, number, own, plainyaml.dump(record.settings) if record.settings else "")
    view.absent, view.facts = list(record.absent), _facts(record)
    if seen is None:
        return view
    view.called, view.less = seen.called, detail is not DETAILS[0]
    view.absent += [line for line in seen.absent if line not in view.absent]
    salt = f"r{number}"
    for (objective, modality), samples in seen.made.items():
        group = Group(f"{modality}, by {objective}")
        for i, made in enumerate(samples[: detail.pictures]):
            words = f"{modality} of row {made.row}"
            group.samples.append((f"row {made.row}", large(made.was, made.made, f"{salt}m{len(view.made)}x{i}", words)))
        view.made += [group] if group.samples else []
    for modality, maps in seen.maps.items():
        shown = [
            (f"row {one.row}", patch_pictures(one, modality, f"{salt}{modality}{i}"))
            for i, one in enumerate(maps[: detail.pictures])
        ]
        view.maps += [Group(modality, shown)] if shown else []
    view.charts = [_chart(seen, modality, detail.thumbs) for modality in seen.planes]
    view.near = [(m, _rows(seen, m, m, near[: detail.queries])) for m, near in seen.near.items() if detail.queries]
    view.found = [
        (f"{one} finds {other}", _rows(seen, one, other, near[: detail.queries]))
        for (one, other), near in seen.found.items()
        if detail.queries
    ]
    view.near = [(title, rows) for title, rows in view.near if rows]
    view.found = [(title, rows) for title, rows in view.found if rows]
    return view


def _facts(record: Record) -> list[tuple[str, str]]:
    """A run in a few lines."""
    settings = record.settings
    found: list[tuple[str, str]] = []
    for key, title in (("modalities", "modalities"), ("objectives", "objectives")):
        if isinstance(settings.get(key), Mapping):
            found.append((title, ", ".join(map(str, settings[key]))))
    data = settings.get("data")
    if isinstance(data, Mapping) and data.get("path"):
        found.append(("data", str(data["path"])))
    last = next((row for row in reversed(record.rows) if isinstance(row.get("loss"), int | float)), None)
    if last is not None:
        found.append(("loss at the end", f"{last['loss']:.4g}"))
    if record.seconds is not None:
        minutes, seconds = divmod(round(record.seconds), 60)
        found.append(("from first to last line", f"{minutes} min {seconds} s" if minutes else f"{seconds} s"))
    found.append(("warnings", str(len(record.warnings))))
    found.append(("broken samples", str(len(record.broken))))
    return found


def patch_pictures(one: Map, modality: str, salt: str | None) -> list[Picture]:
    """A sample, its patches by their components, and where the last block looks. salt: see `large`."""
    from ..modality.shown import Spectrum

    words = f"{modality} of row {one.row}"
    turned = isinstance(one.was, Spectrum)  # bands are counted from below
    found = large(replace(one.was, hidden=None), None, salt and f"{salt}o", words)
    there = ~np.isnan(one.components[..., :1])
    pixels = np.concatenate([np.nan_to_num(one.components), there], -1)
    colours = (pixels * 255).round().astype(np.uint8)
    colours = colours[::-1] if turned else colours
    found.append(_patches(colours, f"patches of {words}, alike ones in like colours", "patches (PCA)", found[0]))
    if one.attention is not None:
        looked = heat(one.attention, 0.0, 1.0, "inferno")
        looked = looked[::-1] if turned else looked
        alt = f"how much the last block looks at each patch of {words}"
        found.append(_patches(looked, alt, "attention", found[0]))
    return found


def _patches(pixels: Any, alt: str, caption: str, beside: Picture) -> Picture:
    """A picture of a pixel a patch, as large as that of the sample, or along its time."""
    own = replace(picture(np.ascontiguousarray(pixels), alt, caption), pixelated=True)
    if beside.uri:
        return replace(own, width=beside.width, height=beside.height)
    return replace(own, strip=True, height=min(max(8 * len(pixels), 14), 96))


def _rows(seen: Seen, one: str, other: str, near: Sequence[Near]) -> list[Row]:
    """What is near to what, as pictures."""
    out = []
    label = seen.colourings[0] if seen.colourings else None
    others = seen.shown.get(other, {})

    def said(row: int) -> str:
        return f"row {seen.rows[row]}" + (
            f", {label.column} {label.values[row]}" if label and label.values[row] else ""
        )

    for query in near:
        own, mine = seen.shown.get(one, {}).get(query.query), others.get(query.query) if one != other else None
        found = [
            (f"{cosine:.2f} · {said(row)}", small(shown, f"{other} of {said(row)}"), right or _same(shown, mine))
            for row, cosine, right in query.found
            if (shown := others.get(row)) is not None
        ]
        if own is not None and found:
            out.append(Row(said(query.query), small(own, f"{one} of {said(query.query)}"), found))
    return out


def _same(shown: Shown, other: Shown | None) -> bool:
    """Whether two samples are the same words."""
    return other is not None and text_of(shown) != "" and text_of(shown) == text_of(other)


# -------------------------------------------------------------------------------------------------------------- map


def _chart(seen: Seen, modality: str, thumbs: bool) -> Chart:
    """The map of one modality with its samples."""
    planes, rows = seen.planes[modality], seen.there[modality]
    shown = seen.shown.get(modality, {})
    points: list[Point] = []
    pictures: list[Any] = []
    for i, row in enumerate(rows):
        told = [f"row {seen.rows[row]}"]
        told += [f"{c.column}: {c.values[row]}" for c in seen.colourings if c.values[row]]
        own: Shown | None = shown.get(row)
        told += [text_of(own)] if own is not None else []
        at = [plane.places[i] for plane in planes]
        groups = [colouring.group[row] for colouring in seen.colourings]
        point = Point(
            seen.rows[row], " · ".join(filter(None, told)), [x for x, _ in at], [1 - y for _, y in at], groups
        )
        pixels = thumb(own, SIDE) if own is not None and thumbs else None
        if pixels is not None:
            point.thumb = len(pictures)
            pictures.append(pixels)
        points.append(point)
    legends = [(colouring.column, colouring.names) for colouring in seen.colourings]
    chart = Chart(modality, [plane.how for plane in planes], points, legends)
    if pictures:
        chart.tall = math.ceil(len(pictures) / ACROSS)
        chart.sprite = _sprite(pictures, chart.tall)
    return chart


def _sprite(pictures: Sequence[Any], tall: int) -> str:
    """All samples in one picture, each in a square of its own."""
    clear = any(pixels.shape[2] == 4 for pixels in pictures)
    sheet = np.zeros((tall * SIDE, ACROSS * SIDE, 4 if clear else 3), np.uint8)
    for i, pixels in enumerate(pictures):
        pixels = pixels[:SIDE, :SIDE]
        if clear and pixels.shape[2] == 3:
            pixels = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], -1)
        top, left = i // ACROSS * SIDE, i % ACROSS * SIDE
        height, width = pixels.shape[:2]
        top, left = top + (SIDE - height) // 2, left + (SIDE - width) // 2
        sheet[top : top + height, left : left + width] = pixels
    return data_uri(sheet, lossy=True)
