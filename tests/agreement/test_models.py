"""What a MODEL is: every command takes every kind of it, and one model gives one number whichever way it is opened."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from toys import runs, stock, tuned

import mmssl
from mmssl.cli import main
from mmssl.models.locating import locate
from mmssl.models.opening import open_model
from mmssl.models.running import untrained_twin

pytestmark = pytest.mark.usefixtures("forked_proofs")

DIGITS = ["--data", "builtin:digits", "--column", "image=image"]
KINDS = ("model", "run", "run-model", "adapter", "task", "export", "stock")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind -> a MODEL of it, all over 8x8 grey pictures."""
    place = tmp_path_factory.mktemp("models")
    model = tuned.image_base(place / "base")
    run = mmssl.pretrain(runs.recipe(), output=place / "run").folder
    for name, peft in (("adapter", "lora"), ("task", "none")):
        words = ["--label", "label", "--peft", peft, "--output", str(place / name), *tuned.QUICK]
        assert main(["finetune", str(model), *DIGITS, *words]) == 0
    assert main(["export", str(model), "--to", "vit", "--output", str(place / "export")]) == 0
    stock.vit(place / "stock")
    processor = {"image_mean": [0.5], "image_std": [0.5], "size": {"height": 8, "width": 8}, "do_resize": True}
    processor |= {"image_processor_type": "ViTImageProcessor", "resample": 2, "do_rescale": True, "do_normalize": True}
    (place / "stock" / "preprocessor_config.json").write_text(json.dumps(processor))
    for folder in (model, place / "stock"):  # nothing without a card is published
        (folder / "README.md").write_text("# A toy\n")
    out = {name: place / name for name in ("run", "adapter", "task", "export", "stock")}
    return {"model": model, "run-model": run / "model", **out}


def embedded(model: Path, output: Path) -> np.ndarray:
    """(40, D) what `mmssl embed` writes of the first rows."""
    assert main(["embed", str(model), *DIGITS, "limit=40", "--output", str(output)]) == 0
    return np.stack(pq.read_table(output)["image_embedding"].to_pylist())


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_takes_every_kind(folders, tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = str(folders[kind])
    ours = embedded(folders[kind], tmp_path / "out.parquet")
    opened, processor = open_model(model)
    rows = _digits(40)
    with torch.no_grad():
        there = opened(**processor(image=rows)).embeddings["image"].numpy()
    np.testing.assert_allclose(ours, there, rtol=0, atol=1e-6)
    assert main(["evaluate", model, *DIGITS, "--task", "rankme", "limit=60", "train_limit=60"]) == 0
    words = ["--label", "label", "--output", "tuned", *tuned.QUICK]
    assert main(["finetune", model, *DIGITS, *words]) == 0
    assert mmssl.load_task("tuned").predict(image=rows[:2])
    assert main(["export", model, "--to", "vit", "--output", "vit"]) == 0
    again = embedded(Path("vit"), tmp_path / "again.parquet")
    if kind != "stock":  # a foreign class token is pooled; ours keep how they pool in mmssl_export.json
        np.testing.assert_allclose(again, ours, rtol=0, atol=1e-5)
    content = runs.recipe(model={"from": model, "towers": {}}, train={"steps": 2, "save_every": None})
    content.pop("modalities")
    gone_on = mmssl.pretrain(content, output="on")
    for name, value in open_model(model)[0].state_dict().items():
        assert gone_on.model.state_dict()[name].shape == value.shape
    assert main(["push", model, "me/it", "--dry-run"]) == 0


def test_untrained_is_the_same_for_every_command(folders, tmp_path, capsys):
    """Pretraining's report, `mmssl evaluate` and a fine-tuning's twin: random weights, never those of the start."""
    evaluation = {"tasks": ["knn", "rankme"], "label": "label", "limit": 100, "train_limit": 300}
    content = runs.recipe(evaluation=evaluation, train={"steps": 2, "save_every": None}, model={"towers": {}})
    content["model"]["from"] = str(folders["stock"])
    content.pop("modalities")
    run = mmssl.pretrain(content, output=tmp_path / "run")
    report = json.loads((run.folder / "evaluation.json").read_text())["tasks"]
    capsys.readouterr()
    twin = untrained_twin(run.model).state_dict()
    start = open_model(folders["stock"])[0].state_dict()
    differ = [name for name, value in twin.items() if not torch.equal(value, start[name])]
    assert any("weight" in name for name in differ)
    from mmssl.evaluation.evaluate import evaluate

    recipe = mmssl.load_recipe(run.folder / "config.yaml")
    again = evaluate(
        run.model,
        run.processor.preprocessors,
        recipe.data,
        recipe.evaluation,
        untrained=untrained_twin(run.model),
        start=open_model(folders["stock"])[0],
    )["tasks"]
    for task, metrics in report.items():
        for name, values in metrics.items():
            for column in ("model", "start", "untrained", "raw", "chance"):
                assert values[column] == again[task][name][column], (task, name, column)
    assert report["rankme"]["image/pooled"]["start"] != report["rankme"]["image/pooled"]["untrained"]
    card = (run.model_folder / "README.md").read_text()
    assert "| start |" in card and "`start` is what the run went on from" in card


@pytest.mark.parametrize("kind", ["adapter", "run-on"])
def test_evaluate_shows_the_start_of_what_went_on_from_something(folders, tmp_path, kind, capsys):
    if kind == "run-on":
        content = runs.recipe(model={"from": str(folders["model"]), "towers": {}}, train={"steps": 2})
        content.pop("modalities")
        mmssl.pretrain(content, output=tmp_path / "on")
    model = folders["adapter"] if kind == "adapter" else tmp_path / "on"
    capsys.readouterr()
    words = ["--task", "knn", "label=label", "limit=60", "train_limit=200"]
    assert main(["evaluate", str(model), *DIGITS, *words]) == 0
    header, line = [row for row in capsys.readouterr().out.splitlines() if row.startswith(("task", "knn"))][:2]
    first = "finetuned" if kind == "adapter" else "pretrained"  # what that adapter holds is the encoder of a task
    assert header.split()[2:5] == [first, "start", "untrained"]
    assert main(["evaluate", str(folders["model"]), *DIGITS, *words]) == 0
    other = next(row for row in capsys.readouterr().out.splitlines() if row.startswith("knn"))
    # what the base has as `pretrained` is the start of what went on from it
    assert line.split()[4] == other.split()[2]


def test_a_run_is_evaluated_where_its_start_is_gone(folders, tmp_path, capsys):
    shutil.copytree(folders["model"], tmp_path / "start")
    content = runs.recipe(model={"from": str(tmp_path / "start"), "towers": {}}, train={"steps": 2})
    content.pop("modalities")
    mmssl.pretrain(content, output=tmp_path / "on")
    shutil.rmtree(tmp_path / "start")
    capsys.readouterr()
    words = ["--task", "knn", "label=label", "limit=60", "train_limit=200"]
    assert main(["evaluate", str(tmp_path / "on"), *DIGITS, *words]) == 0
    said = capsys.readouterr().out
    assert "start: left out, model.from: " in said and str(tmp_path / "start") in said
    header = next(row for row in said.splitlines() if row.startswith("task"))
    assert header.split()[2:4] == ["pretrained", "untrained"]


def test_a_config_beside_a_model_is_not_its_runs(folders, tmp_path):
    shutil.copytree(folders["model"], tmp_path / "mine")
    (tmp_path / "config.yaml").write_text("of: something else")
    assert main(["evaluate", str(tmp_path / "mine"), *DIGITS, "--task", "rankme", "limit=60", "train_limit=60"]) == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda place: place / "nothing", "no such folder"),
        (lambda place: _file(place / "model.safetensors"), "this is a file"),
        (lambda place: _file(place / "x" / "model.onnx").parent, "an ONNX file"),
        (lambda place: _file(place / "y" / "open_clip_config.json").parent, "a folder of open_clip"),
        (lambda place: _file(place / "z" / "config.yaml").parent, "a run that has no model yet"),
        (lambda place: _file(place / "w" / "config.json", "{").parent, "config.json is damaged"),
        (lambda place: _file(place / "v" / "notes.txt").parent, "no config.json"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "embed", "finetune", "export", "pretrain"])
