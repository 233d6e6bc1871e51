"""Raw samples of every shipped modality: made ones, with parts of different sizes, and real ones of the shared sets.

A new modality under `modalities/` adds its own here; the contract tests go through all of them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TINY: dict[str, dict[str, Any]] = {
    "image": {"size": [16, 24], "patch": 8},
    "text": {"vocab_size": 340, "max_length": 24},
    "audio": {"rate": 8000, "mel_bins": 32, "patch": [4, 8], "seconds": 0.5},
    "audio-waveform": {"rate": 8000, "features": "waveform", "patch": 200, "seconds": 0.5},
    "video": {"size": 16, "patch": 8, "frames": 6, "tubelet": 2, "fps": 10, "channels": 1},
    "tabular": {},
    "eeg": {"rate": 64, "window": 0.5, "unknown": "keep", "plausible": [0.01, 1e6]},
    "ecg": {"rate": 50, "window": 0.2, "plausible": [1e-3, 100.0]},
    "ecg-lead": {"rate": 50, "window": 0.2, "patch": "lead", "plausible": [1e-3, 100.0], "tokens": "both"},
    "graph": {"nodes": 12},
    "series": {"window": 4, "rate": 10},
    "volume": {"size": [4, 8, 8], "patch": 4},
}
"""Case -> options. A case is a modality, or one with a word behind it where it cuts patches in another way."""


def modality_of(case: str) -> str:
    return case.partition("-")[0]


def made(case: str, seed: int = 0) -> list[Any]:
    """Five samples of different sizes."""
    return MADE[modality_of(case)](np.random.default_rng(seed))


def real(case: str, folder: Path) -> tuple[list[Any], dict[str, Any]]:
    """(five samples of a real set, options that this set needs)."""
    return REAL[modality_of(case)](folder)


# -------------------------------------------------------------------------------------------------------------- made


def _images(rng: np.random.Generator) -> list[Any]:
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((16, 24), (9, 30), (40, 8), (24, 24), (5, 5))]


def _texts(rng: np.random.Generator) -> list[Any]:
    words = "the quick brown fox jumps over a lazy dog while seven grey wolves watch it from the hill".split()
    return [" ".join(rng.choice(words, n)) for n in (3, 17, 1, 9, 30)]


def _sounds(rng: np.random.Generator) -> list[Any]:
    return [
        {"array": rng.normal(0, 0.1, round(s * r)), "sampling_rate": r}
        for s, r in ((0.3, 8000), (0.05, 8000), (0.9, 16000), (0.2, 22050), (0.11, 8000))
    ]


def _clips(rng: np.random.Generator) -> list[Any]:
    return [
        {"frames": rng.integers(0, 256, (t, 20, 18), dtype=np.uint8), "fps": fps}
        for t, fps in ((6, 10), (20, 25), (2, 10), (1, 5), (30, 30))
    ]


def _rows(rng: np.random.Generator) -> list[Any]:
    colours, sizes = [None, "red", "blue", "green", "red"], [1.5, None, 3.0, -2.0, 0.25]
    return [
        {"colour": c, "size": s, "old": bool(i % 2), "day": f"2024-0{i + 1}-11"}
        for i, (c, s) in enumerate(zip(colours, sizes, strict=True))
    ]


def _eeg(rng: np.random.Generator) -> list[Any]:
    montages = (["Fz", "Cz", "Pz"], ["O1", "O2"], ["Fp1", "Fp2", "C3", "C4", "Cz"], ["Cz"], ["T7", "T8", "Oz"])
    rates, seconds = (64, 128, 100, 64, 250), (2.0, 3.0, 1.0, 0.5, 2.2)
    return [
        {"signal": rng.normal(0, 30, (len(m), round(s * r))), "channels": m, "rate": r, "unit": "uV"}
        for m, r, s in zip(montages, rates, seconds, strict=True)
    ]


def _ecg(rng: np.random.Generator) -> list[Any]:
    leads = (["I", "II", "V1"], ["II"], ["V1", "I"], ["I", "II", "III", "aVR", "aVL", "aVF"], ["V5", "II"])
    rates, seconds = (50, 100, 50, 250, 50), (3.0, 2.0, 0.4, 1.0, 2.2)
    out = [
        {"signal": rng.normal(0, 0.3, (len(m), round(s * r))), "leads": m, "rate": r, "unit": "mV"}
        for m, r, s in zip(leads, rates, seconds, strict=True)
    ]
    out[0]["signal"][1, 40:75] = np.nan
    return out


def _series(rng: np.random.Generator) -> list[Any]:
    uneven = np.sort(rng.uniform(0, 3, 40))
    return [
        {"a": rng.normal(size=30), "b": rng.normal(5, 2, 30), "rate": 10},
        {"b": {"values": rng.normal(5, 2, 24), "rate": 20}, "a": {"values": rng.normal(size=13), "rate": 10}},
        {"a": rng.normal(size=40), "time": uneven},
        {"signal": rng.normal(size=(2, 9)), "channels": ["a", "c"], "rate": 10},
        {"c": np.where(np.arange(50) % 7 == 0, np.nan, 1.0), "a": rng.normal(size=50), "rate": 25},
    ]


def _volumes(rng: np.random.Generator) -> list[Any]:
    shapes = ((4, 8, 8), (9, 7, 12), (3, 5, 5), (6, 20, 10), (8, 8, 8))
    out: list[Any] = [{"t1": rng.normal(100, 20, shape), "t2": rng.normal(9, 2, shape)} for shape in shapes]
    del out[1]["t2"]
    out[3] = {"array": np.stack(list(out[3].values())), "channels": ["t1", "t2"], "spacing": [2.0, 0.5, 0.5]}
    return out


def _graphs(rng: np.random.Generator) -> list[Any]:
    out = []
    for nodes, edges in ((7, 9), (1, 0), (12, 30), (4, 3), (5, 4)):
        ends = rng.integers(0, nodes, (2, edges))
        out.append({"edge_index": ends.tolist(), "x": rng.normal(size=(nodes, 3)).tolist(), "num_nodes": nodes})
    return out


MADE: dict[str, Callable[[np.random.Generator], list[Any]]] = {
    "image": _images,
    "text": _texts,
    "audio": _sounds,
    "video": _clips,
    "tabular": _rows,
    "eeg": _eeg,
    "ecg": _ecg,
    "graph": _graphs,
    "series": _series,
    "volume": _volumes,
}


# -------------------------------------------------------------------------------------------------------------- real


def _column(path: Path, column: str, count: int = 5) -> list[Any]:
    import pyarrow.parquet as parquet

    return parquet.read_table(path, columns=[column]).slice(0, count)[column].to_pylist()


def _adult(folder: Path) -> tuple[list[Any], dict[str, Any]]:
    with open(folder / "adult" / "adult.csv", newline="") as file:
        rows = [row for _, row in zip(range(40), csv.DictReader(file), strict=False)]
    drop = ("income", "split")
    return [{k: v for k, v in row.items() if k not in drop} for row in rows], {}


def _eegmmi(folder: Path) -> tuple[list[Any], dict[str, Any]]:
    channels = json.loads((folder / "eegmmi_s001" / "channels.json").read_text())["channels"]
    signals = _column(folder / "eegmmi_s001" / "eyes-test.parquet", "signal", 4)
    # a recording of another montage and rate in the same batch
    bonn = {"signal": _column(folder / "bonn_eeg" / "test.parquet", "signal", 1)[0], "channels": ["Cz"], "rate": 173.61}
    return [*signals, bonn], {"source_rate": 160, "source_channels": channels, "seconds": 1.5}


def _ptbxl(folder: Path) -> tuple[list[Any], dict[str, Any]]:
    signals = [np.asarray(s) for s in _column(folder / "ptbxl_500" / "test.parquet", "signal", 4)]
    some = {"signal": signals[0][[1, 6]][:, :333], "leads": ["II", "V1"], "rate": 100}
    return [*signals, some], {"source_rate": 100, "source_unit": "uV"}


def _beats(folder: Path) -> tuple[list[Any], dict[str, Any]]:
    beats = _column(folder / "ecg5000_beats" / "test.parquet", "signal", 5)
    return [{"mV": np.ravel(beat), "rate": 140} for beat in beats], {"rate": 140, "window": 7}


def _mutag(folder: Path) -> tuple[list[Any], dict[str, Any]]:
    import mmssl_graph

    return mmssl_graph.open_rows(str(folder / "mutag" / "mutag.npz"), "train")["graph"][:5], {}


def _news(folder: Path) -> tuple[list[Any], dict[str, Any]]:
    with open(folder / "ag_news_mini" / "train.csv", newline="") as file:
        return [row["description"] for _, row in zip(range(5), csv.DictReader(file), strict=False)], {}


def _weizmann(folder: Path) -> tuple[list[Any], dict[str, Any]]:
    return [str(path) for path in sorted((folder / "weizmann4" / "test").glob("*.mp4"))[:5]], {}


def _clips_as_volumes(folder: Path) -> tuple[list[Any], dict[str, Any]]:
    """Frames above one another: no shared set has volumes."""
    from mmssl_video.decode import Wanted, read_clip

    clips = [read_clip(path, Wanted(12, None, channels=1)) for path in _weizmann(folder)[0]]
    return [np.stack([frame[..., 0] for frame in clip[0]]) for clip in clips if clip is not None], {}


REAL: dict[str, Callable[[Path], tuple[list[Any], dict[str, Any]]]] = {
    "image": lambda folder: (_column(folder / "emoji" / "twemoji-test.parquet", "image"), {}),
    "text": _news,
    "audio": lambda folder: (_column(folder / "fsdd" / "test.parquet", "audio"), {}),
    "video": _weizmann,
    "tabular": _adult,
    "eeg": _eegmmi,
    "ecg": _ptbxl,
    "graph": _mutag,
    "series": _beats,
    "volume": _clips_as_volumes,
}
