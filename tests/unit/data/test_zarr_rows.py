"""Rows of Zarr stores on this disk by their numbers: what they are, splits, what is kept, and what is refused."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.cli import main
from mmssl.data import numbered, zarr_rows
from mmssl.data.fingerprint import fingerprint, glance
from mmssl.data.kinds import Files
from mmssl.data.loading import presence, read_rows, training_batches
from mmssl.data.row_groups import windows_of
from mmssl.data.sampler import Sampler
from mmssl.data.sources import open_source
from mmssl.data.windows import Windows
from mmssl.errors import RunError
from mmssl.limits import Limits, within
from mmssl.modality import load_modality
from mmssl.reading import Reading

from ...toys import runs
from ...toys.refusals import refused

zarr = pytest.importorskip("zarr", reason="the extra `zarr` is not installed")

ROWS, CHANNELS, LENGTH, CHUNK = 24, 3, 10, 4
RNG = np.random.default_rng(0)
EEG = RNG.normal(size=(ROWS, CHANNELS, LENGTH)).astype(np.float32)
PICTURES = RNG.integers(0, 255, (ROWS, 8, 8, 3), np.uint8)
LABELS = np.arange(ROWS) % 3
NAMES = [f"é{number % 5}" for number in range(ROWS)]


def write(path: Path, rows: slice = slice(None), version: int = 3) -> Path:
    """A group of two arrays of samples, a label and a text; the last two in one chunk or two."""
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    count = len(LABELS[rows])
    for name, values in (("series", EEG[rows]), ("image", PICTURES[rows])):
        chunk = (CHUNK, *(-(-size // 2) for size in values.shape[1:]))
        group.create_array(name, shape=values.shape, chunks=chunk, dtype=values.dtype)[:] = values
    group.create_array("label", shape=(count,), chunks=(count,), dtype="i8")[:] = LABELS[rows]
    group.create_array("name", shape=(count,), chunks=(count // 2 + 1,), dtype=str)[:] = NAMES[rows]
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("zarr") / "x.zarr")


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of rows is a chunk."""
    monkeypatch.setattr(zarr_rows, "LEAST", 1)


def reader(**options: Any) -> Any:
    package = load_modality("image")
    out = package.Preprocessor(package.Config(size=8, patch=4, channels=3, layout="channels_last", **options))
    out.fit([PICTURES[0], PICTURES[1]])
    return out


@pytest.mark.parametrize("version", [2, 3])
def test_rows_are_what_the_arrays_hold(tmp_path: Path, version: int) -> None:
    source = open_source(write(tmp_path / "x.zarr", version=version))
    assert sorted(source.column_names) == ["image", "label", "name", "series"] and len(source) == ROWS
    assert source.features["label"].dtype == "int64" and source.features["name"].dtype == "string"
    for row, number in zip(read_rows(source, ["series", "image", "name", "label"], ROWS), range(ROWS), strict=True):
        assert row["series"].dtype == np.float32 and np.array_equal(row["series"], EEG[number])
        assert row["image"].dtype == np.uint8 and np.array_equal(row["image"], PICTURES[number])
        assert (row["label"], row["name"]) == (LABELS[number], NAMES[number])
        row["series"] += 1  # one's own
    assert np.array_equal(source[7]["series"], EEG[7].tolist()) and source["name"][:] == NAMES
    some = source.select([20, 3, 3, 11]).select_columns(["name", "image"])
    assert [row["name"] for row in some] == [NAMES[n] for n in (20, 3, 3, 11)]
    assert presence(source, {"image": "image"}) == {"image": ROWS}
    assert source.cache_files == []


def test_a_chunk_is_decoded_once_and_the_last_are_kept(store: Path) -> None:
    source = open_source(store).select_columns(["series", "label"])
    groups = source._data.groups
    assert len(groups) == ROWS // CHUNK
    groups.begin()
    groups.limit, groups.most = 0, 2
    read_rows(source, ["series", "label"], ROWS)
    assert groups.decoded == ROWS // CHUNK and len(groups._held) == 2
    assert len(groups._opened[0, "label"].kept) == 1  # one chunk, for all groups
    assert int(groups.sizes(["series"]).sum()) == EEG.nbytes


