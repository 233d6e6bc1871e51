"""`mmssl tune`: each trial an ordinary run, a study that goes on as if never stopped, the best one as a recipe."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from toys import runs
from toys.refusals import refused

from mmssl.cli import main
from mmssl.errors import RunError, TimeUp
from mmssl.recipe.config import GuardConfig
from mmssl.recipe.loading import load_recipe
from mmssl.training.observers import Moment
from mmssl.tuning import tune as tuning
from mmssl.tuning.scores import Judge
from mmssl.tuning.space import Space, space_of
from mmssl.tuning.study import next_trial, open_study, tell, values_of
from mmssl.tuning.tune import Wanted, run_tuning
from mmssl.tuning.watching import Watch

pytest.importorskip("optuna")
SEARCH = {"train.lr": "log(1e-4,1e-2)", "masks.half.ratio": [0.25, 0.75]}


@dataclass
class Done:
    folder: Path
    model: None = None
    processor: None = None


class Fake:
    """Stands for training: a run's folder with its recipe; its score is its learning rate. stops: trial -> error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stops: dict[int, BaseException] | None = None) -> None:
        self.stops, self.ran = stops or {}, []
        monkeypatch.setattr(tuning, "run_pretraining", self.run)
        monkeypatch.setattr(tuning, "try_values", lambda _: None)
        monkeypatch.setattr(Judge, "__call__", lambda _, recipe, *rest: {"rankme": recipe.train.lr, "alpha": 1.0})

    def run(self, asked: Any, *, output: Path, resume: str, watched_by: list[Any]) -> Done:
        assert resume == "auto"
        number = int(output.name)
        self.ran.append(number)
        (output / "checkpoints").mkdir(parents=True, exist_ok=True)
        error = self.stops.pop(number, None)
        if error is not None:
            raise error
        tuning.write_config(output / "config.yaml", asked.recipe())
        return Done(output)


def wanted(trials: int = 6, search: dict[str, object] | None = None, **more: Any) -> Wanted:
    fixed = {"data": {"path": "builtin:digits", "limit": 40}}
    return Wanted(runs.recipe(), fixed, space_of(SEARCH if search is None else search), trials, **more)


def values(study: Any, space: Space | None = None) -> list[tuple[Any, ...]]:
    return [tuple(row[key] for key in SEARCH) for row in study.trials]


def test_the_best_trial_becomes_a_recipe_and_all_are_in_the_table(tmp_path, monkeypatch) -> None:
    fake = Fake(monkeypatch)
    found = run_tuning(wanted(), output=tmp_path / "study")
    assert fake.ran == list(range(6)) and len(set(values(found))) == 6
    best = max(range(6), key=lambda n: found.trials[n]["train.lr"])
    assert found.best == best and load_recipe(found.recipe).train.lr == found.values["train.lr"]
    assert load_recipe(found.recipe).masks["half"].config.ratio == found.values["masks.half.ratio"]
    rows = list(csv.DictReader((tmp_path / "study" / "trials.csv").open()))
    assert [float(row["rankme"]) for row in rows] == [float(row["train.lr"]) for row in rows]
    assert {row["state"] for row in rows} == {"complete"} and "(best)" in repr(found)
    assert not list((tmp_path / "study" / "trials").glob("*/checkpoints"))


@pytest.mark.parametrize("search", [SEARCH, {"masks.half.ratio": [0.2, 0.4, 0.6, 0.8], "train.lr": [1e-3, 2e-3]}])
def test_a_study_that_is_killed_goes_on_as_if_never_stopped(tmp_path, monkeypatch, search) -> None:
    alone = run_tuning_with(monkeypatch, None, wanted(search=search), tmp_path / "alone")
    fake = Fake(monkeypatch, {2: runs.Killed(), 4: KeyboardInterrupt()})
    with pytest.raises(runs.Killed):
        run_tuning(wanted(search=search), output=tmp_path / "study")
    with pytest.raises(KeyboardInterrupt):
        run_tuning(wanted(search=search), output=tmp_path / "study", resume=True)
    found = run_tuning(wanted(search=search), output=tmp_path / "study", resume="auto")
    assert fake.ran == [0, 1, 2, 2, 3, 4, 4, 5], "finished trials are kept, the one in flight is gone on with"
    assert values(found) == values(alone) and found.best == alone.best
    more = run_tuning(wanted(8, search=search), output=tmp_path / "study", resume=True)
    assert values(more)[:6] == values(alone) and fake.ran[8:] == [6, 7]


