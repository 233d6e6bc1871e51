"""`train.keep_best`: the best checkpoint stays, is exact over resumption, and the model can be of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toys import runs
from toys.refusals import refused

from mmssl.errors import UserError
from mmssl.recipe.loading import load_recipe
from mmssl.training import preparing
from mmssl.training.best import KeepBest
from mmssl.training.observers import Moment


def note(best: KeepBest, step: int, last: int = 100, **seen: Any) -> bool:
    """Whether it has a checkpoint written."""
    moment = Moment(step, last, logs=True, loss=seen.pop("loss", 1.0), healthy=seen.pop("healthy", None))
    moment.measured = {key.replace("_", "/"): value for key, value in seen.items()}
    assert best.due(moment)
    best.note(moment, {})
    return moment.saves


def test_the_loss_is_best_where_it_is_least_and_a_score_where_it_is_most():
    loss = KeepBest("loss")
    assert [note(loss, n, loss=v) for n, v in enumerate((2.0, 3.0, 1.0, float("nan"), 1.0), 1)] == [
        *(True, False, True, False, False)
    ]
    assert (loss.best, loss.step) == (1.0, 3)
    score = KeepBest("probe/image/knn")
    assert [note(score, n, probe_image_knn=v) for n, v in enumerate((0.5, 0.4, None, 0.6), 1)] == [
        *(True, False, False, True)
    ]
    part = KeepBest("loss/clip")
    part.note(Moment(1, 9, logs=True, loss=1.0, parts={"loss/clip": 2.0}), {})
    part.note(Moment(2, 9, logs=True, loss=9.0, parts={"loss/clip": 0.5}), {})
    assert (part.best, part.step) == (0.5, 2), "the least, whatever the whole loss does"
    with pytest.raises(UserError, match=r"^train.keep_best: found 'loss/clap', .* 'loss/clip'\?$"):
        KeepBest("loss/clap").note(Moment(1, 9, logs=True, loss=1.0, parts={"loss/clip": 2.0}), {})
    assert not note(score, 5, probe_image_knn=0.9, healthy=False), "what has collapsed is not kept"
    assert not note(score, 6), "not measured at this step"
    assert not note(score, 100, probe_image_knn=0.9) and score.step == 100, "the last one is written anyway"
    assert not score.due(Moment(4, 9)) and not score.due(Moment(0, 9, logs=True))
    again, other = KeepBest("probe/image/knn"), KeepBest("loss")
    for one in (again, other):
        one.load_state_dict(score.state_dict(), {})
    assert (again.best, again.step, other.best) == (0.9, 100, None)
    with pytest.raises(UserError, match=r"^train.keep_best: found 'probe/image/knm', .* 'probe/image/knn'\?$"):
        note(KeepBest("probe/image/knm"), 1, probe_image_knn=0.5)


def test_what_is_not_measured_is_refused():
    for value, fact in (("probe/image/knn", "train.probe_every"), ("accuracy", "probe/MODALITY/TASK")):
        with refused("train.keep_best", value, fact):
            load_recipe(runs.recipe(), [f"train.keep_best={value}"])
    load_recipe("quickstart", ["train.keep_best=loss/clip"])
    with refused("train.keep_best", "loss/clap", "loss/ and one of clip"):
        load_recipe("quickstart", ["train.keep_best=loss/clap"])
    with refused("train.keep_best_model", "no effect"):
        load_recipe(runs.recipe(), ["train.keep_best_model=true"])


SCORES = {1: 0.2, 2: 0.9, 3: 0.1, 4: 0.3, 5: 0.4, 6: 0.5}


def probed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A run whose probe says `SCORES`, best after the second step of six."""
    monkeypatch.setattr(preparing, "load_labelled", lambda *_, **__: None)
    monkeypatch.setattr(preparing.OnlineProbe, "look", lambda self, moment: {"probe/image/knn": SCORES[moment.step]})
    content = runs.recipe(train={"log_every": 1, "save_every": None, "keep": 1, "probe_every": 1})
    content["train"] |= {"keep_best": "probe/image/knn", "keep_best_model": True}
    content["evaluation"]["label"] = "label"
    return content


def test_the_best_checkpoint_stays_and_the_model_is_of_it(tmp_path: Path, monkeypatch, capsys):
    content = probed(monkeypatch)
    assert runs.cli(tmp_path, content=content) == 0
    run = tmp_path / "run"
    assert runs.checkpoints(run) == ["step-00000002", "step-00000006"]
    assert "best was step-00000002: the model gets its weights" in capsys.readouterr().out
    best = load_file(run / "checkpoints" / "step-00000002" / "weights.safetensors")
    for name, value in load_file(run / "model" / "model.safetensors").items():
        assert torch.equal(value, best[f"model.{name}"]), name


@pytest.mark.slow
def test_a_run_killed_behind_its_best_checkpoint_keeps_it(tmp_path: Path, monkeypatch):
    content = probed(monkeypatch)
    assert runs.cli(tmp_path, content=content) == 0
    with runs.killed_at(5):
        runs.cli(tmp_path, "train.save_every=4", content=content, output="killed")
    assert runs.checkpoints(tmp_path / "killed") == ["step-00000002", "step-00000004"]
    assert runs.cli(tmp_path, "train.save_every=4", "--resume", content=content, output="killed") == 0
    assert runs.checkpoints(tmp_path / "killed") == ["step-00000002", "step-00000006"]
    state = json.loads((tmp_path / "killed" / "checkpoints" / "step-00000006" / "state.json").read_text())
    assert state["keep_best"] == {"key": "probe/image/knn", "value": 0.9, "step": 2}
    runs.assert_same_weights(tmp_path / "killed", tmp_path / "run")
