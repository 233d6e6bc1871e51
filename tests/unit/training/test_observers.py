"""What hangs on the loop: when it looks, what Ctrl-C does to a look, what of it is in checkpoints and in the log."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toys import runs

from mmssl.cli import main
from mmssl.finetuning.supervised_job import SupervisedJob
from mmssl.training import preparing
from mmssl.training.health import Health
from mmssl.training.labels import Labels
from mmssl.training.loop import Loop
from mmssl.training.metrics import TIMED, MetricsFile
from mmssl.training.observers import Measured, Moment, Observer, Observers, Verdict
from mmssl.training.preparing import make_observers

TUNE = ["--data", "builtin:digits", "--label", "label", "train.lr=0.05", "limit=96", "train.batch_size=16"]
TUNE += ["few=0", "train.steps=8", "eval_every=2", "train.log_every=3"]


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C as on a terminal: a job started in the background ignores it, and so does the loop."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def timeless(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in runs.metrics(run)]


def state(run: Path, step: int) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((run / "checkpoints" / f"step-{step:08d}" / "state.json").read_text())
    return read


# ----------------------------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.usefixtures("heard")
def test_ctrl_c_in_a_validation_pass_is_answered_at_once_and_the_look_is_made_up_for(base, tmp_path, monkeypatch):
    straight, out = tmp_path / "straight", tmp_path / "out"
    assert main(["finetune", str(base), *TUNE, "--output", str(straight)]) == 0
    real, begun, ended = SupervisedJob.look, [], []

    def look(self: SupervisedJob) -> tuple[float, float]:
        begun.append(len(begun))
        if len(begun) == 3:  # after the start and step 2: that of step 4
            os.kill(os.getpid(), signal.SIGINT)
            sum(range(1000))  # where a handler runs, should the call above not be enough
        ended.append(len(begun))
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedJob, "look", look)
        assert main(["finetune", str(base), *TUNE, "--output", str(out)]) == 130
    assert len(begun) == 3 and ended == [1, 2]  # not a line of the pass was run after Ctrl-C
    assert runs.checkpoints(out) == ["step-00000004"]
    kept = state(out, 4)
    assert kept["looked"] == 3 and kept["best"]["step"] <= 2  # nothing of that look is in the checkpoint
    assert main(["finetune", str(base), *TUNE, "--output", str(out), "--resume"]) == 0
    runs.assert_same_weights(out, straight)
    looks = [[row for row in timeless(run) if "validation/loss" in row] for run in (out, straight)]
    assert looks[0] == looks[1] and [row["step"] for row in looks[0]] == [0, 2, 4, 6, 8]


@pytest.mark.usefixtures("heard")
def test_ctrl_c_in_a_measurement_of_health_is_answered_at_once(tmp_path, monkeypatch):
    words = ["train.health_every=3", "train.log_every=1", "train.save_every=5"]
    assert runs.cli(tmp_path, *words, output="straight") == 0
    real, ended = Health._health, []

    def health(self: Health) -> Measured:
        if not ended:
            ended.append("begun")
            os.kill(os.getpid(), signal.SIGINT)
            sum(range(1000))
        ended.append("ended")
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Health, "_health", health)
        assert runs.cli(tmp_path, *words) == 130
    run = tmp_path / "run"
    assert ended == ["begun"] and runs.checkpoints(run) == ["step-00000003"]
    assert runs.cli(tmp_path, *words, "--resume") == 0
    runs.assert_same_weights(run, tmp_path / "straight")
    measured, expected = (
        {row["step"]: {k: v for k, v in row.items() if k.startswith("health/")} for row in timeless(folder)}
        for folder in (run, tmp_path / "straight")
    )
    assert measured[3] and measured[3] == expected[3] and measured[6] == expected[6]


@pytest.mark.usefixtures("heard")
def test_ctrl_c_while_a_checkpoint_is_written_waits_for_it_and_writes_no_second_one(tmp_path, monkeypatch):
    saved: list[int] = []
    real = Loop.save

    def save(self: Loop, step: int, *rest: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(self, step, *rest)
        saved.append(step)

    monkeypatch.setattr(Loop, "save", save)
    words = ["train.health_every=2", "train.guard.action=stop", "train.guard.min_rank=null", "train.guard.min_std=null"]
    assert runs.cli(tmp_path, *words) == 130
    assert saved == [2] and runs.checkpoints(tmp_path / "run") == ["step-00000002"]
    assert state(tmp_path / "run", 2)["healthy"] is True


# -------------------------------------------------------------------------------------------------------------- log


def test_looks_append_to_one_file(base, tmp_path, monkeypatch):
    """A file that is written anew has another inode."""
    out, files = tmp_path / "out", []
    real = SupervisedJob.look

    def look(self: SupervisedJob) -> tuple[float, float]:
        if (out / "metrics.jsonl").is_file():
            files.append((out / "metrics.jsonl").stat().st_ino)
        return real(self)

    monkeypatch.setattr(SupervisedJob, "look", look)
    assert main(["finetune", str(base), *TUNE, "--output", str(out)]) == 0
    assert len(files) == 4 and len({*files, (out / "metrics.jsonl").stat().st_ino}) == 1
    assert [row["step"] for row in runs.metrics(out)] == [0, 2, 3, 4, 6, 6, 8, 8]


def test_the_file_is_opened_once_and_cut_where_a_run_goes_on(tmp_path, monkeypatch):
    path, opened = tmp_path / "metrics.jsonl", []
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    real = Path.open

    def count(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        opened.extend([self] if "a" in mode else [])
        return real(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", count)
    file = MetricsFile(path, 2)
    assert all(file.write({"step": float(step)}) for step in (3, 4))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]  # before it is closed
    assert opened == [path]
    file.cut(3)
    assert file.write({"step": 9.0})
    file.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 9]


# --------------------------------------------------------------------------------------------------------- contract


class Counter(Observer):
    """Looks at every second step; wants to end the run as it is told to."""

    name = "counter"
    logged = False

    def __init__(self, stop_at: int | None = None, enough_at: int | None = None) -> None:
        self.stop_at, self.enough_at = stop_at, enough_at
        self.seen: list[int] = []

    def due(self, moment: Moment) -> bool:
        return moment.step % 2 == 0

    def look(self, moment: Moment) -> Measured:
        return {"counter/seen": float(len(self.seen))}

    def note(self, moment: Moment, found: Measured) -> Verdict | None:
        self.seen.append(moment.step)
        return Verdict("stop", "the counter", "it has seen enough") if moment.step == self.stop_at else None

    @property
    def enough(self) -> bool:
        return self.enough_at is not None and self.enough_at in self.seen

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"seen": torch.tensor(self.seen)}

    def load_state_dict(self, state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        self.seen = list(state.get("seen", []))
        assert not self.seen or tensors["seen"].tolist() == self.seen


@pytest.fixture
def watched_by(monkeypatch):
    """Let the runs that follow have an observer of their own."""

    def watch(observer: Observer) -> None:
        monkeypatch.setattr(preparing, "make_observers", lambda *_: [observer])

    return watch


def test_an_observer_is_asked_after_the_start_and_every_step_and_its_state_is_in_the_checkpoints(tmp_path, watched_by):
    first, second = Counter(), Counter()
    watched_by(first)
    assert runs.cli(tmp_path, "train.steps=5") == 0
    assert first.seen == [0, 2, 4]
    run = tmp_path / "run"
    assert state(run, 5)["counter"] == {"seen": [0, 2, 4]} and state(run, 4)["looked"] == 4
    assert load_file(run / "checkpoints" / "step-00000005" / "counter.safetensors")["seen"].tolist() == [0, 2, 4]
    watched_by(second)
    assert runs.cli(tmp_path, "train.steps=8", "--resume") == 0
    assert second.seen == [0, 2, 4, 6, 8]
    own = [(row["step"], row["counter/seen"]) for row in runs.metrics(run) if "counter/seen" in row]
    assert own == [(0, 0), (2, 1), (4, 2), (6, 3), (8, 4)]


def test_a_run_that_has_enough_is_finished_and_stays_so(tmp_path, watched_by):
    watched_by(Counter(enough_at=4))
    assert runs.cli(tmp_path, "train.log_every=5") == 0
    run = tmp_path / "run"
    assert runs.checkpoints(run)[-1] == "step-00000004" and (run / "model").is_dir()
    assert [row["step"] for row in runs.metrics(run) if "loss" in row] == [4]  # the last step is logged
    watched_by(again := Counter(enough_at=4))
    assert runs.cli(tmp_path, "train.log_every=5", "--resume") == 0
    assert again.seen == [0, 2, 4] and runs.checkpoints(run)[-1] == "step-00000004"


def test_a_verdict_ends_the_run_with_a_checkpoint_and_one_line(tmp_path, watched_by, capsys):
    watched_by(Counter(stop_at=4))
    assert runs.cli(tmp_path) == 1
    (line,) = runs.errors(capsys.readouterr().err)
    assert "stopped by the counter after step 4: it has seen enough" in line
    assert runs.checkpoints(tmp_path / "run")[-1] == "step-00000004"
    assert state(tmp_path / "run", 4)["course"]["events"][0]["action"] == "stopped"


def test_a_checkpoint_of_another_version_is_refused_in_one_line(tmp_path, capsys):
    assert runs.cli(tmp_path) == 0
    for path in (tmp_path / "run" / "checkpoints").glob("step-*/state.json"):
        kept = json.loads(path.read_text())
        kept.pop("course")
        path.write_text(json.dumps(kept))
    assert runs.cli(tmp_path, "--resume", "train.steps=8") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "lacks course" in line and "another version of mmssl" in line


def test_all_processes_look_at_the_same_steps(capsys):
    """What is `due` decides where they wait for each other: one that has an observer more waits for ever."""
    train = SimpleNamespace(health_every=None, probe_every=None, guard=None, compile=False, keep_best=None)
    recipe = SimpleNamespace(seed=0, train=train, views={})
    due = []
    for number in range(2):
        place = SimpleNamespace(is_main_process=number == 0, process_index=number, num_processes=2)
        parallel = SimpleNamespace(accelerator=place, cut=False)
        observers = Observers(
            make_observers(recipe, None, SimpleNamespace(preprocessors={}), None, {}, parallel, {}, None, Labels())
        )
        due.append([])
        for step in range(10):
            moment = Moment(step, 40)
            found = observers.look(moment)
            due[-1].append([observer.name for observer, _ in found])
            observers.note(moment, found, None)
        assert ("a step takes" in capsys.readouterr().out) == (number == 0)
    assert due[0] == due[1] and any(due[0])
