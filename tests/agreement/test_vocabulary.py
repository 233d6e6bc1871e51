"""One vocabulary for data: the same word is accepted, or refused with the reason, and means the same, everywhere."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any, get_type_hints

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toys import runs

from mmssl import cli
from mmssl.cli import evaluating as cli_evaluating
from mmssl.cli import main
from mmssl.cli.curating import SELECT
from mmssl.cli.looking import flags
from mmssl.curation.options import ClusterConfig, SelectConfig
from mmssl.errors import UserError
from mmssl.evaluation import measuring as evaluating
from mmssl.evaluation.options import EmbedConfig, EvaluateConfig
from mmssl.finetuning.asking import load_options
from mmssl.finetuning.options import FinetuneConfig
from mmssl.looking.options import InitConfig
from mmssl.options.schema import build, local_options
from mmssl.recipe.config import DataConfig, EvaluationConfig, Recipe, RowsConfig
from mmssl.recipe.loading import FLAGS, load_recipe
from mmssl.training.building import open_training_data
from mmssl.training.reproduce import check_overrides

COMMANDS = {
    "pretrain": DataConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "embed": EmbedConfig,
    "cluster": ClusterConfig,
    "init": InitConfig,
    "select": SelectConfig,
}
WORDS = ("path", "name", "split", "columns", "label", "group", "limit", "workers", "streaming")
SHARED = [field.name for field in dataclasses.fields(RowsConfig)]
OWN = {("pretrain", "path"): "required", ("evaluate", "split"): "test"}
"""(command, word) whose default has to be another one: held-out rows are not those of `train`."""


def declared(cls: type, word: str) -> tuple[Any, Any, str]:
    """(type, default, help)."""
    field = next(f for f in dataclasses.fields(cls) if f.name == word)
    factory = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    return get_type_hints(cls)[word], default, field.metadata["help"]


# ------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("word", SHARED)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_word_is_declared_once(command: str, word: str) -> None:
    kind, default, help = declared(COMMANDS[command], word)
    common = declared(RowsConfig, word)
    assert help == common[2] and help
    if (command, word) == ("pretrain", "path"):
        assert (kind, default) == (str, dataclasses.MISSING)
    else:
        assert kind == common[0]
        assert default == OWN.get((command, word), common[1])


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("command", [*COMMANDS, "evaluation"])
def test_every_word_is_accepted_or_refused_with_the_reason(command: str, word: str) -> None:
    cls = {**COMMANDS, "evaluation": EvaluationConfig}[command]
    faults: list[str] = []
    build(
        cls,
        {"path": "d", word: {"columns": {}, "limit": 1, "workers": 1, "streaming": False}.get(word, "x")},
        "",
        faults,
    )
    known = word in {field.name for field in dataclasses.fields(cls)}
    assert len(faults) == (0 if known else 1)
    assert known or (faults[0].startswith(f"{word}: found ") and "unknown key" not in faults[0])


OF_WHAT_IT_DOES = ("path", "label", "temperature", "seed", "by")
"""Options of several commands that mean in each what belongs to it."""


def test_what_two_commands_have_in_common_is_said_in_the_same_words() -> None:
    said: dict[str, set[tuple[str, str]]] = {}
    for cls in COMMANDS.values():
        for field in dataclasses.fields(cls):
            if field.name not in OF_WHAT_IT_DOES:
                kind, _, help = declared(cls, field.name)
                said.setdefault(field.name, set()).add((str(kind), help))
    assert not {name: words for name, words in said.items() if len(words) > 1}


@pytest.mark.parametrize("word", ["shuffle_buffer=9", "fit_samples=9", "source=me", "license=mit"])
def test_embed_refuses_what_it_does_nothing_with(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "m", "--data", "d", "--output", "o", word]) == 2
    said = runs.errors(capsys.readouterr().err)
    assert len(said) == 1 and said[0].startswith(f"error: {word.partition('=')[0]}: found ") and ", but " in said[0]


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("finetune", ["config=x"], "config: found an unknown key"),
        ("evaluate", ["config=x"], "config: found an unknown key"),
        ("finetune", ["names=x"], "did you mean 'name'?"),
        ("finetune", ["streaming=true"], "streaming: found true, but"),
        ("finetune", ["--label", "a", "label=b"], "label: found it as an override beside --label"),
        ("evaluate", ["--label", "a", "label=b"], "label: found it as an override beside --label"),
        ("evaluate", ["--label", "a,b"], "label: found a list of 2, expected text"),
        ("finetune", ["--column", "image=a", "columns.image=b"], "columns: found it as an override beside --column"),
        ("evaluate", ["--column", "image=a", "columns.image=b"], "columns: found it as an override beside --column"),
        ("evaluate", ["path=elsewhere"], "path: found it as an override beside --data"),
        ("finetune", ["path=elsewhere"], "path: found it as an override beside --data"),
        ("evaluate", ["--column", "image"], "--column: found 'image', expected MODALITY=COLUMN"),
    ],
)
def test_refused_before_a_model_is_opened(
    command: str, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "./nowhere", "--data", "d", *words]) == 2
    said = runs.errors(capsys.readouterr().err)
    assert len(said) == 1 and expected in said[0]


def test_an_option_of_a_command_is_its_key() -> None:
    words = ["m", "--data", "d", "--column", "image=a,b", "--label", "c", "--output", "o"]
    finetune, evaluate = (
        cli.parse(["finetune", *words, "--peft", "ia3", "--compare"]),
        cli.parse(["evaluate", *words[:-2], "--task", "knn"]),
    )
    both = {"path": "d", "columns": {"image": ["a", "b"]}, "label": "c"}
    assert cli._flags(finetune) == {**both, "peft": "ia3", "compare": True}
    assert cli._flags(evaluate) == {**both, "path": ["d"], "tasks": ["knn"]}  # it may be given several
    begun = cli.parse(["init", "d", "--goal", "embed", "--preset", "demo"])
    init = flags(begun, "goal", "preset")
    assert init == {"path": "d", "goal": "embed", "preset": "demo"}
    further = cli._flags(cli.parse(["finetune", *words, "--unlabelled", "rest", "--rounds", "0"]))
    assert further == {**both, "unlabelled": "rest", "rounds": 0}, "0 is said, too, and refused by the options"
    further |= cli._flags(cli.parse(["finetune", "m", "--data", "d", "--forget", "c=1"]))
    assert further["forget"] == "c=1"
    chooses = {option.removeprefix("--").replace("-", "_") for option in SELECT}
    assert {*cli._flags(finetune), *further, *cli._flags(evaluate), *init, *chooses} == set(FLAGS)
    assert load_options(["label=[a,b]", "peft=linear"]).label_columns == ["a", "b"]


def test_what_reproduce_may_change_is_marked_at_the_option() -> None:
    places = set(local_options(Recipe))
    assert places >= {"data.path", "data.workers", "evaluation.path", "evaluation.ood", "model.from"}
    assert places >= {"model.towers.NAME.from", "train.log_every", "train.trackers", "train.save_every"}
    computed = {"data.name", "data.split", "data.streaming", "data.limit", "data.columns", "train.lr", "train.seed"}
    assert not places & computed and "evaluation.split" not in places
    check_overrides(["data.path=x", "model.towers.image.from=x", "model.from=x", "train.trackers=[]"])
    for words in ("data.name=x", "model.towers.image.width=3", "model.towers.image.adapter.from=x", "path=x"):
        with pytest.raises(UserError, match="it would be another run"):
            check_overrides([words])


# -------------------------------------------------------------------------------------------------------------- rows

SIZES = {"plain": (24, 12), "bold": (32, 16)}
"""configuration -> (training, test) rows."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two configurations, `plain` and `bold`; a row's `id` starts with the name of its own."""
    folder = tmp_path_factory.mktemp("data")
    rng, lines = np.random.default_rng(0), ["---", "configs:"]
    for name, sizes in SIZES.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, count in zip(("train", "test"), sizes, strict=True):
            rows: dict[str, list[Any]] = {"picture": [], "kind": [], "id": []}
            for i in range(count):
                file = io.BytesIO()
                Image.fromarray(rng.integers(256, size=(8, 8), dtype=np.uint8)).save(file, "PNG")
                rows["picture"].append({"bytes": file.getvalue(), "path": None})
                rows["kind"].append(("dog", "cat")[i % 2])
                rows["id"].append(f"{name}/{split}/{i}")
            table = datasets.Dataset.from_dict(rows).cast_column("picture", datasets.Image())
            table.to_parquet(folder / f"{name}-{split}.parquet")
            lines += [f"  - split: {split}", f"    path: {name}-{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


def test_a_configuration_is_the_same_rows_in_every_command(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[dict[str, Any]] = []
    asked: list[int] = []
    embed_source = evaluating.embed_source

    def in_this_process(*args: Any, workers: int, **rest: Any) -> Any:
        asked.append(workers)
        return embed_source(*args, workers=0, **rest)

    for module in (cli, cli_evaluating):
        monkeypatch.setattr(module, "print_report", reports.append)
    monkeypatch.setattr(evaluating, "embed_source", in_this_process)
    monkeypatch.chdir(tmp_path)
    words = [str(base), "--data", str(data), "--column", "image=picture", "name=bold"]
    train, test = SIZES["bold"]

    recipe = load_recipe("examples/image_mae", [f"data.path={data}", "data.name=bold", "data.columns.image=picture"])
    opened = open_training_data(recipe)
    source, columns = opened.source, opened.columns
    assert columns["image"] == "picture" and source["id"][:] == [f"bold/train/{i}" for i in range(train)]

    assert main(["embed", *words, "split=test", "streaming=true", "--output", "e.parquet"]) == 0
    assert pq.read_table("e.parquet")["id"].to_pylist() == [f"bold/test/{i}" for i in range(test)]

    for reading in ("streaming=true", "streaming=false"):
        assert main(["evaluate", *words, "--task", "knn", "--label", "kind", "k=3", "workers=2", reading]) == 0
        assert (reports[-1]["n_train"], reports[-1]["n_test"]) == (train, test) and set(asked) == {2}
    first, second = (report["tasks"]["knn"]["image/accuracy"]["model"] for report in reports)
    assert first == second

    assert main(["finetune", *words, "--label", "kind", "--peft", "linear", "train.steps=1", "limit=30"]) == 0
    assert (reports[-1]["pool"], reports[-1]["n_test"]) == (30, test)
    assert [folder.name for folder in Path("runs").iterdir()] == ["finetune"]  # the name is of the data, not of the run
    written = (Path("runs") / "finetune" / "config.yaml").read_text()
    assert "name: bold" in written and "label: kind" in written
    assert json.loads((Path("runs") / "finetune" / "evaluation.json").read_text())["split"]["test"] == "test"


@pytest.mark.parametrize("command", ["embed", "evaluate", "finetune"])
def test_a_configuration_or_a_column_that_is_not_there(
    command: str, base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, str(base), "--data", str(data)]
    words += ["--label", "kind"] if command != "embed" else []
    words += ["--output", str(tmp_path / "out")] if command != "evaluate" else []
    for more, expected in (
        (["--column", "image=picture", "name=bald"], "no configuration 'bald'"),
        (["--column", "image=pictur", "name=bold"], "columns.image: the data has no column 'pictur'"),
        (["--column", "imag=picture", "name=bold"], "columns.imag: the model has no 'imag', it has image"),
    ):
        assert main([*words, *more]) == 2
        said = runs.errors(capsys.readouterr().err)
        assert len(said) == 1 and expected in said[0] and "did you mean" in said[0]
