"""Opening data of every kind: which rows, which columns, which paths."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from toys.refusals import refused

from mmssl.data import open_source
from mmssl.data.sources import column_names
from mmssl.errors import UserError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/{cat,dog}/*.png and test/{cat,dog}/*.png."""
    folder = tmp_path_factory.mktemp("pictures")
    for part, count in (("train", 3), ("test", 2)):
        for label in ("cat", "dog"):
            (folder / part / label).mkdir(parents=True)
            for i in range(count):
                picture(40 * i).save(folder / part / label / f"{i}.png")
    return folder


def picture(grey: int) -> Image.Image:
    return Image.fromarray(np.full((4, 5), grey, np.uint8))


# --- builtin -----------------------------------------------------------------------------------------------------


def test_builtin_digits() -> None:
    from sklearn.datasets import load_digits

    train, test = open_source("builtin:digits"), open_source("builtin:digits", split="test")
    assert (len(train), len(test)) == (1437, 360)
    assert np.abs(np.bincount(test["label"]) - np.bincount(load_digits().target) * 360 / 1797).max() < 1
    seen = sorted(row["image"]["bytes"] for data in (train, test) for row in data)
    assert len(seen) == 1797
    row = test[0]
    assert row["label_name"] in ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert len(set(row["text"])) >= 6
    assert all(row["label_name"] in text or str(row["label"]) in text for text in row["text"])
    # the pixels are scikit-learn's, in both splits together
    means = sorted(np.asarray(Image.open(io.BytesIO(b))).astype(int).sum() for b in seen)
    expected = sorted(np.rint(image * 255 / 16).astype(int).sum() for image in load_digits().images)
    assert means == expected
    with refused(meant="digits"):
        open_source("builtin:digit")
    with refused("'validation'", "train, test"):
        open_source("builtin:digits", split="validation")


# --- sources -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_image_folder(pictures: Path, streaming: bool) -> None:
    data = open_source(pictures, split="test", streaming=streaming, columns={"image": "image"})
    rows = list(data)
    assert [row["label"] for row in rows] == [0, 0, 1, 1]
    assert rows[1]["image"]["bytes"] is None and rows[1]["image"]["path"].endswith("test/cat/1.png")
    with pytest.raises(UserError, match="no split 'tset', its splits are .*test.*; did you mean 'test'"):
        open_source(pictures, split="tset", streaming=streaming)


