"""What `benchmarks.loader` races: each side gives batches of the same shape and scale, every file once."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import loader


def jpeg(shade: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((375, 500, 3), shade, dtype=np.uint8)).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
def test_all_sides_see_every_file_once_at_the_same_scale() -> None:
    shades = [40, 90, 140, 190]
    raw = [jpeg(shade) for shade in shades]
    wanted = [
        [(shade / 255 - mean) / std for mean, std in zip(loader.MEAN, loader.STD, strict=True)] for shade in shades
    ]
    sides = {
        "ours": [one["pixel_values"] for one in loader.Ours(raw, 2, 0)],
        "tensor": list(loader.peer(raw, loader.by_tensor(), 2, 0)),
        "pillow": list(loader.peer(raw, loader.by_pillow(), 2, 0)),
    }
    for name, batches in sides.items():
        assert [tuple(b.shape) for b in batches] == [(2, 3, 224, 224)] * 2, name
        rows = torch.cat(batches).mean((2, 3))
        rows = rows[rows[:, 0].argsort()]
        torch.testing.assert_close(rows, torch.tensor(wanted), rtol=0, atol=0.02, msg=lambda m, n=name: f"{n}: {m}")
