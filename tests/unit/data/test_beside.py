"""A table beside files says more of them, and folders that are no classes make no labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from mmssl.data import open_source
from mmssl.data.explained import _told
from mmssl.data.kinds import Files
from mmssl.looking.opening import reader


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Each test hears its warnings."""
    _told.clear()


def files(folder: Path, *names: str) -> None:
    """Files that nobody opens."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def rows(folder: Path, *modalities: str) -> Dataset:
    """A folder, as a recipe with these modalities opens it."""
    return open_source(
        str(folder), split="train", files=Files({name: reader(name) for name in modalities or ("image",)})
    )


@pytest.mark.parametrize(
    "names",
    [
        ["a/1.png", "a/2.png", "b/3.png"],
        ["a/1", "a/2", "b/3"],
        ["a\\1.png", "a\\2.png", "b\\3.png"],
        ["1.png", "2.png", "3.png"],
        ["1", "2", "3"],
        ["001", "002", "003"],
        ["/home/lab/old/1.png", "/home/lab/old/2.png", "/home/lab/old/3.png"],
    ],
)
def test_a_table_that_names_the_files(names: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By their paths, also those of another machine, by their names, by both without the ending."""
    files(tmp_path, "a/1.png", "a/2.png", "b/3.png")
    lines = [f"{name};{30 + n},5;report {n}" for n, name in enumerate(names)]
    (tmp_path / "report.csv").write_text("which;age;words\n" + "\n".join([*lines, "other;40;none"]) + "\n")
    found = rows(tmp_path)
    assert found["file"] == ["a/1.png", "a/2.png", "b/3.png"]
    assert found["age"] == [30.5, 31.5, 32.5] and found["words"] == ["report 0", "report 1", "report 2"]
    assert found.features["label"].names == ["a", "b"]
    assert "'report.csv' says more of the files: its column 'which' names them (3 of 3)" in caplog.text
    assert "1 of its 4 rows name no file" in caplog.text and "left out" not in caplog.text


def test_files_that_a_table_does_not_name_stay(tmp_path: Path) -> None:
    """And one that it names twice is two rows; its label comes before that of folders."""
    files(tmp_path, "a/1.png", "b/2.png", "b/3.png")
    (tmp_path / "t.tsv").write_text("name\tlabel\n1.png\tyes\n2.png\tno\n2.png\tperhaps\n")
    found = rows(tmp_path)
    assert list(zip(found["file"], found["label"], strict=True)) == [
        ("a/1.png", "yes"),
        ("b/2.png", "no"),
        ("b/2.png", "perhaps"),
        ("b/3.png", None),
    ]


def test_captions_as_coco_has_them(tmp_path: Path) -> None:
    """A row a caption, beside the pictures and by itself."""
    files(tmp_path, "images/1.jpg", "images/2.jpg")
    pictures = [{"id": n, "file_name": f"{n}.jpg", "width": 4} for n in (1, 2)]
    said = [{"id": n, "image_id": 1 + n % 2, "caption": f"c{n}"} for n in range(4)]
    (tmp_path / "captions.json").write_text(json.dumps({"info": {}, "images": pictures, "annotations": said}))
    found = rows(tmp_path)
    assert found.column_names == ["id", "width", "image_id", "caption", "image", "file"]
    assert list(zip(found["file"], found["caption"], strict=True)) == [
        ("images/1.jpg", "c0"),
        ("images/1.jpg", "c2"),
        ("images/2.jpg", "c1"),
        ("images/2.jpg", "c3"),
    ]
    alone = open_source(str(tmp_path / "captions.json"), split="train")
    assert list(alone["file_name"]) == ["1.jpg", "2.jpg", "1.jpg", "2.jpg"] and list(alone["caption"])[3] == "c3"


def test_a_table_of_persons(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Several files of one, in folders of their own, as BIDS has them: whom they are of is no class."""
    files(tmp_path, *(f"sub-0{n}/sub-0{n}_run-{run}.png" for n in (1, 2, 3) for run in (1, 2)))
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\nsub-02\t40\nsub-03\t50\n")
    found = rows(tmp_path)
    assert found["age"] == [30, 30, 40, 40, 50, 50] and "label" not in found.column_names
    assert "'participant_id' names whom they are of (6 of 6)" in caplog.text
    assert "folders sub-01, sub-02, sub-03 are taken for those of persons" in caplog.text
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\nsub-01\t31\nsub-02\t40\n")
    assert "age" not in rows(tmp_path).column_names, "which of the visits a file is of nobody knows"


def test_a_table_that_names_no_files_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files(tmp_path, *(f"{n}.png" for n in range(8)))
    (tmp_path / "t.csv").write_text("n,x\n" + "".join(f"{n}.png,1\n" for n in range(3)))
    (tmp_path / "broken.csv").write_text('a,b\n1,"2\n')
    assert rows(tmp_path).column_names == ["image", "file"]
    assert "8 files are read, 2 are left out" in caplog.text and "adds nothing to the files beside it" in caplog.text


def test_folders_of_modalities_are_no_classes(tmp_path: Path) -> None:
    """A row without its sound would have the label of the folder of pictures."""
    files(tmp_path, *(f"{kind}/{n}.{end}" for n in range(4) for kind, end in (("img", "png"), ("snd", "wav"))))
    files(tmp_path, "img/9.png")
    found = rows(tmp_path, "image", "audio")
    assert "label" not in found.column_names and len(found) == 5
    classes = tmp_path / "by_class"
    files(classes, *(f"{k}/{'ab'[n % 2]}/{n}.{e}" for n in range(4) for k, e in (("img", "png"), ("snd", "wav"))))
    found = rows(classes, "image", "audio")
    assert found.features["label"].names == ["a", "b"] and len(found) == 4


@pytest.mark.parametrize(
    ("names", "labelled"),
    [
        (["00/r000.png", "00/r001.png", "01/r002.png"], False),
        (["00/r000.png", "00/r002.png", "01/r001.png"], True),
        (["0/r000.png", "1/r002.png"], True),
        (["00/cat.png", "01/dog.png"], True),
    ],
)
def test_parts_into_which_files_were_dealt_are_no_classes(names: list[str], labelled: bool, tmp_path: Path) -> None:
    files(tmp_path, *names)
    assert ("label" in rows(tmp_path).column_names) == labelled


def test_paths_as_windows_writes_them(tmp_path: Path) -> None:
    """A table that was written there names files here."""
    files(tmp_path, "pics/a/1.png", "pics/2.png")
    (tmp_path / "t.csv").write_text("image,n\npics\\a\\1.png,1\npics/2.png,2\n")
    found = open_source(str(tmp_path / "t.csv"), split="train", files=Files({"image": reader("image")}))
    assert [row["image"] for row in found] == [str(tmp_path / "pics/a/1.png"), str(tmp_path / "pics/2.png")]