def run_tuning_with(monkeypatch, stops, asked: Wanted, folder: Path) -> Any:
    Fake(monkeypatch, stops)
    return run_tuning(asked, output=folder)


def test_all_combinations_are_run_once_and_no_more(tmp_path, monkeypatch) -> None:
    fake = Fake(monkeypatch)
    found = run_tuning(wanted(50, {"masks.half.ratio": [0.2, 0.8], "train.lr": [1e-3, 2e-3]}), output=tmp_path / "s")
    assert fake.ran == [0, 1, 2, 3] and len(set(values(found))) == 4
    assert found.values["train.lr"] == 2e-3


def test_what_ends_one_trial_is_told_and_the_others_go_on(tmp_path, monkeypatch) -> None:
    stops = {1: RunError("the loss is nan at step 3"), 2: RuntimeError("CUDA out of memory")}
    found = run_tuning_with(monkeypatch, stops, wanted(4), tmp_path / "study")
    assert [row["state"] for row in found.trials] == ["complete", "fail", "fail", "complete"]
    assert found.trials[1]["reason"] == "the loss is nan at step 3" and "out of memory" in found.trials[2]["reason"]
    stops = dict.fromkeys(range(2), RunError("all alike"))
    with pytest.raises(RunError, match="none of 2 trials came to its end: all alike"):
        run_tuning_with(monkeypatch, stops, wanted(2), tmp_path / "lost")
    with pytest.raises(TimeUp):
        run_tuning_with(monkeypatch, {0: TimeUp("over")}, wanted(2), tmp_path / "late")
    with pytest.raises(ValueError, match="a mistake of ours"):
        run_tuning_with(monkeypatch, {0: ValueError("a mistake of ours")}, wanted(2), tmp_path / "wrong")


def test_another_study_is_not_gone_on_with(tmp_path, monkeypatch) -> None:
    Fake(monkeypatch)
    with refused("there is no study in"):
        (tmp_path / "empty").mkdir()
        run_tuning(wanted(1), output=tmp_path / "empty", resume=True)
    run_tuning(wanted(1), output=tmp_path / "s")
    with refused("holds a run already"):
        run_tuning(wanted(1), output=tmp_path / "s")
    with refused("seed", "space", "--resume"):
        run_tuning(wanted(2, {"train.lr": "log(1e-4,1e-3)"}, seed=1), output=tmp_path / "s", resume=True)


