"""`mmssl plan`: what it says of a run against what a run shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toys.own_data import of_kinds, sensors

import mmssl
from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.looking import plan as planning
from mmssl.looking.plan import Plan
from mmssl.training.loop import Loop
from mmssl.training.metrics import Meter
from mmssl.training.trial import Trial, trial

SMALL = {"width": 32, "depth": 2, "heads": 2}
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "image_mae": ("builtin:digits", {}),
    "image_text_clip": ("builtin:digits", {}),
    "text_contrastive": ("table.jsonl", {"text": "text"}),
    "tabular_mae": ("table.jsonl", {"tabular": "tabular"}),
    "series_mae": ("sensors", {"series": "series"}),
}
"""Recipe -> (its data, the kinds of columns that are written for it)."""


def data_for(recipe: str, folder: Path) -> str:
    name, kinds = KINDS[recipe]
    if name.startswith("builtin:"):
        return name
    if recipe == "series_mae":
        sensors(folder / "sensors")
        return str(folder / "sensors")
    return str(folder / of_kinds(folder, kinds, count=40))


def planned(recipe: str, folder: Path, **more: Any) -> Plan:
    overrides = {
        "data": {"path": data_for(recipe, folder), "limit": 60},
        "train": {"batch_size": 8 if recipe == "series_mae" else 12},
    }
    return mmssl.plan(recipe, steps=3, **overrides, **more)


def test_the_parts_of_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = planned("image_mae", tmp_path, model={"towers": {"image": SMALL}})
    t = found.trial
    run = mmssl.pretrain(
        "image_mae",
        output=tmp_path / "run",
        data={"path": "builtin:digits", "limit": 60},
        train={"batch_size": 12, "steps": 2, "trackers": [], "save_every": 1},
        model={"towers": {"image": SMALL}},
        evaluation={"tasks": []},
    )
    assert t.parameters == sum(p.numel() for p in run.model.parameters())
    assert t.gradients == 4 * t.trained and t.optimizer >= 1.9 * t.gradients and t.weights >= t.gradients
    assert found.rows == 60 and found.steps == 1000 and found.epochs == 1000 / 5
    files = list((run.folder / "checkpoints").rglob("*.safetensors"))
    one = sum(path.stat().st_size for path in files) / len({path.parent for path in files})
    assert abs(found.checkpoint - one) < 0.1 * one
    weights = sum(path.stat().st_size for path in run.model_folder.glob("*.safetensors"))
    assert abs(found.model - weights) < 0.1 * weights
    assert len(t.seconds) == 2 and all(seconds > 0 for seconds in t.seconds) and t.flops and t.tokens == 12 * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"], "a plan writes nothing"
    assert set(found.others) == set(planning.DEVICES) == set(planning.LINKS)
    assert all([one["count"] for one in of] == [1, 2, 4] and of[0]["fits"] for of in found.others.values()), "of 12"
    said = "\n".join(found.lines())
    assert "exports to" in said and "vit_mae" in said and f"{t.parameters:,}" in said
    json.dumps(found.plain())


def test_flops_and_activations_grow_with_the_batch(tmp_path: Path) -> None:
    one = planned("image_mae", tmp_path, model={"towers": {"image": SMALL}}).trial
    two = mmssl.plan(
        "image_mae",
        steps=2,
        data={"path": "builtin:digits", "limit": 60},
        train={"batch_size": 24},
        model={"towers": {"image": SMALL}},
    ).trial
    assert two.flops == pytest.approx(2 * (one.flops or 0), rel=0.02)
    assert two.activations == pytest.approx(2 * one.activations, rel=0.1) and two.weights == one.weights


def measured(loop: Loop, batches: Any) -> int:
    """Bytes that the allocator handed out within a step and had not got back, at most."""
    from torch.profiler import ProfilerActivity, profile

    loop._gradients(stream := batches(0), 9, Meter())
    loop._update(9)
    loaded = iter([next(stream)])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        loop._gradients(loaded, 10, Meter())
        loop._update(10)
    assert seen.profiler is not None and seen.profiler.kineto_results is not None
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    "recipe", [name if name == "image_mae" else pytest.param(name, marks=pytest.mark.slow) for name in KINDS]
)
def test_memory_is_what_a_step_takes(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 15 % of the allocator's own count, of five recipes as they are shipped."""
    seen: list[int] = []

    def watched(loop: Loop, batches: Any, steps: int, advance: Any) -> Trial:
        found = trial(loop, batches, steps, advance)
        seen.append(measured(loop, batches) + found.weights + found.optimizer + found.batch)
        return found

    monkeypatch.setattr(planning, "trial", watched)
    assert planned(recipe, tmp_path).trial.peak == pytest.approx(seen[0], rel=0.15)
    assert torch.is_grad_enabled()


def test_of_several_gpus_each_has_its_share_and_all_wait_for_the_sum_of_gradients() -> None:
    t = Trial(
        seconds=[1.0], flops=4_000 * 10**12, weights=400, gradients=8 * 10**9, optimizer=100, batch=8, parameters=1
    )
    t.activations = 96 * 10**9
    found = Plan("x", 64, 10, 1.0, 64, 1, "cpu", t, 0, "", 1, 1, 1)
    one, two, four, eight = planning._elsewhere(found)["H100"]
    assert one["seconds"] == pytest.approx(10 * 4_000 / (0.3 * 989))
    ring = 10 * 2 * 0.5 * 8 / (0.5 * 450)
    assert two["count"] == 2 and two["seconds"] == pytest.approx(one["seconds"] / 2 + ring)
    assert one["memory"] == 508 + 48 * 10**9 and two["memory"] == 504 + 32 * 10**9
    assert eight["memory"] == 501 + 16 * 10**9 and four["fits"]
    small = planning._elsewhere(found)["T4"]
    assert [of["fits"] for of in small] == [False] * 4
    found.others = {"T4": small}
    assert "48 GB each do not fit" in found.lines()[-1] and "on 1, 2, 4 and 8 of them" in found.lines()[-2]
    small[3]["fits"] = True
    assert found.lines()[-1].endswith("on 1, 2 and 4")
    found.batch_size, found.accumulation = 6, 3
    assert [of["count"] for of in planning._elsewhere(found)["T4"]] == [1, 2]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["plan", "image_mae", "data.path=builtin:digits", "data.limit=40", "train.batch_size=8", "--steps", "2"]
    small = [f"model.towers.image.{key}={value}" for key, value in SMALL.items()]
    assert main([*words, *small]) == 0
    assert "about" in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["image_may"], "image_mae"),
        (["image_mae"], "data.path"),
        (["image_mae", "train.lr=no", "data.path=x"], "train.lr"),
    ],
)
def test_bad_input(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_trial_has_two_steps(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 2"):
        mmssl.plan("image_mae", steps=1, data={"path": "builtin:digits"})
