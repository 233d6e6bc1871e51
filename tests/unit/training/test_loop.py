"""The one training loop: exact resumption, schedule, groups, accumulation, precision, what it writes."""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toys import runs

from mmssl.data.loading import training_batches
from mmssl.data.quarantine import Quarantine
from mmssl.objectives.pretraining import Pretraining
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_pretraining, fitted_processor, open_training_data
from mmssl.training.engine import make_accelerator
from mmssl.training.loop import Loop
from mmssl.training.metrics import Meter
from mmssl.training.optimizer import learning_rate, make_optimizer, no_decay_names


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint: model, objectives and optimiser."""
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return {**load_file(newest / "weights.safetensors"), **load_file(newest / "optimizer.safetensors")}


def assert_same(run: Path, other: Path) -> None:
    a, b = weights(run), weights(other)
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, msg=name)


def loop_of(folder: Path, content: dict[str, Any]) -> tuple[Loop, Any]:
    """A loop that has not run, and its micro-batches."""
    recipe = load_recipe(content)
    opened = open_training_data(recipe)
    source, columns = opened.source, opened.columns
    accelerator = make_accelerator(recipe.train)  # without what an earlier run in this process has left
    processor = fitted_processor(recipe.modalities, source, columns, folder, accelerator, samples=2000)
    assert recipe.train.steps is not None
    pretraining = build_pretraining(recipe, processor)
    loop = Loop(accelerator, pretraining, recipe.train, recipe.train.steps, folder, 0, Quarantine(None))
    batches = training_batches(
        source,
        processor.preprocessors,
        columns,
        seed=0,
        batch_size=recipe.train.batch_size,
        accumulation=recipe.train.accumulation,
    )
    return loop, batches


# ----------------------------------------------------------------------------------------------------------- resume

CASES = {
    "dropout": runs.recipe(),
    "accumulation": runs.recipe(train={"accumulation": 2}),
    "image and text": runs.image_text(),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_stopped_at_a_checkpoint_and_resumed_equals_a_straight_one(tmp_path, case, monkeypatch):
    content = CASES[case]
    assert runs.cli(tmp_path, content=content, output="straight") == 0

    class Killed(BaseException):
        """A process that is killed writes nothing more."""

    real = Loop._report

    def report(self: Loop, row: dict[str, Any], *rest: Any) -> None:
        real(self, row, *rest)
        if row["step"] == 6:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_report", report)
        with pytest.raises(Killed):
            runs.cli(tmp_path, content=content)
    run = tmp_path / "run"
    assert runs.checkpoints(run) == ["step-00000002", "step-00000004"]
    assert sorted(runs.losses(run)) == [2, 4, 6]
    assert runs.cli(tmp_path, "--resume", content=content) == 0
    assert_same(run, tmp_path / "straight")
    timed = ("samples_per_second", "data_wait")
    timeless = [{k: v for k, v in row.items() if k not in timed} for row in runs.metrics(run)]
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
    assert_same(run, straight)
    assert runs.losses(run)[6] == pytest.approx(runs.losses(straight)[6], rel=1e-6) or moment == "save"
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)


def test_the_same_recipe_gives_the_same_run_whatever_was_drawn_before(tmp_path):
    for output in ("a", "b"):
        assert runs.cli(tmp_path, "train.steps=2", output=output) == 0
        torch.rand(7)
    assert_same(tmp_path / "a", tmp_path / "b")


def test_a_longer_run_goes_on_from_a_finished_one(tmp_path):
    assert runs.cli(tmp_path) == 0
    assert runs.cli(tmp_path, "train.steps=8", "--resume") == 0
    assert sorted(runs.losses(tmp_path / "run")) == [2, 4, 6, 8]
    assert "8 steps, 128 samples seen" in (tmp_path / "run" / "model" / "README.md").read_text()


# -------------------------------------------------------------------------------------------------- rate and groups


def test_learning_rate_against_values_computed_by_hand():
    rates = [learning_rate(step, 10, peak=2.0, warmup=0.2, floor=1.0) for step in range(10)]
    assert rates[:2] == [1.0, 2.0]  # two steps of warm-up: a half, then the peak
    # 8 steps of cosine from the peak: floor + (peak - floor) * (1 + cos(pi * i / 8)) / 2
    assert rates[2] == pytest.approx(2.0)
    assert rates[4] == pytest.approx(1.0 + 0.5 * (1 + math.sqrt(0.5)))
    assert rates[6] == pytest.approx(1.5)
    assert rates[8] == pytest.approx(1.0 + 0.5 * (1 - math.sqrt(0.5)))
    assert learning_rate(10, 10, 2.0, 0.2, 1.0) == pytest.approx(1.0)


def test_warmup_is_steps_from_one_on_and_may_be_none():
    assert [learning_rate(step, 100, 1.0, warmup=4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(0, 100, 1.0, warmup=0) == 1.0
    assert learning_rate(0, 1, 1.0, warmup=0.05) == 1.0


def test_the_rate_of_each_step_is_used_and_logged(tmp_path):
    assert runs.cli(tmp_path, "train.log_every=1", "train.warmup=3", "train.min_lr=1e-5") == 0
    expected = [learning_rate(step, 6, 1e-3, 3, 1e-5) for step in range(6)]
    assert [row["lr"] for row in runs.metrics(tmp_path / "run")] == pytest.approx(expected)


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


def watched() -> dict[str, Any]:
    """Masked autoencoding and CLIP, a teacher that says its health, gradient shares; a large `eps`, so that Adam makes
    no steps of what rounding leaves of a gradient that is zero."""
    content = runs.image_text()
    content["views"] = {name: {"image": {"crop_scale": [0.3, 1.0]}} for name in ("a", "b")}
    content["objectives"]["pull"] = {"type": "toys.collapse", "tower": "image", "weight": 0.1, "ramp": {"end": 0.5}}
    content["train"] |= {
        "log_every": 1,
        "health_every": 2,
        "gradient_share_every": 2,
        "health_samples": 44,
        "eps": 1e-3,
    }
    content["train"]["guard"] = {"min_rank": None, "min_std": None}
    return content


@pytest.fixture(scope="module")
def in_one_pass(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `watched` without accumulation."""
    folder = tmp_path_factory.mktemp("whole")
    assert runs.cli(folder, content=watched()) == 0
    return folder / "run"


