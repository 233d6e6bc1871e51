"""The command line sets up its process for speed; a call from Python leaves the caller's process as it is."""

from __future__ import annotations

import pytest
import torch
from toys import runs, tuned

import mmssl
from mmssl.cli import main
from mmssl.training import memory, process


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of torch and of the C library."""
    asked: list[str] = []
    monkeypatch.setattr(process, "f32_products_by_onednn", lambda: asked.append("products"))
    monkeypatch.setattr(process, "keep_freed_memory", lambda: asked.append("memory"))
    monkeypatch.setattr(memory, "glibc", lambda: asked.append("glibc"))
    return asked


def flags() -> dict[str, object]:
    names = ("enabled", "deterministic", "allow_tf32")
    found: dict[str, object] = {name: getattr(torch.backends.mkldnn, name) for name in names}
    return found | {"precision": torch.get_float32_matmul_precision(), "threads": torch.get_num_threads()}


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_a_call_from_python_leaves_the_process_as_it_found_it(tmp_path, calls, precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = flags()
        mmssl.pretrain(runs.recipe(train={"steps": 1}), output=tmp_path / "run")
        base = tuned.image_base(tmp_path / "base")
        train = {"steps": 1, "batch_size": 16}
        mmssl.finetune(base, "builtin:digits", "label", output=tmp_path / "tuned", limit=64, train=train)
        assert flags() == found and found["precision"] == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert calls == []


def test_the_commands_set_both(tmp_path, calls, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert runs.cli(tmp_path, "train.steps=1") == 0
    assert calls == ["products", "memory"]
    base = tuned.image_base(tmp_path / "base")
    words = ["finetune", str(base), "--data", "builtin:digits", "--label", "label", "--output", str(tmp_path / "tuned")]
    assert main([*words, *tuned.QUICK]) == 0
    assert calls == ["products", "memory"] * 2


def test_memory_is_left_alone_where_steps_are_not_on_the_cpu(calls, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    process.prepare_process()
    assert calls == ["products"]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    process.prepare_process()
    assert calls == ["products", "products", "memory"]
