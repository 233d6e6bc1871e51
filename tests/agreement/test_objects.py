"""Rows that are an object in Python: the same ones held out, and the same numbers, as by the path of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet as pq
import pytest

import mmssl
from mmssl.data.given import given
from mmssl.data.sources import open_source
from mmssl.errors import UserError

TINY = {"width": 16, "depth": 1, "heads": 2}
QUICK = {"steps": 2, "batch_size": 16, "trackers": [], "health_every": None}
WORDS: dict[str, Any] = {"label": "old", "tasks": ["knn"]}
OBJECTS: dict[str, Callable[[Path], Any]] = {
    "Dataset": lambda path: datasets.Dataset.from_parquet(str(path), cache_dir=str(path.parent / "cache")),
    "DataFrame": pandas.read_parquet,
    "list": lambda path: pq.read_table(path).to_pylist(),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    age, income = rng.integers(18, 80, 160), rng.normal(3000, 500, 160).round(2)
    data = {
        "age": age,
        "income": income,
        "town": rng.choice(["Rome", "Bern", "Oslo"], 160),
        "old": age + income / 100 > 80,
    }
    path = tmp_path_factory.mktemp("objects") / "people.parquet"
    datasets.Dataset.from_dict(data).to_parquet(path)
    return path


def pretrained(output: Path, data: Any) -> mmssl.api.Run:
    return mmssl.pretrain(
        "tabular_mae",
        output=output,
        data=data,
        model={"towers": {"tabular": TINY}},
        train=QUICK,
        evaluation={"label": "old", "tasks": ["knn"]},
    )


@pytest.fixture(scope="module")
def by_path(table: Path) -> mmssl.api.Run:
    return pretrained(table.parent / "by_path", table)


@pytest.mark.parametrize("kind", OBJECTS)
def test_evaluate(kind: str, table: Path, by_path: mmssl.api.Run) -> None:
    found = mmssl.evaluate(by_path.folder, OBJECTS[kind](table), **WORDS)
    assert found["n_test"] == 32 and found["tasks"] == by_path.report["tasks"] and found["notes"]
    if kind == "Dataset":
        assert found == mmssl.evaluate(by_path.folder, table, **WORDS) == by_path.evaluate(**WORDS)


def test_embed(table: Path, by_path: mmssl.api.Run, tmp_path: Path) -> None:
    said = mmssl.embed(by_path.folder, pandas.read_parquet(table), tmp_path / "a.parquet")
    assert said == by_path.embed(tmp_path / "b.parquet") and said["rows"] == 160
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))


def test_pretrain_and_finetune(table: Path, by_path: mmssl.api.Run, tmp_path: Path) -> None:
    frame = pandas.read_parquet(table)
    run = pretrained(tmp_path / "run", {"path": frame})
    assert run.report == by_path.report and run.evaluate(label="old", tasks=["knn"])["tasks"] == run.report["tasks"]
    options = {"peft": "linear", "train": {"steps": 2}}
    tuned = mmssl.finetune(by_path.folder, frame, "old", output=tmp_path / "a", **options)
    again = mmssl.finetune(by_path.folder, None, "old", output=tmp_path / "b", **options)
    assert tuned.report["tasks"] == again.report["tasks"] and tuned.report["n_test"] == 32
    assert "`object:DataFrame`" in (tuned.model_folder / "README.md").read_text()
    with pytest.raises(UserError, match="--data: found an object in Python"):
        mmssl.evaluate(run.folder)
    with pytest.raises(UserError, match="data.path: found 'object:DataFrame', rows that were an object in Python"):
        mmssl.pretrain(run.folder / "config.yaml", output=tmp_path / "c")


def test_splits(table: Path, by_path: mmssl.api.Run) -> None:
    frame = pandas.read_parquet(table)
    parts = {"train": frame[:120], "test": frame[120:]}
    whole = datasets.DatasetDict(
        {name: datasets.Dataset.from_pandas(p, preserve_index=False) for name, p in parts.items()}
    )
    found = [mmssl.evaluate(by_path.folder, data, label="old", tasks=["knn"]) for data in (parts, whole)]
    assert found[0] == found[1] and found[0]["n_test"] == 40 and found[0]["split"] == {"test": "test", "train": "train"}


def test_objects_have_a_name_while_they_are_worked_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    rows = [{"a": 1}, {"a": 2, "file": tmp_path / "a.txt"}]
    with given(pyarrow.table({"a": [1]})) as name:
        assert name == "object:Table" and open_source(name)[0] == {"a": 1}
    with given(rows) as one, given(rows) as two, given("x.csv") as path:
        assert (one, two, path) == ("object:list", "object:list-1", "x.csv")
        assert open_source(str(one))[1] == {"a": 2, "file": str(tmp_path / "a.txt")}
    with pytest.raises(UserError, match="pass them again"):
        open_source("object:list")
    for wrong in (7, [], [1, 2], {}, {"a": [1, 2]}):
        with pytest.raises(UserError, match="data: found .*, expected a path, a Hub id"), given(wrong):
            pass
    with pytest.raises(UserError, match="cannot read the list: "), given([{"a": 1}, {"a": "x"}, {"a": {1: 2}}]):
        pass
