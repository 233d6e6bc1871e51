"""Faults in a recipe: each gives lines that name the key, what was found, what was expected; exit code 2."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.modality import crossing_views
from mmssl.modality.faults import crossing_faults
from mmssl.options import plainyaml
from mmssl.recipe.config import Recipe
from mmssl.recipe.loading import load_recipe, to_yaml

RECIPE = """
data: {path: builtin:digits}
modalities:
  image: {size: 8, patch: 2}
  text: {max_length: 16}
model:
  towers:
    image: {width: 64, depth: 2, heads: 4}
    text: {width: 64, depth: 2, heads: 4}
  projection: 32
masks:
  half: {type: random, ratio: 0.5}
objectives:
  clip: {type: contrastive, towers: [image, text]}
  mae: {tower: image, mask: half, decoder: {width: 32, depth: 1, heads: 2}}
train: {steps: 4, batch_size: 32, lr: 1e-4, mixed_precision: no}
"""


def recipe(**sections: Any) -> dict[str, Any]:
    return {**plainyaml.parse(RECIPE, "test"), **sections}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def faults(*overrides: str, config: Any = None) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_recipe(recipe() if config is None else config, list(overrides))
    return str(caught.value).splitlines()


def command(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str]]:
    code = main(list(argv))
    out = capsys.readouterr()
    assert out.out == ""
    return code, out.err.splitlines()


def says(line: str, expected: str) -> bool:
    """Whether a line is the expected one, in which ... stands for anything."""
    return re.fullmatch(re.escape(expected).replace(re.escape("..."), ".*"), line) is not None


# ------------------------------------------------------------------------------------------------ the seven faults

SEVEN: dict[str, tuple[list[str], list[str]]] = {
    "misspelt key": (
        ["train.batchsize=32"],
        ["train.batchsize: found an unknown key, expected one of steps, ...; did you mean 'batch_size'?"],
    ),
    "wrong type": (["train.lr=fast"], ["train.lr: found 'fast' (text), expected a number"]),
    "missing key": (
        ["objectives.mae={type: mae, mask: half}"],
        ["objectives.mae: found tower: None and towers: [], expected one of them"],
    ),
    "key of another objective": (
        ["objectives.mae.max_scale=10"],
        ["objectives.mae.max_scale: found a key of objective 'contrastive', expected one of weight, ramp..."],
    ),
    "unknown objective": (
        ["objectives.x={type: contrastve}"],
        ["objectives.x.type: unknown objective 'contrastve', expected one of ...; did you mean 'contrastive'?"],
    ),
    "out of range": (["data.max_bad=1.5"], ["data.max_bad: found 1.5, expected >= 0 and <= 1"]),
    "two at once": (
        ["train.stepz=3", "model.towers.image.width=wide"],
        [
            "model.towers.image.width: found 'wide' (text), expected a whole number",
            "train.stepz: found an unknown key, expected one of steps...",
        ],
    ),
}


@pytest.mark.parametrize("name", SEVEN)
def test_seven_faults(name: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides, expected = SEVEN[name]
    code, lines = command(capsys, "pretrain", str(file), *overrides)
    assert code == 2
    assert len(lines) == len(expected), lines
    for line, text in zip(lines, expected, strict=True):
        assert says(line, f"error: {text}"), line


def test_the_process_exits_with_2_and_no_traceback(file: Path) -> None:
    argv = [sys.executable, "-m", "mmssl", "pretrain", str(file), "train.lr=-1", "objectives.mae.mask=hlf"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "Warning" not in line]
    assert lines == [
        "error: train.lr: found -1, expected > 0 and <= 1000",
        "error: objectives.mae.mask: found unknown mask 'hlf', expected one of half; did you mean 'half'?",
    ]


# -------------------------------------------------------------------------------------------------- what is read how


def test_values() -> None:
    loaded = load_recipe(recipe(), ["train.lr=1e-4", "train.warmup=3", "train.clip=null", "seed=7"])
    assert isinstance(loaded, Recipe)
    assert loaded.train.lr == 1e-4 and isinstance(loaded.train.lr, float)
    assert loaded.train.warmup == 3.0 and isinstance(loaded.train.warmup, float)
    assert loaded.train.clip is None and loaded.train.mixed_precision == "no" and loaded.seed == 7
    assert loaded.modalities["image"].type == "image" and loaded.modalities["image"].config.patch == 2
    assert loaded.masks["half"].config.ratio == 0.5
    assert loaded.objectives["clip"].type == "contrastive" and loaded.objectives["clip"].config.weight == 1.0


def test_yaml_1_1_readers_and_json_give_the_same() -> None:
    data = recipe()
    data["train"] = {"steps": 4, "lr": "1e-4"}  # what PyYAML makes of `lr: 1e-4`
    assert load_recipe(data).train.lr == 1e-4


def test_overrides_are_merged_before_checking() -> None:
    base = recipe(train={"batch_size": 32})  # neither steps nor epochs: wrong by itself
    assert load_recipe(base, {"train": {"epochs": 2}, "data.limit": 100}).train.epochs == 2.0
    switched = load_recipe(recipe(), ["train.steps=null", "train.epochs=0.5"])
    assert (switched.train.steps, switched.train.epochs) == (None, 0.5)
    below_parts = ["objectives.mae.decoder.depth=3", "modalities.image.patch=4", "masks.half.ratio=0.75"]
    deep = load_recipe(recipe(), below_parts)
    assert deep.objectives["mae"].config.decoder.depth == 3 and deep.objectives["mae"].config.decoder.width == 32
    assert deep.modalities["image"].config.patch == 4 and deep.masks["half"].config.ratio == 0.75


def test_overrides_add_replace_and_take_out_parts() -> None:
    assert set(load_recipe(recipe(), ["objectives.mae=null"]).objectives) == {"clip"}
    loaded = load_recipe(recipe(), ["masks.half={type: block, boxes: 2}", "masks.other={ratio: 0.1}"])
    assert loaded.masks["half"].type == "block" and loaded.masks["half"].config.boxes == 2
    assert loaded.masks["other"].type == "random"
    assert faults("objectives.mea=null") == [
        "objectives.mea: found nothing of that name to take out; did you mean 'mae'?"
    ]


def test_a_dict_is_not_changed() -> None:
    data = recipe()
    load_recipe(data, ["train.steps=9", "objectives.mae=null"])
    assert data == recipe()


def test_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # some/model is nowhere
    views = {"a": {"image": {"flip": 0.5}}}
    evaluation = {"tasks": ["knn"], "classes": ["no", "on", "1"]}
    overrides = ["model.towers.text.from=some/model", "data.columns.image=img"]
    first = load_recipe(recipe(views=views, evaluation=evaluation), overrides)
    assert first.model.towers["text"].from_ == "some/model"
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(first))
    again = load_recipe(path)
    assert again.name == ""  # the name it had, not the file's
    assert again == first
    assert "from: some/model" in path.read_text() and "from_" not in path.read_text()
    assert "no" in again.evaluation.classes and again.train.mixed_precision == "no"


def test_a_file_gives_the_recipe_its_name(file: Path) -> None:
    assert load_recipe(file).name == "recipe"
    assert load_recipe(str(file), ["name=mine"]).name == "mine"


# ------------------------------------------------------------------------------------------------------ cross checks

CROSS = [
    (
        "train={steps: 3, epochs: 1}",
        "train.steps: found both train.steps and train.epochs, expected exactly one of them",
    ),
    ("train.steps=null", "train.steps: found neither train.steps nor train.epochs, expected exactly one of them"),
    ("train.accumulation=5", "train.batch_size: found 32, expected a multiple of train.accumulation = 5"),
    ("train.min_lr=1", "train.min_lr: found 1.0, expected at most train.lr = 0.0001"),
    ("train.betas=[0.9]", "train.betas: found a list of 1, expected a list of 2"),
    (
        "model.towers.image.heads=5",
        "model.towers.image.heads: found 5, expected a divisor of model.towers.image.width = 64",
    ),
    (
        "model.towers.image.modalities=[imge]",
        "model.towers.image.modalities: found unknown modality 'imge', expected one of ...; did you mean 'image'?",
    ),
    (
        "model.towers.text.modalities=[image]",
        "modalities.text: found in no tower, expected in the modalities of at least one",
    ),
    (
        "objectives.mae.tower=imag",
        "objectives.mae.tower: found unknown tower 'imag', expected one of image, text; did you mean 'image'?",
    ),
    ("objectives.mae.view=strong", "objectives.mae.view: found unknown view 'strong', expected one of clean"),
    ("objectives.clip.views=[clean, b]", "objectives.clip.views: found unknown view 'b', expected one of clean"),
    ("objectives.clip.mask=full", "objectives.clip.mask: found unknown mask 'full', expected one of half"),
    ("views.clean={}", "views.clean: found a view named 'clean', expected another name..."),
    ("views.a={video: {}}", "views.a.video: found unknown modality 'video', expected one of image, text"),
    ("views.a={image: {flp: 1}}", "views.a.image.flp: found an unknown key, expected one of ...; did you mean 'flip'?"),
    (
        "data.columns.txt=caption",
        "data.columns.txt: found unknown modality 'txt', expected one of image, text; did you mean 'text'?",
    ),
    (
        "evaluation.tasks=[knn, zeroshot]",
        "evaluation.tasks: found 'zeroshot' (text), expected one of ...; did you mean 'zero-shot'?",
    ),
    ("steps=10", "steps: found a key of a section (write 'train.steps'), expected one of name, ..."),
    ("train.steps=1e3", "train.steps: found 1000.0, expected a whole number or null"),
    ("train.lr=.nan", "train.lr: found nan, expected a finite number"),
    ("train.betas=[0.9, 2]", "train.betas: found 2, expected >= 0 and < 1"),
    ("train.compile=no", "train.compile: found 'no' (text), expected true or false or one of 'auto'"),
    (
        "objectives.mae.mode={image: dropp}",
        "objectives.mae.mode: found 'dropp' (text), expected one of 'drop', 'replace'; did you mean 'drop'?",
    ),
    ("masks.half.ratio={image: x}", "masks.half.ratio.image: found 'x' (text), expected a number"),
    ("modalities.image=3", "modalities.image: found 3, expected a mapping"),
    ("modalities.imge={}", "modalities.imge: unknown modality 'imge', expected one of ...; did you mean 'image'?"),
    ("model.towers.type={modalities: [text]}", "model.towers.type: found the name 'type', expected one that torch..."),
    ("train.steps.more=3", "train.steps: found 4, expected a mapping: an override names 'more' below it"),
    ("train.lr", "override 'train.lr': expected key.path=value"),
    ("train.lr=[", "override 'train.lr', line 1, column 2: not valid YAML: ..."),
]


@pytest.mark.parametrize(("override", "expected"), CROSS)
def test_cross_checks(override: str, expected: str) -> None:
    first = faults(override)[0]
    assert says(first, expected), first


def test_views_that_take_from_other_rows_are_refused_under_accumulation() -> None:
    """All else is the same in parts; a batch that is cut has not the other rows."""
    filled = "views.spoiled.image.corrupt.fill=[noise,other]"
    (line,) = faults("train.accumulation=4", filled)
    assert line.startswith("views.spoiled.image.corrupt.fill: other: takes from other rows of the batch, which ")
    assert "train.accumulation = 4 cuts into parts; leave that at 1" in line and "cache_rows" in line
    load_recipe(recipe(), [filled])
    load_recipe(recipe(), ["train.accumulation=4", "views.spoiled.image.corrupt.fill=[noise]"])
    (line,) = crossing_faults(crossing_views("tabular"), {"resample": 0.3, "drop": 0.1}, "views.a.table", 2)
    assert line.startswith("views.a.table.resample: takes from other rows")
    assert not crossing_faults(crossing_views("tabular"), {"resample": 0.0, "drop": 0.1}, "views.a.table", 2)
    assert crossing_views("toys.signal") == () and crossing_views("image") == ("style",)


def test_all_faults_of_schema_and_between_keys_come_at_once() -> None:
    lines = faults("train.lrr=1", "objectives.mae.mask=hal", "model.towers.text.heads=7", "data=null", "views.clean={}")
    assert [line.partition(":")[0] for line in lines] == [
        "data",
        "train.lrr",
        "model.towers.text.heads",
        "views.clean",
        "objectives.mae.mask",
    ]


def test_missing_sections_name_the_keys_that_are_needed() -> None:
    lines = faults(config={})
    assert [line.partition(":")[0] for line in lines] == [
        "data.path",
        "modalities",
        "model.towers",
        "objectives",
        "train.steps",
    ]


# ------------------------------------------------------------------------------------------------------------- files


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(name: str, text: str | bytes | None) -> str:
        path = tmp_path / name
        if text is not None:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        code, lines = command(capsys, "pretrain", str(path))
        assert code == 2 and len(lines) == 1
        return lines[0]

    assert "twice.yaml, line 2, column 1: not valid YAML: the key 'seed' is given twice" in said(
        "twice.yaml", "seed: 1\nseed: 2\n"
    )
    assert "broken.yaml, line 2, column 1: not valid YAML: expected" in said("broken.yaml", "data: {path: x\n")
    assert "latin.yaml: found byte 0xe9 at 6, expected UTF-8 text" in said("latin.yaml", b"name: \xe9")
    assert "found 'just words' (text), expected a mapping" in said("words.yaml", "just words")
    assert "found nothing (null), expected a mapping" in said("empty.yaml", "")
    assert said("twise.yaml", None).endswith("no such file; did you mean 'twice.yaml'?")


def test_unknown_recipe_names_the_nearest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mmssl.recipe import loading

    (tmp_path / "quickstart.yaml").write_text(RECIPE)
    monkeypatch.setattr(loading, "shipped_folder", lambda name: tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    assert load_recipe("quickstart").name == "quickstart"
    with pytest.raises(UserError, match="unknown recipe 'quikstart', .*; did you mean 'quickstart'?"):
        load_recipe("quikstart")


def test_what_is_read_twice_is_two_things() -> None:
    text = "{a: {b: [1]}}"
    first = plainyaml.parse(text, "t")
    first["a"]["b"].append(2)
    assert plainyaml.parse(text, "t") == {"a": {"b": [1]}}


def test_yaml_means_what_it_says() -> None:
    text = "{a: 1e-4, b: no, c: 010, d: 1:30, e: 2024-01-01, f: true, g: ~, h: 1_000, i: .5, j: -3, k: '1'}"
    assert plainyaml.parse(text, "t") == {
        "a": 1e-4,
        "b": "no",
        "c": 10,
        "d": "1:30",
        "e": "2024-01-01",
        "f": True,
        "g": None,
        "h": 1000,
        "i": 0.5,
        "j": -3,
        "k": "1",
    }
    with pytest.raises(UserError, match="not valid YAML"):
        plainyaml.parse("a: !!python/object/apply:os.system ['true']", "t")


# ------------------------------------------------------------------------------------------------------ command line


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["pretrian", "x"], "unknown command 'pretrian', expected one of pretrain, ...; did you mean 'pretrain'?"),
        (["pretrain", "x", "--outputt", "y"], "unknown option '--outputt' of mmssl pretrain; did you mean '--output'?"),
        (["pretrain", "x", "--out", "y"], "unknown option '--out' of mmssl pretrain..."),
        (["list", "maskss"], "...found 'maskss', expected one of ...; did you mean 'masks'?..."),
        (["embed", "m", "--data", "d"], "the following arguments are required: --output..."),
        ([], "the following arguments are required: COMMAND..."),
        (["evaluate", "m", "--data", "d", "--task", "zeroshot"], "tasks: found 'zeroshot'...did you mean 'zero-shot'?"),
        (["evaluate", "m", "--data", "d", "kk=3"], "kk: found an unknown key, expected one of ..."),
        (["evaluate", "m", "--data", "d", "--task", "knn", "tasks=[knn]"], "tasks: found it as an override..."),
        (["evaluate", "./nowhere", "--data", "d"], "...nowhere..."),
    ],
)
def test_command_line(argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = command(capsys, *argv)
    assert code == 2
    assert len(lines) == 1 and says(lines[0], f"error: {expected}"), lines


def test_overrides_may_stand_behind_options(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = command(capsys, "pretrain", str(file), "--output", "x", "train.lr=fast", "--resume", "data.limit=0")
    assert code == 2
    assert [line.split()[1] for line in lines] == ["data.limit:", "train.lr:"]


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mmssl import cli
    from mmssl.errors import RunError

    def raising(error: BaseException) -> int:
        def call(args: Any) -> int:
            raise error

        monkeypatch.setattr(cli, "_pretrain", call)
        return main(["pretrain", str(file)])

    assert raising(RunError("the disk is full")) == 1
    assert capsys.readouterr().err == "error: the disk is full\n"
    assert raising(KeyboardInterrupt()) == 130
    assert raising(ZeroDivisionError("a bug")) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")  # its launcher ends it while it waits for the first process to speak
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: (_ for _ in ()).throw(SystemExit(15)))
    with pytest.raises(SystemExit):
        raising(UserError("said by rank 0"))
    assert capsys.readouterr().err == ""