def test_what_is_no_model_is_said_in_the_same_words_everywhere(tmp_path, make, words, command, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = str(make(tmp_path))
    lines = {
        "evaluate": [model, *DIGITS],
        "embed": [model, *DIGITS, "--output", str(tmp_path / "o.parquet")],
        "finetune": [model, *DIGITS, "--label", "label"],
        "export": [model, "--to", "vit", "--output", str(tmp_path / "out")],
        "pretrain": ["image_mae", f"model.from={model}"],
    }
    assert main([command, *lines[command]]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and said.count("\n") == 0 and Path(model).name in said


def test_base_is_of_adapters_alone(folders, capsys):
    for command in (["evaluate"], ["embed", "--output", "x.parquet"], ["finetune", "--label", "label"]):
        assert main([command[0], str(folders["model"]), *DIGITS, *command[1:], "--base", "b"]) == 2
        assert "only an adapter has a base" in capsys.readouterr().err
    assert main(["export", str(folders["model"]), "--to", "vit", "--output", "x", "--base", "b"]) == 2
    assert "only an adapter has a base" in capsys.readouterr().err


def test_an_adapter_of_an_adapter_names_what_it_belongs_on(folders, tmp_path):
    words = ["--label", "label", "--output", str(tmp_path / "second"), *tuned.QUICK]
    assert main(["finetune", str(folders["adapter"]), *DIGITS, *words]) == 0
    spec = json.loads((tmp_path / "second" / "model" / "mmssl_adapter.json").read_text())
    assert (tmp_path / "second" / "model" / spec["base_path"]).resolve() == folders["adapter"] / "model"
    assert open_model(tmp_path / "second")


def test_a_run_is_called_by_its_own_name(folders):
    assert locate(folders["run"]).title == locate(folders["run-model"]).title == "run"
    assert locate(folders["task"]).task and not locate(folders["model"]).task


def _file(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _digits(count: int) -> list[Any]:
    from mmssl.data.sources import open_source

    return [copy.deepcopy(open_source("builtin:digits", limit=count)[i]["image"]) for i in range(count)]
