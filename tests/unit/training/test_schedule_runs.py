"""Schedules in runs: the rate that is used, annealing on request, and a longer run that goes on from before it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from toys import runs
from toys.loops import loop_of

from mmssl.options import plainyaml
from mmssl.recipe.config import LoopConfig
from mmssl.schedules import Rate, ScheduleConfig
from mmssl.training.loop import Loop
from mmssl.training.optimizer import optimizer_tensors

WSD = ["train.schedule.kind=wsd", "train.warmup=1", "train.log_every=1", "train.save_every=null", "train.keep=1"]


def test_the_rate_of_each_step_is_used_and_logged(tmp_path):
    assert runs.cli(tmp_path, "train.log_every=1", "train.warmup=3", "train.min_lr=1e-5") == 0
    rate = Rate(LoopConfig(lr=1e-3, warmup=3, min_lr=1e-5), 6)
    assert [row["lr"] for row in runs.metrics(tmp_path / "run")] == pytest.approx([rate.at(step) for step in range(6)])


def test_a_longer_run_goes_on_from_before_the_annealing_as_if_there_had_been_none(tmp_path, capsys):
    content = runs.recipe()
    content["masks"]["half"]["ramp"] = {"first": 0.5, "begin": 2, "end": 7}  # in steps, which do not move with the end
    assert runs.cli(tmp_path, *WSD, "train.anneal=2", "train.steps=6", content=content) == 0
    run = tmp_path / "run"
    assert runs.checkpoints(run) == ["step-00000004", "step-00000006"]  # that before it stays, with keep=1 too
    rates = [row["lr"] for row in runs.metrics(run)]
    assert rates == pytest.approx([1e-3] * 5 + [5e-4])
    assert runs.cli(tmp_path, *WSD, "train.anneal=1", "train.steps=8", "--resume", content=content) == 0
    said = capsys.readouterr()
    assert "going back to step-00000004" in said.out + said.err
    assert [row["lr"] for row in runs.metrics(run)] == pytest.approx([1e-3] * 8)
    assert runs.checkpoints(run) == ["step-00000007", "step-00000008"]
    assert runs.cli(tmp_path, *WSD, "train.anneal=1", "train.steps=8", content=content, output="straight") == 0
    runs.assert_same_weights(run, tmp_path / "straight")
    # the same again is done, and without its checkpoint nothing goes on
    assert runs.cli(tmp_path, *WSD, "train.anneal=1", "train.steps=8", "--resume", content=content) == 0
    for file in (run / "checkpoints" / "step-00000007").iterdir():
        file.unlink()
    assert runs.cli(tmp_path, *WSD, "train.anneal=1", "train.steps=9", "--resume", content=content) == 2
    assert "annealed from step 7 on, whose checkpoint is gone" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_killed_while_it_anneals_goes_on_annealing(tmp_path):
    words = [*WSD, "train.anneal=4", "train.steps=6"]
    assert runs.cli(tmp_path, *words, output="straight") == 0
    with runs.killed_at(4):
        runs.cli(tmp_path, *words, "train.save_every=3")
    assert runs.cli(tmp_path, *words, "train.save_every=3", "--resume") == 0
    runs.assert_same_weights(tmp_path / "run", tmp_path / "straight")


def test_weight_decay_goes_by_its_ramp_and_spares_what_it_spares(tmp_path):
    content = runs.recipe(train={"weight_decay": 0.4, "decay_ramp": {"first": 0.1, "end": 1.0}, "warmup": 0})
    loop, _ = loop_of(tmp_path, content)
    before = {id(p): group["decays"] for group in loop.optimizer.param_groups for p in group["params"]}
    for step, decay in ((0, 0.04), (3, 0.22)):
        loop.rates.set(loop.optimizer, step, 0.5)
        for group in loop.optimizer.param_groups:
            assert group["weight_decay"] == pytest.approx(decay * group["decays"])
            assert group["lr"] == pytest.approx(0.5 * loop.rates.rate.at(step))
    assert {True, False} == set(before.values())


def test_infinite_schedules_are_what_the_options_say():
    """The names of a recipe reach the schedule."""
    schedule = ScheduleConfig(kind="infinite", cooldown=2, hold=0.25)
    rate = Rate(LoopConfig(lr=1.0, warmup=1, anneal=2, schedule=schedule), 8)
    assert [rate.at(step) for step in (0, 1, 2, 3, 6, 7)] == pytest.approx([1.0, 1.0, 0.625, 0.25, 0.25, 0.125])


# ------------------------------------------------------------------------------------------------- on other data

INFINITE = {"schedule": {"kind": "infinite", "cooldown": 2, "hold": 0.25}, "warmup": 1, "log_every": 1, "keep": 1}


def mae_and_ramp(**train) -> dict:
    content = runs.recipe(train=INFINITE | {"save_every": None} | train)
    content["objectives"]["mae"]["ramp"] = {"first": 0.5, "end": 1.0}
    return content


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run on some data, annealed in its last two steps."""
    folder = tmp_path_factory.mktemp("first")
    assert runs.cli(folder, content=mae_and_ramp(anneal=2, steps=6)) == 0
    return folder / "run"


