"""What is wrong is said before anything is computed; what fails at the end costs that part alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from toys import runs

from mmssl.cli import main
from mmssl.cli.showing import all_options
from mmssl.errors import UserError
from mmssl.training import preparing
from mmssl.training import pretrain as pretraining

LABELLED = {"label": "label", "tasks": ["knn"], "limit": 40, "train_limit": 40}


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = runs.errors(capsys.readouterr().err)
    return line


# ------------------------------------------------------------------------------------------ the evaluation at the end


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        ({"classes": ["a"]}, "evaluation.classes: 1 names for 10 different labels"),
        ({"classes": []}, "evaluation.classes: found none, expected a name for each class"),
        ({"classes": ["a", "b", "a"]}, "evaluation.classes: found 'a' twice"),
        ({"templates": []}, "evaluation.templates: found none, expected at least one sentence"),
        ({"templates": ["no braces"]}, "evaluation.templates: found 'no braces', expected {} in it"),
        ({"templates": ["{}", "{"]}, "evaluation.templates: found '{', expected {} in it"),
        ({"tasks": ["ood"], "ood": "nowhere.parquet"}, "nowhere.parquet"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_before_training(
    evaluation: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = runs.image_text()
    content["modalities"].pop("text"), content["model"]["towers"].pop("text"), content["objectives"].pop("clip")
    content["evaluation"] = LABELLED | evaluation
    assert runs.cli(tmp_path, content=content) == 2
    assert words in refused(capsys)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_probe_without_labels_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.cli(tmp_path, "train.probe_every=2") == 2
    assert "train.probe_every: found 2, but evaluation.label is null" in refused(capsys)


@pytest.mark.parametrize("ratio", ["0", "0.0", "{image: 0}"])
def test_a_mask_that_hides_nothing_is_refused(ratio: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.cli(tmp_path, f"masks.half.ratio={ratio}") == 2
    line = refused(capsys)
    assert line.startswith("error: masks.half.ratio: found ") and "which hides nothing" in line


def test_one_task_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Any:
        raise UserError("no neighbours")

    monkeypatch.setattr("mmssl.evaluation.tasks.knn", fail)
    content = runs.recipe(evaluation=LABELLED | {"tasks": ["knn", "rankme"]})
    assert runs.cli(tmp_path, content=content) == 0
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert report["skipped"] == {"knn": "knn: no neighbours"} and "rankme" in report["tasks"]


def test_an_evaluation_that_fails_leaves_the_model_and_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise UserError("the test rows went away")

    monkeypatch.setattr(pretraining, "evaluate", fail)
    assert runs.cli(tmp_path, content=runs.recipe(evaluation=LABELLED)) == 1
    assert "the evaluation failed: the test rows went away; the model in" in refused(capsys)
    model = tmp_path / "run" / "model"
    assert "library_name: mmssl" in (model / "README.md").read_text() and (model / "reproduction.json").is_file()


# ------------------------------------------------------------------------------------------------------- both ends


def test_every_number_has_both_ends() -> None:
    open_ended = [
        f"{topic.name}.{option.key}: {option.range}"
        for topic in all_options()
        for option in topic.options
        if "number" in option.type and "one of" not in option.range
        if not (">" in option.range and "<" in option.range)
    ]
    assert open_ended == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"seed={2**64 + 1}", "seed: found 18446744073709551617, expected >= 0 and <= 4294967295"),
        (
            "model.towers.image.width=4000000000",
            "model.towers.image.width: found 4000000000, expected >= 1 and <= 65536",
        ),
        ("modalities.image.size=8000000", "modalities.image.size: found 8000000, expected >= 1 and <= 65536"),
        ("train.lr=.inf", "train.lr: found inf, expected a finite number"),
        ("train.steps=1e30", "train.steps: "),
        ("data.workers=100000", "data.workers: found 100000, expected >= 0 and <= 1024"),
    ],
)
def test_numbers_beyond_their_end(
    override: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.cli(tmp_path, override) == 2
    assert any(words in line for line in runs.errors(capsys.readouterr().err))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.00 EiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_memory_that_is_at_its_end_is_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(preparing, "build_pretraining", fail)
    assert runs.cli(tmp_path) == 1
    err = capsys.readouterr().err
    assert "error: out of memory (" in err and "Traceback" not in err


# ------------------------------------------------------------------------------------------------- commands on a model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    assert runs.cli(folder, "train.steps=1", "train.save_every=null", "train.log_every=1") == 0
    return folder / "run" / "model"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 rows, 12 of them of bytes that are no picture."""
    from mmssl.data.sources import open_source

    rows = open_source("builtin:digits", split="train", limit=60)
    path = tmp_path_factory.mktemp("pictures") / "rows.parquet"
    broken = [{"bytes": b"no picture", "path": None} for _ in range(12)]
    images = [row["image"] for row in rows][12:]
    import pyarrow as pa

    pq.write_table(pa.table({"image": pa.array([*broken, *images]), "label": [i % 2 for i in range(60)]}), path)
    return path


def test_embed_stops_at_too_many_broken_rows(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["embed", str(model), "--data", str(pictures), "--output", str(tmp_path / "e.parquet")]
    assert main(words) == 2
    assert "12 of 60 samples read are broken (20%), more than max_bad = 0.05 allows" in refused(capsys)
    assert not (tmp_path / "e.parquet").exists()
    assert main(words) == 2  # what was embedded already does not pass by itself
    capsys.readouterr()
    assert main([*words, "max_bad=0.2"]) == 0
    table = pq.read_table(tmp_path / "e.parquet")
    assert table.num_rows == 60 and table["image_embedding"].null_count == 12


@pytest.mark.parametrize("command", ["evaluate", "finetune"])
def test_evaluate_and_finetune_stop_at_too_many_broken_rows(
    command: str, model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, str(model), "--data", str(pictures), "--label", "label"]
    words += ["split=train", "--task", "rankme"] if command == "evaluate" else ["--output", str(tmp_path / "f")]
    assert main(words) == 2
    assert "samples read are broken" in refused(capsys)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--output", "e.csv"], "output: 'e.csv' ends in .csv, expected the name of a parquet file"),
        (["--output", "e.parquet", "--column", "nosuch=image"], "columns.nosuch: the model has no 'nosuch'"),
        (["--output", "e.parquet", "columns.imag=image"], "columns.imag: the model has no 'imag', it has image; did"),
    ],
)
def test_embed_refuses_what_it_cannot_do(
    words: list[str], expected: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(model), "--data", "builtin:digits", "limit=4", *words]) == 2
    assert expected in refused(capsys)


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        ("{flip: 3}", "augment.flip: found 3"),
        ("{flip: {flip: 1}}", "augment.flip: found no such modality of the model, expected one of image"),
        ("{image: {flip: 3}}", "augment.image.flip: found 3, expected >= 0 and <= 1"),
        ("{image: {flap: 1}}", "augment.image.flap: found an unknown key"),
        ("{text: {}}", "augment.text: "),
    ],
)
def test_finetune_refuses_augmentations_that_are_none(
    augment: str, expected: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", str(model), "--data", "builtin:digits", "--label", "label", "--output", str(tmp_path / "f")]
    assert main([*words, f"augment={augment}", "train.steps=1"]) == 2
    assert expected in refused(capsys)


@pytest.mark.parametrize("revision", ["bad name", "a..b", "/x", "x/", "a~b", "a.lock", "-x"])
def test_push_refuses_a_name_that_no_revision_can_have(
    revision: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(model), "me/toy", "--dry-run", f"--revision={revision}"]) == 2
    assert f"--revision: found '{revision}'" in refused(capsys)
