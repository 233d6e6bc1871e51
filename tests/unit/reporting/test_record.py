"""What a run's folder says of itself: finished, killed, ended with a fault, old, or a model alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toys import runs
from toys.refusals import refused

from mmssl.options.plainyaml import dump
from mmssl.reporting.record import names_of, read_record, run_folder

LOG = """2026-01-02 03:04:05  ---- process 1 on host
2026-01-02 03:04:06  warning: <script>alert(1)</script>
2026-01-02 03:04:07  step 1/6  loss 1
"""


def folder_of(path: Path, log: str | None = LOG, model: bool = False, **settings: object) -> Path:
    path.mkdir()
    (path / "config.yaml").write_text(dump({**runs.recipe(), **settings}))
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, "loss": 1.0, "wall_time": 10.0 * s}) + "\n" for s in (2, 4)) + '{"step": 6, "lo'
    )
    if log is not None:
        (path / "train.log").write_text(log)
    if model:
        (path / "model").mkdir()
        (path / "model" / "config.json").write_text("{}")
    return path


def test_how_a_run_ended(tmp_path: Path) -> None:
    done = LOG + "2026-01-02 03:05:00  ---- done\n"
    cases = {
        "killed": (LOG, False, "not finished (last logged: step 4 of 6): it still trains, or was killed"),
        "fault": (
            LOG + "2026-01-02 03:05:00  ---- ended: out of memory\n",
            False,
            "not finished (last logged: step 4 of 6): out of memory",
        ),
        "resumed": (done + LOG, False, "not finished (last logged: step 4 of 6): it still trains, or was killed"),
        "done": (done, True, "finished after 4 steps"),
        "old": (None, True, "finished after 4 steps"),
    }
    for name, (log, model, said) in cases.items():
        record = read_record(folder_of(tmp_path / name, log, model))
        assert record.state == said and record.finished == said.startswith("finished"), name
    record = read_record(tmp_path / "killed")
    assert record.warnings == [("2026-01-02 03:04:06", "<script>alert(1)</script>")]
    assert record.seconds == 20.0 and record.steps == 6 and record.recipe is not None
    assert any("no scores" in line for line in record.absent)
    assert read_record(tmp_path / "killed", done=True).finished


def test_settings_of_another_version_are_shown_unchecked(tmp_path: Path) -> None:
    record = read_record(folder_of(tmp_path / "run", train={"steps": 6, "gone_option": 1}))
    assert record.recipe is None and record.settings["train"]["gone_option"] == 1 and record.steps == 6
    assert any("gone_option" in line for line in record.absent)


def test_paths_of_this_machine_and_secrets_are_taken_out(tmp_path: Path) -> None:
    record = read_record(folder_of(tmp_path / "run", data={"path": "/home/somebody/private/rows.csv"}))
    assert record.settings["data"]["path"] == "rows.csv"


def test_a_model_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    record = read_record(run_folder(tmp_path))
    assert record.state == "a model without its run" and record.model == tmp_path
    assert {line.split(":")[0] for line in record.absent} == {"no curves", "no scores", "no settings"}


def test_the_model_of_a_run_is_that_run(tmp_path: Path) -> None:
    run = folder_of(tmp_path / "run", model=True)
    assert run_folder(run / "model") == run == run_folder(run)


def test_what_is_no_run_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder_of(tmp_path / "mine")
    with refused("report", "a file"):
        run_folder(tmp_path / "file")
    with refused("report", "nothing"):
        run_folder(tmp_path / "nowhere")
    with refused("report", "mine"):
        run_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"tasks": 3}'])
def test_a_damaged_evaluation_is_no_evaluation(tmp_path: Path, text: str) -> None:
    run = folder_of(tmp_path / "run")
    (run / "evaluation.json").write_text(text)
    record = read_record(run)
    assert record.scores == {} and any("no scores" in line for line in record.absent)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "other"]
    assert names_of(paths) == ["a/run", "b/run", "other"]