@pytest.mark.parametrize("gigabytes", [2e-6, 1.0])
def test_batches_are_the_same_by_any_way(store: Path, gigabytes: float) -> None:
    def batches(**more: Any) -> list[torch.Tensor]:
        given = {"seed": 3, "batch_size": 6, "gigabytes": gigabytes, **more}
        found = training_batches(open_source(store), {"image": reader()}, {}, **given)
        return [loaded.batch["image"]["pixel_values"] for loaded in itertools.islice(found, 6)]

    straight = batches()
    if gigabytes == 1.0:  # where all is kept the order is that of any other data
        order = [row for batch in itertools.islice(Sampler(ROWS, batch_size=6, seed=3), 6) for _, row in batch]
        pictures = reader()
        plain = pictures.collate([pictures.read(PICTURES[number]) for number in order])
        assert torch.equal(torch.cat(straight), plain["pixel_values"])
        return
    assert windows_of(open_source(store), 3, gigabytes) is not None
    for other in (batches(workers=2), [*straight[:3], *batches(start_batch=3)[:3]]):
        assert all(torch.equal(a, b) for a, b in zip(straight, other, strict=True))
    halves = zip(batches(rank=0, world=2), batches(rank=1, world=2), straight, strict=True)
    assert all(torch.equal(torch.cat([a, b]), whole) for a, b, whole in halves)


@pytest.mark.slow
def test_a_run_learns_from_it_and_goes_on(tmp_path: Path) -> None:
    store = write(tmp_path / "x.zarr")
    content = runs.recipe(modalities={"image": {"size": 8, "patch": 4, "layout": "channels_last"}})
    content["data"] = {"path": str(store)}
    content["train"] |= {"batch_size": 4}
    assert runs.cli(tmp_path, content=content, output="straight") == 0
    with runs.killed_at(4):
        runs.cli(tmp_path, content=content, output="cut")
    assert runs.cli(tmp_path, "--resume", content=content, output="cut") == 0
    runs.assert_same_weights(tmp_path / "cut", tmp_path / "straight")


def test_series_are_read_as_arrays(store: Path) -> None:
    package = load_modality("series")
    preprocessor = package.Preprocessor(package.Config())
    source = open_source(store, files=None)
    preprocessor.fit([row["series"] for row in read_rows(source, ["series"], 8)])
    found = training_batches(source, {"series": preprocessor}, {}, seed=0, batch_size=4)
    assert next(found).bad == []


def test_long_recordings_are_cut_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbered, "HELD", 10)  # nothing is kept: parquet would be copied first
    values = RNG.normal(size=(3, 2, 400)).astype(np.float32)
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w")
    group.create_array("series", shape=values.shape, chunks=(1, 2, 400), dtype="f4")[:] = values
    package = load_modality("series")
    own = package.Preprocessor(package.Config(rate=10.0, source_rate=10.0, length=100))
    source = open_source(tmp_path / "x.zarr", files=Files({"series": own}, {}, Windows(10.0)))
    assert len(source) == 12 and source["start"][:4] == [0.0, 10.0, 20.0, 30.0]
    window = source[5]["series"]
    assert np.array_equal(window.whole, values[1]) and (window["start"], window["stop"]) == (10.0, 20.0)


