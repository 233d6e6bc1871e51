"""A column that an objective names travels with every batch: the same values for the same rows through workers,
streams, mixtures, processes and parts of a step; what cannot be learned from is refused before anything is computed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from toys import runs
from toys.refusals import refused

from mmssl.data import open_source
from mmssl.data.labels import IdPreprocessor, NumberPreprocessor
from mmssl.data.loading import Loaded
from mmssl.data.shards import Lengths
from mmssl.errors import BadSample
from mmssl.objectives.options.labels import LabelColumn
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import fitted_processor, open_training_data
from mmssl.training.engine import make_accelerator
from mmssl.training.feeding import Feed
from mmssl.training.labels import open_labels
from mmssl.training.mixture import open_mixture

ROWS = 48
KEYS = {kind: LabelColumn("who" if kind == "id" else "score", kind).key for kind in ("id", "number")}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in four files: `who` is row % 5, a word, and unknown of every seventh; `score` is the row's number."""
    folder = tmp_path_factory.mktemp("rows")
    digits = open_source("builtin:digits", limit=ROWS).select_columns(["image"])
    assert isinstance(digits, datasets.Dataset)
    who = [None if row % 7 == 0 else f"w{row % 5}" for row in range(ROWS)]
    data = digits.add_column("who", who).add_column("score", [float(row) for row in range(ROWS)])
    for part in range(4):
        data.shard(4, part).to_parquet(folder / f"{part}.parquet")
    return folder


def recipe(path: Path, **data: Any) -> dict[str, Any]:
    out = runs.recipe(train={"health_every": None, "guard": None, "steps": 4, "save_every": 2, "log_every": 1})
    out["data"] = {"path": str(path), **data}
    for kind, by in (("id", "who"), ("number", "score")):
        out["objectives"][kind] = {"type": "toys.column", "tower": "image", "by": by, "kind": kind}
    return out


def fed(content: dict[str, Any], folder: Path, rank: int = 0, world: int = 1) -> list[Loaded]:
    """The first four micro-batches."""
    asked = load_recipe(content)
    opened = open_training_data(asked)
    mixture = open_mixture(asked, opened)
    accelerator = make_accelerator(asked.train)
    folder.mkdir(exist_ok=True)
    labels = open_labels(asked, opened.source, opened.columns, mixture, folder, accelerator, resume=False)
    processor = fitted_processor(asked.modalities, opened.source, opened.columns, folder, accelerator, samples=50)
    where: Any = SimpleNamespace(process_index=rank, num_processes=world)
    lengths = {name: Lengths() for name in ("data", *asked.data.mix)}
    batches = Feed(asked, opened.source, opened.columns, processor, where, {}, lengths, mixture, labels)
    return list(itertools.islice(batches(0), 4))


def said(batches: list[Loaded]) -> dict[float, int | None]:
    """score -> the number of `who`, None where it is unknown; twice the same row says the same."""
    out: dict[float, int | None] = {}
    for loaded in batches:
        ids, scores = loaded.batch[KEYS["id"]], loaded.batch[KEYS["number"]]
        assert ids["value"].dtype == torch.int64 and bool(scores["present"].all())
        for score, value, present in zip(scores["value"].tolist(), *(ids[k].tolist() for k in ids), strict=True):
            assert out.setdefault(score, value if present else None) == (value if present else None)
    return out


