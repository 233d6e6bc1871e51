"""Damaged checkpoints and model folders, and runs that do not fit what is there: named in one line, nothing lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from toys import runs
from toys.broken import nothing_half_written, raise_full

from mmssl.cli import main
from mmssl.training import checkpoints


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert runs.cli(folder) == 0
    assert runs.checkpoints(folder / "run") == ["step-00000004", "step-00000006"]
    return folder / "run"


@pytest.fixture
def finished(trained_once: Path, tmp_path: Path) -> Path:
    """A finished run of 6 steps with the checkpoints of steps 4 and 6, to be damaged."""
    return Path(shutil.copytree(trained_once, tmp_path / "run"))


def damage(checkpoint: Path, how: str) -> None:
    weights, state = checkpoint / checkpoints.WEIGHTS, checkpoint / checkpoints.STATE
    if how == "flipped":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif how == "no optimizer":
        (checkpoint / checkpoints.OPTIMIZER).unlink()
    elif how == "no state":
        state.unlink()
    else:
        state.write_bytes({"torn state": state.read_bytes()[:40], "binary state": b"\xff\x00", "list": b"[]"}[how])


@pytest.mark.parametrize(
    "how", ["flipped", "truncated", "no optimizer", "no state", "torn state", "binary state", "list"]
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(finished, how, caplog, capsys):
    expected = (finished / "model" / "model.safetensors").read_bytes()
    damage(finished / "checkpoints" / "step-00000006", how)
    assert runs.cli(finished.parent, "--resume") == 0
    (warning,) = [r.getMessage() for r in caplog.records if "damaged" in r.getMessage()]
    assert "step-00000006" in warning
    assert "going on after step 4 of 6" in capsys.readouterr().out
    assert (finished / "model" / "model.safetensors").read_bytes() == expected
    assert checkpoints.latest(finished / "checkpoints").name == "step-00000006"


def test_a_damaged_checkpoint_never_pushes_out_a_good_one(finished):
    damage(finished / "checkpoints" / "step-00000006", "flipped")
    assert runs.cli(finished.parent, "train.steps=5", "train.keep=1", "--resume") == 0
    assert runs.checkpoints(finished) == ["step-00000005"]


def test_only_damaged_checkpoints(finished, capsys):
    for checkpoint in (finished / "checkpoints").iterdir():
        damage(checkpoint, "truncated")
    model = (finished / "model" / "model.safetensors").read_bytes()
    assert runs.cli(finished.parent, "--resume") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "no checkpoint" in line and "step-00000004" in line and "step-00000006" in line
    assert (finished / "model" / "model.safetensors").read_bytes() == model


def test_a_checkpoint_of_another_architecture(finished, capsys):
    before = (finished / "config.yaml").read_text()
    content = runs.recipe()
    content["model"]["towers"]["image"]["width"] = 32
    assert runs.cli(finished.parent, "--resume", content=content) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "does not fit this recipe" in line
    assert (finished / "config.yaml").read_text() == before


def test_a_changed_recipe_is_named_when_resuming(finished, caplog):
    assert runs.cli(finished.parent, "train.lr=5e-4", "train.steps=8", "seed=3", "--resume") == 0
    (warning,) = [r.getMessage() for r in caplog.records if "changed" in r.getMessage()]
    assert "train.lr" in warning and "seed" in warning and "steps" not in warning


def test_resume_with_fewer_steps_than_were_done(finished, capsys):
    assert runs.cli(finished.parent, "train.steps=5", "--resume") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "has done 6 steps, more than the 5 asked for" in line


def test_resume_without_a_run(tmp_path, capsys):
    assert runs.cli(tmp_path, "--resume") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "there is no run" in line


def test_a_folder_that_holds_a_run_already(finished, capsys):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    assert runs.cli(finished.parent) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "holds a run already" in line and "--resume" in line
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def test_without_output_a_taken_name_gets_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = runs.write(tmp_path, runs.recipe(train={"steps": 1}))
    assert [main(["pretrain", str(path)]) for _ in range(2)] == [0, 0]
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["tiny", "tiny-2"]


def test_output_is_a_file(tmp_path, capsys):
    (tmp_path / "run").write_text("")
    assert runs.cli(tmp_path) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "expected a folder" in line


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "processor_config.json"])
@pytest.mark.parametrize("how", ["truncated", "gone"])
def test_a_damaged_model_folder(finished, file, how, capsys):
    path = finished / "model" / file
    path.write_bytes(path.read_bytes()[:50]) if how == "truncated" else path.unlink()
    command = ["evaluate", str(finished / "model"), "--data", "builtin:digits", "--task", "rankme"]
    assert main(command) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert str(finished / "model") in line


def test_weights_that_lack_a_tensor(finished, capsys):
    from safetensors.torch import load_file, save_file

    path = finished / "model" / "model.safetensors"
    weights = load_file(path)
    weights.pop(sorted(weights)[0])
    save_file(weights, path, {"format": "pt"})
    assert main(["evaluate", str(finished / "model"), "--data", "builtin:digits", "--task", "rankme"]) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "the weights lack 1 tensors" in line


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_an_old_model_survives_a_new_one_that_cannot_be_written(finished, moment, monkeypatch):
    before = (finished / "model" / "model.safetensors").read_bytes()
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        return raise_full() if self.name == ".model.partial" else real(self, target)

    if moment == "writing":
        monkeypatch.setattr("mmssl.models.saving.MMSSLModel.save_pretrained", raise_full)
    else:
        monkeypatch.setattr(Path, "rename", rename)
    assert runs.cli(finished.parent, "train.steps=8", "--resume") == 1
    assert (finished / "model" / "model.safetensors").read_bytes() == before
    assert runs.checkpoints(finished) == ["step-00000006", "step-00000008"]
    assert nothing_half_written(finished)
