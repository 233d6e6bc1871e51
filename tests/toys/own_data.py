"""Small data of every kind as a user has them, in files and tables of files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
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


def of_kinds(
    folder: Path, kinds: Sequence[str], more: Mapping[str, Callable[[int], object]] | None = None, count: int = 12
) -> str:
    """Samples of these kinds in one table of files, with further columns; or a folder of graphs. Returns its name.

    more: column -> its value in a row.
    """
    if list(kinds) == ["graph"]:
        tudataset(folder / "graphs")
        return "graphs"
    if "series" in kinds:
        sensors(folder / "sensors")
    written: dict[str, Callable[[int], Path]] = {
        "audio": lambda n: encoded(folder / "a" / f"{n}.wav", seconds=0.5, seed=n),
        "video": lambda n: video(folder / "v" / f"{n}.mp4", seed=n),
        "eeg": lambda n: edf(folder / "e" / f"{n}.edf", seed=n),
        "ecg": lambda n: wfdb_record(folder / "h", f"r{n}"),
        "series": lambda n: folder / "sensors" / f"{n}.csv",
    }
    if "image" in kinds:
        pictures(folder / "shown", count)
        files = sorted((folder / "shown").rglob("*.png"))
        written["image"] = lambda n: files[n]
    columns: dict[str, Callable[[int], object]] = {
        kind: lambda n, kind=kind: str(written[kind](n).relative_to(folder)) for kind in kinds if kind in written
    }
    lines = sentences(count)
    if "text" in kinds:
        columns["text"] = lambda n: lines[n]
    if "tabular" in kinds:
        columns |= {"ward": lambda n: n % 5, "group_of": lambda n: "ab"[n % 2], "score": lambda n: n / 7}
    columns |= more or {}
    table(folder / "table.csv", list(columns), [[make(n) for make in columns.values()] for n in range(count)])
    return "table.csv"
