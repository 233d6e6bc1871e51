"""How many workers read: by device, cores and what is read; nothing of it changes a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import runs

from mmssl.data import workers
from mmssl.data.reader import Loaded
from mmssl.data.workers import read_by, types_of, workers_for
from mmssl.options import plainyaml


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(gpu: bool, cores: int) -> None:
        monkeypatch.setattr(workers, "on_gpu", lambda: gpu)
        monkeypatch.setattr(workers, "cores", lambda: cores)

    return make


@pytest.mark.parametrize(
    ("gpu", "cores", "types", "beside", "expected"),
    [
        (True, 16, ["image", "text"], True, 8),
        (True, 4, ["audio"], False, 3),
        (True, 1, ["image"], True, 0),
        (True, 16, ["text", "tabular"], True, 0),
        (False, 16, ["image"], True, 0),
        (False, 2, ["audio", "video"], True, 1),
        (False, 2, ["audio", "video"], False, 0),
        (False, 1, ["video"], True, 0),
    ],
)
def test_auto_follows_device_cores_and_what_is_read(machine, gpu, cores, types, beside, expected):
    machine(gpu, cores)
    assert workers_for("auto", types, beside_a_step=beside) == expected
    assert workers_for(5, types) == 5 and workers_for(0, types) == 0


def test_cores_are_shared_with_the_others_of_a_machine(monkeypatch):
    alone = workers.cores()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "100000")
    assert workers.cores() == 1 <= alone
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert workers.on_gpu()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert not workers.on_gpu()


def test_a_model_says_its_types_and_a_run_its_workers():
    assert types_of({"a": {"type": "image"}, "b": {"type": "text"}}) == ["image", "text"] and types_of(None) == []
    assert [read_by(n) for n in (0, 1, 8)] == ["rows read by the main process"] + [
        "rows read by 1 worker",
        "rows read by 8 workers",
    ]


def test_inputs_are_pinned_and_the_rest_is_left(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x + 1)
    rows = torch.arange(2)
    loaded = Loaded({"a": {"x": torch.zeros(2), "present": torch.ones(2)}}, [], {"a": 1}, rows, 3, {"label": [0, 1]})
    pinned = loaded.pin_memory()
    assert pinned.batch["a"]["x"].tolist() == [1, 1] and pinned.batch["a"]["present"].tolist() == [2, 2]
    assert pinned.rows is rows and (pinned.missing, pinned.epoch, pinned.kept) == ({"a": 1}, 3, {"label": [0, 1]})


def test_a_run_says_and_keeps_what_it_took(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmssl.training.settling.workers_for", lambda asked, *_, **__: 1 if asked == "auto" else asked)
    assert runs.cli(tmp_path, "train.steps=1") == 0
    assert "; rows read by 1 worker\n" in capsys.readouterr().out
    data = plainyaml.read(tmp_path / "run" / "config.yaml")["data"]
    assert data["workers"] == 1
