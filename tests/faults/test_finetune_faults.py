"""Bad input to `mmssl finetune`: one clear line, exit code 2, nothing left behind."""

from __future__ import annotations

import pytest
from toys import runs

from mmssl.cli import main

CASES = [
    (["--label", "lable"], "no column 'lable'"),
    ([], "--label: found none"),
    (["--label", "label", "--peft", "lorra"], "--peft: PEFT has no type 'lorra'"),
    (["--label", "label", "--peft", "prompt_tuning"], "works on prompts"),
    (["--label", "label", "adapter.target_modules=[query]"], "no module of tower image is called 'query'"),
    (["--label", "label", "adapter.rank=4"], "adapter.rank: found an unknown key"),
    (["--label", "label", "adapter.r=0"], "adapter.r: found 0"),
    (["--label", "label", "--peft", "none", "adapter.r=4"], "--peft none has none"),
    (["--label", "label", "adapter.type=ia3"], "expected --peft to say"),
    (["--label", "label", "fraktion=0.1"], "did you mean 'fraction'"),
    (["--label", "label", "fraction=0.1", "labels=10"], "both fraction and labels"),
    (["--label", "label", "labels=100000"], "only 1437 training rows have a label"),
    (["--label", "label", "train.steps=3", "train.epochs=2"], "both epochs and steps"),
    (["--label", "label", "task=regression", "class_weights=balanced"], "a regression has no classes"),
    (["--label", "label", "group=patient"], "group: the data has no column 'patient'"),
    (["--label", "label", "test=train"], "the split that is trained on"),
    (["--label", "label", "validation=validation"], "no split 'validation'"),
    (["--label", "label", "--column", "sound=x"], "the model has no 'sound'"),
    (["--label", "label", "--column", "image=picture"], "no column 'picture'"),
    (["--label", "label", "keep_head=simclr"], "has no checkpoint"),
    (["--label", "label", "augment.text.x=1"], "augment.text: found no such modality of the model"),
    (["--label", "label", "--base", "x"], "only an adapter has a base"),
    (["--label", "text", "task=regression"], "expected numbers for regression"),
]


@pytest.mark.parametrize(("words", "says"), CASES, ids=[says[:40] for _, says in CASES])
def test_one_line_and_nothing_left(base, tmp_path, capsys, words, says):
    out = tmp_path / "out"
    steps = [] if any("train." in w for w in words) else ["train.steps=2"]
    code = main(["finetune", str(base), "--data", "builtin:digits", "--output", str(out), *words, *steps])
    lines = runs.errors(capsys.readouterr().err)
    assert code == 2 and len(lines) == 1 and says in lines[0]
    assert not out.exists()


def test_no_model_there(tmp_path, capsys):
    code = main(["finetune", str(tmp_path), "--data", "builtin:digits", "--label", "label", "--output", str(tmp_path)])
    assert code == 2 and "expected the folder of a model" in runs.errors(capsys.readouterr().err)[0]


def test_a_run_that_is_there_is_not_written_over(base, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    code = main(["finetune", str(base), "--data", "builtin:digits", "--label", "label", "--output", str(tmp_path)])
    assert code == 2 and "holds a run already" in runs.errors(capsys.readouterr().err)[0]
    assert not list((tmp_path / "model").iterdir())
