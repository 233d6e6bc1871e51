"""The matrix of benchmarks/: folds without leaks, an honest probe, spreads."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toys.refusals import refused

from benchmarks import pages
from benchmarks.matrix import __main__ as command
from benchmarks.matrix import report as reporting
from benchmarks.matrix.cells import HERE, SEEDS, Cell, choose, local, read_cells, read_result, result_path
from benchmarks.matrix.judging import (
    SCORES,
    boosted,
    chance,
    difference,
    judge,
    make_folds,
    mean_score,
    neighbours,
    probed,
)
from benchmarks.matrix.run import MADE, numbered, read_out, write_result
from mmssl.recipe.loading import load_recipe

CELL = Cell("set", "mae", "image", {}, ("train", "test"), "label", {"kind": "standard"}, "accuracy")


def result(cell: Cell, seed: int, pretrained: float, untrained: float, raw: float = 0.5) -> dict[str, Any]:
    return {
        "cell": cell.name,
        "recipe": cell.recipe,
        "seed": seed,
        "fingerprint": "f",
        "metric": cell.metric,
        "scores": {"pretrained": pretrained, "untrained": untrained, "raw": raw, "boosting": 0.6},
        "differences": {
            arm: [pretrained - other, pretrained - other - 0.06, pretrained - other + 0.06]
            for arm, other in (("untrained", untrained), ("raw", raw), ("boosting", 0.6))
        },
        "knn": {"pretrained": 0.6, "untrained": 0.4, "raw": 0.5},
        "knn_differences": {"untrained": [0.2, 0.1, 0.3], "raw": [0.1, 0.0, 0.2]},
        "readout": "mean+std",
        "chance": 0.1,
        "rankme": {"pretrained": 10.0 + seed, "untrained": 3.0},
        "width": 64,
        "raw_width": 784,
        "rows": 100,
        "folds": 1,
        "fitted_on": 80.0,
        "tested_on": 20,
        "steps": 100,
        "batch_size": 8,
        "cpu_seconds": 12.3,
        "seconds": 20.0,
    }


# ------------------------------------------------------------------------------------------------------------- folds


def test_no_group_lies_on_both_sides_and_every_row_is_tested_once() -> None:
    rng = np.random.default_rng(3)
    patient = rng.integers(0, 40, 120)
    y = (patient % 3 == 0).astype(int)
    y[:5] = -1
    folds = make_folds(y, np.zeros(120, int), {"patient": patient}, {"kind": "folds", "folds": 8, "group": "patient"})
    assert len(folds) == 8
    for train, test in folds:
        assert not set(patient[train]) & set(patient[test])
        assert not set(train) & set(test)
    tested = np.concatenate([test for _, test in folds])
    assert sorted(tested) == list(range(5, 120)), "every labelled row once, no unlabelled one"


def test_given_folds_are_the_files_own() -> None:
    y, fold = np.array([0, 1] * 10), np.arange(20) % 4
    folds = make_folds(y, np.zeros(20, int), {"fold": fold}, {"kind": "folds", "column": "fold"})
    assert [sorted(test) for _, test in folds] == [list(range(k, 20, 4)) for k in range(4)]


def test_standard_and_few_take_labels_of_the_training_part_only() -> None:
    y = np.tile([0, 1, 2], 100)
    split = np.repeat([0, 1, 2], [150, 50, 100])
    ((train, test),) = make_folds(y, split, {}, {"kind": "standard", "train": 60, "test": 40})
    assert len(train) == 60 and len(test) == 40
    assert (split[train] == 0).all() and (split[test] == 2).all()
    few = make_folds(y, split, {}, {"kind": "few", "labels": 30, "draws": 20, "test": 40})
    assert len(few) == 20 and len({tuple(train) for train, _ in few}) == 20
    for train, test in few:
        assert len(train) == 30 and (split[train] == 0).all() and (split[test] == 2).all()
        assert np.bincount(y[train]).min() >= 5


def test_folds_are_the_same_every_time() -> None:
    y, split = np.tile([0, 1], 50), np.repeat([0, 1], 50)
    for protocol in ({"kind": "folds", "folds": 5}, {"kind": "few", "labels": 20, "draws": 3}):
        first, second = (make_folds(y, split, {}, protocol) for _ in range(2))
        assert all((a == c).all() and (b == d).all() for (a, b), (c, d) in zip(first, second, strict=True))


# ------------------------------------------------------------------------------------------------------------- probe


def test_scores_by_hand() -> None:
    chances = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    truth = np.array([0, 0, 0, 1])
    assert SCORES["accuracy"](chances, truth) == 1.0
    wrong = np.array([0, 0, 1, 1])  # the third, called 0, is a 1
    assert SCORES["accuracy"](chances, wrong) == 0.75
    # recalls 2 of 2 and 1 of 2
    assert SCORES["balanced_accuracy"](chances, wrong) == 0.75
    # of the pairs (0 or 1, 2 or 3) all but (second, third) are in order
    assert SCORES["auc"](chances, wrong) == 0.75


def test_chance_is_what_the_training_rows_would_say() -> None:
    y = np.array([0, 0, 0, 1, 1, 0])
    folds = [(np.array([0, 1, 2, 3]), np.array([4, 5]))]
    assert chance("accuracy", y, folds) == 0.5
    assert chance("balanced_accuracy", y, folds) == 0.5
    assert chance("auc", y, folds) == 0.5


def test_the_probe_never_looks_at_test_labels_and_learns_what_is_there() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    x = rng.normal(size=(200, 5))
    x[:, 2] += 3 * y
    fold = (np.arange(120), np.arange(120, 200))
    assert score(x, y, fold) > 0.85
    shuffled = y.copy()
    shuffled[120:] = 1 - y[120:]
    # the same predictions against turned labels: exactly the complement
    both = [score(x, labels, fold) for labels in (y, shuffled)]
    assert sum(both) == pytest.approx(1)
    out = judge({"good": x, "noise": rng.normal(size=(200, 5))}, y, None, [fold], "auc")
    assert mean_score(out["good"], y, [fold], "auc") > 0.9 > 0.7 > mean_score(out["noise"], y, [fold], "auc")
    for judged in (neighbours, lambda x, y, fold: boosted(x, y, None, fold)):
        assert mean_score([judged(x, y, fold)], y, [fold], "auc") > 0.85
        turned = judged(x, shuffled, fold)
        assert (turned == judged(x, y, fold)).all(), "test labels change nothing"


def test_numbers_are_regressed_by_every_judge() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(240, 4))
    y = 2 * x[:, 1] + 0.1 * rng.normal(size=240)
    y[:3] = np.nan
    splits = np.repeat([0, 1], [160, 80])
    ((train, test),) = make_folds(y, splits, {}, {"kind": "standard", "train": 100})
    assert len(train) == 100 and len(test) == 80 and not set(train) & {0, 1, 2}, "unknown numbers are in no fold"
    assert len(make_folds(y, splits, {}, {"kind": "folds", "folds": 3})) == 3
    fold, noise = (train, test), rng.normal(size=(240, 4))
    out = judge({"good": x, "noise": noise}, y, None, [fold], "r2")
    assert mean_score(out["good"], y, [fold], "r2") > 0.95 > 0.2 > mean_score(out["noise"], y, [fold], "r2")
    for judged in (neighbours, lambda x, y, fold: boosted(x, y, None, fold)):
        assert mean_score([judged(x, y, fold)], y, [fold], "r2") > 0.6
    mean, low, high = difference(out["good"], out["noise"], y, [fold], None, "r2")
    assert low < mean < high and low > 0.5
    predicted = out["good"][0][:, 0]
    by_hand = 1 - np.square(predicted - y[test]).sum() / np.square(y[test] - y[test].mean()).sum()
    assert mean_score(out["good"], y, [fold], "r2") == pytest.approx(by_hand)
    assert chance("r2", y, [fold]) == 0.0


def score(x: Any, y: Any, fold: Any, scales: Any = ("each",)) -> float:
    return mean_score([probed(x, y, None, fold, "accuracy", scales)], y, [fold], "accuracy")


def test_a_difference_is_paired_and_its_interval_follows_rows_or_groups() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    parts = [(np.arange(0), np.arange(k, 400, 2)) for k in (0, 1)]
    base = np.where(rng.random(400) < 0.7, y, 1 - y)  # right in 70 % of the rows
    better = np.where(rng.random(400) < 0.3, y, base)  # and never wrong where that is right

    def outputs(said: Any) -> list[Any]:
        return [np.eye(2)[said[test]] for _, test in parts]

    same = difference(outputs(base), outputs(base), y, parts, None, "accuracy")
    assert same == [0, 0, 0]
    mean, low, high = difference(outputs(better), outputs(base), y, parts, None, "accuracy")
    assert mean == pytest.approx((better == y).mean() - (base == y).mean())
    assert 0 < low < mean < high < 0.2, "far tighter than two intervals of accuracies of 0.7"
    whole = difference(outputs(better), outputs(base), y, parts, np.arange(400) // 100, "accuracy")
    assert whole[0] == mean and whole[2] - whole[1] != high - low


def test_raw_features_may_keep_their_common_scale() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 160)
    x = rng.normal(size=(160, 400)) * 0.01  # rare and small: as large as the rest once each is standardised
    x[:, 0] = y + 0.4 * rng.normal(size=160)
    fold = (np.arange(80), np.arange(80, 160))
    each, both = (score(x, y, fold, scales) for scales in (("each",), ("each", "common")))
    assert both > 0.8 and both > each + 0.05
    out = judge({"raw": x, "other": x}, y, None, [fold], "accuracy")
    assert {name: mean_score(found, y, [fold], "accuracy") for name, found in out.items()} == {
        "raw": both,
        "other": each,
    }


def test_labels_are_numbered_in_order() -> None:
    assert numbered(["b", None, "a", "b"]).tolist() == [1, -1, 0, 1]
    assert numbered([3, -1, 0]).tolist() == [1, -1, 0]


# ------------------------------------------------------------------------------------------------------------ report


def test_how_a_tower_is_read_out_names_its_blocks() -> None:
    def model(**options: Any) -> Any:
        return SimpleNamespace(config=SimpleNamespace(towers={"image": {"readout": "flat", **options}}))

    assert read_out(model()) == read_out(model(readout_layers=1)) == "flat"
    assert read_out(model(readout_layers=3)) == "flat of 3 blocks"


def test_spread_is_that_of_a_sample() -> None:
    assert reporting.spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert reporting.spread([0.5]) == (0.5, None)
    assert reporting.shown([0.7, 0.8]) == "0.750 ± 0.071"
    assert reporting.shown([0.25], sign=True) == "+0.250"


def test_gain_is_paired_and_cells_that_do_not_gain_are_named() -> None:
    results = {(CELL.name, 0): result(CELL, 0, 0.9, 0.8), (CELL.name, 1): result(CELL, 1, 0.7, 0.75)}
    text = reporting.report([CELL], results, {CELL.name: ["longer: the same", "wider:\n  no"]})
    line = next(line for line in text.splitlines() if line.startswith("| set"))
    assert "| 0.800 ± 0.141 | 0.775 ± 0.035 | 0.500 ± 0.000 | 0.600 ± 0.000 | +0.025 ± 0.106 | 1 (1) of 2 |" in line
    assert "| +0.300 ± 0.141 | 2 (2) of 2 | 0.600 ± 0.000 | 0.400 ± 0.000 | 10.5 ± 0.7 |" in line
    assert "In 0 of 1 cells" in text and "Not in `set/mae`" in text
    assert "- longer: the same\n- wider: no" in text
    assert "recipe changed since" in line, "its fingerprint is not that of the recipe"


def test_missing_cells_are_named_as_missing() -> None:
    text = reporting.report([CELL], {}, {})
    assert "No cell has been run yet." in text


def test_the_short_table() -> None:
    results = {(CELL.name, 0): result(CELL, 0, 0.9, 0.8), (CELL.name, 1): result(CELL, 1, 0.8, 0.7)}
    other = Cell("set", "jepa", "image", {}, ("train", "test"), "label", {"kind": "standard"}, "accuracy")
    text = reporting.short_table([CELL, other], results)
    assert "| set (image) | accuracy | **<u>0.850</u>** (0.750) | - | 0.500 | 0.600 |" in text


def test_a_table_goes_between_the_marks_of_its_page() -> None:
    marks = ("<!-- a -->", "<!-- /a -->")
    assert pages.into("x <!-- a -->\nold\n<!-- /a --> y", "new", marks) == "x <!-- a -->\nnew\n<!-- /a --> y"
    assert pages.between("x <!-- a -->\nold\n<!-- /a --> y", marks) == "old"
    for text in ("no marks", "<!-- /a --> before <!-- a -->"):
        with pytest.raises(ValueError):
            pages.into(text, "new", marks)


def test_stored_results_are_plain_and_belong_to_a_cell() -> None:
    names = {result_path(cell, seed).name: cell for cell in read_cells() for seed in SEEDS}
    for path in sorted((HERE / "results").glob("*.json")):
        stored = json.loads(path.read_text())
        assert names[path.name].name == stored["cell"]
        names_of = {stored["cell"], names[path.name].recipe}
        assert not any(isinstance(v, str) and "/" in v and v not in names_of for v in stored.values()), "no paths"


def test_notes_belong_to_cells() -> None:
    assert set(reporting.read_tried()) <= {cell.name for cell in read_cells()}


# ------------------------------------------------------------------------------------------------------------- cells


def test_every_cell_gives_a_valid_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSSL_SHARED_DATA", "/elsewhere")
    cells = read_cells()
    assert len({cell.modality for cell in cells}) == 8
    for cell in cells:
        if cell.shipped():
            data = local(cell.recipe_data())
            place = "benchmarks/matrix/cache/" if cell.data in MADE else "/elsewhere/"
            assert data["data"]["path"].removeprefix("graph:").startswith(place + cell.data)
            load_recipe(data)


def test_the_fingerprint_follows_what_matters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dataclasses import replace

    cell = next(c for c in read_cells() if c.name == "cora/mae")
    same = replace(cell, set={**cell.set, "train": {"log_every": 7}})
    longer = replace(cell, set={**cell.set, "train": {"steps": 7}})
    judged = replace(cell, metric="balanced_accuracy")
    assert cell.fingerprint() == same.fingerprint()
    assert len({cell.fingerprint(), longer.fingerprint(), judged.fingerprint()}) == 3


def test_only_what_is_missing_or_out_of_date_is_run(tmp_path: Path) -> None:
    cell = next(c for c in read_cells() if c.name == "cora/mae")
    write_result(cell, 0, result(cell, 0, 0.9, 0.8) | {"fingerprint": cell.fingerprint()}, tmp_path)
    write_result(cell, 1, result(cell, 1, 0.9, 0.8), tmp_path)
    assert command.missing([cell], SEEDS, tmp_path) == [(1, cell), (2, cell)]
    assert read_result(cell, 0, tmp_path)["scores"]["pretrained"] == 0.9  # type: ignore[index]


def test_unknown_names_are_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with refused(meant="cora"):
        choose(read_cells(), ["coraa"])
    assert command.main(["--only", "coraa"]) == 2
    assert capsys.readouterr().err.startswith("error: --only: unknown 'coraa'")


@pytest.mark.slow
def test_one_cell_end_to_end(shared_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dataclasses import replace

    from benchmarks.matrix.run import run_cell

    monkeypatch.setenv("MMSSL_SHARED_DATA", str(shared_data))
    cell = next(c for c in read_cells() if c.name == "mutag/mae")
    folds = {"kind": "folds", "folds": 2}
    short = replace(cell, set={**cell.set, "train": {"steps": 3, "batch_size": 16}}, protocol=folds)
    out = run_cell(short, 1, tmp_path / "results")
    assert out["rows"] == 188 and out["folds"] == 2 and out["tested_on"] == 188
    assert set(out["scores"]) == {"pretrained", "untrained", "raw", "boosting"}
    assert set(out["differences"]) == {"untrained", "raw", "boosting"} and out["readout"] == "mean+std"
    assert out["differences"]["raw"][0] == pytest.approx(out["scores"]["pretrained"] - out["scores"]["raw"], abs=1e-4)
    assert all(0 < value <= 1 for value in out["scores"].values())
    (kept,) = (tmp_path / "cache").glob("*.npz")
    (trained,) = (tmp_path / "cache").glob("mutag.mae.1.*")
    before = kept.stat().st_mtime_ns
    written = (trained / "model" / "model.safetensors").stat().st_mtime_ns
    again = run_cell(short, 1, tmp_path / "results")
    assert again["scores"] == out["scores"] and kept.stat().st_mtime_ns == before, "raw features are not judged anew"
    other = replace(short, set={**short.set, "model": {"towers": {"graph": {"readout": "max"}}}})
    assert other.fingerprint() != short.fingerprint() and other.training() == short.training()
    read = run_cell(other, 1, tmp_path / "results")
    assert read["readout"] == "max" and read["scores"]["pretrained"] != out["scores"]["pretrained"]
    assert (trained / "model" / "model.safetensors").stat().st_mtime_ns == written, "another readout trains nothing"
