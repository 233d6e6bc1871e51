"""`data.sampler` in a run: columns of the data and of a file, going on after a kill, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys import runs
from toys.refusals import refused

from mmssl.cli import main
from mmssl.data import open_source
from mmssl.data.sampler import order
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import fitted_processor, open_training_data
from mmssl.training.engine import make_accelerator
from mmssl.training.feeding import Feed
from mmssl.training.labels import Labels
from mmssl.training.sampling import order_of, said_of

ROWS = 64


@pytest.fixture
def clusters(tmp_path: Path) -> Path:
    """A file about the digits' 1,437 training rows: `cluster` is the row modulo 7, and null of row 10."""
    values = [None if row == 10 else row % 7 for row in range(1437)]
    path = tmp_path / "clusters.parquet"
    pq.write_table(pa.table({"cluster": values, "weight": [float(row % 3) for row in range(1437)]}), path)
    return path


def recipe(sampler: dict[str, Any], **data: Any) -> dict[str, Any]:
    train = {"health_every": None, "guard": None, "batch_size": 4, "log_every": 1}
    return runs.recipe(data={"limit": ROWS, "sampler": sampler, **data}, train=train)


def read(content: dict[str, Any], folder: Path, count: int, rank: int = 0, world: int = 1) -> list[list[int]]:
    """The rows of the first micro-batches of a process."""
    asked = load_recipe(content)
    opened = open_training_data(asked)
    accelerator = make_accelerator(asked.train)
    processor = fitted_processor(asked.modalities, opened.source, opened.columns, folder, accelerator, samples=20)
    where: Any = SimpleNamespace(process_index=rank, num_processes=world)
    rows = (asked, opened.source, opened.columns, processor, where, {}, {}, None, Labels())
    batches = Feed(*rows, by=order_of(asked, opened))(0)
    return [loaded.rows.tolist() for loaded in itertools.islice(batches, count)]


def test_batches_go_by_a_column_of_the_data_with_workers_and_processes_alike(tmp_path: Path) -> None:
    content = recipe({"kind": "distinct", "column": "label"})
    labels = np.array(open_training_data(load_recipe(content)).source["label"][:])
    alone = read(content, tmp_path, 12)
    assert all(len({*labels[batch].tolist()}) == 4 for batch in alone)
    content["data"]["workers"] = 1
    assert read(content, tmp_path, 12) == alone
    content["data"]["workers"] = 0
    halves = [read(content, tmp_path, 12, rank, 2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == alone


def test_a_file_is_about_all_rows_of_the_split(tmp_path: Path, clusters: Path) -> None:
    content = recipe({"kind": "same", "column": "cluster", "file": str(clusters)})
    numbers = np.sort(order(1437, 0, 0)[:ROWS])
    assert all(len({*(numbers[batch] % 7).tolist()}) == 1 for batch in read(content, tmp_path, 10))
    several = recipe({"kind": "same", "column": ["label", "label_name"]})
    labels = open_training_data(load_recipe(several)).source["label"][:]
    assert all(len({labels[row] for row in batch}) == 1 for batch in read(several, tmp_path / "several", 5))
    asked = load_recipe(content)
    by = order_of(asked, open_training_data(asked))
    assert by is not None
    assert said_of(by, asked).startswith(f"data.sampler: same by cluster, {by.steps} steps an epoch; ")
    kept = tmp_path / "kept.parquet"
    words = ["--keep", "0.5", "--by", "random", "--output", str(kept)]
    assert main(["select", "builtin:digits", *words]) == 0
    chosen = read(
        recipe({"kind": "weighted", "column": "weight", "file": str(clusters)}, select=str(kept)), tmp_path, 16
    )
    rows = np.flatnonzero([reason == "kept" for reason in pq.read_table(kept)["reason"].to_pylist()])
    rows = rows[np.sort(order(len(rows), 0, 0)[:ROWS])]
    counts = np.bincount(np.concatenate(chosen), minlength=ROWS)
    assert counts[rows % 3 == 0].sum() == 0 and (counts[rows % 3 == 2] >= counts[rows % 3 == 1].max() - 1).all()


def test_a_run_goes_on_with_the_order_that_it_stopped_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], clusters: Path
) -> None:
    content = recipe({"kind": "balanced", "column": "cluster", "file": str(clusters)})
    assert runs.cli(tmp_path, content=content, output="straight") == 0
    assert "data.sampler: balanced by cluster, " in capsys.readouterr().out
    with runs.killed_at(4):
        runs.cli(tmp_path, content=content)
    assert runs.cli(tmp_path, "--resume", content=content) == 0
    losses = [[row["loss"] for row in runs.metrics(tmp_path / name)] for name in ("straight", "run")]
    assert losses[0] == losses[1]
    pq.write_table(pa.table({"cluster": [row % 5 for row in range(1437)]}), clusters)
    capsys.readouterr()
    assert runs.cli(tmp_path, "--resume", "train.steps=8", content=content) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "data.sampler's column says something else than when the run was started" in line


def test_recipes_that_cannot_have_a_sampler_are_refused() -> None:
    with refused("data.sampler", "stream", "distinct"):
        load_recipe(recipe({"kind": "distinct", "column": "label"}, streaming=True))
    with refused("data.sampler", "same", "data.mix"):
        load_recipe(recipe({"kind": "same", "column": "label"}, mix={"more": {"path": "x"}}))
    with refused("data.sampler.start", "paced"):
        load_recipe(recipe({"kind": "same", "column": "label", "start": 0.5}))
    with refused("data.sampler.column", "list", "weighted"):
        load_recipe(recipe({"kind": "weighted", "column": ["label", "label_name"]}))
    with refused("data.sampler.kind", meant="distinct"):
        load_recipe(recipe({"kind": "distinc", "column": "label"}))


def test_columns_that_say_nothing_are_refused(tmp_path: Path, clusters: Path) -> None:
    for sampler, facts in (
        ({"kind": "same", "column": "labels"}, ("data.sampler.column", "labels", "label")),
        ({"kind": "same", "column": "clusters", "file": str(clusters)}, ("clusters", "cluster")),
        ({"kind": "weighted", "column": "label_name"}, ("data.sampler.column", "label_name", "str")),
        ({"kind": "same", "column": "cluster", "file": "no.parquet"}, ("data.sampler.file", "no.parquet")),
    ):
        asked = load_recipe(recipe(sampler))
        with refused(*facts):
            order_of(asked, open_training_data(asked))
    asked = load_recipe(recipe({"kind": "same", "column": "cluster", "file": str(clusters)}, split="test"))
    with refused("data.sampler.file", "1,437", 360):
        order_of(asked, open_training_data(asked))
    assert len(open_source("builtin:digits")) == 1437