def test_the_next_data_are_gone_on_with_from_before_the_annealing_at_the_rate_that_was_held(first, tmp_path, capsys):
    kept = load_file(first / "checkpoints" / "step-00000004" / "weights.safetensors")
    seen = {}

    def look(self, *rest, real=Loop.run):
        seen.update({name: value.clone() for name, value in self.pretraining.state_dict().items()})
        seen["optimizer"] = {k for k, _ in optimizer_tensors(self.pretraining, self.optimizer.optimizer)}
        return real(self, *rest)

    content = mae_and_ramp(steps=3, save_every=2)
    content["data"]["limit"] = 64  # other rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "run", look)
        assert runs.cli(tmp_path, f"train.after={first}", content=content) == 0
    assert "going on from" in capsys.readouterr().out
    assert seen.pop("factors").tolist() == [0.5]  # a ramp begins anew with the run
    assert seen.pop("optimizer") == set(load_file(first / "checkpoints" / "step-00000004" / "optimizer.safetensors"))
    for name, value in seen.items():
        torch.testing.assert_close(value, kept[name], rtol=0, atol=0)
    assert [row["lr"] for row in runs.metrics(tmp_path / "run")] == pytest.approx([2.5e-4] * 3)
    config = plainyaml.read(tmp_path / "run" / "config.yaml")
    assert config["model"]["from"] == config["train"]["after"] == str(first)
    # killed and started again it is the same
    with runs.killed_at(3):
        runs.cli(tmp_path, f"train.after={first}", content=content, output="killed")
    assert runs.cli(tmp_path, f"train.after={first}", "--resume", content=content, output="killed") == 0
    runs.assert_same_weights(tmp_path / "run", tmp_path / "killed")


def test_a_schedule_with_an_end_begins_anew(first, tmp_path):
    content = mae_and_ramp(steps=4, warmup=2, schedule={"kind": "cosine"})
    assert runs.cli(tmp_path, f"train.after={first}", content=content) == 0
    rate = Rate(LoopConfig(lr=1e-3, warmup=2), 4)
    assert [row["lr"] for row in runs.metrics(tmp_path / "run")] == pytest.approx([rate.at(step) for step in range(4)])


REFUSED = [
    (["model.from=elsewhere"], "model.from: found elsewhere beside train.after"),  # before it is looked for
    (["train.optimizer=sgd"], "holds the state of adamw"),
    (["objectives.mae.decoder.width=32"], "does not fit this recipe"),
    (["train.schedule={kind: wsd, cooldown: 0, hold: 0.5}", "train.warmup=0.1"], "train.warmup: found 0.1, a share"),
]


@pytest.mark.parametrize(("words", "line"), REFUSED)
def test_what_does_not_fit_the_run_before_is_refused(words, line, first, tmp_path, capsys):
    assert runs.cli(tmp_path, f"train.after={first}", *words, content=mae_and_ramp(steps=2)) == 2
    assert line in capsys.readouterr().err