def test_splits_are_groups(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    zarr.open_group(str(path), mode="w")
    write(path / "train", slice(0, 16))
    write(path / "val", slice(16, 24))
    for split, names in (
        ("train", NAMES[:16]),
        ("validation", NAMES[16:]),
        ("train[:25%]", NAMES[:4]),
        ("validation[50%:]+train[-2:]", NAMES[20:] + NAMES[14:16]),
    ):
        assert open_source(path, split=split)["name"][:] == names
    with refused("data.split", "no split 'test', its splits are train, validation"):
        open_source(path, split="test")
    assert open_source(path / "val")["name"][:] == NAMES[16:]
    assert len(open_source(write(tmp_path / "y.zarr"), split="train[:25%]")) == 6
    with refused("data.split", "no split 'test'"):
        open_source(tmp_path / "y.zarr", split="test")


def test_what_is_the_same_is_known_again(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "y.zarr")
    one, other = open_source(store), open_source(tmp_path / "y.zarr")
    for look in (glance, fingerprint):
        assert look(one, ["image", "series"]) == look(other, ["image", "series"])
    zarr.open_group(str(tmp_path / "y.zarr"), mode="r+")["series"][5, 0, 0] = 7
    assert glance(open_source(tmp_path / "y.zarr"), ["series"]) != glance(one, ["series"])
    other = open_source(tmp_path / "y.zarr")
    write(tmp_path / "y.zarr", slice(0, 20))
    with pytest.raises(RunError, match=r"y\.zarr' was changed"):
        other[0]


def test_a_broken_chunk_costs_its_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", version=2)
    for file in (path / "image").glob("2.*"):
        file.write_bytes(b"none of blosc")
    batches = training_batches(open_source(path), {"image": reader()}, {}, seed=0, batch_size=6)
    bad = [one.index for loaded in itertools.islice(batches, 4) for one in loaded.bad]
    assert sorted(bad) == [8, 9, 10, 11]


def test_other_kinds_of_arrays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from zarr.dtype import VariableLengthBytes

    path = tmp_path / "x.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.create_array("x", shape=(20, 4), chunks=(2, 4), shards=None, dtype=">f8")[:] = np.arange(80.0).reshape(20, 4)
    group.create_array("flag", shape=(20,), chunks=(20,), dtype=bool)[:] = True
    group.create_array("code", shape=(20,), chunks=(20,), dtype="S2")[:] = b"ab"
    group.create_array("raw", shape=(20,), chunks=(5,), dtype=VariableLengthBytes())[:] = np.array(
        [bytes([n]) * n for n in range(20)], object
    )
    group.create_array("waves", shape=(20, 4), chunks=(20, 4), dtype="c8")
    group.create_array("times", shape=(4,), chunks=(4,), dtype="f8")
    source = open_source(path, columns={"tabular": ["x", "flag"]})
    (row,) = read_rows(source.select([3]), ["x", "flag", "code", "raw"], 1)
    assert row["x"].tolist() == [12, 13, 14, 15] and (row["flag"], row["code"], row["raw"]) == (True, "ab", b"\3" * 3)
    assert "times (4 rows), waves (complex64 of (4,)) are left out" in caplog.text
    with refused("differ in their first axis", "times 4"):
        open_source(path)
    with refused("column 'waves'", "complex64"):
        open_source(path, columns={"series": "waves"})


def test_sharded_arrays(tmp_path: Path) -> None:
    group, values = zarr.open_group(str(tmp_path / "x.zarr"), mode="w"), np.arange(60).reshape(30, 2)
    group.create_array("x", shape=(30, 2), chunks=(5, 2), shards=(15, 2), dtype="u1")[:] = values
    source = open_source(tmp_path / "x.zarr")
    assert len(source._data.groups) == 6 and source[29]["x"] == [58, 59]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_no_table_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.zarr", version=2)
    nested = tmp_path / "nested.zarr"
    zarr.open_group(str(nested), mode="w")
    write(nested / "a")
    write(nested / "b")
    with refused("data.path", "only groups in it (a, b)", "data.path="):
        open_source(nested)
    with refused("data.path", "one array of Zarr"):
        open_source(path / "image")
    zarr.open_group(str(tmp_path / "none.zarr"), mode="w")
    with refused("data.path", "nothing in it"):
        open_source(tmp_path / "none.zarr")
    with refused("data.streaming", "by their numbers"):
        open_source(path, streaming=True)
    with refused("data.path", "s3://bucket/x.zarr", "on this disk"):
        open_source("s3://bucket/x.zarr")
    with within(Limits(values=10)), refused("data.limits.values"):
        open_source(path)
    about = path / "image" / ".zarray"
    whole = about.read_text()
    for changes, said in (
        ({"filters": [{"id": "pickle"}]}, "packed by pickle"),
        ({"chunks": [0, 1, 1, 1]}, "is damaged"),
        ({"shape": "all"}, "is damaged"),
        ({"shape": [1 << 50, 8, 8, 3]}, "first axis"),
    ):
        edit(about, **changes)
        with refused("data.path", said):
            open_source(path)
        about.write_text(whole)
    edit(about, fill_value=None)
    open_source(path)
    next((path / "image").glob("3.*")).unlink()
    with refused("lacks 1 of its", "no fill_value"):
        open_source(path)
    about.write_text(whole)
    open_source(path)  # what was never written is the fill value
    assert open_source(path, reading=Reading(copy=True))[0]["label"] == 0
    monkeypatch.setitem(sys.modules, "zarr", None)
    with refused("zarr is not installed", "pip install 'mmssl[zarr]'"):
        open_source(path)


def test_a_command_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zarr.open_group(str(tmp_path / "none.zarr"), mode="w")
    recipe = runs.recipe(data={"path": str(tmp_path / "none.zarr")})
    assert main(["pretrain", str(runs.write(tmp_path, recipe)), "--output", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: data.path: ")
