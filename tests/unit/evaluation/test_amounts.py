"""Labels that are amounts: what counts as one, and R2 of the tasks against scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys.points import READERS, ByHand, table

from mmssl.data.amounts import are_amounts
from mmssl.data.labels import target_of
from mmssl.evaluation.evaluate import evaluate
from mmssl.evaluation.leaks import binned
from mmssl.evaluation.rows import Labels, Numbers, read_labels
from mmssl.recipe.config import DataConfig, EvaluationConfig
from mmssl.training.online_probe import ProbeRows

RNG = np.random.default_rng(0)
PRICES = (RNG.integers(150, 5000, 4000) * 100).astype(float).tolist()
"""About 2,700 different ones."""
BOTH = [
    ([0.5, 1.0, 1.5, None] * 9, True),
    (PRICES, True),
    ([int(v) for v in PRICES], True),
    (RNG.permutation(60).tolist(), True),
    (RNG.integers(25, 347, 442).tolist(), True),  # as of a clinical score
    ([*range(15)], False),  # few rows in all
    (RNG.integers(0, 26, 4000).tolist(), False),
    (RNG.integers(17, 91, 4000).astype(float).tolist(), False),  # ages in years repeat: for the user to say
    (RNG.integers(0, 1000, 20000).tolist(), False),
    ((RNG.integers(0, 60, 3000) * 977).tolist(), False),  # codes with gaps, each of many rows
    ([True, False] * 50, False),
    ([f"{v}" for v in PRICES[:99]], False),
    ([None, float("nan")] * 40, False),
    ([], False),
]


@pytest.mark.parametrize(("values", "amounts"), BOTH)
def test_which_labels_are_amounts(values: list[Any], amounts: bool) -> None:
    assert are_amounts(values) is amounts
    found, _ = read_labels(table(y=values or [None]), None, "y")
    assert isinstance(found, Numbers) is amounts
    if found is not None:  # fine-tuning takes the same labels for the same thing
        assert (target_of({"y": values}, "auto", None, "label").task == "regression") is amounts


def test_names_of_classes_are_never_amounts_and_the_user_has_the_last_word() -> None:
    import datasets

    names = [f"n{i}" for i in range(200)]
    named = table(y=RNG.permutation(200).tolist()).cast_column("y", datasets.ClassLabel(names=names))
    assert isinstance(read_labels(named, None, "y")[0], Labels)
    assert "holds the names of classes, expected numbers" in read_labels(named, None, "y", task="regression")[1]
    rows = table(y=[*map(int, PRICES[:100])], word=["a"] * 100)
    assert isinstance(read_labels(rows, None, "y", task="classification")[0], Labels)
    assert "column 'word' holds 'a', expected numbers" in read_labels(rows, None, "word", task="regression")[1]
    few = read_labels(table(y=[1, 2, None]), table(y=[float("inf"), 3.0]), "y", task="regression")[0]
    assert isinstance(few, Numbers) and few.train is not None
    assert few.test.nan_to_num(-1).tolist() == [1, 2, -1] and few.train.nan_to_num(-1).tolist() == [-1, 3]


def test_amounts_in_bins_keep_their_order_and_what_is_unknown() -> None:
    bins = binned([*np.linspace(0, 1, 500).tolist(), float("nan")])
    first = {level: bins.index(level) for level in bins[:-1]}
    assert bins[-1] == -1 and 4 <= len(first) <= 64 and sorted(first.values()) == list(first.values())


def rows_of(folder: Path) -> Path:
    """Points whose amount is a sum of their numbers, with noise; a few are unknown."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True)
    for split, n in (("train", 160), ("test", 80)):
        point = rng.normal(size=(n, 4))
        price = 1e5 + 1e4 * (point[:, 0] - 2 * point[:, 2] + 0.1 * rng.normal(size=n))
        known = [None if i % 20 == 3 else float(v) for i, v in enumerate(price)]
        table(point=point.tolist(), price=known).to_parquet(str(folder / f"{split}.parquet"))
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    tasks = ["knn", "linear", "boosting", "labels", "attentive", "selective", "linking", "subsets", "zero-shot"]
    config = EvaluationConfig(tasks=tasks, label="price", k=5, label_shares=[0.1, 1.0])
    data = DataConfig(path=str(rows_of(tmp_path_factory.mktemp("amounts") / "d")))
    return evaluate(ByHand(True), READERS, data, config, untrained=ByHand(False))


