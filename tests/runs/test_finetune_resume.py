"""A fine-tuning that was interrupted goes on exactly where it was: weights, optimiser, early stopping, best weights."""

import json
import shutil

import pytest
from safetensors.torch import load_file
from toys import runs, tuned

from mmssl.cli import main
from mmssl.finetuning.finetune import finetune
from mmssl.training.loop import Loop
from mmssl.training.metrics import TIMED

SHORT = [
    "few=0",
    "train.steps=8",
    "train.batch_size=16",
    "eval_every=2",
    "limit=96",
    "train.log_every=2",
    "train.save_every=3",
]
LABEL = ["--label", "label", "train.lr=0.05"]


class Killed(BaseException):
    """A process that is killed writes nothing more."""


def words(base, out, *more):
    return ["finetune", str(base), "--data", "builtin:digits", "--output", str(out), *SHORT, *more]


def stopped_in(monkeypatch, step, command, by=Killed):
    """What `command` gives when `by` is raised in the forward pass of step `step` (from 0)."""
    real = Loop._gradients

    def gradients(self, stream, index, meter):
        if index == step:
            raise by
        return real(self, stream, index, meter)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_gradients", gradients)
        return main(command)


def killed(monkeypatch, step, command):
    with pytest.raises(Killed):
        stopped_in(monkeypatch, step, command)


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """A run with an adapter, from the first step to the last."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert main(words(base, out, *LABEL)) == 0
    return out


def result(out):
    """Everything that a run leaves of what was learned, and its measured numbers."""
    weights = {p.name: load_file(p) for p in (out / "model").glob("*.safetensors")}
    report = json.loads((out / "evaluation.json").read_text())
    report["settings"].pop("seconds")
    rows = [{k: v for k, v in row.items() if k not in TIMED} for row in runs.metrics(out)]
    return weights, report, rows


def assert_same(a, b):
    (weights, report, rows), (others, theirs, lines) = result(a), result(b)
    assert weights.keys() == others.keys()
    for file, tensors in weights.items():
        assert tensors.keys() == others[file].keys()
        assert all(tensors[name].equal(others[file][name]) for name in tensors), file
    assert report == theirs
    assert [row["step"] for row in rows] == [row["step"] for row in lines]
    looks = [[row for row in some if "validation/loss" in row] for some in (rows, lines)]
    assert looks[0] == looks[1]


def test_killed_and_resumed_equals_straight(base, finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    killed(monkeypatch, 5, words(base, out, *LABEL))
    assert runs.checkpoints(out) == ["step-00000003"] and not (out / "model").exists()
    assert main(words(base, out, *LABEL, "--resume")) == 0
    assert runs.checkpoints(out) == ["step-00000006", "step-00000008"]
    assert_same(out, finished)
    log = (out / "train.log").read_text()  # of both parts, with what the first one ended with
    assert log.count("mmssl finetune: ") == log.count("---- process ") == 2
    assert "---- ended: Killed\n" in log and log.endswith("---- done\n") and "image/accuracy" in log
    assert runs.metrics(out)[-1].keys() >= {"tokens_per_second", "mfu", "memory", "wall_time"}


@pytest.mark.parametrize(
    "more",
    [
        ["--peft", "none", "train.lr=0.01", "train.accumulation=2"],
        pytest.param(["--peft", "dora", "adapter.dropout=0.2", "validation_share=0"], marks=pytest.mark.slow),
        pytest.param(["--peft", "linear", "head_start=zero", "monitor=score"], marks=pytest.mark.slow),
    ],
    ids=["everything", "dropout, no early stopping", "head alone"],
)
def test_killed_and_resumed_equals_straight_in_other_settings(base, tmp_path, monkeypatch, more):
    straight, out = tmp_path / "straight", tmp_path / "out"
    assert main(words(base, straight, *LABEL, *more)) == 0
    killed(monkeypatch, 5, words(base, out, *LABEL, *more))
    assert main(words(base, out, *LABEL, *more, "--resume")) == 0
    assert_same(out, straight)


def test_best_weights_and_patience_outlive_the_interruption(base, tmp_path, monkeypatch, capsys):
    # at this rate the start is the best; three looks without gain end the run at step 6
    ruin = ["--label", "label", "train.lr=10", "train.warmup=0", "train.clip=null", "patience=3"]
    straight, out = tmp_path / "straight", tmp_path / "out"
    assert main(words(base, straight, *ruin)) == 0
    killed(monkeypatch, 4, words(base, out, *ruin))
    best = load_file(out / "checkpoints" / "step-00000003" / "best.safetensors")
    weights = load_file(out / "checkpoints" / "step-00000003" / "weights.safetensors")
    assert best and any(not weights[name].equal(value) for name, value in best.items())
    capsys.readouterr()
    assert main(words(base, out, *ruin, "--resume")) == 0
    said = capsys.readouterr().out
    assert "going on after step 3 of 8" in said and "stopping early after step 6: the best was step 0" in said
    assert_same(out, straight)
    assert result(out)[1]["settings"]["best_step"] == 0
    # once more: it had stopped, so only what comes behind the training is done again
    shutil.rmtree(out / "model")
    assert main(words(base, out, *ruin, "--resume")) == 0
    assert "validation after" not in capsys.readouterr().out
    assert_same(out, straight)


def test_ctrl_c_writes_a_checkpoint(base, finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert stopped_in(monkeypatch, 5, words(base, out, *LABEL), by=KeyboardInterrupt) == 130
    assert runs.checkpoints(out) == ["step-00000003", "step-00000005"]
    assert main(words(base, out, *LABEL, "--resume")) == 0
    assert_same(out, finished)


def test_a_longer_run_goes_on_from_a_finished_one(base, finished, tmp_path, capsys, caplog):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    more = ["--resume", "train.steps=10", "train.keep=1", "train.lr=0.2"]
    assert main(words(base, out, *LABEL, *more)) == 0
    assert "going on after step 8 of 10" in capsys.readouterr().out
    assert runs.checkpoints(out) == ["step-00000010"]
    assert "--resume: train.lr changed since the run was started" in caplog.text
    assert "steps: 10" in (out / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--label", "text", "--resume"], "the columns are image, text, they were image, label"),
        (["--label", "label", "limit=80", "--resume"], "there are 64 rows, there were 77"),
        (["--label", "label", "--peft", "dora", "--resume"], "does not fit this recipe"),
        (["--label", "label", "train.steps=4", "--resume"], "the run has done 8 steps, more than the 4 asked for"),
        (["--label", "label"], "add --resume"),
    ],
)
def test_another_run_is_refused(base, finished, tmp_path, capsys, monkeypatch, more, says):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    if "they were" in says or "there were" in says:  # told before the probes, which may take minutes
        monkeypatch.setattr("mmssl.finetuning.finetune.build", pytest.fail)
    assert main(words(base, out, *more)) == 2
    lines = runs.errors(capsys.readouterr().err)
    assert len(lines) == 1 and says in lines[0]
    assert (out / "config.yaml").read_text() == (finished / "config.yaml").read_text()
    assert_same(out, finished)


def test_other_weights_and_no_run(finished, tmp_path, capsys):
    other = tuned.image_base(tmp_path / "other", seed=1)
    assert main(words(other, tmp_path / "nothing", *LABEL, "--resume")) == 2
    assert "there is no run in" in runs.errors(capsys.readouterr().err)[0]
    assert main(words(other, finished, *LABEL, "--resume")) == 2
    assert "started with other weights" in runs.errors(capsys.readouterr().err)[0]


@pytest.mark.parametrize("kind", ["vera", pytest.param("oft", marks=pytest.mark.slow)])
def test_checkpoints_of_types_that_share_tensors(base, tmp_path, kind):
    train = {"steps": 2, "batch_size": 16}
    run = finetune(base, "builtin:digits", "label", peft=kind, output=tmp_path / "a", train=train, limit=64)
    again = finetune(
        base, "builtin:digits", "label", peft=kind, output=tmp_path / "a", train=train, limit=64, resume=True
    )
    assert again.report["tasks"] == run.report["tasks"]


def test_distillation_resumes(finished, tmp_path, monkeypatch):
    small = tuned.image_base(tmp_path / "small", seed=3, width=8)
    more = ["--teacher", str(finished), "--peft", "none"]
    assert main(words(small, tmp_path / "straight", *more)) == 0
    killed(monkeypatch, 5, words(small, tmp_path / "out", *more))
    assert main(words(small, tmp_path / "out", *more, "--resume")) == 0
    assert_same(tmp_path / "out", tmp_path / "straight")
