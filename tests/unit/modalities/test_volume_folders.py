"""mmssl_volume: folders of slices as volumes, and slabs of volumes as rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toys.refusals import refused

from mmssl.errors import BadSample, NoSplit
from mmssl_volume.reading import read_volume
from mmssl_volume.sources import open_rows

nibabel = pytest.importorskip("nibabel")

CUBE = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)


def voxels(raw: object) -> np.ndarray[Any, Any]:
    found = read_volume(raw)
    assert found is not None
    return found.array


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two folders of slices, one by pictures and one by arrays, and a NIfTI, in folders of two classes."""
    for number, kind in ((1, "ill"), (2, "well")):
        case = tmp_path / "scans" / kind / f"case{number}"
        case.mkdir(parents=True)
        for place, picture in enumerate(CUBE):
            if number == 1:
                Image.fromarray((picture + place).astype(np.uint8)).save(case / f"s{place + 8}.png")
            else:
                np.save(case / f"s{place}.npy", picture)
    cube = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4))
    (tmp_path / "scans" / "well" / "c.nii").write_bytes(cube.to_bytes())
    return tmp_path / "scans"


def test_a_folder_of_slices_is_a_volume_where_it_is_said(scans: Path) -> None:
    rows = open_rows(str(scans), "train")
    assert rows["file"][:] == ["ill/case1", "well/c.nii", "well/case2"] and rows["label"][:] == ["ill", "well", "well"]
    assert np.array_equal(voxels(rows[0]["volume"])[0], CUBE + np.arange(4)[:, None, None])  # s8, s9, s10, s11
    assert np.array_equal(voxels(rows[2]["volume"])[0], CUBE)
    with pytest.raises(NoSplit, match="no split 'test'"):
        open_rows(str(scans), "test")
    (scans / "metadata.csv").write_text("file_name,age\nill/case1,3\nwell/case2,\nwell/c.nii,5\n")
    assert open_rows(str(scans), "train")["age"][:] == [3, 5, None]
    (scans / "ill").rename(scans / "test")
    (scans / "well").rename(scans / "train")
    with refused("metadata.csv", "test/case1"):
        open_rows(str(scans), "test")
    (scans / "metadata.csv").unlink()
    assert [open_rows(str(scans), split)["file"][:] for split in ("train", "test")] == [
        ["train/c.nii", "train/case2"],
        ["test/case1"],
    ]


def test_slabs_say_where_in_their_volume_they_lie(scans: Path) -> None:
    rows = open_rows(f"{scans}?slab=3&parts=2", "train")
    assert rows["file"][:] == ["ill/case1"] * 2 + ["well/c.nii"] * 2 + ["well/case2"] * 2
    assert rows["start"][:2] == [0, 1] and rows["start"][2:4] == [0, 3]  # four slices and six; the last one fits in
    assert rows["position"][:4] == [0.375, 0.625, 0.25, 0.75] and rows["part"][:4] == [0, 1, 0, 1]
    assert np.array_equal(voxels(rows[4]["volume"])[0], CUBE[:3]) and np.array_equal(
        voxels(rows[5]["volume"])[0], CUBE[1:]
    )
    for wrong, facts in (
        ("?slab=9", ("ill/case1", "4 slices")),
        ("?slab=0", ("slab", "'0'")),
        ("?parts=2", ("slab=SLICES",)),
        ("?thick=2", ("'thick'", "slab=SLICES")),
        ("/gone", ("gone",)),
    ):
        with refused(*facts):
            open_rows(f"{scans}{wrong}", "train")
    for wanted in ([0, 9], [2, 2], [0.5, 2], "all"):
        with pytest.raises(BadSample, match="slices"):
            read_volume({"array": CUBE, "slices": wanted})
