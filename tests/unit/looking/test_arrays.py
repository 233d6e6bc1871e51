"""What a folder of `.npy` is taken for: by its shapes, with a reason that stands in the recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toys.refusals import refused

from mmssl.cli import main
from mmssl.looking.arrays import look_at_arrays
from mmssl.looking.init import init
from mmssl.looking.options import InitConfig

SHAPES: dict[str, tuple[list[tuple[int, ...]], str, str, str]] = {
    "scans": ([(16, 16, 16)], "f4", "volume", "16 x 16 x 16: neither the first nor the last axis looks like channels"),
    "scans of several sizes": ([(18, 24, 20), (20, 22, 21)], "f4", "volume", "18 to 20 x 22 to 24 x 20 to 21"),
    "thin scans": ([(6, 24, 24), (7, 24, 24)], "i2", "volume", "6 to 7 x 24 x 24"),
    "colours last": ([(16, 20, 3)], "u1", "image", "the last axis, of 3,"),
    "colours first": ([(3, 20, 16)], "f4", "image", "the first axis, of 3,"),
    "colours and grey": ([(16, 20, 3), (16, 20, 1)], "u1", "image", "the last axis, of 1 or 3,"),
    "bands": ([(13, 64, 64), (13, 60, 72)], "u2", "image", "the first axis, of 13,"),
    "bands last": ([(64, 64, 8)], "f4", "image", "the last axis, of 8,"),
    "bands that a reader would not see": ([(5, 20, 200)], "f4", "volume", "5 x 20 x 200"),
    "scans with channels": ([(2, 16, 16, 16)], "f4", "volume", "volumes with channels"),
    "videos": ([(8, 16, 16, 3)], "u1", "video", "the last axis is taken for the colours of frames"),
    "videos, colours first": ([(8, 3, 16, 16)], "u1", "video", "the second axis"),
    "grey videos": ([(8, 16, 16, 1)], "u1", "video", "the last axis"),
    "scans of one channel": ([(8, 16, 16, 1)], "f4", "volume", "volumes with channels"),
    "grey bytes": ([(28, 280)], "u1", "image", "of bytes"),
    "grey numbers": ([(28, 40)], "f4", "image", "nearly square"),
    "recordings": ([(2, 300)], "f4", "signal", "the shorter axis is of channels"),
    "one channel": ([(300,), (301,)], "f4", "signal", "of one axis"),
}


def _folder(place: Path, shapes: list[tuple[int, ...]], kind: str, rows: int = 12) -> list[str]:
    for number in range(rows):
        np.save(place / f"{number:02}.npy", np.zeros(shapes[number % len(shapes)], kind))
    return sorted(map(str, place.glob("*.npy")))


@pytest.mark.parametrize("case", SHAPES)
def test_by_shape(case: str, tmp_path: Path) -> None:
    shapes, kind, modality, why = SHAPES[case]
    found = look_at_arrays(_folder(tmp_path, shapes, kind), lambda counts: False)
    assert found.modality == modality and why in found.why


def test_what_something_beside_them_calls_recordings_is_no_picture(tmp_path: Path) -> None:
    files = _folder(tmp_path, [(19, 30)], "f4")
    assert look_at_arrays(files, lambda counts: counts == {19, 30}).modality == "signal"
    assert look_at_arrays(files, lambda counts: False).modality == "image"


@pytest.mark.parametrize(
    ("shape", "said"), [((), "a single number each"), ((2, 2, 2, 2, 2), "of 5 axes"), ((0, 4), "empty")]
)
def test_arrays_that_are_nothing(shape: tuple[int, ...], said: str, tmp_path: Path) -> None:
    with refused(said, "1 to 4 axes"):
        look_at_arrays(_folder(tmp_path, [shape], "f4"), lambda counts: False)


def test_one_broken_file_decides_nothing(tmp_path: Path) -> None:
    files = _folder(tmp_path, [(16, 16, 16)], "f4")
    Path(files[0]).write_bytes(b"\x93NUMPY and no more")
    assert look_at_arrays(files, lambda counts: False).modality == "volume"
    with refused(files[0], "none of some .npy files can be read"):
        look_at_arrays(files[:1], lambda counts: False)


def test_one_file_of_all_rows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "X.npy", np.zeros((100, 20)))
    assert main(["init", str(tmp_path / "X.npy"), "--output", str(tmp_path / "r.yaml")]) == 2
    said = capsys.readouterr().err
    assert "one array, 100 x 20, and one file is one row" in said and not (tmp_path / "r.yaml").exists()


def test_the_reason_stands_in_the_recipe_and_the_user_says_another(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        np.save(tmp_path / f"data/{number}.npy", rng.normal(size=(6, 24, 24)).astype(np.float32))
    by_shape = init(InitConfig(path=str(tmp_path / "data")), tmp_path / "image.yaml")
    assert "image:  # arrays of three axes, 6 x 24 x 24: the first axis, of 6, is taken for" in by_shape.text
    assert any("--column volume=volume" in line for line in by_shape.found)
    asked = init(InitConfig(path=str(tmp_path / "data"), columns={"volume": "volume"}), tmp_path / "volume.yaml")
    assert asked.base == "volume_contrastive" and "volume:  # as asked for" in asked.text
    assert asked.recipe["modalities"]["volume"] == {"size": 24, "patch": 4}
