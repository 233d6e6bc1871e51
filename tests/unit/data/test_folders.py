"""Folders of media: every file a row, splits of folders alone, and a word about what is left out (cases A, 1-9, 43)."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from toys.refusals import refused

from mmssl.data import evaluation_batches, open_source
from mmssl.data.explained import _told
from mmssl.data.formats import folder_splits
from mmssl.errors import UserError
from mmssl.modality import load_modality


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Each test hears its warnings."""
    _told.clear()


def picture(path: Path, grey: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5), grey, np.uint8)).save(path, format="PNG")


def sound(path: Path, kind: str = "WAV") -> None:
    soundfile = pytest.importorskip("soundfile")
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.sin(np.arange(8000) / 9) * 0.5, 16000, format=kind)


def pictures(folder: Path, places: list[str]) -> Path:
    for i, place in enumerate(places):
        picture(folder / place, i)
    return folder


def names(path: Path | str, **options: object) -> list[str]:
    return [os.path.relpath(row["image"]["path"], path) for row in open_source(path, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["train", "test", "dev", "val-1", "my_eval", "validation 2", "training"])
@pytest.mark.parametrize("streaming", [False, True])
def test_words_in_file_names_make_no_splits(tmp_path: Path, word: str, streaming: bool) -> None:
    folder = pictures(tmp_path, [f"photo{i}.png" for i in range(4)] + [f"{word}.png"])
    assert len(names(folder, streaming=streaming)) == 5
    folder = pictures(tmp_path / "classes", [f"{c}/{n}.png" for c in "ab" for n in ("0", "1", word)])
    data = open_source(folder, streaming=streaming)
    assert sorted(row["label"] for row in data) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("classes", [("bus", "car", "train"), ("test tube", "train station"), ("val", "cat")])
def test_classes_called_like_splits(tmp_path: Path, classes: tuple[str, ...]) -> None:
    data = open_source(pictures(tmp_path, [f"{c}/{i}.png" for c in classes for i in range(2)]))
    assert len(data) == 2 * len(classes) and data.features["label"].names == sorted(classes)


def test_which_folders_are_splits() -> None:
    assert folder_splits(["train", "test", "val"]) == {"train": "train", "test": "test", "val": "validation"}
    assert folder_splits(["Train", "DEV"]) == {"Train": "train", "DEV": "validation"}
    assert folder_splits(["train2017", "val2017"]) == {"train2017": "train", "val2017": "validation"}
    assert folder_splits(["train_images", "test_images"]) == {"train_images": "train", "test_images": "test"}
    assert folder_splits(["train"]) == {"train": "train"}
    for classes in (["train", "bus"], ["training-shoes"], ["trains", "tests"], ["my train", "your test"], []):
        assert folder_splits(classes) is None, classes


def test_splits_of_folders(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a", ["train/0.png", "train/1.png", "test/2.png"])
    data = open_source(folder)
    assert data.column_names == ["image", "file"], "train and test are no classes"
    assert len(data) == 2 and len(open_source(folder, split="test")) == 1
    with refused("train, test", meant="train"):
        open_source(folder, split="trian")
    folder = pictures(tmp_path / "b", ["all/train/cat/0.png", "all/train/dog/1.png", "all/test/cat/2.png"])
    assert len(open_source(folder)) == 2
    assert open_source(folder, split="test").features["label"].names == ["cat", "dog"]


def test_a_file_beside_the_folders_makes_all_one_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = pictures(tmp_path, ["train/0.png", "test/1.png", "cover.png"])
    with caplog.at_level(logging.WARNING, "mmssl"):
        assert len(open_source(folder)) == 3
    assert "folders are called test, train" in caplog.text and "all 3 files are one split" in caplog.text


@pytest.mark.parametrize("name", ["[D_DATA]", "photos (1) #2 50% é 日本", "what?", "a*b", "{x}", "a::b", "a b'c"])
@pytest.mark.parametrize("streaming", [False, True])
def test_any_name_of_a_folder(tmp_path: Path, name: str, streaming: bool) -> None:
    folder = pictures(tmp_path / name / "photos", ["x.png", "[y].png"])
    assert sorted(names(folder, streaming=streaming)) == ["[y].png", "x.png"]
    (tmp_path / name / "list.csv").write_text("file,text\nphotos/x.png,hello\n")
    rows = list(open_source(tmp_path / name / "list.csv", columns={"image": "file"}, streaming=streaming))
    assert [row["file"] for row in rows] == [str(folder / "x.png")]


def test_links_are_followed_once(tmp_path: Path) -> None:
    real = pictures(tmp_path / "real", ["0.png", "1.png", "deep/2.png"])
    folder = pictures(tmp_path / "links", ["x/a.png"])
    (folder / "y").symlink_to(real, target_is_directory=True)
    (folder / "x" / "back").symlink_to(folder, target_is_directory=True)
    (folder / "b.png").symlink_to(real / "0.png")
    (tmp_path / "root").symlink_to(folder, target_is_directory=True)
    assert sorted(names(folder)) == ["b.png", "x/a.png", "y/0.png", "y/1.png", "y/deep/2.png"]
    assert len(open_source(tmp_path / "root")) == 5


def test_hidden_and_foreign_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = pictures(tmp_path, ["0.png", "._0.png", ".thumbs/0.png", "__MACOSX/0.png"])
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "README.txt", "LICENSE"):
        (folder / name).write_bytes(b"?")
    assert names(folder) == ["0.png"]
    assert "1 files are read, 3 are left out (3 hidden)" in caplog.text


def test_what_is_left_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = pictures(tmp_path, ["0.png", "1.avif", "2.heic", "3.JPG", "4.jxl"])
    for name in ("a.xyz", "b.xyz", "list.csv", "none"):
        (folder / name).write_text("?")
    assert len(names(folder)) == 5, "endings that `datasets` does not know are read"
    assert "5 files are read, 4 are left out (2 .xyz, 1 .csv, 1 without ending)" in caplog.text
    data = open_source(folder)
    image = load_modality("image")
    reader = image.Preprocessor(image.Config()).fit([data[0]["image"]])
    (loaded,) = evaluation_batches(data, {"image": reader}, {}, batch_size=9)
    assert not loaded.bad


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    folder = pictures(tmp_path, ["a/0.png", "b/1.png"])
    (folder / "b").chmod(0)
    with refused("cannot read the folder", "Permission denied"):
        open_source(folder)


# --- sounds, videos, mixtures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_folders_of_sounds_need_no_torchcodec(tmp_path: Path, streaming: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    for i, kind in enumerate(("WAV", "FLAC", "OGG", "AIFF")):
        sound(tmp_path / "flat" / f"{i}.{kind.lower()}", kind)
        sound(tmp_path / "classes" / "ab"[i % 2] / f"{i}.{kind.lower()}", kind)
    audio = load_modality("audio")
    for folder in (tmp_path / "flat", tmp_path / "classes"):
        data = open_source(folder, streaming=streaming, columns={"audio": "audio"})
        reader = audio.Preprocessor(audio.Config()).fit([row["audio"] for row in data])
        (loaded,) = evaluation_batches(data, {"audio": reader}, {}, batch_size=9)
        assert loaded.size == 4 and not loaded.bad
    assert [row["label"] for row in data] == [0, 0, 1, 1]


def test_pictures_sounds_and_videos_in_one_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures(tmp_path, ["0.png", "1.png"])
    sound(tmp_path / "2.wav")
    (tmp_path / "3.mp4").write_bytes(b"?")
    rows = list(open_source(tmp_path))
    assert [[k for k, v in row.items() if v and k != "file"] for row in rows] == [
        ["image"],
        ["image"],
        ["audio"],
        ["video"],
    ]
    assert [row["file"] for row in rows] == ["0.png", "1.png", "2.wav", "3.mp4"]
    assert len(open_source(tmp_path, columns={"image": "image", "video": "video"})) == 3
    assert "3 files are read, 1 are left out (1 .wav)" in caplog.text


# --- metadata ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_joins_by_file_name(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    pictures(tmp_path, ["train/a/x.png", "train/b.png", "train/unlisted.png", "test/c.png"])
    tables = {"train": [("b.png", "NA", 1), ("a/x.png", "007", 2)], "test": [("c.png", None, 3)]}
    for split, rows in tables.items():
        data = datasets.Dataset.from_list(
            [{"file_name": file, "text": text, "number": number} for file, text, number in rows]
        )
        path = tmp_path / split / f"metadata.{kind}"
        {"csv": data.to_csv, "jsonl": data.to_json, "parquet": data.to_parquet}[kind](path)  # type: ignore[operator]
    data = open_source(tmp_path, columns={"image": "image", "text": "text"})
    assert [(Path(row["image"]["path"]).name, row["text"], row["number"]) for row in data] == [
        ("b.png", "NA", 1),
        ("x.png", "007", 2),
    ]
    assert "1 of them because metadata does not list them" in caplog.text
    assert open_source(tmp_path, split="test")[0]["text"] is None


def test_metadata_above_the_splits_and_of_other_columns(tmp_path: Path) -> None:
    pictures(tmp_path, ["train/a.png", "test/b.png"])
    (tmp_path / "metadata.jsonl").write_text(
        '{"left_file_name": "train/a.png", "file_names": ["train/a.png", "test/b.png"], "x": [1, 2]}\n'
        '{"left_file_name": "test/b.png", "file_names": null, "x": null}\n'
    )
    data = open_source(tmp_path)
    assert len(data) == 1 and data[0]["x"] == [1, 2] and len(data[0]["images"]) == 2
    assert data[0]["left"]["path"].endswith("train/a.png")


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "a/../../x", "https://x.org/a.png", "file:///etc/passwd", ""]
)
def test_metadata_names_nothing_elsewhere(tmp_path: Path, name: str) -> None:
    pictures(tmp_path, ["a.png"])
    (tmp_path / "metadata.csv").write_text(f"file_name,text\n{name},x\n")
    with pytest.raises(UserError, match="metadata.csv' row 1"):
        open_source(tmp_path)


def test_metadata_without_file_names(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png"])
    (tmp_path / "metadata.csv").write_text("name,text\na.png,x\n")
    with refused("needs a column 'file_name'", "name, text"):
        open_source(tmp_path)


# --- tables ------------------------------------------------------------------------------------------------------


def test_folders_of_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for place in ("all/a.csv", "all/b.csv", "all/train_extra.csv", "named/train/x.csv", "named/test/y.csv"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(f"text\n{place}\n")
    (tmp_path / "all" / "notes.pdf").write_bytes(b"?")
    assert len(open_source(tmp_path / "all")) == 3, "one file called train is not all that there is to train on"
    assert "3 files are read, 1 are left out (1 .pdf)" in caplog.text
    assert open_source(tmp_path / "named")["text"][:] == ["named/train/x.csv"]
    assert open_source(tmp_path / "named", split="test")["text"][:] == ["named/test/y.csv"]
