"""Small data of every kind as a user has them, in files and tables of files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from .own_files import edf, encoded, tudataset, video, wfdb_record

WORDS = "the old river ran past a quiet mill and many small boats lay there in winter".split()


def pictures(folder: Path, count: int = 12) -> None:
    """Pictures of two classes, each in the folder of its class."""
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / ("cats", "dogs")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (24, 30, 3), np.uint8)).save(place / f"{number}.png")


def sentences(count: int) -> list[str]:
    """So many short texts, no two the same."""
    rng = np.random.default_rng(1)
    return [f"{' '.join(rng.choice(WORDS, 7))} {number}" for number in range(count)]


def table(path: Path, header: list[str], rows: list[list[object]]) -> None:
    """A csv file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def sensors(path: Path) -> None:
    """A table of two channels a file."""
    rng = np.random.default_rng(3)
    path.mkdir()
    for n in range(12):
        rows: list[list[object]] = [[t / 10, *map(float, rng.normal(size=2).round(3))] for t in range(60)]
        table(path / f"{n}.csv", ["time", "speed", "heat"], rows)


def scans(path: Path) -> None:
    """A volume a file, longer or shorter."""
    import nibabel

    rng = np.random.default_rng(4)
    path.mkdir()
    for n in range(12):
        voxels = rng.normal(300, 60, (12, 12, 6 + n % 4)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 4.0, 1.0])), path / f"{n}.nii.gz")


def ring(path: Path, number: int) -> Path:
    """A graph of 5 to 8 nodes in a ring, in JSON."""
    count = 5 + number % 4
    path.parent.mkdir(parents=True, exist_ok=True)
    links = [{"source": n, "target": (n + 1) % count} for n in range(count)]
    path.write_text(json.dumps({"nodes": [{"id": n, "size": n * number} for n in range(count)], "links": links}))
    return path


def of_kinds(
    folder: Path, kinds: Mapping[str, str], more: Mapping[str, Callable[[int], object]] | None = None, count: int = 12
) -> str:
    """Samples in one table of files; or a folder of graphs. Returns its name.

    Args:
        folder: where they are written.
        kinds: column -> the kind of what is in it; a table's own columns have their own names.
        more: column -> its value in a row.
        count: how many samples.
    """
    if set(kinds.values()) == {"graph"}:
        tudataset(folder / "graphs")
        return "graphs"
    lines = sentences(count)
    writers: dict[str, Callable[[], Callable[[int], object]]] = {
        "audio": lambda: lambda n: encoded(folder / "a" / f"{n}.wav", seconds=0.5, seed=n).relative_to(folder),
        "video": lambda: lambda n: video(folder / "v" / f"{n}.mp4", seed=n).relative_to(folder),
        "eeg": lambda: lambda n: edf(folder / "e" / f"{n}.edf", seed=n).relative_to(folder),
        "ecg": lambda: lambda n: wfdb_record(folder / "h", f"r{n}").relative_to(folder),
        "graph": lambda: lambda n: ring(folder / "g" / f"{n}.json", n).relative_to(folder),
        "series": lambda: _listed(sensors, folder / "sensors", "*.csv"),
        "volume": lambda: _listed(scans, folder / "scans", "*.nii.gz"),
        "image": lambda: _listed(lambda path: pictures(path, count), folder / "shown", "*.png"),
        "text": lambda: lines.__getitem__,
    }
    columns: dict[str, Callable[[int], object]] = {}
    for name, kind in kinds.items():
        if kind == "tabular":
            columns |= {"ward": lambda n: n % 5, "group_of": lambda n: "ab"[n % 2], "score": lambda n: n / 7}
        else:
            columns[name] = writers[kind]()
    columns |= more or {}
    rows = [{name: _plain(make(n)) for name, make in columns.items()} for n in range(count)]
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "table.jsonl"


def _listed(write: Callable[[Path], object], folder: Path, pattern: str) -> Callable[[int], object]:
    """The files that are written into a folder, as the folder beside it names them."""
    if not folder.is_dir():
        write(folder)
    files = sorted(folder.rglob(pattern))
    return lambda n: files[n].relative_to(folder.parent)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
