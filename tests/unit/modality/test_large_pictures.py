"""Large pictures are read some rows at a time, in the numbers of a reading at once."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mmssl.modality import load_modality
from mmssl.modality.pixels import decode as decoding

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (40, 50, 4), dtype=np.uint8)


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_strips_change_no_number(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = png(
        Image.fromarray(BYTES).convert("RGB").convert(mode) if mode in "1P" else Image.fromarray(BYTES).convert(mode)
    )
    once = decoding.decode(raw, [10, 200, 30])
    monkeypatch.setattr(decoding, "STRIP", 130)
    np.testing.assert_array_equal(decoding.decode(raw, [10, 200, 30]), once)


@pytest.mark.parametrize("how", ["squash", "crop", "pad"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_grey_made_colour_after_resizing_is_that_made_before(how: str, dtype: type) -> None:
    module = load_modality("image")
    grey = RNG.integers(0, 255, (40, 50, 1)).astype(dtype)
    made = module.Preprocessor(module.Config(size=16, patch=8, channels=3, resize=how))
    np.testing.assert_array_equal(made._decode(grey), made._decode(np.repeat(grey, 3, axis=2)))
