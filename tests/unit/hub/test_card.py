"""The model card: what it says, and what it must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from toys.refusals import refused

from mmssl.errors import RunError
from mmssl.evaluation.table import markdown_table, plain_table
from mmssl.hub.card import Facts, card_text, hub_dataset, metadata, write_card
from mmssl.models.privacy import public, public_path
from mmssl.options import plainyaml
from mmssl.recipe.loading import load_recipe

RECIPE: dict[str, Any] = {
    "name": "digits",
    "description": "Costs $5 and ${nothing}; a test.",
    "seed": 7,
    "data": {"path": "builtin:digits", "columns": {"text": "text"}},
    "modalities": {"image": {"size": 8, "patch": 2}, "text": {}},
    "model": {
        "towers": {"image": {"width": 16, "depth": 1, "heads": 1}, "text": {"width": 16, "depth": 1, "heads": 1}},
        "projection": 8,
    },
    "masks": {"most": {"type": "random", "ratio": 0.75}},
    "objectives": {"mae": {"tower": "image", "mask": "most"}},
    "train": {"steps": 100},
}

REPORT: dict[str, Any] = {
    "tasks": {
        "knn": {
            "image/accuracy": {
                "model": 0.91,
                "untrained": 0.95,
                "raw": 0.9,
                "chance": 0.1,
                "n": 360,
                "interval": {"model": [0.87, 0.94], "untrained": [0.9, 0.97], "raw": [0.86, 0.93]},
            }
        },
        "retrieval": {
            "image->text/median rank": {
                "model": 3.0,
                "untrained": 40.0,
                "raw": None,
                "chance": 41.0,
                "n": 360,
                "candidates": 80,
            }
        },
        "rankme": {"image/pooled": {"model": 12.3, "untrained": 3.0, "raw": 30.1, "chance": None, "n": 360, "of": 64}},
    },
    "skipped": {"zero-shot": "no class names [set evaluation.classes]"},
    "notes": ["streaming data: 5000 rows were read"],
    "n_test": 360,
    "n_train": 1437,
    "split": {"test": "test", "train": "train"},
}


def recipe(**changes: Any) -> Any:
    return load_recipe(RECIPE, changes)


def test_card_has_what_a_reader_needs(tmp_path: Path) -> None:
    facts = {
        "samples": 1437,
        "presence": {"image": 1437, "text": 1400},
        "steps": 100,
        "parameters": 12345,
        "broken_samples": "3 of 1,437 samples read were broken, in whole or in part",
    }
    path = write_card(tmp_path / "model", recipe(), REPORT, facts)
    assert path == tmp_path / "model" / "README.md" and [p.name for p in path.parent.iterdir()] == ["README.md"]
    card = ModelCard.load(path)
    assert card.data.library_name == "mmssl" and card.data.model_name == "digits"
    assert {"image", "text", "mae", "mmssl"} <= set(card.data.tags)
    values = {(r.task_type, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert values == {
        ("knn", "image/accuracy"): 0.91,
        ("retrieval", "image->text/median rank"): 3.0,
        ("rankme", "image/pooled"): 12.3,
    }
    text = card.text
    assert "Costs $5 and ${nothing}" in text
    for phrase in (
        "`builtin:digits`, split `train`",
        "1,437",
        "image 1,437, text 1,400",
        "mae (weight 1)",
        "most (random)",
        "100 steps",
        "12,345",
        "3 of 1,437 samples",
        "width 16, depth 1",
        "8 wide",
        "Seed: 7",
        "torch",
        "AutoProcessor",
        "0.910 (0.870-0.940)",
        "zero-shot: left out, no class names",
        "On 360 samples of the split `test`",
        "knn, image/accuracy: it does not beat its untrained twin (0.91 against 0.95)",
        "trained on little data",
    ):
        assert phrase in text, phrase
    assert text.count("does not beat") == 1, "raw features and ranks are beaten, RankMe is no contest"
    inside = text.split("```yaml\n")[1].split("```")[0]
    shown = load_recipe(yaml.safe_load(inside))
    assert plainyaml.dump(yaml.safe_load(inside)).strip() == inside.strip() and shown.train.steps == 100


def test_card_without_evaluation() -> None:
    for report in (None, {}, {"tasks": {}, "skipped": {"knn": "the data has no label"}, "notes": []}):
        text = card_text(recipe(), report, Facts())
        assert "No evaluation was run." in text or "knn: left out, the data has no label" in text
        assert "None" not in text.split("<details>")[0] and "model-index" not in text


def test_labels_that_were_learned_from_are_named() -> None:
    assert "Columns learned from" not in card_text(recipe(), None, Facts())
    labels = {"type": "supervised", "column": ["age", "mass"], "task": "regression", "towers": ["image"]}
    text = card_text(recipe(**{"objectives.labels": labels}), None, Facts())
    assert "- Columns learned from: `age`, `mass`\n" in text


def test_unknown_facts_are_refused(tmp_path: Path) -> None:
    with refused("sampels", error=TypeError):
        write_card(tmp_path, recipe(), None, {"sampels": 3})


def test_card_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not write the model card"):
        write_card(tmp_path / "file" / "model", recipe(), None, {})


SECRET = "alice"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("builtin:digits", "builtin:digits"),
        ("graph:/home/alice/cora.npz", "graph:cora.npz"),
        ("graph:../alice/cora.npz", "graph:cora.npz"),
        ("ylecun/mnist", "ylecun/mnist"),
        ("data/pictures", "data/pictures"),
        ("/home/alice/study/pictures", "pictures"),
        ("/home/alice/study/*.parquet", "*.parquet"),
        ("~/pictures", "pictures"),
        ("~alice", "(a local folder)"),
        ("../alice/pictures", "pictures"),
        ("x/../../alice/..", "(a local folder)"),
        ("file:///home/alice/a.csv", "a.csv"),
        ("C:\\Users\\alice\\a.csv", "a.csv"),
        ("\\\\server\\alice\\a.csv", "a.csv"),
        ("https://alice:pw@host.org/d/a.csv?token=alice", "https://host.org/d/a.csv"),
        ("/", "(a local folder)"),
    ],
)
def test_public_path(path: str, shown: str) -> None:
    assert public_path(path) == shown
    assert public({"a": [path]})["a"][0] == shown and SECRET not in shown


def test_no_path_of_the_machine_gets_into_the_card(tmp_path: Path) -> None:
    changes = {
        "data.path": "/home/alice/study/pictures",
        "evaluation.path": "/home/alice/held/out",
        "modalities.text.tokenizer": "/home/alice/bert",
    }
    text = card_text(recipe(**changes), REPORT, Facts())
    assert SECRET not in text and "/home" not in text and "pictures" in text


def test_hub_data_is_named_in_the_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert yaml.safe_load(metadata(recipe(**{"data.path": "ylecun/mnist"}), None))["datasets"] == ["ylecun/mnist"]
    assert "datasets" not in yaml.safe_load(metadata(recipe(), None))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "set").mkdir(parents=True)
    assert hub_dataset("own/set") is None and hub_dataset("a/b.csv") is None and hub_dataset("/a/b") is None
    assert hub_dataset("own/other") == "own/other"


def test_tables() -> None:
    lines = plain_table(REPORT).splitlines()
    assert lines[0].split() == "task metric pretrained untrained raw features chance n".split()
    assert lines[2].split() == "knn image/accuracy 0.910 (0.870-0.940) 0.950 0.900 0.100 360".split()
    assert "41.0 of 80" in lines[3] and "12.3 of 64" in lines[4] and lines[4].split()[-2] == "-"
    assert lines[5:] == ["zero-shot: left out, no class names [set evaluation.classes]", REPORT["notes"][0]]
    rows = markdown_table(REPORT).splitlines()
    assert rows[2] == "| knn | image/accuracy | 0.910 (0.870-0.940) | 0.950 | 0.900 | 0.100 | 360 |"
    assert len({row.count("|") for row in rows[:5]}) == 1


def test_rich_table_shows_square_brackets() -> None:
    import io

    from rich.console import Console

    from mmssl.evaluation.table import rich_table

    out = io.StringIO()
    Console(file=out, width=160).print(rich_table(REPORT))
    assert "[set evaluation.classes]" in out.getvalue() and "0.910 (0.870-0.940)" in out.getvalue()
