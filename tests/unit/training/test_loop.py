"""The one training loop: exact resumption, schedule, groups, precision, what it writes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import runs
from toys.loops import loop_of

from mmssl.training.loop import Loop
from mmssl.training.metrics import TIMED, Meter
from mmssl.training.optimizer import make_optimizer, no_decay_names

# ----------------------------------------------------------------------------------------------------------- resume

CASES = {
    "dropout": runs.recipe(),
    "accumulation": runs.recipe(train={"accumulation": 2}),
    "image and text": runs.image_text(),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_stopped_at_a_checkpoint_and_resumed_equals_a_straight_one(tmp_path, case):
    content = CASES[case]
    assert runs.cli(tmp_path, content=content, output="straight") == 0

    with runs.killed_at(6):
        runs.cli(tmp_path, content=content)
    run = tmp_path / "run"
    assert runs.checkpoints(run) == ["step-00000002", "step-00000004"]
    assert sorted(runs.losses(run)) == [2, 4, 6]
    assert runs.cli(tmp_path, "--resume", content=content) == 0
    runs.assert_same_weights(run, tmp_path / "straight")
    timeless = [{k: v for k, v in row.items() if k not in TIMED} for row in runs.metrics(run)]
    assert [row["step"] for row in timeless] == [2, 4, 6]  # the line of step 6 stands once
    for row, straight in zip(timeless, runs.metrics(tmp_path / "straight"), strict=True):
        assert row == {k: straight[k] for k in row}


@pytest.fixture
def heard() -> Iterator[None]:
    """Signals as on a terminal: a job started in the background (as CI may) ignores SIGINT, and so does the loop."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


