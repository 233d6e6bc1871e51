"""Which precision a run has, and that a slow one is told of."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toys import runs

from mmssl.options import plainyaml
from mmssl.recipe.config import LoopConfig, TrainConfig
from mmssl.training import device, pace
from mmssl.training.device import Device, bf16_slowdown, settle_compile, settle_precision, warn_of_precision
from mmssl.training.observers import Moment

GPU, OLD, CPU = Device("cuda", bf16=True), Device("cuda", bf16=False), Device("cpu")


def test_auto_is_bf16_on_a_gpu_that_has_it_and_what_is_asked_for_stays() -> None:
    assert LoopConfig().mixed_precision == "auto"
    assert [settle_precision(LoopConfig(), d).mixed_precision for d in (GPU, OLD, CPU)] == ["bf16", "no", "no"]
    for asked in ("no", "bf16", "fp16"):
        train = LoopConfig(mixed_precision=asked)
        assert all(settle_precision(train, d) is train for d in (GPU, OLD, CPU))


def test_trunks_are_compiled_on_a_gpu_that_has_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"triton", "cc"}
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: name if name in there else None)
    monkeypatch.setattr(device.shutil, "which", lambda name: name if name in there else None)
    train = TrainConfig(steps=1)

    def found(device: Device, cut: bool = False) -> object:
        return settle_compile(train, device, cut).compile

    assert train.compile == "auto"
    assert [found(GPU), found(CPU), found(GPU, cut=True)] == [True, False, False]
    for lacking in ("triton", "cc"):
        there.remove(lacking)
        assert found(GPU) is False
        there.add(lacking)
    for asked in (True, False):
        given = TrainConfig(steps=1, compile=asked)
        assert all(settle_compile(given, d, False) is given for d in (GPU, CPU))


def test_what_compiling_took_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Forty seconds in the first step, then one each."""
    for compiled, said in (
        (True, "; compiling took 40 s of the first 2 steps (train.compile=false"),
        (False, "to come\n"),
    ):
        clock = [0.0]
        monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda clock=clock: clock[0]))
        watch = pace.Pace(compiled=compiled)
        assert not watch.due(Moment(0, 100))
        for step in range(1, 7):
            clock[0] += 41 if step == 1 else 1
            assert watch.due(Moment(step, 100))
            watch.note(Moment(step, 100), {})
        line = capsys.readouterr().out
        assert line.startswith("a step takes 1 s: about 1.6 min for the 94 to come")
        assert said in line


def test_a_product_that_takes_longer_in_bf16_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter([0.0])

    def product(x: torch.Tensor, _: torch.Tensor) -> None:
        now[0] += costs[x.dtype]
        costs[x.dtype] = max(costs[x.dtype] - 1, 2.0 if x.dtype == torch.bfloat16 else 1.0)

    now, costs = [next(clock)], {torch.bfloat16: 40.0, torch.float32: 9.0}
    monkeypatch.setattr(device, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(torch, "mm", product)
    assert bf16_slowdown() == 37 / 6, "the least of three tries, the first of four counts nothing"
    monkeypatch.setattr(device, "bf16_slowdown", lambda: 61.3)
    with caplog.at_level(logging.WARNING, "mmssl"):
        for train, where in ((LoopConfig(), CPU), (LoopConfig(mixed_precision="bf16"), GPU)):
            warn_of_precision(train, where)
        assert not caplog.records
        warn_of_precision(LoopConfig(mixed_precision="bf16"), CPU)
        monkeypatch.setattr(device, "bf16_slowdown", lambda: 0.4)
        warn_of_precision(LoopConfig(mixed_precision="bf16"), CPU)
    (said,) = (record.getMessage() for record in caplog.records)
    assert "found bf16, which this processor multiplies 61 times slower than float32" in said


def test_the_run_says_and_keeps_what_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.cli(tmp_path, "train.steps=1") == 0
    assert "cpu, float32" in capsys.readouterr().out
    assert plainyaml.read(tmp_path / "run" / "config.yaml")["train"]["mixed_precision"] == "no"