def test_flat_and_nested_image_folders_are_train(tmp_path: Path) -> None:
    for place in ("a.png", "deep/er/b.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        picture(9).save(tmp_path / place)
    assert len(open_source(tmp_path)) == 2
    with refused("split 'test'", "train"):
        open_source(tmp_path, split="test")


def test_captions_of_an_image_folder(tmp_path: Path) -> None:
    picture(9).save(tmp_path / "a.png")
    picture(9).save(tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,hello\nb.png,\n")
    data = open_source(tmp_path, columns={"image": "image", "text": "text"})
    assert [row["text"] for row in data] == ["hello", None]


def test_array_folder(tmp_path: Path) -> None:
    for label, value in (("forest", 1.0), ("river", 3.0)):
        (tmp_path / "train" / label).mkdir(parents=True)
        np.save(tmp_path / "train" / label / "x.npy", np.full((13, 4, 4), value, np.float32))
        picture(255).save(tmp_path / "train" / label / "y.tif")
    data = open_source(tmp_path)
    assert data.features["label"].names == ["forest", "river"] and data["label"] == [0, 0, 1, 1]
    paths = [Path(row["image"]["path"]) for row in data]
    assert [path.name for path in paths] == ["x.npy", "y.tif"] * 2
    assert np.load(paths[2]).mean() == 3.0 and all(row["image"]["bytes"] is None for row in data)
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\nforest/x.npy,trees\nriver/x.npy,water\n")
    described = open_source(tmp_path)
    assert sorted(t for t in described["text"] if t) == ["trees", "water"] and "label" not in described.column_names


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_listing_beside_its_images(pictures: Path, tmp_path: Path, kind: str, streaming: bool) -> None:
    folder = tmp_path / "data"
    shutil.copytree(pictures, folder / "images")
    rows = [{"file": f"images/train/{c}/{i}.png", "text": f"{c}"} for i in range(3) for c in ("cat", "dog")]
    # a caption that is the name of something in the folder stays a caption
    rows[0]["text"] = "images"
    lines = {
        "csv": ["file,text", *(f"{r['file']},{r['text']}" for r in rows)],
        "tsv": ["file\ttext", *(f"{r['file']}\t{r['text']}" for r in rows)],
        "jsonl": [json.dumps(row) for row in rows],
    }[kind]
    (folder / f"train.{kind}").write_text("\n".join(lines) + "\n")
    columns = {"image": "file", "text": "text"}
    for path in (folder / f"train.{kind}", folder):
        data = open_source(path, columns=columns, streaming=streaming)
        assert [row["text"] for row in data] == [row["text"] for row in rows]
        assert [np.asarray(Image.open(row["file"])).max() for row in data] == [0, 0, 40, 40, 80, 80]


def test_files_globs_and_saved_datasets(tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict({"text": [f"row {i}" for i in range(6)]})
    data.select(range(4)).to_parquet(tmp_path / "part-train.parquet")
    data.select(range(4, 6)).to_parquet(tmp_path / "part-test.parquet")
    assert len(open_source(tmp_path / "part-test.parquet")) == 2  # named by its full name: it is the data
    assert len(open_source(tmp_path / "part-test.parquet", split="test")) == 2
    with refused("split 'test'", "train"):
        open_source(tmp_path / "part-train.parquet", split="test")
    for path in (tmp_path, tmp_path / "*.parquet"):
        assert len(open_source(path)) == 4, "test rows in the training data"
        assert len(open_source(path, split="test")) == 2
    assert len(open_source(tmp_path, split="train[:50%]")) == 2
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=data, test=data.select([0])).save_to_disk(tmp_path / "several")
    assert len(open_source(tmp_path / "one")) == 6
    assert len(open_source(tmp_path / "several", split="test", streaming=True).take(9)._head()["text"]) == 1
    arrow = next((tmp_path / "one").glob("*.arrow"))
    assert len(open_source(arrow)) == 6
    (tmp_path / "lines.txt").write_text("one\n\n  \ntwo\n")
    assert [row["text"] for row in open_source(tmp_path / "lines.txt")] == ["one", "two"]


def test_datasets_objects() -> None:
    pil = datasets.Dataset.from_dict(
        {"image": [[picture(5)]], "text": ["a"]},
        features=datasets.Features(image=datasets.List(datasets.Image()), text=datasets.Value("string")),
    )
    assert isinstance(open_source(pil)[0]["image"][0]["bytes"], bytes), "images must arrive undecoded"
    assert next(iter(open_source(pil, streaming=True)))["image"][0]["bytes"]
    assert open_source({"train": pil, "test": pil}, split="test")[0]["text"] == "a"
    with refused("train, test"):
        open_source(datasets.DatasetDict(train=pil, test=pil), split="dev")
    with pytest.raises(UserError, match="found int"):
        open_source(3)


@pytest.mark.parametrize("streaming", [False, True])
def test_split_column(tmp_path: Path, streaming: bool) -> None:
    rows = (f"{age},{'Fe' * (age % 2)}male,{'test' if age % 3 == 0 else 'train'}" for age in range(20, 80))
    (tmp_path / "adult.csv").write_text("\n".join(["age,sex,split", *rows]))
    train = open_source(tmp_path, streaming=streaming, columns={"table": ["age", "sex"]})
    test = open_source(tmp_path / "adult.csv", split="test", streaming=streaming)
    if streaming:
        assert next(iter(test))["split"] == "test" and next(iter(train))["split"] == "train"
    else:
        assert (len(train), len(test)) == (40, 20)
        with refused("split 'tset'", "test, train", meant="test"):
            open_source(tmp_path, split="tset")


@pytest.mark.slow
def test_split_column_of_a_real_table(shared_data: Path) -> None:
    train, test = (open_source(shared_data / "adult", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (32561, 16281)


def test_column_called_split_that_is_none() -> None:
    data = datasets.Dataset.from_dict({"split": ["wood", "log"], "text": ["a", "b"]})
    assert len(open_source(data)) == 2


def test_configurations(shared_data: Path) -> None:
    data = open_source(shared_data / "emoji", name="twemoji", split="test", columns={"image": "image", "text": "tags"})
    assert len(data) == 312 and data[0]["image"]["bytes"][:4] == b"\x89PNG"
    with pytest.raises(UserError, match="data.name is missing; .* has the configurations twemoji, openmoji"):
        open_source(shared_data / "emoji")
    with pytest.raises(UserError, match="no configuration 'twemojy'.*did you mean 'twemoji'"):
        open_source(shared_data / "emoji", name="twemojy")


def test_real_folders(shared_data: Path) -> None:
    assert len(open_source(shared_data / "flickr8k_mini", split="test", columns={"text": "captions"})) == 200
    assert open_source(shared_data / "weizmann4", split="test")[0]["video"]["path"].endswith(".mp4")
    lines = open_source(shared_data / "prose_republic", split="test")["text"]
    assert len(lines) > 1000 and all(line.strip() for line in lines)


def test_no_path_is_not_the_working_directory() -> None:
    with pytest.raises(UserError, match="data.path: found ''"):
        open_source("")


def test_limit_is_not_the_first_rows() -> None:
    data = datasets.Dataset.from_dict({"text": [str(i) for i in range(1000)], "label": [i // 100 for i in range(1000)]})
    some = open_source(data, limit=100)
    assert len(some) == 100 and len(set(some["label"])) == 10
    assert some["text"] == open_source(data, limit=100)["text"], "the selection must be fixed"
    assert len(list(open_source(data, limit=7, streaming=True))) == 7
    assert len(open_source(data, limit=5000)) == 1000


def test_column_names_of_an_undeclared_stream() -> None:
    def rows() -> Iterator[dict[str, int]]:
        yield {"a": 1, "b": 2}

    stream = datasets.IterableDataset.from_generator(rows)
    assert column_names(stream) == ["a", "b"]


def test_a_file_behind_a_prefix_is_a_file_and_files_may_lie_beside_it(tmp_path: Path) -> None:
    from mmssl.data.origins import folder_of
    from mmssl.data.row_files import parquet_place

    (tmp_path / "long.csv").write_text("id,t,x\n1,0,0\n")
    (tmp_path / "scans").mkdir()
    assert folder_of(f"series:{tmp_path / 'long.csv'}?id=id") == tmp_path
    assert folder_of(f"volume:{tmp_path / 'scans'}?slab=8") == tmp_path / "scans"
    assert folder_of(f"{tmp_path}/*.csv") == tmp_path and folder_of("builtin:digits") is None
    assert parquet_place(tmp_path / "e.parquet", f"series:{tmp_path / 'long.csv'}?id=id")
    with refused("would lie among the data"):
        parquet_place(tmp_path / "scans" / "e.parquet", f"volume:{tmp_path / 'scans'}?slab=8")
