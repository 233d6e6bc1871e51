"""The collapse guard: when it speaks, and what a run does then."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toys import runs

from benchmarks import guard_thresholds
from mmssl.recipe.config import GuardConfig
from mmssl.training.guard import Guard
from mmssl.training.loop import Loop
from mmssl.training.observers import Verdict

QUIET = {"min_rank": None, "min_std": None}


def health(rank: float | None = 5.0, std: float | None = 0.5) -> dict[str, float | None]:
    return {"health/image/rankme": rank, "health/image/std_mean": std, "health/image/norm": 1.0}


def spoken(config: GuardConfig, ranks: list[float]) -> list[bool]:
    guard = Guard(config)
    return [guard.check(step, 1.0, health(rank)) is not None for step, rank in enumerate(ranks)]


def test_patience_counts_bad_checks_in_a_row():
    ranks = [5, 1, 5, 1, 1, 1, 5, 1, 1]
    assert spoken(GuardConfig(min_rank=2, patience=2), ranks) == [i in (4, 8) for i in range(9)]
    assert spoken(GuardConfig(min_rank=2, patience=2, action="stop"), ranks) == [i in (4, 5, 8) for i in range(9)]
    assert spoken(GuardConfig(min_rank=2, patience=1), ranks) == [i in (1, 3, 7) for i in range(9)]


def test_a_fall_is_measured_against_the_best():
    config = GuardConfig(drop_share=0.5, patience=1, action="stop")
    assert spoken(config, [4, 10, 6, 5, 4.9, 12, 6.1, 5.9]) == [i in (4, 7) for i in range(8)]


def test_thresholds_are_named_and_what_is_not_finite_is_a_fault():
    guard = Guard(GuardConfig(min_std=0.1, patience=1))
    fault = guard.check(1, 1.0, health(std=0.05))
    assert fault is not None and "health/image/std_mean is 0.05, below train.guard.min_std = 0.1" in fault
    assert guard.healthy is False
    assert guard.check(2, 1.0, {}) is None and guard.healthy is False  # nothing was measured
    assert guard.check(3, 1.0, health()) is None and guard.healthy is True
    fault = Guard(GuardConfig(patience=1)).check(1, 1.0, health(None, None))
    assert fault is not None and "not finite" in fault


def test_a_codebook_that_is_hardly_used_is_a_fault():
    guard = Guard(GuardConfig(patience=1, min_codes=0.1))
    key = "health/units/audio/codes_perplexity"
    assert guard.check(1, 1.0, health() | {key: 0.11, "health/units/audio/codes_used": 0.01}) is None
    fault = guard.check(2, 1.0, health() | {key: 0.09})
    assert fault is not None and f"{key} is 0.09, below train.guard.min_codes = 0.1" in fault
    assert Guard(GuardConfig(patience=1, min_codes=None)).check(1, 1.0, health() | {key: 0.0}) is None


def test_a_jump_of_the_loss_is_measured_in_median_deviations():
    falling = [3 - 0.1 * i for i in range(10)]  # median 2.55, deviations' median 0.25
    limit = 2.55 + 4 * 1.4826 * 0.25
    for last, wrong in ((limit + 0.01, True), (limit - 0.01, False), (-5.0, False), (math.inf, True)):
        guard = Guard(GuardConfig(spike=4))
        assert [guard.check(i, loss, {}) for i, loss in enumerate(falling)] == [None] * 10
        assert (guard.check(10, last, {}) is not None) == wrong, last
    guard = Guard(GuardConfig(spike=4))
    assert [guard.check(i, loss, {}) for i, loss in enumerate([1.0] * 7 + [50.0])] == [None] * 8  # too few to tell


def test_its_state_survives_json():
    config = GuardConfig(drop_share=0.5, patience=2, spike=3)
    guard, twin = Guard(config), Guard(config)
    for step, rank in enumerate([8, 9, 4]):
        guard.check(step, 1 / (step + 1), health(rank))
    twin.load_state_dict(json.loads(json.dumps(guard.state_dict())), {})
    assert twin.state_dict() == guard.state_dict() and twin.best == {"health/image/rankme": 9}
    assert guard.check(3, 1.0, health(4)) == twin.check(3, 1.0, health(4)) is not None


# -------------------------------------------------------------------------------------------------------------- runs


def collapsing(**guard: Any) -> dict[str, Any]:
    """Plain L2 between two views: the spread of the embeddings goes to zero."""
    content = runs.recipe(train={"steps": 40, "save_every": 5, "health_every": 5, "lr": 3e-3, "keep": 1, "warmup": 0})
    content["model"]["towers"]["image"].pop("dropout")
    content["views"] = {name: {"image": {"crop_scale": [0.3, 1.0]}} for name in ("a", "b")}
    content["objectives"] = {"pull": {"type": "toys.collapse", "tower": "image"}}
    content["train"]["guard"] = {"min_std": 0.08, "min_rank": None, "patience": 1, **guard}
    return content


def states(run: Path) -> dict[int, dict[str, Any]]:
    read = [json.loads(path.read_text()) for path in (run / "checkpoints").glob("step-*/state.json")]
    return {state["step"]: state for state in read}


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {**load_file(folder / "weights.safetensors"), **load_file(folder / "optimizer.safetensors")}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert set(a) == set(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_healthy_run_is_left_alone(tmp_path, caplog):
    words = ["train.health_every=1", "train.guard.action=stop", "train.guard.patience=1", "train.guard.drop_share=0.9"]
    assert runs.cli(tmp_path, *words) == 0
    assert "train.guard" not in caplog.text
    assert {step: state["healthy"] for step, state in states(tmp_path / "run").items()} == {4: True, 6: True}


def test_a_collapse_is_warned_of_once_and_the_training_goes_on(tmp_path, caplog):
    assert runs.cli(tmp_path, content=collapsing()) == 0
    rows = runs.metrics(tmp_path / "run")
    stds = [row["health/image/std_mean"] for row in rows if "health/image/std_mean" in row]
    assert stds[0] > 0.08 > stds[-1] and rows[-1]["loss"] < rows[0]["loss"] / 5
    (warning,) = [r.getMessage() for r in caplog.records if "train.guard.action is warn" in r.getMessage()]
    assert "health/image/std_mean is 0.0" in warning
    assert "Collapse guard: after step" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_a_collapse_stops_the_run_with_a_checkpoint_and_one_line(tmp_path, capsys):
    assert runs.cli(tmp_path, content=collapsing(action="stop")) == 1
    (line,) = runs.errors(capsys.readouterr().err)
    rows, kept = runs.metrics(tmp_path / "run"), states(tmp_path / "run")
    last = rows[-1]["step"]
    assert 5 < last < 40 and rows[-1]["health/image/std_mean"] < 0.08
    # keep = 1, and the last healthy one stays
    assert {step: state["healthy"] for step, state in kept.items()} == {last - 5: True, last: False}
    assert f"stopped by train.guard after step {last}: health/image/std_mean is" in line
    assert f"the last healthy one is step-{last - 5:08d}" in line
    assert not (tmp_path / "run" / "model").exists()


def test_a_collapse_is_rolled_back_bitwise_with_a_lower_rate_and_other_draws_and_stops_in_the_end(
    tmp_path, capsys, caplog, monkeypatch
):
    """Straight, and killed after the first rollback and resumed: both the same to the last bit."""
    content = collapsing(action="rollback", rollbacks=2, lr_factor=0.9)
    content["train"]["log_every"] = 1
    back, first = [], {}
    go_back, save, gradients = Loop._go_back, Loop.save, Loop._gradients

    def tensors(loop: Loop) -> dict[str, torch.Tensor]:
        out = {f"w/{k}": v.clone() for k, v in loop.pretraining.state_dict().items()}
        for name, p in loop.pretraining.named_parameters():
            out |= {f"{name}/{k}": v.clone() for k, v in loop.optimizer.optimizer.state.get(p, {}).items()}
        return out

    def saved(loop: Loop, step: int, healthy: bool | None = None, beside: bool = False) -> None:
        save(loop, step, healthy, beside)
        if healthy and step not in first:
            first[step] = tensors(loop)

    def gone_back(loop: Loop, step: int, verdict: Verdict) -> int:
        at = go_back(loop, step, verdict)
        assert_equal(tensors(loop), first[at])
        assert max(states(tmp_path / "straight")) == at  # what came after is gone
        back.append((step, at))
        return at

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "save", saved)
        patch.setattr(Loop, "_go_back", gone_back)
        assert runs.cli(tmp_path, content=content, output="straight") == 1
    (line,) = runs.errors(capsys.readouterr().err)
    assert "and 2 rollbacks: health/image/std_mean is" in line
    assert len(back) == 2 and all(at < step for step, at in back)
    said = [r.getMessage() for r in caplog.records if "rollback 1 of at most 2" in r.getMessage()]
    assert len(said) == 1 and "learning rate times 0.9" in said[0]
    rows = runs.metrics(tmp_path / "straight")
    assert [row["step"] for row in rows] == list(range(1, rows[-1]["step"] + 1))  # no line twice
    assert rows[-1]["guard/rollbacks"] == 2

    class Killed(BaseException):
        """A process that is killed writes nothing more."""

    def killed(loop: Loop, stream: Any, step: int, meter: Any) -> None:
        if loop.course.rollbacks == 1 and step == back[0][1] + 2:
            raise Killed
        gradients(loop, stream, step, meter)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Loop, "_gradients", killed)
        runs.cli(tmp_path, content=content, output="split")
    state = states(tmp_path / "split")[back[0][1]]
    assert state["course"]["rollbacks"] == 1 and state["healthy"]
    assert state["course"]["skipped"] == back[0][0] - back[0][1]
    assert runs.cli(tmp_path, "--resume", content=content, output="split") == 1
    last = rows[-1]["step"]
    assert_equal(weights(tmp_path / "straight", last), weights(tmp_path / "split", last))
    assert runs.losses(tmp_path / "split") == runs.losses(tmp_path / "straight")


def test_a_loss_that_is_not_finite_goes_back_too(tmp_path, caplog, monkeypatch):
    """Once: the batches after the rollback are others and do it no more."""
    content = runs.recipe(train={"health_every": 2, "guard": {"action": "rollback", **QUIET}, "log_every": 1})
    real, broken = Loop._gradients, []

    def gradients(loop: Loop, stream: Any, step: int, meter: Any) -> None:
        real(loop, stream, step, meter)
        if step == 2 and not broken:
            broken.append(step)
            meter.parts[""] = meter.parts[""] * math.nan
            for p in loop.pretraining.parameters():
                p.data.mul_(math.nan)

    monkeypatch.setattr(Loop, "_gradients", gradients)
    assert runs.cli(tmp_path, content=content) == 0
    assert "the loss is nan; back to step 2 with the learning rate times 0.5" in caplog.text
    assert [row["step"] for row in runs.metrics(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    for tensor in weights(tmp_path / "run", 6).values():
        assert torch.isfinite(tensor).all()


def test_the_defaults_stop_every_measured_collapse_and_no_run_that_learned():
    """Over the recorded health of `benchmarks.guard_thresholds`, with a little room on both sides."""
    runs = guard_thresholds.collect()
    collapsed = [run for run in runs if run["collapsed"]]
    healthy = [run for run in runs if not run["collapsed"]]
    assert len(collapsed) > 1 and len(healthy) > 10
    assert all(guard_thresholds.stopped(run) for run in collapsed)
    assert not any(guard_thresholds.stopped(run) for run in healthy)
    threshold = GuardConfig().min_std
    assert max(max(run["std_mean"]) for run in collapsed) * 1.1 < threshold
    assert min(min(run["std_mean"]) for run in healthy) > threshold * 1.1