RARELY_SAVED = runs.recipe(train={"save_every": 5})


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `RARELY_SAVED` that nothing interrupts."""
    folder = tmp_path_factory.mktemp("straight")
    assert runs.cli(folder, content=RARELY_SAVED) == 0
    return folder / "run"


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["_gradients", "_update", "save"])
def test_an_interrupted_run_writes_a_checkpoint_and_goes_on_exactly(
    straight, tmp_path, number, moment, monkeypatch, capsys
):
    real = getattr(Loop, moment)
    calls = 0

    def interrupted(self: Loop, *rest: Any) -> Any:
        nonlocal calls
        calls += 1
        out = real(self, *rest)
        if calls == (1 if moment == "save" else 3):
            os.kill(os.getpid(), number)
        return out

    with monkeypatch.context() as patch:
        patch.setattr(Loop, moment, interrupted)
        assert runs.cli(tmp_path, content=RARELY_SAVED) == 130
    run = tmp_path / "run"
    # the third step: before its update the checkpoint is of step 2, after it of step 3; the save is that of step 5
    assert runs.checkpoints(run) == [f"step-{ ({'_gradients': 2, '_update': 3, 'save': 5}[moment]):08}"]
    assert runs.cli(tmp_path, "--resume", content=RARELY_SAVED) == 0
    runs.assert_same_weights(run, straight)
    assert runs.losses(run)[6] == pytest.approx(runs.losses(straight)[6], rel=1e-6) or moment == "save"
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)


def test_the_same_recipe_gives_the_same_run_whatever_was_drawn_before(tmp_path):
    for output in ("a", "b"):
        assert runs.cli(tmp_path, "train.steps=2", output=output) == 0
        torch.rand(7)
    runs.assert_same_weights(tmp_path / "a", tmp_path / "b")


def test_a_longer_run_goes_on_from_a_finished_one(tmp_path):
    assert runs.cli(tmp_path) == 0
    assert runs.cli(tmp_path, "train.steps=8", "--resume") == 0
    assert sorted(runs.losses(tmp_path / "run")) == [2, 4, 6, 8]
    assert "8 steps, 128 samples seen" in (tmp_path / "run" / "model" / "README.md").read_text()


# ---------------------------------------------------------------------------------------------------------- groups


def test_vectors_and_learned_tokens_and_positions_do_not_decay(tmp_path):
    content = runs.recipe(modalities={"image": {"size": 8, "patch": 4, "resize": "squash", "positions": "learned"}})
    content["model"]["towers"]["image"]["layer_scale"] = 0.1
    loop, _ = loop_of(tmp_path, content)
    module = loop.pretraining
    spared = no_decay_names(module)
    parameters = dict(module.named_parameters())
    for name, parameter in parameters.items():
        last = name.rsplit(".", 1)[-1]
        special = ".prefix." in name or "mask" in name or "position" in name
        assert (name in spared) == (special or last in ("bias", "gamma") or "norm" in name), name
        assert parameter.ndim >= 2 or name in spared
    optimizer = make_optimizer(module, 1e-3, 0.05, (0.9, 0.95), 1e-8)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decays[id(p)] for name, p in parameters.items() if name in spared} == {0.0}
    assert {decays[id(p)] for name, p in parameters.items() if name not in spared} == {0.05}
    assert len(decays) == len(parameters)


# --------------------------------------------------------------------------------------------------------- the step


def first_gradients(folder: Path, content: dict[str, Any]) -> tuple[dict[str, torch.Tensor], Meter]:
    loop, batches = loop_of(folder, content)
    loop.module.train()
    meter = Meter()
    loop._gradients(batches, 0, meter)
    grads = {n: p.grad.clone() for n, p in loop.pretraining.named_parameters() if p.grad is not None}
    assert grads and any(g.abs().max() > 0 for g in grads.values())
    return grads, meter


def test_accumulation_equals_one_big_batch(tmp_path):
    plain = runs.recipe()
    plain["model"]["towers"]["image"].pop("dropout")
    parts = runs.recipe(train={"accumulation": 2})
    parts["model"] = plain["model"]
    whole, whole_meter = first_gradients(tmp_path / "a", plain)
    halves, halves_meter = first_gradients(tmp_path / "b", parts)
    assert list(whole) == list(halves)
    for name in whole:
        torch.testing.assert_close(halves[name], whole[name], rtol=0, atol=1e-6, msg=name)
    assert halves_meter.samples == whole_meter.samples == 16
    for part in whole_meter.parts:
        torch.testing.assert_close(halves_meter.parts[part], whole_meter.parts[part], rtol=0, atol=1e-6)


def test_gradient_checkpointing_gives_the_same_gradient(tmp_path, monkeypatch):
    from mmssl.models.trunk import MLP

    calls = 0
    real = MLP.forward

    def forward(self: MLP, x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(self, x)

    monkeypatch.setattr(MLP, "forward", forward)
    plain, _ = first_gradients(tmp_path / "a", runs.recipe())
    once, calls = calls, 0
    saving, _ = first_gradients(tmp_path / "b", runs.recipe(train={"gradient_checkpointing": True}))
    assert calls == 2 * once == 6  # computed again in the backward pass, dropout and all; the decoder's block too
    assert list(plain) == list(saving)
    for name in plain:
        torch.testing.assert_close(saving[name], plain[name], rtol=0, atol=1e-6, msg=name)


def test_clipping_is_of_the_whole_gradient_and_the_norm_is_that_before(tmp_path):
    loop, batches = loop_of(tmp_path, runs.recipe(train={"clip": 0.01}))
    meter = Meter()
    loop._gradients(batches, 0, meter)
    grads = [p.grad.clone() for p in loop.pretraining.parameters() if p.grad is not None]
    expected = torch.stack([g.norm() for g in grads]).norm()
    seen = []
    trained = [p for p in loop.pretraining.parameters() if p.grad is not None]
    loop.optimizer.step = lambda: seen.append([p.grad.clone() for p in trained])
    norm = loop._update(0)
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close(torch.stack([g.norm() for g in seen[0]]).norm(), torch.tensor(0.01), rtol=1e-3, atol=0)
    assert expected > 0.01


def test_bf16_trains(tmp_path):
    assert runs.cli(tmp_path, output="full") == 0
    assert runs.cli(tmp_path, "train.mixed_precision=bf16") == 0
    full, half = runs.losses(tmp_path / "full"), runs.losses(tmp_path / "run")
    assert half != full
    assert half == pytest.approx(full, rel=0.05)
    assert {t.dtype for t in runs.weights(tmp_path / "run").values()} == {torch.float32}


@pytest.mark.slow
def test_compile_gives_the_same_run(tmp_path):
    content = runs.recipe()
    content["model"]["towers"]["image"].pop("dropout")
    assert runs.cli(tmp_path, content=content, output="plain") == 0
    assert runs.cli(tmp_path, "train.compile=true", content=content) == 0
    assert runs.losses(tmp_path / "run") == pytest.approx(runs.losses(tmp_path / "plain"), rel=1e-3)
    assert runs.cli(tmp_path, "train.compile=true", "train.accumulation=2", content=content, output="parts") == 0
    assert runs.losses(tmp_path / "parts") == pytest.approx(runs.losses(tmp_path / "plain"), rel=1e-3)


# -------------------------------------------------------------------------------------------------- what it writes


def test_the_log_the_trackers_and_the_checkpoints(tmp_path):
    assert runs.cli(tmp_path, "train.trackers=[tensorboard]", "train.save_every=1", content=runs.image_text()) == 0
    run = tmp_path / "run"
    rows = runs.metrics(run)
    assert [row["step"] for row in rows] == [2, 4, 6]
    wanted = {"step", "epoch", "loss", "loss/mae", "loss/clip", "loss/clip.scale", "lr", "grad_norm"}
    assert set(rows[0]) == wanted | {k for k in TIMED if "rank" not in k}
    for row in rows:
        assert row["loss"] == pytest.approx(row["loss/mae"] + row["loss/clip"], rel=1e-5)
        assert row["epoch"] == pytest.approx(row["step"] / (runs.ROWS // 16))
        assert row["grad_norm"] > 0 and row["samples_per_second"] > 0 and 0 <= row["data_wait"] <= 1
    assert runs.checkpoints(run) == ["step-00000005", "step-00000006"]  # train.keep = 2
    (events,) = (run / "tensorboard").rglob("events.out.tfevents.*")
    assert scalars(events)["loss"] == {row["step"]: pytest.approx(row["loss"]) for row in rows}
    card = (run / "model" / "README.md").read_text()
    for text in (
        f"image {runs.ROWS}, text {runs.ROWS}",
        "96 samples seen",
        "1 process, on cpu",
        f"loss {rows[-1]['loss']:.4g}",
    ):
        assert text in card


def scalars(events: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(events.parent))
    read.Reload()
    return {tag: {event.step: event.value for event in read.Scalars(tag)} for tag in read.Tags()["scalars"]}
