"""`mmssl show`, the JSON schema of a recipe, and completion: all from the options' own declarations."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from torch import nn

from mmssl import cli
from mmssl.cli import showing
from mmssl.cli.completion import SCRIPTS, candidates
from mmssl.errors import UserError
from mmssl.modality import load_modality, modality_names, view_kinds
from mmssl.modality.faults import TAKEN
from mmssl.models.stock.formats import described, load_format
from mmssl.objectives.base import load_objective
from mmssl.objectives.options import objective_config, objective_names
from mmssl.options import needs, option, plainyaml, strict
from mmssl.options.describing import REQUIRED, options_of
from mmssl.recipe.loading import load_recipe, plain_recipe, recipe_names, recipe_path

TOPICS = list(showing.all_options())


@pytest.mark.parametrize("topic", TOPICS, ids=lambda t: t.name)
def test_every_option_says_what_it_is(topic: showing.Topic) -> None:
    assert not [one.key for one in topic.options if len(one.help) < 3]
    for line in showing.topic_text(topic).splitlines():
        assert len(line) <= 120 or "(" in line, line


def test_there_are_all_of_them() -> None:
    names = [topic.name for topic in TOPICS]
    assert len(names) == len(set(names)) > 40
    assert {"train", "towers", "finetune", "objectives.jepa", "masks.multi-block", "modalities.image"} <= set(names)
    assert sum(len(topic.options) for topic in TOPICS) > 500


@strict
@dataclasses.dataclass(kw_only=True)
class Inner:
    size: int = option(3, min=1, max=9, help="how big")


@strict
@dataclasses.dataclass(kw_only=True)
class Outer:
    """What there is."""

    name: str = option(help="a name")
    kind: str = option("a", choices=("a", "b"), help="which")
    rate: float | None = option(None, above=0, help="how fast")
    one: Inner = option(factory=Inner, help="one")
    many: dict[str, Inner] = option(factory=dict, help="many")
    from_: bool = option(False, help="from there")

    NEEDS = (needs("rate", kind="b"),)


def test_an_option_is_told_of_as_declared() -> None:
    found = {one.key: one for one in options_of(Outer)}
    assert list(found) == ["name", "kind", "rate", "one", "one.size", "many", "many.*.size", "from"]
    assert found["name"].default == REQUIRED and found["one"].default == "{}" and found["rate"].default == "null"
    assert found["rate"].type == "a number or null" and found["rate"].range == "> 0"
    assert found["rate"].needs == ("kind: b",) and found["kind"].needs == ()
    assert found["many.*.size"].range == ">= 1 and <= 9" and found["many.*.size"].help == "how big"


@pytest.mark.parametrize("name", objective_names())
def test_options_of_an_objective_are_those_of_its_own_file(name: str) -> None:
    config, objective = load_objective(name)
    assert config is objective_config(name)
    assert objective.__module__ == f"mmssl.objectives.{name}"


@pytest.mark.parametrize("name", modality_names())
def test_views_of_a_modality_are_those_of_its_module(name: str) -> None:
    modality = load_modality(name).Modality
    assert view_kinds(name) == (modality.views, modality.corruptible)


def test_a_package_that_says_everything_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's package and a stranger's objective, neither of which keeps its options apart."""
    (tmp_path / "mylab_sonar.py").write_text(
        "from dataclasses import dataclass\n"
        "from mmssl.modality import Modality as Base, Preprocessor\n"
        "from mmssl.options import option, strict\n"
        "@strict\n@dataclass(kw_only=True)\nclass Config:\n    pings: int = option(4, min=1, help='pings')\n"
        "class Modality(Base):\n    views = ('drop',)\n    corruptible = True\n"
    )
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "method.py").write_text(
        '"""Nothing is learned."""\n'
        "from dataclasses import dataclass\n"
        "from mmssl.objectives.base import Objective, ObjectiveConfig\n"
        "from mmssl.options import option, strict\n"
        "@strict\n@dataclass(kw_only=True)\nclass Config(ObjectiveConfig):\n    far: int = option(1, help='how far')\n"
        "class Method(Objective):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "mylab", __import__("types").ModuleType("mylab"))
    __import__("sys").modules["mylab"].__path__ = [str(tmp_path / "mylab")]
    assert load_objective("mylab.method")[1].__name__ == "Method"
    assert showing.topic("objectives.mylab.method").about == "Nothing is learned."
    assert "far" in {one.key for one in showing.topic("objectives.mylab.method").options}


def test_a_view_says_that_it_may_read_another_column(validator: Any) -> None:
    shown = showing.topic("views.text").options[-1]
    assert (shown.key, shown.type, shown.default) == ("column", "text or null", "null")
    recipe = plain_recipe("text_pairs")
    assert recipe["views"]["answer"]["text"] == {"column": "answer"} and not list(validator.iter_errors(recipe))


def test_formats_are_described_as_they_describe_themselves() -> None:
    for name, title, text in described():
        module = sys.modules[load_format(name).write.__module__]
        assert (title, text) == (load_format(name).title, (module.__doc__ or "").strip())


def test_names_that_torch_takes() -> None:
    theirs = {"smart_apply"}  # transformers puts it on every module
    assert {name for name in dir(nn.ModuleDict()) if not name.startswith("_")} - theirs <= TAKEN


@pytest.mark.parametrize(
    ("word", "nearest"),
    [("tran", "train"), ("objectives.jpea", "jepa"), ("masks.blok", "block"), ("quickstrat", "quickstart")],
)
def test_an_unknown_word_names_the_nearest(word: str, nearest: str) -> None:
    with pytest.raises(UserError) as caught:
        showing.show(word, [])
    assert f"did you mean '{nearest}'" in str(caught.value) and "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- schema


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(json.dumps(showing.recipe_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_is_right_by_the_schema_too_and_what_is_shown_of_it_is_the_recipe(
    name: str, validator: Any
) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name.removeprefix("examples/") and recipe.description
    whole = plainyaml.parse(showing.show(name, [], True), "shown")
    assert load_recipe(plainyaml.parse(showing.show(name, []), "shown")) == recipe
    assert load_recipe(whole) == recipe, "every default is written, none is idle"
    for found in (plainyaml.read(recipe_path(name)), whole):
        assert not [f"{'.'.join(map(str, e.path))}: {e.message}" for e in validator.iter_errors(found)]


def test_there_is_a_quickstart() -> None:
    assert "quickstart" in recipe_names()


FAULTS: dict[str, Any] = {
    "train.stpes": 3,
    "train.lr": "fast",
    "train.batch_size": 0,
    "train.mixed_precision": "bf17",
    "model.towers.image.depht": 2,
    "model.towers.image.pooling": "middle",
    "modalities.image.pathc": 2,
    "modalities.other": {},
    "modalities.other.type": "imgae",
    "masks.image.type": "rnadom",
    "masks.image.ratio": 1.5,
    "masks.words.boxes": 3,
    "objectives.clip.type": "contrastvie",
    "objectives.clip.temperature": -1,
    "objectives.image_mae.decoder.widht": 4,
    "objectives.jepa": {"tower": "image", "momentun": [0.9, 1.0]},
    "views.a.image.flop": 0.5,
    "views.a.image.flip": 2,
    "views.a.image.column": 3,
    "views.a.image.corrupt": {"shares": [0.1, 0.2]},
    "evaluation.tasks": ["knn", "guess"],
    "data": {"columns": {"image": "image"}},
    "modalities": None,
    "lr": 0.1,
}


@pytest.mark.parametrize("path", FAULTS)
def test_a_planted_fault_is_found(path: str, validator: Any) -> None:
    found = plainyaml.read(recipe_path("quickstart"))
    *above, last = path.split(".")
    node = found
    for key in above:
        node = node.setdefault(key, {})
    node[last] = FAULTS[path]
    assert list(validator.iter_errors(found)), path


def test_what_goes_on_from_a_model_needs_no_architecture(validator: Any) -> None:
    found = plainyaml.read(recipe_path("quickstart"))
    del found["modalities"], found["model"]
    assert list(validator.iter_errors(found))
    assert not list(validator.iter_errors({**found, "model": {"from": "runs/x"}}))


# ------------------------------------------------------------------------------------------------------- completion


def parsers() -> dict[str, argparse.ArgumentParser]:
    return cli.parsers()[1]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ([""], ["pretrain", "show", "completion"]),
        (["pre"], ["pretrain"]),
        (["list", "o"], ["objectives"]),
        (["pretrain", "quick"], ["quickstart"]),
        (["pretrain", "quickstart", "train.batch"], ["train.batch_size="]),
        (["pretrain", "quickstart", "--re"], ["--resume"]),
        (["show", "objectives.j"], ["objectives.jepa"]),
        (["export", "m", "--to", "vit"], ["vit", "vit_mae"]),
        (["evaluate", "m", "--task", "kn"], ["knn"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_what_could_stand_at_the_cursor(words: list[str], offered: list[str]) -> None:
    assert set(offered) <= set(candidates(words, parsers()))
    assert all(word.startswith(words[-1]) for word in candidates(words, parsers()))


@pytest.mark.parametrize(
    "words", [["pretrain", "quickstart", "train.steps=3"], ["embed", "m", "--output", ""], ["x", ""]]
)
def test_where_nothing_is_known_files_are_left_to_the_shell(words: list[str]) -> None:
    assert candidates(words, parsers()) == []


def test_bash_completes(tmp_path: Path) -> None:
    """In a real bash, with a command `mmssl` that answers at once."""
    (tmp_path / "mmssl").write_text('#!/bin/sh\nshift 3\nprintf "%s\\n" "train.steps=" "<$*>"\n')
    (tmp_path / "mmssl").chmod(0o755)
    line = "mmssl pretrain quickstart train.st"
    script = (
        f"PATH={tmp_path}:$PATH\n{SCRIPTS['bash']}\n"
        f'COMP_LINE="{line}"; COMP_POINT={len(line)}; COMP_WORDS=({line}); COMP_CWORD=3\n'
        '_mmssl 2>/dev/null\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["train.steps=", "<pretrain quickstart train.st>"]
