"""The tables of README, RESULTS.md and docs/ are what the stored results of the benchmarks give."""

from __future__ import annotations

import json

import pytest

from benchmarks import (
    adapter_continue,
    certificates,
    compare,
    crossmodal,
    curation,
    finetune,
    first_hour,
    forgetting,
    keeping,
    loader,
    pages,
    parquet,
    scaling,
    selftraining,
    selftraining_whole,
    soak,
    steps,
    stock_lora,
    streams,
    suite,
    tails,
    tasks,
    tuning,
)
from benchmarks.matrix import __main__ as matrix
from benchmarks.matrix import report
from benchmarks.matrix.cells import read_cells
from benchmarks.mechanisms import table as mechanisms
from benchmarks.mechanisms.rows import read_rows
from benchmarks.published import __main__ as published

pytestmark = pytest.mark.docs


def test_results_md_and_the_short_table() -> None:
    cells = read_cells()
    results = report.load_results(cells)
    now = report.report(cells, results, report.read_tried(), matrix.across())
    assert pages.RESULTS.read_text() == now, "run python -m benchmarks.matrix --report"
    shown = pages.between(pages.BENCHMARKS.read_text(), report.MARKS)
    assert shown == report.short_table(cells, results), "run python -m benchmarks.matrix --report"


def test_across_modalities() -> None:
    now = crossmodal.text(crossmodal.all_stored())
    assert (crossmodal.RESULTS / "crossmodal.md").read_text() == now, "run python -m benchmarks.crossmodal --report"


def test_fine_tuning() -> None:
    page = pages.FINE_TUNING.read_text()
    assert pages.between(page, finetune.MARKS) == finetune.table(), "run python -m benchmarks.finetune table"


def test_what_pretraining_is_worth() -> None:
    page = pages.FINE_TUNING.read_text()
    assert pages.between(page, compare.MARKS) == compare.table(), "run python -m benchmarks.compare table"
    shown = pages.between(pages.README.read_text(), compare.MARKS)
    assert shown == compare.short_table(compare.stored()), "run python -m benchmarks.compare table"


def test_forgetting() -> None:
    page, found = pages.FINE_TUNING.read_text(), json.loads(forgetting.RESULT.read_text())
    assert pages.between(page, forgetting.MARKS) == forgetting.table(found), "run python -m benchmarks.forgetting table"


def test_rare_classes() -> None:
    page, found = pages.FINE_TUNING.read_text(), json.loads(tails.RESULT.read_text())
    assert pages.between(page, tails.MARKS) == tails.table(found), "run python -m benchmarks.tails table"
    shown = pages.between(page, tails.EXPERT_MARKS)
    assert shown == tails.expert_table(found["experts"]), "run python -m benchmarks.tails table"


def test_what_rows_without_labels_add() -> None:
    page = pages.FINE_TUNING.read_text()
    rounds = selftraining.table(json.loads(selftraining.RESULT.read_text()))
    assert pages.between(page, selftraining.MARKS) == rounds, "run python -m benchmarks.selftraining table"
    whole = selftraining_whole.table(json.loads(selftraining_whole.RESULT.read_text()))
    assert pages.between(page, selftraining_whole.MARKS) == whole, "run python -m benchmarks.selftraining_whole table"


def test_self_supervision_through_an_adapter() -> None:
    results = json.loads(adapter_continue.RESULTS.read_text())
    assert set(results) <= set(adapter_continue.SETTINGS)
    shown = pages.between(pages.FINE_TUNING.read_text(), adapter_continue.MARKS)
    assert shown == adapter_continue.table(results), "the table that python -m benchmarks.adapter_continue prints"
    page = pages.FINE_TUNING.read_text()
    now = stock_lora.table(stock_lora.stored())
    assert pages.between(page, stock_lora.MARKS) == now, "run python -m benchmarks.stock_lora"


def test_what_init_chose() -> None:
    shown = pages.between(first_hour.PAGE.read_text(), first_hour.MARKS)
    assert shown == first_hour.table(first_hour.kept()), "run python -m benchmarks.first_hour --report"


def test_choosing_without_labels() -> None:
    shown = pages.between(pages.TUNING.read_text(), tuning.MARKS)
    assert shown == tuning.table(json.loads(tuning.RESULTS.read_text())), "run python -m benchmarks.tuning table"


def test_a_suite() -> None:
    shown = pages.between(pages.SUITE.read_text(), suite.MARKS)
    assert shown == suite.table(json.loads(suite.RESULTS.read_text())), "run python -m benchmarks.suite table"


def test_further_tasks() -> None:
    for marks, found in tasks.tables().items():
        assert pages.between(tasks.PAGE.read_text(), marks) == found, "run python -m benchmarks.tasks table"


def test_choosing_data() -> None:
    shown = pages.between(curation.PAGE.read_text(), curation.MARKS)
    assert shown == curation.table(json.loads(curation.RESULTS.read_text())), "run python -m benchmarks.curation table"


def test_speed_of_training_steps() -> None:
    rows = steps.read()
    assert {row["step"] for row in rows} == set(steps.PAIRS) and all(row["losses_apart"] <= steps.EQUAL for row in rows)
    assert pages.between(pages.SPEED.read_text(), steps.MARKS) == steps.table(rows), "run make bench"


def test_what_many_gpus_cost() -> None:
    stored = json.loads(scaling.RESULTS.read_text())
    assert stored["ViT-B/16"] == scaling.measure(scaling.SIZES["ViT-B/16"]), "run python -m benchmarks.scaling"
    shown = pages.between(pages.SCALING.read_text(), scaling.MARKS)
    assert shown == scaling.table(stored), "run python -m benchmarks.scaling --table"


def test_speed_of_the_loader() -> None:
    assert pages.between(pages.SPEED.read_text(), loader.MARKS) == loader.table(), "run python -m benchmarks.loader"


def test_parquet_on_this_disk() -> None:
    assert pages.between(pages.SPEED.read_text(), parquet.MARKS) == parquet.table(), "run python -m benchmarks.parquet"


def test_what_is_kept() -> None:
    assert pages.between(pages.SPEED.read_text(), keeping.MARKS) == keeping.table(), "run python -m benchmarks.keeping"


def test_runs_that_were_killed() -> None:
    found = [json.loads(certificates.stored(name).read_text()) for name in certificates.RUNS]
    assert all(one["same"] and len(one["killed"]) == certificates.KILLS for one in found)
    shown = pages.between(certificates.PAGE.read_text(), certificates.MARKS)
    assert shown == certificates.table(), "run python -m benchmarks.certificates --table"


def test_a_long_run() -> None:
    stored = json.loads(soak.RESULTS.read_text())
    assert stored["broken"] == stored["listed"] == stored["right"] and stored["steps"] == 2000
    assert pages.between(certificates.PAGE.read_text(), soak.MARKS) == soak.table(), "run python -m benchmarks.soak"


def test_a_stream_of_many_files() -> None:
    stored = json.loads(streams.RESULTS.read_text())
    assert stored["different"] == stored["rows"] and all(place["same"] for place in stored["places"].values())
    assert pages.between(streams.PAGE.read_text(), streams.MARKS) == streams.table(), "run python -m benchmarks.streams"


def test_every_mechanism() -> None:
    page = mechanisms.PAGE.read_text()
    now = mechanisms.table(read_rows())
    assert pages.between(page, mechanisms.MARKS) == now, "run python -m benchmarks.mechanisms --table"


def test_what_papers_report() -> None:
    now = published.table(published.stored()["runs"])
    assert pages.between(published.PAGE.read_text(), published.MARKS) == now, "run python -m benchmarks.published"