def no_looks() -> dict[str, Any]:
    """A recipe without masks and views."""
    out = runs.image_text()
    return {**out, "masks": {}, "objectives": {"clip": out["objectives"]["clip"]}}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"by": "rank"}, "did you mean 'rankme'"),
        ({"trials": 0}, "--trials"),
        ({"samples": 1}, "--samples"),
        ({"seed": -1}, "--seed"),
        ({"by": "probe", "config": runs.recipe(evaluation={"label": "colour"})}, "no column 'colour'"),
        ({"by": "lidar", "config": no_looks(), "space": space_of({"train.lr": [1e-3]})}, "neither views nor masks"),
        ({"fixed": {"data": {"path": "no/such/folder"}}}, "no/such/folder"),
    ],
)
def test_what_would_stop_every_trial_is_refused_before_the_first(tmp_path, monkeypatch, more, said) -> None:
    monkeypatch.setattr(tuning, "run_pretraining", pytest.fail)
    asked = wanted()
    with refused(said):
        run_tuning(Wanted(**{**vars(asked), **more}), output=tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_value_that_no_run_begins_with_is_found_before_the_first_trial(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tuning, "run_pretraining", pytest.fail)
    search = {"data.columns.image": ["image", "nosuch"], "train.lr": [1e-3, 1e-2]}
    with refused('data.columns.image="nosuch" train.lr=0.001:', "has no column 'nosuch'"):
        run_tuning(wanted(search=search), output=tmp_path / "study")
    assert not list(tmp_path.iterdir())


def test_several_processes_and_a_missing_optuna_are_refused(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with refused("2 processes"):
        run_tuning(wanted(), output=tmp_path / "study")
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", "quickstart", "train.lr=[1e-3,1e-2]", "--output", str(tmp_path / "study")]) == 2
    assert "pip install 'mmssl[tune]'" in capsys.readouterr().err and not (tmp_path / "study").exists()


def test_a_trial_that_collapses_or_falls_behind_ends(tmp_path) -> None:
    asked = wanted()
    study = open_study(tmp_path, asked)
    for _ in range(4):  # as many as are run before any is judged by the others
        trial = next_trial(study, asked)
        assert trial is not None and values_of(trial, asked.space)
        watch = Watch(trial, "rankme", GuardConfig())
        assert all(watch.note(moment(step, rank=5.0 + step), {}) is None for step in (2, 4, 6))
        tell(study, trial, "complete", {"rankme": 1.0}, {}, "rankme")
    trial = next_trial(study, asked)
    behind = Watch(trial, "rankme", None)
    assert behind.note(moment(1, rank=1.0), {}) is None, "not within the first quarter"
    assert behind.note(moment(4, rank=9.5), {}) is None
    verdict = behind.note(moment(6, rank=8.0), {})
    assert verdict is not None and verdict.action == "stop" and "below the median" in str(behind.reason)
    collapsed = Watch(trial, "lidar", GuardConfig())
    assert collapsed.note(moment(2, rank=2.0, std=0.5), {}) is None
    assert collapsed.note(moment(4, rank=9.0, std=0.001), {}) is None, "the guard's patience"
    assert collapsed.note(moment(6, rank=9.0, std=0.001), {}) is not None and "std_mean" in str(collapsed.reason)
    assert Watch(trial, "lidar", None).note(moment(6, rank=0.5), {}) is None, "RankMe stands for no other score"


def moment(step: int, rank: float, std: float = 0.9) -> Moment:
    measured = {"health/image/rankme": rank, "health/image/std_mean": std}
    return Moment(step, 8, measured=measured, loss=1.0)


@pytest.mark.slow
def test_a_real_study_from_the_command_line(tmp_path, capsys) -> None:
    recipe = runs.write(tmp_path, runs.recipe(train={"health_every": 2, "health_samples": 32}))
    words = ["tune", str(recipe), "train.lr=log(1e-4,1e-2)", "masks.half.ratio=[0.25,0.75]", "--trials", "2"]
    assert main([*words, "--by", "probe", "--label", "label", "--output", str(tmp_path / "study")]) == 0
    said = capsys.readouterr().out
    assert "(best)" in said and "best.yaml" in said
    rows = list(csv.DictReader((tmp_path / "study" / "trials.csv").open()))
    for row in rows:
        assert 0 < float(row["probe"]) <= 1 and float(row["lidar"]) > 1 and float(row["rankme"]) > 1
        assert float(row["alpha-req"]) == pytest.approx(-abs(float(row["alpha"]) - 1))
        run = tmp_path / "study" / "trials" / f"{int(row['trial']):03d}"
        assert load_recipe(run / "config.yaml").train.lr == float(row["train.lr"])
        assert (run / "model" / "README.md").is_file() and runs.losses(run)
    assert rows[0]["rankme"] != rows[1]["rankme"]
    assert main(["pretrain", str(tmp_path / "study" / "best.yaml"), "--output", str(tmp_path / "run")]) == 0
    best = max(rows, key=lambda row: float(row["probe"]))
    assert runs.losses(tmp_path / "run") == runs.losses(tmp_path / "study" / "trials" / f"{int(best['trial']):03d}")
    assert json.loads((tmp_path / "study" / "tune.json").read_text())["by"] == "probe"


@pytest.mark.slow
def test_a_real_run_that_the_guard_would_stop_is_pruned(tmp_path) -> None:
    recipe = runs.write(tmp_path, runs.recipe(train={"health_every": 1, "health_samples": 32}))
    words = ["tune", str(recipe), "train.guard.min_rank=[1.1,50]", "--trials", "2", "--output", str(tmp_path / "study")]
    assert main(words) == 0
    rows = {row["train.guard.min_rank"]: row for row in csv.DictReader((tmp_path / "study" / "trials.csv").open())}
    assert rows["1.1"]["state"] == "complete" and rows["50"]["state"] == "pruned" and "min_rank" in rows["50"]["reason"]
    assert load_recipe(tmp_path / "study" / "best.yaml").train.guard.min_rank == 1.1
