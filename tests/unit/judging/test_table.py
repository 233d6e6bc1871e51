"""Paired differences of a suite, scores by group, and what sets and models are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmssl.errors import UserError
from mmssl.evaluation.answers import LEAST, Answer, by_group
from mmssl.judging.sets import TASKS, read_sets, short, unlike
from mmssl.judging.suite import Cell
from mmssl.judging.table import _difference, plain_suite, report_of, said


def cell(
    right: dict[str, np.ndarray], tested: np.ndarray, groups: np.ndarray | None = None, source: str = "test"
) -> Cell:
    n = len(tested)
    answer = Answer(torch.arange(n), {name: torch.from_numpy(of.astype(float)) for name, of in right.items()})
    shares = {name: float(of.mean()) for name, of in right.items()}
    metric = {
        "model": None,
        "untrained": None,
        "raw": None,
        "chance": 0.1,
        **shares,
        "n": n,
        "interval": {"model": [0, 1]},
    }
    report = {
        "tasks": {"knn": {"image/accuracy": metric}},
        "notes": ["one"],
        "skipped": {},
        "split": {},
        "n_test": n,
        "n_train": 9,
    }
    return Cell(report, {("knn", "image/accuracy"): answer}, tested, source, groups)


def only(of: Cell) -> Answer:
    return of.answers["knn", "image/accuracy"]


def hits(share: float, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < share


def test_a_difference_is_taken_on_the_rows_that_both_answered() -> None:
    a = cell({"model": np.array([1, 1, 0, 1])}, np.array([4, 7, 9, 11]))
    b = cell({"model": np.array([0, 1, 1])}, np.array([9, 4, 30]))
    found = _difference(a, only(a), b, only(b), "model")
    assert found is not None
    difference, n = found
    assert n == 2 and difference.mean == pytest.approx((1 + 0) / 2 - (1 + 0) / 2)
    elsewhere = cell({"model": np.array([0, 1, 1])}, np.array([9, 4, 30]), source="other")
    assert _difference(a, only(a), elsewhere, only(elsewhere), "model") is None
    assert _difference(a, only(a), b, only(b), "raw") is None


def test_its_interval_is_that_of_the_paired_rows_in_closed_form() -> None:
    """The mean of n differences has the standard error sd / sqrt(n); unpaired, the interval would be twice as wide."""
    n, ours = 400, hits(0.7, 400)
    theirs = np.where(hits(0.1, n, 1), ~ours, ours)
    a = cell({"model": ours, "raw": theirs}, np.arange(n))
    difference, _ = _difference(a, only(a), a, only(a), "raw")
    each = ours.astype(float) - theirs
    half = 1.96 * each.std() / n**0.5
    assert difference.mean == pytest.approx(each.mean(), abs=1e-12)
    assert difference.high - difference.mean == pytest.approx(half, rel=0.1)
    whole = cell({"model": ours, "raw": theirs}, np.arange(n), groups=np.arange(n) // 40)
    grouped, _ = _difference(whole, only(whole), whole, only(whole), "raw")
    assert grouped.mean == difference.mean and grouped.high != difference.high


def test_better_is_said_only_where_the_interval_leaves_out_zero() -> None:
    n = 300
    strong = cell({"model": hits(0.9, n), "untrained": hits(0.5, n, 1), "raw": hits(0.89, n, 2)}, np.arange(n))
    report = report_of({("a", "x"): strong}, ["a"], ["x"], {("b", "x"): "gone"})
    less = report["rows"][0]["less"]
    assert less["untrained"]["says"] == "better" and less["raw"]["says"] is None
    text = plain_suite(report)
    assert "better" in text and "b on x: left out, gone" in text and "a on x: one" in text
    assert said(None) is None


def test_scores_by_group_and_their_disparity() -> None:
    right = np.concatenate([np.ones(30), np.zeros(10), np.ones(20), np.zeros(LEAST - 1)])
    names = ["f"] * 40 + ["m"] * 20 + ["few"] * (LEAST - 1)
    answer = Answer(torch.arange(len(names)), {"model": torch.from_numpy(right)})
    found = by_group(answer, names)
    assert {name: of["score"] for name, of in found["groups"].items()} == {"f": 0.75, "m": 1.0}
    assert found["disparity"]["value"] == 0.25 and found["few"] == LEAST - 1
    assert 0.1 < found["disparity"]["low"] < 0.25 < found["disparity"]["high"] < 0.45
    assert by_group(answer, ["one"] * len(names)) is None and by_group(answer, names, "raw") is None


@pytest.mark.parametrize(
    ("path", "name"),
    [("runs/x/model", "x"), ("runs/x/", "x"), ("../a/letter.csv", "letter"), ("builtin:digits", "digits"),
     ("ptbxl/*.parquet", "ptbxl"), ("me/net", "net"), ("v1.5", "v1.5")],
)  # fmt: skip
def test_names(path: str, name: str) -> None:
    assert short(path) == name


def test_options_of_sets_go_before_those_of_all(tmp_path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("b: {path: y, label: sex, k: 7}\nc: {path: z, tasks: [rankme]}\n")
    found = read_sets(["x", "x", str(file)], ["k=3"], {"label": "kind"})
    assert list(found) == ["x", "x-2", "b", "c"]
    assert [found[name].k for name in found] == [3, 3, 7, 3] and found["b"].label == "sex"
    assert found["c"].tasks == ["rankme"] and found["x"].tasks == list(TASKS) and found["x"].label == "kind"
    with pytest.raises(UserError, match="x: kk"):
        read_sets(["x"], ["kk=3"], {})
    assert unlike("a", {"a": 1, "a-2": 2}) == "a-3"
