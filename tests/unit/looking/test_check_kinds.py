"""`mmssl check` on small faulty data, a kind each: what is wrong is named in a line, and of good data nothing is."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toys.own_files import encoded

import mmssl
from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.looking.init import init
from mmssl.looking.options import InitConfig

RNG = np.random.default_rng(0)


def _png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 255, (16, 16, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def _table(folder: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


def _csv(folder: Path, header: str, row: Callable[[int], str], rows: int = 60) -> Path:
    (folder / "t.csv").write_text("\n".join([header, *map(row, range(rows))]) + "\n")
    return folder / "t.csv"


def _arrays(folder: Path, make: Callable[[int], np.ndarray]) -> Path:
    for number in range(12):
        np.save(folder / f"{number}.npy", make(number))
    return folder


def _scans(folder: Path, make: Callable[[int], np.ndarray]) -> Path:
    import nibabel

    for number in range(12):
        nibabel.save(nibabel.Nifti1Image(make(number).astype(np.float32), np.eye(4)), folder / f"{number}.nii.gz")
    return folder


def _pictures(folder: Path, rows: int) -> Path:
    for number in range(rows):
        (folder / f"{number}.png").write_bytes(_png())
    return folder


def _rates(folder: Path) -> Path:
    """One recording of another rate, and it is held out."""
    (folder / "train").mkdir()
    (folder / "test").mkdir()
    for number in range(20):
        encoded(folder / f"train/{number}.wav", rate=16000, seed=number)
    for number in range(3):
        encoded(folder / f"test/{number}.wav", rate=8000 if number == 1 else 16000, seed=50 + number)
    return folder


def _noise() -> str:
    return f"{RNG.normal():.4f},{RNG.normal():.4f}"


CASES: dict[str, tuple[Callable[[Path], Path], int, str]] = {
    "two pictures": (lambda f: _pictures(f, 2), 1, "worthless: train: 2 rows are too few to learn from"),
    "one picture": (lambda f: _pictures(f, 1), 1, "worthless: train: 1 row is too few to learn from"),
    "pictures as text": (
        lambda f: _table(f, image=[base64.b64encode(_png()).decode() for _ in range(12)]),
        2,
        "image (files written as text (base64)",
    ),
    "text beside pictures as text": (
        lambda f: _table(
            f,
            text=[f"a sentence of some words with number {n} in it" for n in range(30)],
            photo=["data:image/png;base64," + base64.b64encode(_png()).decode() for _ in range(30)],
        ),
        0,
        "wrong: the column 'photo' is no input: files written as text (base64)",
    ),
    "lists of pictures": (
        lambda f: _table(f, images=[[{"bytes": _png(), "path": None}] for _ in range(12)]),
        2,
        "images (lists of files: one is read of a row",
    ),
    "a column that never varies": (
        lambda f: _csv(f, "a,b,c,d", lambda n: f"{_noise()},5,{n % 3}"),
        0,
        "note: the column 'c' is no input: the same in every row",
    ),
    "an empty column": (
        lambda f: _csv(f, "a,b,c,d", lambda n: f"{_noise()},,{n % 3}"),
        0,
        "note: the column 'c' is no input: empty",
    ),
    "another rate among few": (_rates, 0, "note: test: audio: 1 sample at another rate than 16000 a second"),
    "arrays of nothing": (
        lambda f: _arrays(f, lambda n: np.full((2, 300), np.nan)),
        1,
        "worthless: series: none of 10 samples is read",
    ),
    "a volume that is the same everywhere": (
        lambda f: _scans(f, lambda n: np.full((20, 22, 24), 7.0) if n == 2 else RNG.normal(size=(20, 22, 24))),
        0,
        "volume: 1 sample with a channel that is flat: row",
    ),
    "graphs that are none": (
        lambda f: [(f / f"{n}.graphml").write_text("<graphml><node") for n in range(10)] and f,  # type: ignore[return-value]
        1,
        "worthless: graph: none of",
    ),
    "a device": (lambda f: Path("/dev/zero"), 2, "'/dev/zero' is a device, expected a file or a folder"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fault_is_named_in_a_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, code, said = CASES[case]
    (tmp_path / "data").mkdir()
    place = make(tmp_path / "data")
    assert main(["check", str(place), "--output", str(tmp_path / "out")]) == code
    told = capsys.readouterr()
    text = told.out if code < 2 else told.err
    assert sum(said in line for line in text.splitlines()) == 1, text
    assert "Traceback" not in told.err


GOOD: dict[str, Callable[[Path], Path]] = {
    "pictures": lambda f: _pictures(f, 24),
    "volumes": lambda f: _scans(f, lambda n: RNG.normal(size=(20, 22, 24))),
    "hashes beside numbers": lambda f: _csv(f, "key,a,b,c", lambda n: f"{RNG.bytes(20).hex()},{_noise()},{n % 3}"),
    "words without blanks": lambda f: _csv(f, "a,b,c", lambda n: f"{_noise()},{'rainbow' * (n % 4 + 1)}"),
}


@pytest.mark.parametrize("case", GOOD)
def test_of_good_data_nothing_is_said(case: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    found = mmssl.check(GOOD[case](tmp_path / "data"))
    assert not {one.kind for one in found.findings} - {"held-out"}, found.lines()


def test_the_name_of_a_recordings_file_is_no_picture(tmp_path: Path) -> None:
    """Of a folder of .npy each row has its file's name, which ends as one of a picture may."""
    done = init(InitConfig(path=str(_arrays(tmp_path, lambda n: RNG.normal(size=(2, 300))))), tmp_path / "r.yaml")
    assert list(done.recipe["modalities"]) == ["series"] and done.base == "series_contrastive"


