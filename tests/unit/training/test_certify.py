"""`mmssl verify-resume`: it kills where it says, and a run that is another one gets no certificate."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from toys import forking, runs

from mmssl.cli import main
from mmssl.errors import RunError, UserError
from mmssl.training import checkpoints
from mmssl.training.certify import Trial, verify_resume


class Fake:
    """A run of one tick a look: each logs a step, every second one leaves a checkpoint, as far as it was not killed.

    `other`: what is resumed trains something else. `fails`: it ends by itself with this code.
    """

    started: int = 0
    kills: int = 0
    other = 0.0
    fails = 0

    def __init__(self, words: Sequence[str], variables: Mapping[str, str], said: Path) -> None:
        type(self).started += 1
        self.run = Path(words[words.index("--output") + 1])
        assert words[words.index("--resume") + 1] == "auto"
        self.steps = int(next(w for w in words if w.startswith("train.steps=")).partition("=")[2])
        self.killed = False
        last = checkpoints.latest(self.run / "checkpoints")
        self.step = 0 if last is None else int(last.name.split("-")[1])
        self.w = torch.full((3,), float(self.step)) + (self.other if last is not None else 0)
        self.run.mkdir(exist_ok=True)
        said.write_text("error: something\n")

    def ended(self) -> bool:
        if self.killed or self.fails or self.step == self.steps:
            return True
        self.step, self.w = self.step + 1, self.w + 1
        with (self.run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step}) + "\n")
        if self.step % 2 == 0 or self.step == self.steps:
            folder = self.run / "checkpoints" / f"step-{self.step:08d}"
            folder.mkdir(parents=True, exist_ok=True)
            save_file({"w": self.w, "w::exp_avg": self.w * 2}, folder / "weights.safetensors")
            files = {"weights.safetensors": checkpoints.facts(folder / "weights.safetensors")}
            (folder / "state.json").write_text(json.dumps({"step": self.step, "files": files}))
        return False

    def kill(self) -> None:
        type(self).kills += not self.ended_already()
        self.killed = True

    def ended_already(self) -> bool:
        return self.killed or self.step == self.steps

    def code(self) -> int:
        return self.fails or (-signal.SIGKILL if self.step < self.steps and self.killed else 0)


def fake(**what: object) -> type[Fake]:
    return type("OneFake", (Fake,), {"started": 0, "kills": 0, **what})


def test_the_same_weights_get_a_certificate(tmp_path):
    launch = fake()
    found = verify_resume("x", [], tmp_path / "out", steps=20, kills=2, launch=launch)
    assert found.same and found.tensors == 2 and launch.started == 4
    assert len(found.killed) == launch.kills == 2 and all(0 < step < 20 for step, _ in found.killed)
    kept = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert kept["same"] and kept["sha256"] == found.sha256 and "bit for bit" in found.text()
    assert "killed 2 of 2 times that were asked for" in found.text()


def test_a_run_that_goes_on_otherwise_gets_none(tmp_path):
    found = verify_resume("x", [], tmp_path / "out", steps=12, kills=1, launch=fake(other=1e-6 + 1))
    assert not found.same and found.different == ["w", "w::exp_avg"]
    assert "DIFFERENT: 2 of 2 tensors, w, w::exp_avg" in found.text()


def test_a_run_that_no_kill_hit_gets_none(tmp_path, monkeypatch):
    """It ends between its last logged step and the kill."""
    monkeypatch.setattr(Trial, "kill_after", lambda *_: None)
    with pytest.raises(RunError, match="none of 2 kills hit the run.*more --steps than 6"):
        verify_resume("x", [], tmp_path / "out", steps=6, kills=2, launch=fake())
    assert not (tmp_path / "out" / "certificate.json").exists()


def test_a_run_that_fails_by_itself_is_told_of_with_its_last_words(tmp_path):
    with pytest.raises(RunError, match="ended with exit code 2: error: something"):
        verify_resume("x", [], tmp_path / "out", launch=fake(fails=2))


@pytest.mark.parametrize("numbers", [{"steps": 2}, {"kills": 8}, {"kills": 0}, {"processes": 0}])
def test_numbers_that_do_not_go_together_are_refused(tmp_path, numbers):
    with pytest.raises(UserError, match="fewer kills than steps"):
        verify_resume("x", [], tmp_path / "out", launch=fake(), **numbers)


def test_a_mistake_in_the_recipe_shows_at_once(tmp_path, capsys):
    assert main(["verify-resume", "no_such_recipe", "--output", str(tmp_path / "out")]) == 2
    assert "no_such_recipe" in capsys.readouterr().err and not (tmp_path / "out").exists()


class Forked:
    """A real process."""

    def __init__(self, words: Sequence[str], variables: Mapping[str, str], said: Path) -> None:
        env = forking.environment("mmssl") | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
        self.started = forking.start(["-m", "mmssl", *words], level="mmssl", env=env)
        self.said = said
        said.touch()

    def ended(self) -> bool:
        return self.started.ended()

    def kill(self) -> None:
        self.started.kill()

    def code(self) -> int:
        if not hasattr(self, "done"):
            done = self.started.wait(60)
            self.done = done.returncode
            with self.said.open("a") as file:
                file.write(done.stdout + done.stderr)
        return self.done


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["train.parallel=fsdp2"]], ids=["ddp", "shares"])
def test_two_real_processes_that_are_killed_and_resumed_are_the_run_that_never_stopped(tmp_path, words):
    content = runs.image_text()
    content["train"] |= {"health_every": None, "guard": None}
    path = runs.write(tmp_path, content)
    found = verify_resume(str(path), words, tmp_path / "out", steps=5, kills=1, processes=2, launch=Forked)
    assert found.same and found.tensors > 100, found.text()
