"""Real data that needs no download: `builtin:digits`."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING

import numpy as np

from mmssl.errors import NoSplit, UserError, nearest

from .sampler import philox

if TYPE_CHECKING:
    from datasets import Dataset

NAMES = ("digits",)
SPLITS = ("train", "test")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHRASES = (
    "a handwritten {word}",
    "the digit {number}",
    "a photo of the number {word}",
    "the number {number}, written by hand",
    "{word}",
    "a small grey picture of a {word}",
    "somebody wrote the digit {word}",
    "this is the figure {number}",
)
TEST = 360


def open_builtin(name: str, split: str) -> Dataset:
    """The built-in data `name` (without `builtin:`). Raises UserError for an unknown name or split."""
    if name not in NAMES:
        known = ", ".join(f"builtin:{known}" for known in NAMES)
        raise UserError(f"data.path: unknown data 'builtin:{name}', expected one of {known}{nearest(name, NAMES)}")
    if split not in SPLITS:
        raise NoSplit(
            f"'builtin:{name}' has no split '{split}', expected one of {', '.join(SPLITS)}{nearest(split, SPLITS)}"
        )
    return digits(split)


@functools.cache  # a run opens it three times: to train on, for the probe, and to be judged
def digits(split: str) -> Dataset:
    """1,797 handwritten digits, 8x8 grey, of scikit-learn (Alpaydin and Kaynak, 1998; UCI, CC BY 4.0).

    Columns: image ({bytes, path}, PNG; the 17 grey levels 0..16 are spread over 0..255), text (captions in several
    phrasings), label (0..9), label_name. Split: 1,437 train and 360 test, the same share of every digit.
    """
    import datasets

    try:
        from PIL import Image
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            f"builtin:digits needs the package '{error.name}', which is not installed: pip install scikit-learn pillow"
        ) from error

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    rows = _split(labels)[split]
    images = []
    for picture in np.rint(bunch.images[rows] * (255 / 16)).astype(np.uint8):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format="PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    words = [DIGITS[label] for label in labels[rows]]
    texts = [
        [phrase.format(word=word, number=label) for phrase in PHRASES]
        for word, label in zip(words, labels[rows], strict=True)
    ]
    features = datasets.Features(
        image=datasets.Image(decode=False),
        text=datasets.List(datasets.Value("string")),
        label=datasets.ClassLabel(names=list(DIGITS)),
        label_name=datasets.Value("string"),
    )
    columns = {"image": images, "text": texts, "label": labels[rows].tolist(), "label_name": words}
    return datasets.Dataset.from_dict(columns, features=features)


def _split(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Row numbers of each split: TEST rows stratified by label (largest remainders), the same on every machine."""
    counts = np.bincount(labels)
    exact = counts * TEST / len(labels)
    take = np.floor(exact).astype(int)
    for label in np.argsort(take - exact, kind="stable")[: TEST - take.sum()]:
        take[label] += 1
    test = []
    for label, count in enumerate(take):
        rows = np.flatnonzero(labels == label)
        test.append(rows[np.argsort(philox(0, label).random_raw(len(rows)), kind="stable")[:count]])
    chosen = np.sort(np.concatenate(test))
    return {"train": np.setdiff1d(np.arange(len(labels)), chosen), "test": chosen}
