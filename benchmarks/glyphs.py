"""Glyphs of the fonts that matplotlib ships: thousands of characters in up to ten cuts, named for free.

`python -m benchmarks.glyphs FOLDER` writes three splits, which the matrix makes for itself:

- `train`: characters other than those that are judged: `image` in one font, `other` in another one. Left out is what
  Unicode makes of a judged one (accents, circles, mathematical letters), and what looks like one in some font (Greek
  and Cyrillic capitals, whose pictures are the same).
- `validation` and `test`: the 62 Latin letters and digits, with `label`, in the sans and mono cuts of DejaVu, and in
  the serif cuts of DejaVu and STIX: the encoder has not seen these characters, nor the probe these fonts.

Fonts: DejaVu (Bitstream Vera's licence) and STIX (SIL OFL), as they lie in matplotlib; this project stores none.
"""

from __future__ import annotations

import io
import random
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

SIDE, SIZE = 28, 20
"""Pixels of a picture's side, and of the em of a glyph in it."""
SANS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Oblique")
SERIF = (
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralItalic",
    "STIXGeneralBol",
)
JUDGED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
ALIKE = 0.15
"""Share of a judged glyph's ink by which another one has to differ, in every font that both have."""
KINDS = ("Ll", "Lu", "Lo", "Lm", "Nd", "No", "Sm", "So", "Sc")
"""Unicode's categories that are taken: letters, digits, signs."""


def fonts() -> dict[str, Any]:
    """Name -> the font, and the characters that it has."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return {name: FT2Font(str(folder / f"{name}.ttf")) for name in (*SANS, *SERIF)}


def picture(font: Any, character: str) -> np.ndarray[Any, Any]:
    """(SIDE, SIDE) uint8, dark on light: the glyph in the middle, all of one em."""
    font.set_size(SIZE, 72)
    font.set_text(character, 0)
    font.draw_glyphs_to_bitmap()
    ink = np.asarray(font.get_image())[:SIDE, :SIDE]
    page = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (SIDE - ink.shape[0]) // 2, (SIDE - ink.shape[1]) // 2
    page[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return 255 - page


def looks_judged(character: str, own: Iterable[str], known: dict[str, Any], judged: dict[str, Any]) -> bool:
    """Whether a character is made of a judged one, or drawn as one is.

    Args:
        character: another one.
        own: the fonts that have it.
        known: all fonts.
        judged: font -> (n, SIDE, SIDE) ink of the judged ones in it.
    """
    if set(unicodedata.normalize("NFKD", character)) & set(JUDGED):
        return True
    for name in own:
        ink = 255.0 - picture(known[name], character)
        differs = np.abs(judged[name] - ink).sum((1, 2)) / judged[name].sum((1, 2))
        if differs.min() < ALIKE:
            return True
    return False


def png(page: np.ndarray[Any, Any]) -> dict[str, Any]:
    """As `datasets` keeps a picture."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(page).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


def rows(split: str, known: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The rows of a split, the same each time."""
    has = {name: set(font.get_charmap()) for name, font in known.items()}
    if split != "train":
        for name in SANS if split == "validation" else SERIF:
            for character in JUDGED:
                if ord(character) in has[name]:
                    page = png(picture(known[name], character))
                    yield {"image": page, "other": None, "label": character, "font": name}
        return
    judged = {name: np.stack([255.0 - picture(font, c) for c in JUDGED]) for name, font in known.items()}
    every = sorted(set.union(*has.values()) - set(map(ord, JUDGED)))
    for code in every:
        own = [name for name in known if code in has[name]]
        if len(own) < 2 or unicodedata.category(chr(code)) not in KINDS:
            continue
        if looks_judged(chr(code), own, known, judged):
            continue
        rng = random.Random(code)
        one, other = rng.sample(own, 2)
        pages = [picture(known[name], chr(code)) for name in (one, other)]
        if all((page < 128).any() for page in pages):
            yield {"image": png(pages[0]), "other": png(pages[1]), "label": None, "font": one}


def write(folder: Path) -> None:
    """The three splits as parquet, where they are not there."""
    import datasets

    known = fonts()
    pictures, words = datasets.Image(), datasets.Value("string")
    columns = datasets.Features({"image": pictures, "other": pictures, "label": words, "font": words})
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("validation", "test", "train"):
        place = folder / f"{split}.parquet"
        if not place.exists():
            table = datasets.Dataset.from_list(list(rows(split, known)), features=columns)
            table.to_parquet(place.with_suffix(".partial"))
            place.with_suffix(".partial").rename(place)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