def assert_close(run: Path, other: Path) -> None:
    """Every number of the log, and the state at the end, to rounding."""
    for ours, theirs in zip(runs.metrics(run), runs.metrics(other), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"samples_per_second", "data_wait"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5, abs=1e-6), (key, ours["step"])
    a, b = weights(run), weights(other)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("parts", [4, 16])
def test_a_whole_run_says_and_leaves_the_same_whatever_its_accumulation(in_one_pass, tmp_path, parts):
    assert runs.cli(tmp_path, f"train.accumulation={parts}", content=watched()) == 0
    assert_close(tmp_path / "run", in_one_pass)


def test_a_step_that_does_not_fit_the_memory_is_done_in_more_parts(in_one_pass, tmp_path, caplog, monkeypatch):
    """A device that holds 5 samples: the run ends up with 4 at a time, in the middle of whose steps it ran out, too."""
    forward, calls = Pretraining.forward, iter(range(10**6))

    def small(self, batch, *words, **options):
        rows = len(next(iter(batch.values()))["pixel_values"]) if isinstance(batch, dict) else 0
        if rows > 5 or next(calls) == 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, batch, *words, **options)

    monkeypatch.setattr(Pretraining, "forward", small)
    assert runs.cli(tmp_path, content=watched()) == 0
    assert_close(tmp_path / "run", in_one_pass)
    told = [r.getMessage() for r in caplog.records if "does not fit the memory" in r.getMessage()]
    assert [line.rpartition("accumulation=")[2].partition(",")[0] for line in told] == ["2", "4", "8"]


def test_the_steps_before_one_that_cannot_be_cut_are_kept(tmp_path, monkeypatch):
    forward, calls = Pretraining.forward, iter(range(10**6))

    def full(self, *words, **options):
        if next(calls) >= 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *words, **options)

    monkeypatch.setattr(Pretraining, "forward", full)
    assert runs.cli(tmp_path, content=runs.recipe()) == 1
    assert runs.checkpoints(tmp_path / "run")[-1] == "step-00000003"
    monkeypatch.undo()
    assert runs.cli(tmp_path, "--resume", content=runs.recipe()) == 0
    assert runs.cli(tmp_path, content=runs.recipe(), output="straight") == 0
    assert_same(tmp_path / "run", tmp_path / "straight")


@pytest.mark.parametrize(
    ("views", "says"),
    [
        ({}, "out of memory with 1 samples at a time; train.gradient_checkpointing=true"),
        ({"a": {"image": {"corrupt": {"fill": ["other"]}}}}, "out of memory with 16 samples at a time; train.gradient"),
    ],
)
def test_a_step_that_cannot_be_cut_is_one_line(tmp_path, capsys, monkeypatch, views, says):
    def never(self, *words, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Pretraining, "forward", never)
    assert runs.cli(tmp_path, content=runs.recipe() | {"views": views}) == 1
    line = runs.errors(capsys.readouterr().err)[-1]
    assert line.startswith(f"error: {says}") and ("corrupt.fill: other" in line) == bool(views)


def test_a_run_goes_on_under_another_accumulation_as_if_nothing_had_changed(in_one_pass, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(in_one_pass, run)
    for step in ("step-00000006", "step-00000005"):
        shutil.rmtree(run / "checkpoints" / step, ignore_errors=True)
    assert runs.checkpoints(run) == ["step-00000004"]
    assert runs.cli(tmp_path, "--resume", "train.accumulation=8", content=watched()) == 0
    assert "changed since the run was started" not in caplog.text
    assert_close(run, in_one_pass)


def test_another_batch_size_is_refused_in_one_line_and_nothing_is_touched(in_one_pass, tmp_path, capsys, caplog):
    """cases/media-text-training.md, row 20: it was a warning, and 56 samples were passed over."""
    run = tmp_path / "run"
    shutil.copytree(in_one_pass, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert runs.cli(tmp_path, "--resume", "train.batch_size=32", content=watched()) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert line.startswith("error: --resume: found train.batch_size 32") and "expected 16" in line
    assert "train.accumulation" in line and not caplog.text
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    shutil.rmtree(run / "checkpoints")
    assert runs.cli(tmp_path, "--resume", "train.batch_size=32", "train.steps=2", content=watched()) == 0


def test_bf16_and_accumulation(tmp_path):
    words = ["train.mixed_precision=bf16", "train.steps=2"]
    assert runs.cli(tmp_path, *words, content=watched(), output="whole") == 0
    assert runs.cli(tmp_path, *words, "train.accumulation=4", content=watched()) == 0
    found, expected = runs.losses(tmp_path / "run"), runs.losses(tmp_path / "whole")
    assert found == pytest.approx(expected, rel=5e-3)


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
    assert {t.dtype for t in weights(tmp_path / "run").values()} == {torch.float32}


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
    assert set(rows[0]) == wanted | {"samples_per_second", "data_wait"}
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
