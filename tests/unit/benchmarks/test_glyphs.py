"""benchmarks.glyphs: characters that are judged are in none of the rows that are learned from."""

from __future__ import annotations

import io
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from benchmarks import glyphs

pytest.importorskip("matplotlib")


def pixels(value: dict[str, bytes]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(value["bytes"])))


@pytest.mark.slow
def test_rows_are_two_fonts_of_one_character_and_the_judged_ones_have_fonts_of_their_own() -> None:
    known = glyphs.fonts()
    learned = list(islice(glyphs.rows("train", known), 40))
    again = list(islice(glyphs.rows("train", glyphs.fonts()), 40))
    assert learned == again
    for row in learned:
        one, other = pixels(row["image"]), pixels(row["other"])
        assert one.shape == other.shape == (glyphs.SIDE, glyphs.SIDE)
        assert one.min() < 128 and not np.array_equal(one, other) and row["label"] is None
    judged = {split: list(glyphs.rows(split, known)) for split in ("validation", "test")}
    assert {row["label"] for row in judged["test"]} == set(glyphs.JUDGED)
    assert not {row["font"] for row in judged["test"]} & {row["font"] for row in judged["validation"]}
    shown = {row["image"]["bytes"] for rows in judged.values() for row in rows}
    every = list(glyphs.rows("train", known))
    assert len(every) > 3000 and not shown & {row[column]["bytes"] for row in every for column in ("image", "other")}
    inks = {name: np.stack([255.0 - glyphs.picture(font, c) for c in glyphs.JUDGED]) for name, font in known.items()}
    for character in "ÀΑАО①𝖠ａ":  # with an accent, Greek, Cyrillic, in a circle, mathematical, of full width
        own = [name for name, font in known.items() if ord(character) in font.get_charmap()]
        assert glyphs.looks_judged(character, own, known, inks)
    assert not glyphs.looks_judged("ж", ["DejaVuSans"], known, inks)
