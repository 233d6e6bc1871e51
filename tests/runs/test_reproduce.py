"""The record beside the card, the picture in it, and `mmssl reproduce`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from toys import runs

from mmssl.cli import main
from mmssl.data.fingerprint import fingerprint
from mmssl.hub.card import declared_license
from mmssl.hub.picture import PICTURE, draw_training, panels, read_rows
from mmssl.hub.record import FILE, compare, folder_hash

EVALUATION = {"evaluation": {"tasks": ["knn", "rankme"], "limit": 60, "train_limit": 100}}


@pytest.fixture(scope="module")
def run(drawn: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    assert runs.cli(folder, content=runs.recipe(**EVALUATION)) == 0
    return folder / "run"


def test_a_run_leaves_what_its_card_speaks_of(run: Path) -> None:
    record = json.loads((run / "model" / FILE).read_text())
    assert record["data"]["rows"] == record["data"]["hashed"] == runs.ROWS
    assert set(record["scores"]) == {"knn: image/accuracy", "rankme: image/pooled"}
    assert record["weights_sha256"] == folder_hash(run / "model")
    card = (run / "model" / "README.md").read_text()
    assert f"]({PICTURE})" in card and record["data"]["sha256"] in card and "mmssl reproduce" in card
    picture = np.asarray(Image.open(run / "model" / PICTURE).convert("L"))
    assert picture.shape[0] > 200 and picture.std() > 5  # something is drawn on it


def test_reproduce_is_equal_bit_for_bit(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", str(run), "--output", str(tmp_path / "again")]) == 0
    said = capsys.readouterr().out
    assert "weights: equal bit for bit" in said and said.strip().endswith("reproduced")
    assert "DIFFERS" not in said


def test_a_changed_recipe_is_not_reproduced(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    shutil.copytree(run / "model", model)
    record = json.loads((model / FILE).read_text())
    record["recipe"]["train"]["lr"] = 0.5
    (model / FILE).write_text(json.dumps(record))
    assert main(["reproduce", str(model), "--output", str(tmp_path / "again")]) == 1
    said = capsys.readouterr().out
    assert "weights: not the same bits" in said and "DIFFERS" in said and "NOT reproduced" in said


@pytest.mark.parametrize(
    ("change", "words", "expected"),
    [
        ({}, ["train.lr=1"], "it would be another run"),
        ({"data": {"rows": 9, "hashed": 9, "sha256": "0" * 64}}, [], f"has {runs.ROWS} rows"),
        ({"version": 7}, [], "is of version 7"),
        ({"scores": None}, [], "lacks scores"),
    ],
)
def test_what_cannot_be_reproduced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, words: list[str], expected: str
) -> None:
    record = json.loads((run / "model" / FILE).read_text()) | change
    (tmp_path / FILE).write_text(json.dumps({k: v for k, v in record.items() if v is not None}))
    assert main(["reproduce", str(tmp_path), *words, "--output", str(tmp_path / "again")]) == 2
    said = capsys.readouterr().err
    assert expected in said and said.strip().count("\n") == 0
    assert not (tmp_path / "again").exists()


def test_a_folder_without_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", str(tmp_path)]) == 2
    assert f"no {FILE}" in capsys.readouterr().err


def test_scores_agree_within_their_interval() -> None:
    def record(**scores: tuple[float, list[float] | None]) -> dict:
        return {
            "scores": {n: {"value": v, "interval": i} for n, (v, i) in scores.items()},
            "weights_sha256": "",
            "versions": {"torch": "2"},
            "device": "cpu",
        }

    was = record(knn=(0.80, [0.75, 0.85]), rank=(10.0, None))
    assert compare(was, record(knn=(0.84, None), rank=(10.1, None)) | {"weights_sha256": "x"}).reproduced
    assert not compare(was, record(knn=(0.86, None), rank=(10.0, None)) | {"weights_sha256": "x"}).reproduced
    assert not compare(was, record(knn=(0.80, None), rank=(10.5, None)) | {"weights_sha256": "x"}).reproduced
    lost = compare(was, record(knn=(0.80, None)) | {"weights_sha256": "x", "versions": {}})
    assert not lost.reproduced and lost.notes == ["torch: 2 then, not installed now"]


def test_fingerprint_follows_contents_not_places(tmp_path: Path) -> None:
    def rows(place: str, last: bytes = b"dog") -> datasets.Dataset:
        folder = tmp_path / place
        folder.mkdir(exist_ok=True)
        for name, content in (("a.png", b"cat"), ("b.png", last)):
            (folder / name).write_bytes(content)
        files = [{"bytes": None, "path": str(folder / n)} for n in ("a.png", "b.png")]
        return datasets.Dataset.from_dict({"image": files, "age": [1.5, None], "tags": [["x"], []]})

    here, there = (fingerprint(rows(place), ["image", "age", "tags"]) for place in ("here", "there"))
    assert here == there and here["rows"] == here["hashed"] == 2
    assert fingerprint(rows("other", b"dig"), ["image", "age", "tags"]) != here
    assert fingerprint(rows("here"), ["image"]) != here
    first = fingerprint(rows("here"), ["image"], rows=1)
    assert first["hashed"] == 1 and first["rows"] == 2


def test_the_picture_shows_what_was_logged(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    rows = [
        {
            "step": i,
            "loss": 1 / i,
            "loss/mae": 2.0,
            "lr": 1.0,
            "health/image/rankme": 3.0 + i,
            "health/image/std": 0.1,
            "probe/image/knn": 0.5,
        }
        for i in (1, 2)
    ]
    metrics.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 3, "lo')
    shown = panels(read_rows(metrics))
    assert list(shown) == ["loss", "effective rank (RankMe)", "health", "probe"]
    assert shown["effective rank (RankMe)"]["image/rankme"] == ([1, 2], [4.0, 5.0])
    assert draw_training(metrics, tmp_path / "a.png") and (tmp_path / "a.png").stat().st_size > 1000
    metrics.write_text(json.dumps(rows[0]) + "\n")
    assert not draw_training(metrics, tmp_path / "b.png") and not (tmp_path / "b.png").exists()


def test_licence_of_the_data(tmp_path: Path) -> None:
    assert declared_license("builtin:digits") is None and declared_license("me/hub_set") is None
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    (tmp_path / "t.csv").write_text("a\n1\n")
    assert declared_license(str(tmp_path)) == declared_license(str(tmp_path / "t.csv")) == "cc-by-4.0"
    (tmp_path / "README.md").write_text("no header\n")
    assert declared_license(str(tmp_path)) is None
