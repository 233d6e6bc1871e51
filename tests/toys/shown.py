"""A small untrained model of pictures, words, rows of a table and sounds in one space, saved, and rows for it."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from mmssl.data.sources import open_source
from mmssl.modality import load_modality
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import save_model

COLUMNS: dict[str, str | list[str]] = {"image": "image", "text": "text", "tabular": ["age", "job"], "audio": "sound"}
OPTIONS: dict[str, dict[str, Any]] = {
    "image": {"size": 8, "patch": 4, "resize": "squash"},
    "text": {"vocab_size": 300, "max_length": 16},
    "tabular": {},
    "audio": {"rate": 8000, "seconds": 0.5, "mel_bins": 16, "patch": [4, 8]},
}
COUNT = 16
LACKS = 5
"""A row without a sound."""


def sound(pitch: float, seconds: float = 0.3, rate: int = 8000) -> bytes:
    """A tone as the bytes of a .wav file."""
    times = np.arange(int(seconds * rate)) / rate
    values = (np.sin(2 * np.pi * pitch * times) * 12000).astype("<i2")
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(values.tobytes())
    return held.getvalue()


def rows() -> datasets.Dataset:
    """Digits with captions, two cells and a tone each."""
    digits = open_source("builtin:digits", split="test").select(range(COUNT))
    tones = [None if n == LACKS else {"bytes": sound(200 + 90 * n), "path": f"{n}.wav"} for n in range(COUNT)]
    found = digits.add_column("age", [20.0 + n * n % 37 for n in range(COUNT)])
    found = found.add_column("job", [("smith", "baker", "<b>cook</b>")[n % 3] for n in range(COUNT)])
    return found.add_column("sound", tones)


def save(folder: Path, *, seed: int = 0, projection: int | None = 8) -> Path:
    """The model in `folder`/model and its rows in `folder`/rows; the former."""
    held = rows()
    if not (folder / "rows").exists():
        (folder / "rows").mkdir(parents=True)
        held.to_parquet(folder / "rows" / "train.parquet")
    readers: dict[str, Any] = {}
    for name, options in OPTIONS.items():
        package = load_modality(name)
        column = COLUMNS[name]
        samples = [row[column] if isinstance(column, str) else {c: row[c] for c in column} for row in held]
        readers[name] = package.Preprocessor(package.Config(**options)).fit(samples)
        readers[name].read_from = column
    tower = tower_spec(TowerConfig(width=16, depth=1, heads=2))
    config = MMSSLConfig(
        modalities={name: {"type": name, **reader.sizes()} for name, reader in readers.items()},
        towers=dict.fromkeys(readers, tower),
        projection=projection,
        initializer_seed=seed,
    )
    torch.manual_seed(seed)
    model = MMSSLModel(config).eval()
    target = folder / "model"
    save_model(model, MMSSLProcessor(readers, {name: name for name in readers}), target)
    return target
