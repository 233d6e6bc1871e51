"""Broken samples cost themselves and nothing else; data that is not there gives one line."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from toys import forking
from toys.refusals import refused

from mmssl.data import Bad, Quarantine, open_source, training_batches
from mmssl.data import quarantine as quarantine_module
from mmssl.data.loading import Loaded
from mmssl.errors import BadSample, RunError, UserError
from mmssl.modality import Preprocessor


class Picture(Preprocessor):
    """Decodes with Pillow and lets through what it raises."""

    def __init__(self) -> None:
        super().__init__(None)

    def read(self, raw: Any, choice: int = 0) -> Any:
        import io

        from PIL import Image

        with Image.open(io.BytesIO(raw["bytes"])) as picture:
            picture.load()
            return float(picture.width)

    def collate(self, samples: Sequence[Any]) -> dict[str, torch.Tensor]:
        return {
            "width": torch.tensor([s or 0.0 for s in samples]),
            "present": torch.tensor([s is not None for s in samples]),
        }


class Caption(Picture):
    def read(self, raw: Any, choice: int = 0) -> Any:
        if raw == "broken":
            raise BadSample("it says\nbroken")
        if raw == "usererror":
            raise UserError("a setting is wrong")
        if raw == "files":
            raise OSError(errno.EMFILE, "Too many open files")
        return float(len(raw)) or None


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What `datasets` prepares goes into a temporary folder, not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def emoji(shared_data: Path) -> datasets.Dataset:
    """12 real emoji: 3 truncated, 5 no picture, 7 a lost file, 8 without caption, 9 with nothing, 10 without image."""
    rows = open_source(shared_data / "emoji", name="twemoji", split="test", limit=12)
    images, captions = list(rows["image"]), list(rows["caption"])
    images[3] = {"bytes": images[3]["bytes"][:-200], "path": "three.png"}
    images[5] = {"bytes": b"not a picture", "path": None}
    images[7] = {"bytes": None, "path": "seven://nowhere.png"}
    captions[8], images[10] = None, None
    images[9], captions[9] = None, ""
    features = {"image": datasets.Image(decode=False), "text": datasets.Value("string")}
    return datasets.Dataset.from_dict({"image": images, "text": captions}, features=datasets.Features(features))


def first(data: Any, size: int, **more: Any) -> Loaded:
    preprocessors = {"image": Picture(), "text": Caption()}
    return next(training_batches(data, preprocessors, {}, seed=0, batch_size=size, **more))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("broken", ["part", "row"])
def test_broken_parts_are_absent(emoji: datasets.Dataset, streaming: bool, workers: int, broken: str) -> None:
    loaded = first(open_source(emoji, streaming=streaming), 12, workers=workers, broken=broken)
    order = loaded.rows.argsort()
    assert loaded.rows[order].tolist() == list(range(12)), "a broken sample keeps its place"
    present = {name: inputs["present"][order].tolist() for name, inputs in loaded.batch.items()}
    assert [i for i in range(12) if not present["image"][i]] == [3, 5, 7, 9, 10]
    assert [i for i in range(12) if not present["text"][i]] == [8, 9] if broken == "part" else [3, 5, 7, 8, 9]
    assert loaded.missing == {"image": 1, "text": 1}, "null values are missing, not bad"
    reasons = {bad.index: bad for bad in loaded.bad}
    assert sorted(reasons) == [3, 5, 7, 9]
    assert (reasons[3].modality, reasons[3].column) == ("image", "image")
    assert reasons[3].reason.startswith("OSError: ") and reasons[3].reason.endswith("(three.png)")
    assert reasons[5].reason.startswith("UnidentifiedImageError: ")
    assert "seven://nowhere.png" in reasons[7].reason
    assert reasons[9] == Bad(9, "*", "*", "no modality present")


def test_reason_is_one_line() -> None:
    data = datasets.Dataset.from_dict({"text": ["broken", "fine"]})
    batches = training_batches(data, {"text": Caption()}, {}, seed=0, batch_size=2)
    assert next(batches).bad == [Bad(0, "text", "text", "it says broken")]


def test_a_row_that_cannot_be_had_costs_only_itself() -> None:
    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        if 2 in batch["n"]:
            raise OSError("disk gone")
        return {"text": [str(n) for n in batch["n"]]}

    data = datasets.Dataset.from_dict({"n": range(4), "text": ["a"] * 4}).with_transform(transform, ["n", "text"])
    data.select_columns = lambda names: data  # a user's own map-style data set that computes its columns
    loaded = next(training_batches(data, {"text": Caption()}, {}, seed=0, batch_size=4))
    (bad,) = loaded.bad
    assert (bad.index, bad.modality, bad.column) == (2, "*", "*") and bad.reason.startswith("OSError: disk gone (at ")
    assert loaded.batch["text"]["present"][loaded.rows.argsort()].tolist() == [True, True, False, True]


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_that_are_not_the_samples(workers: int) -> None:
    for text, kind, said in (
        ("usererror", UserError, "^a setting is wrong$"),
        ("files", RunError, "^cannot read the data: Too many open files$"),
    ):
        data = datasets.Dataset.from_dict({"text": [text]})
        with pytest.raises(kind, match=said):
            next(training_batches(data, {"text": Caption()}, {}, seed=0, batch_size=1, workers=workers))


# --- quarantine --------------------------------------------------------------------------------------------------


def test_quarantine_lists_counts_and_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    faults = [Bad(3, "image", "img", "OSError: cut \udcff\u2028off"), Bad(7, "*", "*", "no modality present")]
    ledger = Quarantine(tmp_path / "run", max_bad=0.5)
    with caplog.at_level(logging.WARNING, "mmssl"):
        ledger.record(faults, 10)
        ledger.record(faults[:1], 10)
    assert [r.message for r in caplog.records if r.name == "mmssl"] == [
        "broken sample 3 (image, column img): OSError: cut \udcff\u2028off",
        "broken sample 7 (*, column *): no modality present",
    ]
    assert (
        ledger.summary()
        == "3 of 20 samples read were broken, in whole or in part (2 different, listed in quarantine.jsonl)"
    )
    lines = (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {"index": 7, "modality": "*", "column": "*", "reason": "no modality present"}
    # a resumed run lists none of them again, even when it was killed in the middle of a line
    with (tmp_path / "run" / "quarantine.jsonl").open("a") as file:
        file.write('{"index": 9')
    resumed = Quarantine(tmp_path / "run", max_bad=0.5)
    resumed.record([*faults, Bad(9, "image", "img", "x")], 10)
    lines = (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [3, 7, 9]
    assert Quarantine(tmp_path / "other").summary() == "no broken samples among 0 read"
    (tmp_path / "run" / "quarantine.jsonl").write_text("[1]\n")
    with pytest.raises(RunError, match="line 1 is not a quarantine entry"):
        Quarantine(tmp_path / "run")


def test_one_of_several_data_does_not_hide_its_broken_samples_among_the_others() -> None:
    ledger = Quarantine(None, 0.05, lambda number: ("few", number), lambda name: {"few": 0.02}[name])
    two = [Bad(row, "image", "pic", "no picture") for row in (3, 4)]
    for _ in range(24):
        ledger.record(two, read=100)
    with pytest.raises(UserError, match="50 of 50 or so samples read of few are broken .*sample 3 of few"):
        ledger.record(two, read=100)


def bad(*indices: int) -> list[Bad]:
    return [Bad(index, "image", "img", "cut off") for index in indices]


def test_max_bad(tmp_path: Path) -> None:
    ledger = Quarantine(tmp_path, max_bad=0.1)
    ledger.record(bad(1, 2, 3), 10)  # 30 %, but of 10 samples: too early to tell
    ledger.record([], 30)
    ledger.record(bad(4, 5), 10)  # exactly 10 % of 50
    with pytest.raises(
        UserError, match=r"7 of 60 samples read are broken \(12%\), more than data.max_bad = 0.1 allows"
    ):
        ledger.record(bad(6, 7), 10)
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 7, "the list must be whole before the end"
    with pytest.raises(UserError, match="2 of 2 samples read are broken .*sample 1 .image, column img.: cut off"):
        Quarantine(tmp_path / "all").record(bad(1, 2), 2)
    Quarantine(tmp_path / "any", max_bad=1.0).record(bad(*range(60)), 60)
    counting = Quarantine(None, max_bad=1.0)
    counting.record(bad(1), 2)
    assert counting.summary() == "1 of 2 samples read were broken, in whole or in part (1 different)"


def test_quarantine_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *args: Any, **more: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(quarantine_module.Path, "open", full)
    with refused("quarantine.jsonl", "No space left on device", error=RunError):
        Quarantine(tmp_path).record(bad(1), 10)


def test_truncated_images_stop_the_run_past_the_limit(emoji: datasets.Dataset, tmp_path: Path) -> None:
    ledger = Quarantine(tmp_path, max_bad=0.3)
    preprocessors = {"image": Picture(), "text": Caption()}
    batches = training_batches(emoji, preprocessors, {}, seed=0, batch_size=12)
    with pytest.raises(UserError, match=r"20 of 60 samples read are broken \(33%\)"):
        for loaded in itertools.islice(batches, 9):
            ledger.record(loaded.bad, loaded.size)
    assert len(ledger.path.read_text().splitlines()) == 4 if ledger.path else False


# --- data that is not there --------------------------------------------------------------------------------------


def test_paths_that_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "nothing.csv").touch()
    (tmp_path / "header.csv").write_text("image,text\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is none")
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "what.xyz").write_text("?")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "what.xyz").write_text("?")
    for name, said in {
        "picturse": r"no such file or folder: '.*picturse'; did you mean 'pictures'\?",
        "pictures": "the folder '.*pictures' is empty",
        "nothing.csv": r"nothing.csv' is empty \(0 bytes\)",
        "header.csv": "has no rows in split 'train'",
        "broken.parquet": "cannot read '.*broken.parquet': Arrow",
        "broken.jsonl": "cannot read '.*broken.jsonl': .*JSON parse error",
        "what.xyz": "must be of one of the formats parquet, csv, .* found .xyz",
        "odd": "nothing in '.*odd' is read: found 1 .xyz, expected image: .png",
        "*.png": "no file matches '.*png'",
    }.items():
        for streaming in (False, True):
            with pytest.raises(UserError, match=said) as caught:
                open_source(tmp_path / name, streaming=streaming)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["./nope", "~/nope-at-home", "nope.csv", "a/b/nope"])
def test_what_looks_like_a_path_is_not_asked_of_the_hub(path: str) -> None:
    with refused(path):
        open_source(path)


def test_column_that_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("img,caption\na.png,hello\n")
    for streaming in (False, True):
        with pytest.raises(UserError, match=r"data.columns.text: .* no column 'captoin', .* are img, caption; did you"):
            open_source(tmp_path / "x.csv", columns={"image": "img", "text": "captoin"}, streaming=streaming)
    data = datasets.Dataset.from_dict({"img": ["a"]})
    with refused("data.columns.image", "column 'image'", meant="img"):
        next(training_batches(data, {"image": Picture()}, {}, seed=0, batch_size=1))


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    said = "^data.path: 'nobody/nothing' is neither a file or folder here nor can it be read from the Hub: [^\n]*$"
    with pytest.raises(UserError, match=said):
        open_source("nobody/nothing")


def test_full_disk_while_copying_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmssl.data.builders import Tables

    def full(*args: Any, **more: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Tables, "_generate_tables", full)
    (tmp_path / "x.csv").write_text(f"a,b\n{tmp_path},2\n")  # its own content: no cache of it may exist
    with pytest.raises(RunError, match="no space left on the disk"):
        open_source(tmp_path / "x.csv")


def test_import_needs_no_datasets() -> None:
    """`import mmssl.data` works with torch and numpy alone; each function asks for what it needs."""
    code = """
import sys
for name in ("datasets", "pyarrow", "PIL", "sklearn", "pandas"):
    sys.modules[name] = None
import mmssl.data
"""
    forking.run(["-c", code], level="torch", check=True)
