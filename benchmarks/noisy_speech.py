"""Spoken digits in noise: every recording of `fsdd` with a noise of its own, 0 to 10 dB below the voice.

`python -m benchmarks.noisy_speech FOLDER [FSDD]` writes two splits, which the matrix makes for itself: `train` and
`test` with the same rows, labels and speakers as there. The noise of a row follows from its `id`: white, pink (its
power falls with the frequency), or babble (four recordings of the same split by other speakers, each begun
anywhere). Nothing of one split is heard in the other. What is written stays in `benchmarks/matrix/cache/`, which git
leaves out.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

NOISES = ("white", "pink", "babble")
QUIETER = (0.0, 10.0)
"""Decibels by which the noise is below the voice, drawn evenly between these."""
VOICES = 4
"""Recordings in a babble."""
Wave = np.ndarray[Any, np.dtype[np.float64]]


def coloured(samples: int, kind: str, rng: np.random.Generator) -> Wave:
    """(samples,) white or pink noise."""
    noise = rng.standard_normal(samples)
    if kind == "white":
        return noise
    spectrum = np.fft.rfft(noise)
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1.0)), n=samples)


def babble(samples: int, others: Sequence[Wave], rng: np.random.Generator) -> Wave:
    """(samples,) the sum of some of the others, each of the same power and begun anywhere."""
    mixed = np.zeros(samples)
    for number in rng.choice(len(others), VOICES, replace=False):
        voice = np.resize(np.roll(others[number], rng.integers(len(others[number]))), samples)
        mixed += voice / max(float(np.sqrt(np.mean(voice**2))), 1e-9)
    return mixed


def noisy(wave: Wave, noise: Wave, decibels: float) -> Wave:
    """The wave with the noise so many decibels below it, no louder than 1."""
    power = float(np.mean(wave**2)) / max(float(np.mean(noise**2)), 1e-12)
    mixed = wave + noise * np.sqrt(power) * 10 ** (-decibels / 20)
    return mixed / max(1.0, float(np.abs(mixed).max()))


def rows(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a split in noise, the same each time: `audio` as WAV, and `noise` and `decibels` beside."""
    import soundfile

    heard = [soundfile.read(io.BytesIO(row["audio"]["bytes"])) for row in table]
    made = []
    for row, (wave, rate) in zip(table, heard, strict=True):
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(row["id"].encode()).digest()[:8], "big"))
        kind, decibels = NOISES[rng.integers(len(NOISES))], float(rng.uniform(*QUIETER))
        others = [w for other, (w, _) in zip(table, heard, strict=True) if other["speaker"] != row["speaker"]]
        noise = babble(len(wave), others, rng) if kind == "babble" else coloured(len(wave), kind, rng)
        out = io.BytesIO()
        soundfile.write(out, noisy(wave, noise, decibels), rate, "PCM_16", format="WAV")
        made.append({**row, "audio": {"bytes": out.getvalue(), "path": None}, "noise": kind, "decibels": decibels})
    return made


def write(folder: Path, shared: Path | None = None) -> None:
    """The two splits as parquet, where they are not there.

    Args:
        folder: of the new set.
        shared: that of `fsdd`; without, below `$MMSSL_SHARED_DATA` or `../shared/data`.
    """
    import datasets

    place = shared or Path(os.environ.get("MMSSL_SHARED_DATA", "../shared/data")) / "fsdd"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("test", "train"):
        file = folder / f"{split}.parquet"
        if not file.exists():
            source = datasets.Dataset.from_parquet(str(place / f"{split}.parquet"))
            columns = source.features | {"noise": datasets.Value("string"), "decibels": datasets.Value("float64")}
            plain = source.cast_column("audio", datasets.Audio(decode=False))
            columns["audio"] = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
            made = datasets.Dataset.from_list(rows(list(plain)), features=datasets.Features(columns))
            made.to_parquet(file.with_suffix(".partial"))
            file.with_suffix(".partial").rename(file)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
