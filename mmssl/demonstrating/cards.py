"""Answers as HTML: templates of Jinja2 with escaping, which share the pictures of reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..markup import templates
from ..reporting.page import TEMPLATES as REPORTS
from ..reporting.painting import Picture, large, small
from .index import Hit

if TYPE_CHECKING:
    from ..modality.shown import Shown
    from .engine import Engine, Fit, Sample

TEMPLATES = Path(__file__).parent / "templates"
SIDE = 112
"""Pixels that a found sample is high."""


@dataclass(frozen=True)
class Card:
    """A sample on the page.

    Attributes:
        title: what it is called.
        says: its label, in words.
        pictures: of it.
        sound: the address of its sound.
        row: its number, by which the page's own tests know it.
        cosine: with what was asked.
    """

    title: str
    says: str
    pictures: list[Picture]
    sound: str = ""
    row: int | None = None
    cosine: float | None = None


def found(engine: Engine, sample: Sample, target: str, hits: Sequence[Hit]) -> str:
    """What a sample has found among the rows."""
    shown = engine.show(target, [hit.row for hit in hits]) if hits else []
    cards = [
        Card(
            engine.name_of(hit.row),
            engine.says(hit.row),
            [_small(one, f"{target} of row {hit.row}")],
            engine.heard(target, hit.row),
            hit.row,
            hit.cosine,
        )
        for hit, one in zip(hits, shown, strict=True)
    ]
    return _render("found", asked=_asked(engine, sample), cards=cards, target=target, called=engine.called)


def classified(engine: Engine, sample: Sample, fits: Sequence[Fit]) -> str:
    """Which of one's own words fit a sample, the nearest first: bars of their shares, else from the least cosine on."""
    low, high = min(fit.cosine for fit in fits), max(fit.cosine for fit in fits)
    wide = max(high - low, 1e-9)
    bars = [(fit, 100 * ((fit.cosine - low) / wide if fit.share is None else fit.share)) for fit in fits]
    return _render("words", asked=_asked(engine, sample), bars=bars)


def refused(sentence: str) -> str:
    """Why there is no answer, in a sentence."""
    return _render("refused", sentence=sentence)


def about(engine: Engine) -> str:
    """What the page is about: the model, the rows, and what can be asked by what."""
    ways = [
        (name, engine.type_of(name), len(engine.index.rows.get(name, ())), engine.targets(name))
        for name in engine.names
    ]
    return _render("about", title=engine.title, called=engine.called, ways=ways)


def style() -> str:
    """The style of all of these, for the head of the page."""
    return (TEMPLATES / "style.css").read_text(encoding="utf-8")


def _asked(engine: Engine, sample: Sample) -> Card:
    if sample.row is None:
        title, says = "what you gave, as the model sees it", ""
    else:
        title, says = engine.name_of(sample.row), engine.says(sample.row)
    shown = sample.shown
    pictures = [_none()] if shown is None else large(shown, None, "asked", f"{sample.modality}: {title}")
    pictures = [replace(one, caption=one.caption.removeprefix("original").lstrip(", ")) for one in pictures]
    return Card(title, says, pictures, sample.sound, sample.row)


def _small(shown: Shown | None, words: str) -> Picture:
    return _none() if shown is None else small(shown, words, SIDE)


def _none() -> Picture:
    return Picture("", caption="it has nothing to be looked at")


def _render(name: str, **values: Any) -> str:
    text: str = templates(TEMPLATES, REPORTS).get_template(f"{name}.html.j2").render(**values)
    return text