def test_tasks_tell_r2_of_amounts_and_the_others_say_why_not(report: dict[str, Any]) -> None:
    found = {task: report["tasks"][task] for task in ("knn", "linear", "boosting", "labels")}
    linear = found["linear"]["point/R2"]
    assert list(found["linear"]) == ["point/R2"] and linear["n"] == 76
    assert linear["model"] > 0.99 and linear["chance"] <= 0
    low, high = linear["interval"]["model"]
    assert low < linear["model"] < high <= 1
    assert set(found["boosting"]["point/R2"]["interval"]) == {"raw"} and found["boosting"]["point/R2"]["raw"] > 0.6
    tenth, whole = (found["labels"][f"point/R2 at {share} % of labels"] for share in (10, 100))
    assert tenth["model"] < whole["model"] == pytest.approx(linear["model"])
    said = "the label 'price' holds numbers (228 different in 228 rows)"
    assert f"{said}: judged by R2, not as classes (label_task)" in report["notes"]
    for task in ("attentive", "selective", "linking"):
        assert (
            report["skipped"][task]
            == f"{said}, and it tells classes apart; knn, linear, boosting, labels judge numbers, by R2"
        )


def test_r2_of_neighbours_equals_scikit_learns(tmp_path: Path) -> None:
    import pandas as pd
    from sklearn.metrics import r2_score
    from sklearn.neighbors import KNeighborsRegressor

    folder = rows_of(tmp_path / "d")
    config = EvaluationConfig(tasks=["knn"], label="price", k=5)
    report = evaluate(ByHand(True), READERS, DataConfig(path=str(folder)), config)
    train, test = (pd.read_parquet(folder / f"{split}.parquet").dropna() for split in ("train", "test"))
    x, x_test = np.stack(train.point), np.stack(test.point)
    shift, scale = x.mean(0), x.std(0)
    judge = KNeighborsRegressor(5, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    judge.fit((x - shift) / scale, train.price)
    expected = r2_score(test.price, judge.predict((x_test - shift) / scale))
    assert report["tasks"]["knn"]["point/R2"]["raw"] == pytest.approx(expected, abs=1e-5)


def test_a_column_that_tells_an_amount_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from mmssl.evaluation.leaks import telling_columns

    price = RNG.normal(size=2000)
    rows = table(other=(price * 0.9).tolist(), noise=RNG.normal(size=2000).tolist())
    said = telling_columns(rows, {"cells": ["other", "noise"]}, binned(price.tolist()))
    assert len(said) == 1 and "column 'other' alone tells the label" in said[0]


def test_a_probe_of_a_training_tells_r2(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmssl.evaluation.embedding import Embedded
    from mmssl.training import online_probe

    x = torch.randn(90, 3, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0] - x[:, 1]).double()
    there = [
        Embedded({"point": torch.ones(n, dtype=torch.bool)}, {}, {"model": {"point": part}})
        for n, part in ((30, x[60:]), (60, x[:60]))
    ]
    given = iter([there[1], there[0]])
    monkeypatch.setattr(online_probe, "embed_batches", lambda *_: next(given))
    rows = ProbeRows([], [], Numbers("y", y[60:], y[:60]), 5, 0)
    found = rows.measure(ByHand(True), ["knn", "linear"])  # type: ignore[arg-type]
    assert (
        set(found) == {"probe/point/knn", "probe/point/linear"}
        and found["probe/point/linear"] > 0.999 > found["probe/point/knn"]
    )
