"""Pictures while a run trains: where they go, when, and that the training is the same with and without."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toys import runs
from toys.refusals import refused

from mmssl.hub import picture
from mmssl.recipe.loading import load_recipe
from mmssl.reporting.drawing import data_uri
from mmssl.reporting.looking import Subject
from mmssl.reporting.sheets import on_white
from mmssl.training import picturing, trackers
from mmssl.training.metrics import TIMED
from mmssl.training.observers import Moment
from mmssl.training.picturing import Pictures
from mmssl.training.reporting import check_report

pytest.importorskip("matplotlib")
EVERY = ["train.report_every=2", "train.accumulation=2"]


def _numbers(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMED} for row in runs.metrics(run)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without pictures."""
    folder = tmp_path_factory.mktemp("straight")
    assert runs.cli(folder, "train.accumulation=2", "train.report=false") == 0
    return folder / "run"


def test_the_training_is_the_same_and_pictures_come_while_it_goes_on(straight, tmp_path, monkeypatch):
    """Also of a run that is killed between two pictures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pages: list[str] = []
    real = picturing.write_report

    def write(looked: Any, path: Path) -> int:
        random.random(), torch.rand(1)  # a look may draw
        done = real(looked, path)
        pages.append(path.read_text(encoding="utf-8"))
        return done

    monkeypatch.setattr(picturing, "write_report", write)
    words = [*EVERY, "train.report=auto", "train.trackers=[tensorboard]"]
    with runs.killed_at(4):
        runs.cli(tmp_path, *words)
    assert runs.cli(tmp_path, *words, "--resume") == 0
    run = tmp_path / "run"
    runs.assert_same_weights(run, straight)
    assert _numbers(run) == _numbers(straight)
    assert len(pages) == 3 and "it still trains" in pages[0] and 'id="map"' in pages[0]  # steps 2, 4, and 4 again
    shown: dict[str, set[int]] = {}
    for path in (run / "tensorboard").rglob("events*"):
        events = EventAccumulator(str(path), size_guidance={"images": 0}).Reload()
        for tag in events.Tags()["images"]:
            shown.setdefault(tag, set()).update(event.step for event in events.Images(tag))
    assert shown == dict.fromkeys(["made/mae/image", "patches/image", "map/image"], {2, 4})


def _observer(monkeypatch: pytest.MonkeyPatch, **train: Any) -> Pictures:
    monkeypatch.setattr(picturing, "on_first", lambda accelerator, work: work())
    parallel: Any = SimpleNamespace(accelerator=None, cut=False, agreed=lambda mine: mine)
    asked: Any = SimpleNamespace(**{"report_every": None, "report_minutes": None, "compile": False, **train})
    nothing: Any = None
    subject: Subject = nothing
    return Pictures(parallel, lambda: subject, asked, Path())


def test_what_cannot_be_written_is_a_warning(monkeypatch, caplog):
    def full(looked: Any, path: Path) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(picturing, "write_report", full)
    monkeypatch.setattr(picturing, "read_record", lambda folder: None)
    one: Any = _observer(monkeypatch, report_every=3)
    one.accelerator = SimpleNamespace(trackers=[])
    one._write(None, 2)
    assert "report.html was not written after step 2" in caplog.text and "training goes on" in caplog.text


def test_they_are_due_by_steps_and_by_the_clock(monkeypatch):
    by_steps = _observer(monkeypatch, report_every=3)
    assert [step for step in range(10) if by_steps.due(Moment(step, 9))] == [3, 6]  # not the last
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr(picturing, "time", clock)
    late = _observer(monkeypatch, report_minutes=2.0)
    for now, logs, due in ((119.0, True, False), (120.0, False, False), (120.0, True, True)):
        clock.monotonic = lambda now=now: now
        assert late.due(Moment(4, 9, logs=logs)) is due


def test_without_what_draws_them_they_are_refused_before_anything(monkeypatch):
    recipe = load_recipe("image_mae", ["train.report_minutes=3"])
    check_report(recipe.train)
    monkeypatch.setattr(picture, "lacking", lambda: ["matplotlib"])
    with refused("train.report_minutes", "3", "matplotlib"):
        check_report(recipe.train)


def test_a_tracker_that_fails_costs_its_pictures_alone(caplog):
    class Tracker:
        name = "tensorboard"

        def log(self, values: Any, step: int) -> None:
            raise LookupError("the server is away")

    broken: Any = SimpleNamespace(trackers=[Tracker()])
    assert not trackers.track_pictures(broken, {}, {"a": "b"}, 3)
    assert "took no pictures (the server is away)" in caplog.text


def test_trackio_gets_images_and_markdown(monkeypatch):
    got: list[Any] = []
    own = SimpleNamespace(name="trackio", log=lambda values, step: got.append((values, step)))
    fake = SimpleNamespace(Image=lambda pixels: ("image", pixels.shape), Markdown=lambda text: ("text", text))
    monkeypatch.setattr(trackers.importlib, "import_module", lambda name: fake)
    service: Any = SimpleNamespace(trackers=[own])
    assert trackers.track_pictures(service, {"map": np.zeros((4, 5, 3), np.uint8)}, {"words": "a"}, 7)
    assert got == [({"map": ("image", (4, 5, 3)), "words": ("text", "a")}, 7)]


def test_what_is_clear_is_white():
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    found = on_white(data_uri(pixels))
    assert found[0, 0].tolist() == [10, 20, 30] and (found.reshape(-1, 3)[1:] == 255).all()