def test_arrays_with_colours_in_a_table_are_pictures(tmp_path: Path) -> None:
    import datasets

    pixels = RNG.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    rows = datasets.Dataset.from_dict({"photo": pixels}).cast_column("photo", datasets.Array3D((16, 16, 3), "uint8"))
    rows.to_parquet(str(tmp_path / "t.parquet"))
    done = init(InitConfig(path=str(tmp_path / "t.parquet")), tmp_path / "r.yaml")
    assert done.recipe["data"]["columns"] == {"image": "photo"} and done.recipe["modalities"]["image"]["size"] == 16


def test_files_of_volumes_in_a_table_are_channels_and_slices_are_volumes_where_it_is_said(tmp_path: Path) -> None:
    import nibabel
    from PIL import Image

    for number in range(12):
        for name in ("t1", "t2"):
            cube = nibabel.Nifti1Image(RNG.normal(size=(8, 8, 8)).astype(np.float32), np.eye(4))
            nibabel.save(cube, tmp_path / f"{name}_{number}.nii")
        (tmp_path / "slices" / f"case{number}").mkdir(parents=True)
        for place in range(8):
            pixels = RNG.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "slices" / f"case{number}" / f"{place}.png")
    rows = "".join(f"t1_{n}.nii,t2_{n}.nii,{'ab'[n % 2]}\n" for n in range(12))
    (tmp_path / "t.csv").write_text(f"first,second,label\n{rows}")
    done = init(InitConfig(path=str(tmp_path / "t.csv")), tmp_path / "r.yaml")
    assert done.recipe["data"]["columns"] == {"volume": ["first", "second"]}
    done = init(InitConfig(path=f"volume:{tmp_path / 'slices'}?slab=4"), tmp_path / "s.yaml")
    assert list(done.recipe["modalities"]) == ["volume"]


@pytest.mark.parametrize(("links", "graphs"), [([{"source": 0, "target": 1}], True), (None, False)])
def test_a_folder_of_json_is_graphs_where_they_are(links: object, graphs: bool, tmp_path: Path) -> None:
    for number in range(12):
        nodes = [{"id": n} for n in range(4)]
        said = {"nodes": nodes, "links": links} if graphs else {"a": number % 3, "b": float(RNG.normal())}
        (tmp_path / f"{number}.json").write_text(json.dumps(said))
    done = init(InitConfig(path=str(tmp_path)), tmp_path / "r.yaml")
    assert list(done.recipe["modalities"]) == (["graph"] if graphs else ["tabular"])


def test_from_python_a_recipe_is_looked_at_as_the_command_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _csv(tmp_path, "a,b,c,outcome", lambda n: f"{_noise()},{n % 3},{n % 2}")
    done = init(InitConfig(path=str(path)), tmp_path / "r.yaml")
    assert main(["check", str(done.path), "sample=20", "seed=3", "--output", str(tmp_path / "out")]) == 0
    by_command = json.loads((tmp_path / "out" / "report.json").read_text())
    for recipe in (done.path, str(done.path), done.recipe):
        found = mmssl.check(recipe, sample=20, seed=3)
        assert json.loads(json.dumps(found.plain())) == by_command
        assert all(of["looked_at"] <= 20 for of in found.splits.values())
    other = mmssl.check(done.path, label="c", columns={"tabular": ["a", "b"]})
    assert other.label is not None and other.label["column"] == "c"
    assert other.modalities["tabular"]["column"] == ["a", "b"]
    with pytest.raises(UserError, match=r"train\.stepz"):
        mmssl.check(done.path, train={"stepz": 3})
