"""Runs on a mixture of data: recipes that contradict themselves, what is said and kept, going on, and reproducing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from toys import runs
from toys.refusals import refused

from mmssl.cli import main
from mmssl.data import open_source
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.recipe.config import Recipe
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import open_training_data
from mmssl.training.mixture import open_mixture


@pytest.fixture
def mixed(tmp_path: Path) -> dict[str, Any]:
    """Digits with captions; pictures alone, one of them broken, under another name; captions alone."""
    source = open_source("builtin:digits", limit=160)
    assert isinstance(source, datasets.Dataset)
    pictures = [row["image"] for row in source.select(range(96, 136))]
    pictures[3] = {"bytes": b"no picture", "path": None}
    feature = datasets.Features({"pic": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    datasets.Dataset.from_dict({"pic": pictures}, features=feature).to_parquet(tmp_path / "pictures.parquet")
    lines = [json.dumps({"text": text}) for text in source["text"][136:]]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines) + "\n")
    content = runs.image_text()
    content["data"] = {
        "path": "builtin:digits",
        "limit": 96,
        "weight": 2,
        "mix": {
            "pictures": {"path": str(tmp_path / "pictures.parquet"), "columns": {"image": "pic"}, "weight": 1},
            "captions": {"path": str(tmp_path / "captions.jsonl"), "weight": 1},
        },
    }
    content["train"] |= {"log_every": 1, "health_every": None, "guard": None}
    return content


def test_a_run_says_and_keeps_what_it_was_trained_on(
    tmp_path: Path, mixed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.cli(tmp_path, "data.workers=1", content=mixed, output="straight") == 0
    said = capsys.readouterr().out
    assert "160 samples; " in said
    assert "pictures: 40 rows, 25.0% of the samples, each 1 times in an epoch; without text" in said
    run = tmp_path / "straight"
    shares = {name: [row[f"share/{name}"] for row in runs.metrics(run)] for name in ("data", "pictures", "captions")}
    assert all(sum(of) == pytest.approx(1) for of in zip(*shares.values(), strict=True))
    assert len(set(shares["data"])) > 1
    card = (run / "model" / "README.md").read_text()
    assert "Shares of the samples: data 50.0% (96 rows), pictures 25.0% (40 rows), captions 25.0% (24 rows)" in card
    assert "Mixed in, `captions`: `captions.jsonl`" in card and str(tmp_path) not in card
    assert "image 136, text 120" in card
    # killed, and gone on with: the same numbers
    with runs.killed_at(5):
        runs.cli(tmp_path, content=mixed, output="cut")
    assert runs.cli(tmp_path, "--resume", content=mixed, output="cut") == 0
    assert runs.metrics(run)[-1]["share/data"] == runs.metrics(tmp_path / "cut")[-1]["share/data"]
    assert runs.losses(tmp_path / "cut") == runs.losses(run)
    runs.assert_same_weights(tmp_path / "cut", run)
    # trained again from its record, which knows every one of the data
    data = [f"data.mix.{name}.path={of['path']}" for name, of in mixed["data"]["mix"].items()]
    assert main(["reproduce", str(run), *data, "--output", str(tmp_path / "again")]) == 0
    assert "weights: equal bit for bit" in capsys.readouterr().out
    # the same data in another order: their rows would have other numbers
    mixed["data"]["mix"] = dict(reversed(mixed["data"]["mix"].items()))
    assert runs.cli(tmp_path, "--resume", "train.steps=7", content=mixed, output="cut") == 2
    assert "mixed in are captions, pictures, they were pictures, captions" in capsys.readouterr().err
    mixed["data"]["mix"] = dict(reversed(mixed["data"]["mix"].items()))
    # other data
    lines = (tmp_path / "captions.jsonl").read_text().splitlines()
    (tmp_path / "captions.jsonl").write_text("\n".join(['{"text": "another"}', *lines[1:]]) + "\n")
    assert runs.cli(tmp_path, "--resume", "train.steps=7", content=mixed, output="cut") == 2
    assert "in data.mix.captions row 0" in capsys.readouterr().err
    assert main(["reproduce", str(run), *data, "--output", str(tmp_path / "other")]) == 2
    assert "data.mix.captions.path" in capsys.readouterr().err


def test_streams_are_mixed_and_a_run_goes_on_in_the_place_of_each(tmp_path: Path, mixed: dict[str, Any]) -> None:
    mixed["data"] |= {"streaming": True, "shuffle_buffer": 8}
    mixed["train"] |= {"steps": 8, "save_every": 4}
    assert runs.cli(tmp_path, content=mixed, output="straight") == 0
    with runs.killed_at(6):
        runs.cli(tmp_path, "data.workers=1", content=mixed, output="cut")
    assert runs.cli(tmp_path, "--resume", content=mixed, output="cut") == 0
    assert runs.losses(tmp_path / "cut") == runs.losses(tmp_path / "straight")
    runs.assert_same_weights(tmp_path / "cut", tmp_path / "straight")
    assert all(row["share/data"] == 0.5 for row in runs.metrics(tmp_path / "cut"))
    listed = [json.loads(line) for line in (tmp_path / "cut" / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["source"], row["index"]) for row in listed] == [("pictures", 3)]
    card = (tmp_path / "cut" / "model" / "README.md").read_text()
    assert "Shares of the samples: data 50.0%, pictures 25.0%, captions 25.0%" in card


@pytest.mark.parametrize("streaming", [False, True])
def test_weights_of_tokens(tmp_path: Path, mixed: dict[str, Any], streaming: bool, capsys) -> None:
    """A picture has 4 tokens, the broken one none; captions are counted here by the tokenizer of the run."""
    mixed["data"] |= {"weigh": "tokens", "streaming": streaming, "shuffle_buffer": 8}
    mixed["train"] |= {"steps": 40, "batch_size": 8, "log_every": 40, "save_every": 10}
    assert runs.cli(tmp_path, content=mixed, output="straight") == 0
    said = capsys.readouterr().out
    reader = MMSSLProcessor.from_pretrained(tmp_path / "straight" / "processor").preprocessors["text"]
    texts = list(open_source("builtin:digits", limit=160)["text"]) if not streaming else []
    if texts:
        lengths = [len(reader.read(text).ids) for text in texts]
        first = list(open_source("builtin:digits", limit=96)["text"])
        tokens = {
            "data": 4 + sum(len(reader.read(text).ids) for text in first) / 96,
            "pictures": 4 * 39 / 40,
            "captions": sum(lengths[136:]) / 24,
        }
        exact = {name: weight / tokens[name] for name, weight in (("data", 2), ("pictures", 1), ("captions", 1))}
        for name, share in exact.items():
            assert f"{tokens[name]:.4g} tokens a sample" in said
            found = runs.metrics(tmp_path / "straight")[-1][f"share/{name}"]
            assert found == pytest.approx(share / sum(exact.values()), abs=1 / 160 + 1 / 320)
    assert "50.0% of the tokens" in said or not streaming
    with runs.killed_at(40):
        runs.cli(tmp_path, content=mixed, output="cut")
    assert runs.cli(tmp_path, "--resume", content=mixed, output="cut") == 0
    runs.assert_same_weights(tmp_path / "cut", tmp_path / "straight")


def test_tokens_are_weighed_where_something_is(tmp_path: Path, mixed: dict[str, Any], capsys) -> None:
    mixed["data"] |= {"weigh": "tokens", "weight": None}
    for of in mixed["data"]["mix"].values():
        del of["weight"]
    assert runs.cli(tmp_path, content=mixed) == 2
    assert "data.weigh" in capsys.readouterr().err and not (tmp_path / "run").exists()
    lines = [json.dumps({"text": ""}) for _ in range(30)]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines) + "\n")
    assert runs.cli(tmp_path, "data.temperature=2", content=mixed) == 2
    assert "none of 30 rows of 'captions' has any" in capsys.readouterr().err


def test_broken_samples_are_listed_with_their_data(tmp_path: Path, mixed: dict[str, Any]) -> None:
    mixed["train"] |= {"steps": 10}
    assert runs.cli(tmp_path, content=mixed) == 0
    listed = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["source"], row["index"], row["column"]) for row in listed] == [("pictures", 3, "pic")]


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        ({"streaming": True, "weight": None, "mix": {"b": {"path": "x"}}}, ["data.weight", "found null", "streams"]),
        ({"readers": 2}, ["data.readers", "found 2", "one reader"]),
        ({"weight": None}, ["data.weight", "found null", "data.mix.pictures.weight"]),
        ({"repeat": 2}, ["data.repeat", "found 2", "data.weight"]),
        ({"temperature": 3}, ["data.temperature", "found 3", "data.weight"]),
        ({"mix": {}}, ["data.weight", "mix"]),
        ({"mix": {"data": {"path": "builtin:digits", "weight": 1}}}, ["data.mix.data", "another name"]),
        (
            {"mix": {"b": {"path": "builtin:digits", "weight": 1, "columns": {"imag": "x"}}}},
            ["data.mix.b.columns.imag"],
        ),
        ({"mix": {"b": {"weight": 1}}}, ["data.mix.b.path"]),
    ],
)
def test_contradictions_are_refused(mixed: dict[str, Any], data: dict[str, Any], facts: list[str]) -> None:
    mixed["data"] |= data
    with refused(*facts):
        load_recipe(mixed)


@pytest.mark.parametrize(
    ("of", "facts"),
    [
        ({"path": "nowhere.csv"}, ["error: data.mix.captions.path", "nowhere.csv"]),
        ({"columns": {"image": "nothing"}}, ["error: data.mix.captions.columns.image", "nothing", "text"]),
        ({"weight": 1e-5}, ["captions", "none"]),
    ],
)
def test_data_that_cannot_be_mixed_in_are_refused(
    tmp_path: Path, mixed: dict[str, Any], of: dict[str, Any], facts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    mixed["data"]["mix"]["captions"] |= of
    assert runs.cli(tmp_path, content=mixed) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert all(fact in line for fact in facts), line


@pytest.mark.parametrize(("path", "words"), [("table/captions.csv", []), ("other.csv", ["evaluation.path=other.csv"])])
def test_rows_that_are_measured_on_are_not_mixed_in(
    tmp_path: Path, path: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table").mkdir()
    rows = "".join(f"one line of {n},{n % 2}\n" for n in range(40))
    for name in ("table/captions.csv", "other.csv", "further.csv"):
        (tmp_path / name).write_text("text,label\n" + rows)

    def recipe_of(mixed_in: str) -> Recipe:
        mix = [f"data.path={tmp_path / 'table' / 'captions.csv'}", f"data.mix={{more: {{path: {mixed_in}}}}}"]
        return load_recipe("text_contrastive", [*mix, "evaluation.label=label", "train.batch_size=16", *words])

    recipe = recipe_of(path)
    opened = open_training_data(recipe)
    with refused("data.mix.more", path, "measured on"):
        open_mixture(recipe, opened)
    assert open_mixture(recipe_of("further.csv"), opened) is not None
