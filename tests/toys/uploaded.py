"""A small untrained model of recordings, videos, volumes, series, graphs and rows in one space, and files for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from mmssl.modality import load_modality
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import save_model

from .own_files import brain, edf, video, wfdb_record

OPTIONS: dict[str, dict[str, Any]] = {
    "eeg": {"rate": 64, "window": 0.5, "seconds": 4},
    "ecg": {"rate": 50, "window": 0.2, "seconds": 4},
    "video": {"size": 16, "patch": 8, "frames": 4, "tubelet": 2},
    "volume": {"size": [4, 8, 8], "patch": 4},
    "series": {"window": 4, "length": 24, "unknown": "drop"},
    "graph": {"nodes": 12},
    "tabular": {},
}
COUNT = 8
CELLS = ["age", "job"]


def recording(folder: Path, number: int) -> list[Path]:
    return [edf(folder / f"brain{number}.edf", seed=number)]


def heart(folder: Path, number: int) -> list[Path]:
    header = wfdb_record(folder, "heart" + "x" * number, seconds=4)
    return [header, header.with_suffix(".dat")]


def clip(folder: Path, number: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [video(folder / f"clip{number}.mp4", seconds=0.4, seed=number)]


def volume(folder: Path, number: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    found = np.random.default_rng(number).normal(100, 20, (5, 9, 8)).astype(np.float32)
    if number % 2:  # as scanners have them, packed, with the size of their voxels
        import nibabel

        scan: Any = nibabel.Nifti1Image(found.T, np.diag([2.0, 2.0, 4.0, 1.0]))
        nibabel.save(scan, folder / f"head{number}.nii.gz")
        return [folder / f"head{number}.nii.gz"]
    np.save(folder / f"head{number}.npy", found)
    return [folder / f"head{number}.npy"]


def series(folder: Path, number: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).normal(size=(40, 2)).cumsum(0)
    lines = ["left,right", *(f"{a:.4f},{b:.4f}" for a, b in values)]
    (folder / f"walk{number}.csv").write_text("\n".join(lines) + "\n")
    return [folder / f"walk{number}.csv"]


def graph(folder: Path, number: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    count = 5 + number % 4
    rng = np.random.default_rng(number)
    edges = [[n, (n + 1) % count] for n in range(count)]
    told = {"edge_index": [list(ends) for ends in zip(*edges, strict=True)], "x": rng.normal(size=(count, 3)).tolist()}
    (folder / f"ring{number}.json").write_text(json.dumps(told))
    return [folder / f"ring{number}.json"]


FILES: dict[str, Callable[[Path, int], list[Path]]] = {
    "eeg": recording,
    "ecg": heart,
    "video": clip,
    "volume": volume,
    "series": series,
    "graph": graph,
}


COLUMNS: dict[str, str | list[str]] = {**dict(zip(FILES, FILES, strict=True)), "tabular": CELLS}


def row(number: int) -> dict[str, Any]:
    """The cells of a row."""
    return {"age": 20.0 + number * number % 37, "job": ("smith", "baker", "cook")[number % 3]}


def wrong(folder: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Modality -> (name, contents) of files that are none of it."""
    folder.mkdir(parents=True, exist_ok=True)
    words, picture = b"these are words and nothing else\n", b"\x89PNG\r\n\x1a\n" + bytes(60)
    cut = edf(folder / "cut.edf").read_bytes()[:700]
    loud = ("Cz,O1\n" + "\n".join(f"{1e9 * a},{1e9 * b}" for a, b in brain(2, 64)[:2].T)).encode()
    np.save(folder / "a.npy", np.array([["a", "b"]]))
    letters = (folder / "a.npy").read_bytes()
    return {
        "eeg": [("a.edf", words), ("b.edf", cut), ("c.png", picture), ("d.csv", loud), ("e.edf", b"")],
        "ecg": [("a.hea", words), ("b.dat", picture), ("c.hea", b"c 2 100 200\nc.dat 16 200 I\nc.dat 16 200 II\n")],
        "video": [("a.mp4", words), ("b.png", picture), ("c.mp4", b"\0\0\0\x18ftypmp42" + bytes(40))],
        "volume": [("a.nii", words), ("b.nii.gz", b"\x1f\x8b" + words), ("c.npy", letters), ("d.npy", b"")],
        "series": [("a.csv", b"left,right\nx,y\n"), ("b.csv", b""), ("c.npy", letters), ("d.csv", picture)],
        "graph": [("a.json", b'{"edge_index": [[0], [99]], "x": [[1, 2, 3]]}'), ("b.json", b"{"), ("c.npz", words)],
    }


def save(folder: Path) -> Path:
    """The model in `folder`/model, its rows in `folder`/rows, and their files in `folder`/files; the first."""
    held: dict[str, list[Any]] = {"age": [row(n)["age"] for n in range(COUNT)]}
    held["job"] = [row(n)["job"] for n in range(COUNT)]
    readers: dict[str, Any] = {}
    for name, options in OPTIONS.items():
        package = load_modality(name)
        reader = package.Preprocessor(package.Config(**options))
        if name == "tabular":
            samples: list[Any] = [row(n) for n in range(COUNT)]
        else:
            held[name] = samples = [reader.value(str(FILES[name](folder / "files", n)[0])) for n in range(COUNT)]
        readers[name] = reader.fit(samples)
        readers[name].read_from = CELLS if name == "tabular" else name
    (folder / "rows").mkdir(parents=True)
    datasets.Dataset.from_dict(held).to_parquet(folder / "rows" / "train.parquet")
    config = MMSSLConfig(
        modalities={name: {"type": name, **reader.sizes()} for name, reader in readers.items()},
        towers=dict.fromkeys(readers, tower_spec(TowerConfig(width=16, depth=1, heads=2))),
        projection=8,
        initializer_seed=0,
    )
    torch.manual_seed(0)
    model = MMSSLModel(config).eval()
    save_model(model, MMSSLProcessor(readers, {name: name for name in readers}), folder / "model")
    return folder / "model"