def number(word: str) -> int | None:
    return IdPreprocessor().read(word)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"workers": 2},
        {"streaming": True, "shuffle_buffer": 3},
        {"streaming": True, "shuffle_buffer": 3, "readers": 2, "workers": 2},
    ],
    ids=["rows", "workers", "stream", "readers"],
)
def test_what_a_column_says_comes_with_its_row(rows: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    found = said(fed(recipe(rows, **change), tmp_path))
    assert len(found) > 20
    assert found == {row: None if row % 7 == 0 else number(f"w{int(row) % 5}") for row in found}


def test_two_processes_share_the_rows_of_one(rows: Path, tmp_path: Path) -> None:
    alone = fed(recipe(rows), tmp_path)
    both = [fed(recipe(rows), tmp_path, rank, 2) for rank in range(2)]
    for whole, *halves in zip(alone, *both, strict=True):
        for key, name in itertools.product(KEYS.values(), ("value", "present")):
            assert torch.equal(whole.batch[key][name], torch.cat([half.batch[key][name] for half in halves]))


@pytest.mark.parametrize("streaming", [False, True])
def test_of_a_mixture_the_data_without_the_column_say_nothing(rows: Path, tmp_path: Path, streaming: bool) -> None:
    source = datasets.Dataset.from_parquet([str(p) for p in sorted(rows.glob("*.parquet"))])
    other = tmp_path / "other"
    other.mkdir()
    source.remove_columns("who").map(lambda row: {"score": row["score"] + 100}).to_parquet(other / "0.parquet")
    mix = {"weight": 1.0, "mix": {"other": {"path": str(other), "weight": 1.0}}, "streaming": streaming}
    found = said(fed(recipe(rows, **mix), tmp_path))
    assert {row >= 100 for row in found} == {False, True}
    wanted = {row: None if row % 7 == 0 or row >= 100 else number(f"w{int(row) % 5}") for row in found}
    assert found == wanted


def test_a_row_with_a_label_alone_is_absent(rows: Path, tmp_path: Path) -> None:
    source = datasets.Dataset.from_parquet([str(p) for p in sorted(rows.glob("*.parquet"))])
    images = [None if row == 3 else image for row, image in enumerate(source["image"])]
    source.remove_columns("image").add_column("image", images).to_parquet(tmp_path / "rows.parquet")
    bad = [bad for loaded in fed(recipe(tmp_path), tmp_path / "run") for bad in loaded.bad]
    assert {(b.index, b.reason) for b in bad} <= {(3, "no modality present")} and bad


def losses(folder: Path, content: dict[str, Any], name: str, *words: str) -> dict[int, float]:
    assert runs.cli(folder, *words, content=content, output=name) == 0
    return runs.losses(folder / name)


def test_a_run_in_parts_and_one_that_was_killed_are_the_run(rows: Path, tmp_path: Path) -> None:
    content = recipe(rows)
    content["model"]["towers"]["image"]["dropout"] = 0.0
    whole = losses(tmp_path, content, "whole")
    assert losses(tmp_path, content, "parts", "train.accumulation=2") == pytest.approx(whole, rel=1e-5)
    with runs.killed_at(3):
        runs.cli(tmp_path, content=content, output="cut")
    assert losses(tmp_path, content, "cut", "--resume")[4] == whole[4]
    runs.assert_same_weights(tmp_path / "whole", tmp_path / "cut")


def test_other_labels_are_other_data(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = datasets.Dataset.from_parquet([str(p) for p in sorted(rows.glob("*.parquet"))])
    path = tmp_path / "rows.parquet"
    source.to_parquet(path)
    content = recipe(path)
    with runs.killed_at(3):
        runs.cli(tmp_path, content=content)
    source.map(lambda row: {"score": -row["score"]}).to_parquet(path)
    assert runs.cli(tmp_path, "--resume", content=content) == 2
    assert "the data changed since the run was started" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"by": "whom"}, ("objectives.id.by", "whom", "who, score", "did you mean 'who'")),
        ({"by": "image"}, ("objectives.id.by", "'image'", "data.columns.image")),
    ],
)
def test_columns_that_cannot_be_learned_from_are_refused(
    rows: Path, tmp_path: Path, change: dict[str, str], facts: tuple[str, ...]
) -> None:
    content = recipe(rows)
    content["objectives"]["id"] |= change
    with refused(*facts):
        fed(content, tmp_path)


def test_cells_that_nobody_named_are_not_the_label(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b,grade_of\n" + "".join(f"{i / 7},{i % 3},{i % 4}\n" for i in range(40)))
    content = recipe(path)
    content["modalities"] = {"tabular": {}}
    content["model"]["towers"] = {"tabular": {"width": 16, "depth": 1, "heads": 2}}
    content["objectives"] = {"id": {"type": "toys.column", "tower": "tabular", "by": "grade_of"}}
    assert open_training_data(load_recipe(content)).columns == {"tabular": ["a", "b"]}


SIDES = [{"p": 1, "s": "l"}, {"p": 1, "s": "r"}, {"p": 1, "s": "l"}, {"p": None, "s": "l"}]
READERS: list[tuple[Callable[[], Any], list[Any], list[int]]] = [
    (IdPreprocessor, ["a", " a", 1, 1.0, True, "1", None, float("nan")], [0, 0, 1, 1, 1, 2, -1, -1]),
    (lambda: IdPreprocessor(-1), [-1, 0, -1], [-1, 0, -1]),
    (
        IdPreprocessor,
        [{"p": 1, "s": "l"}, {"p": 1, "s": "r"}, {"p": 1, "s": "l"}, {"p": None, "s": "l"}],
        [0, 1, 0, -1],
    ),
]


@pytest.mark.parametrize(("reader", "raw", "groups"), READERS)
def test_ids_are_equal_where_values_are(reader: Callable[[], Any], raw: list[Any], groups: list[int]) -> None:
    found = reader()(raw)
    assert found["present"].tolist() == [group >= 0 for group in groups]
    for (a, x), (b, y) in itertools.combinations(zip(groups, found["value"].tolist(), strict=True), 2):
        assert a < 0 or b < 0 or (a == b) == (x == y)
    assert int(found["value"].min()) >= 0


def test_what_is_no_cell_is_the_sample_s_fault() -> None:
    assert NumberPreprocessor()([2, None, "3.5"])["value"].tolist() == [2.0, 0.0, 3.5]
    for reader, raw in ((NumberPreprocessor(), "three"), (IdPreprocessor(), [1, 2])):
        with pytest.raises(BadSample):
            reader.read(raw)
