"""The pictures that a model's card carries: a map of embeddings, and where it was asked for, samples of the data.

A card is published, so that what it shows by itself says nothing of any sample: a map of points, coloured by the label
without the names of its classes. Samples, what was predicted of them, and names are for `train.card_samples`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import shown as visible
from ..files import whole_file
from ..hub.picture import MAP, SAMPLES
from ..modality.shown import Curves, Frames, Spectrum
from .drawing import COLOURS, pixels_of
from .painting import draw_curves, large

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .embedding import Colouring
    from .looking import Made, Seen

MOST_MAPS, MOST_GROUPS, MOST_SAMPLES = 4, 2, 4
"""Modalities that have a map; objectives (of a modality each) that show samples, and so many of them."""
UNKNOWN = "#8a8a8a"


def draw_pictures(seen: Seen, folder: Path, label: str | None, samples: bool) -> dict[str, str]:
    """Draw them into a model's folder, in place of those of an earlier end of the run.

    Args:
        seen: what there is to be seen.
        folder: of the model.
        label: the column that the map is coloured by, where there is one.
        samples: show samples, and the names of classes, too.

    Returns:
        File -> what it shows, in words; empty where there is nothing to draw. OSError when one cannot be written.
    """
    for old in (folder / MAP, *folder.glob(SAMPLES.format("*"))):
        old.unlink(missing_ok=True)
    found: dict[str, str] = {}
    if seen.planes:
        colouring = next((c for c in seen.colourings if c.column == label), None)
        _draw_map(seen, folder / MAP, colouring, samples)
        by = f", coloured by `{visible(colouring.column)}`" if colouring else ""
        found[MAP] = f"Embeddings of {seen.called}, each a point{by}."
    if samples:
        of = [(k, [m for m in made if isinstance(m.was, Frames | Spectrum | Curves)]) for k, made in seen.made.items()]
        for number, ((objective, modality), made) in enumerate([one for one in of if one[1]][:MOST_GROUPS], 1):
            name = SAMPLES.format(number)
            _draw_samples(made[:MOST_SAMPLES], folder / name)
            guessed = ", and what was predicted there" * any(one.made is not None for one in made)
            found[name] = f"What `{objective}` hid of {modality}{guessed}: samples out of {seen.called}."
    return found


@contextmanager
def _written(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, on white, which is written at the end: whole or not at all."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names in a script that the font has not
        drawn = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(drawn)  # not pyplot: no window system, no global state
        yield drawn
        with whole_file(path) as partial:
            drawn.savefig(partial, format="png", dpi=110, metadata={"Software": None})


def _draw_map(seen: Seen, path: Path, colouring: Colouring | None, named: bool) -> None:
    """The embeddings of each modality as the page lays them out first."""
    names = list(seen.planes)[:MOST_MAPS]
    legend = colouring is not None and named
    with _written(path, 3.3 * len(names) + 1.6 * legend, 3.3) as drawn:
        width = 3.3 * len(names) / (3.3 * len(names) + 1.6 * legend)
        for number, (name, axes) in enumerate(zip(names, _beside(drawn, len(names), width), strict=True)):
            plane, rows = seen.planes[name][0], seen.there[name]
            groups = [-1 if colouring is None else colouring.group[row] for row in rows]
            for group in sorted(set(groups)):
                places = [at for at, own in zip(plane.places, groups, strict=True) if own == group]
                xs, ys = [x for x, _ in places], [y for _, y in places]
                alone = colouring is None
                colour = COLOURS[0] if alone else UNKNOWN if group < 0 else COLOURS[group % len(COLOURS)]
                mark = "o" if group < len(COLOURS) else "^"  # more groups than colours
                axes.scatter(xs, ys, s=14, c=colour, marker=mark, alpha=0.8, linewidths=0)
            axes.set_title(f"{visible(name)}, {plane.how}", fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
            if legend and colouring is not None and number == len(names) - 1:
                _name_groups(axes, colouring)


def _beside(drawn: Figure, count: int, width: float) -> list[Axes]:
    """So many axes in a row, in the left part of a figure that is `width` of it."""
    each = width / count
    return [drawn.add_axes((each * (i + 0.03), 0.03, each * 0.94, 0.87)) for i in range(count)]


def _name_groups(axes: Axes, colouring: Colouring) -> None:
    for group, name in enumerate(colouring.names):
        mark = "o" if group < len(COLOURS) else "^"
        axes.scatter([], [], s=14, c=COLOURS[group % len(COLOURS)], marker=mark, label=visible(name)[:24])
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8)


def _draw_samples(made: Sequence[Made], path: Path) -> None:
    """Samples with what a mask left of them and what was predicted, one below the other."""
    if isinstance(made[0].was, Curves):
        count = min(len(made), 2)
        with _written(path, 7.2, 2.6 * count) as drawn:
            for number, one in enumerate(made[:count]):
                assert isinstance(one.was, Curves)
                axes = drawn.add_axes((0.09, 1 - (number + 0.86) / count, 0.9, 0.83 / count))
                draw_curves(axes, one.was, one.made if isinstance(one.made, Curves) else None)
        return
    rows = [[(p.caption, pixels_of(p.uri)) for p in large(one.was, one.made, "", "")] for one in made]
    across = max(map(len, rows))
    tall, wide = rows[0][0][1].shape[:2]
    width = min(max(1.3 * wide / tall, 1.3), 3.0)
    height = width * tall / wide
    with _written(path, width * across, height * len(rows) + 0.25) as drawn:
        share = height / (height * len(rows) + 0.25)
        for number, row in enumerate(rows):
            for place, (caption, pixels) in enumerate(row):
                axes = drawn.add_axes(
                    ((place + 0.02) / across, share * (len(rows) - 1 - number), 0.96 / across, share * 0.96)
                )
                axes.imshow(pixels, interpolation="nearest")
                axes.axis("off")
                if number == 0:
                    axes.set_title(caption.partition(",")[0], fontsize=9, pad=3)
