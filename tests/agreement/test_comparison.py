"""`mmssl finetune --compare` gives the numbers of `mmssl evaluate` and of a plain `mmssl finetune` where it can."""

from __future__ import annotations

import json

import pytest

from mmssl.cli import main


@pytest.fixture
def compared(judged, tmp_path):
    """arm -> accuracy with all labels, seed 0."""

    def run(*words: str) -> dict[str, float]:
        out = tmp_path / "compared"
        command = ["finetune", str(judged.base), "--data", str(judged.data), "--label", "label", "--compare"]
        assert main([*command, "fraction=[1]", "draws=1", "--output", str(out), *words]) == 0
        scores = json.loads((out / "comparison.json").read_text())["scores"]["accuracy"]
        return {arm: found["300"]["mean"] for arm, found in scores.items()}

    return run


def test_the_probes_are_those_of_evaluate_and_of_a_fine_tuning(judged, evaluated, compared, tmp_path) -> None:
    found = compared("arms=[probe,untrained_probe,raw_linear]")
    said, plain = evaluated("linear"), judged.tuned(tmp_path / "out", "--peft", "lora")["linear probe"]
    assert found["probe"] == said["pretrained"] == plain["model"]
    assert found["untrained_probe"] == said["untrained"] == plain["untrained"]
    assert found["raw_linear"] == said["raw features"] == plain["raw"]


def test_the_pretrained_arm_is_a_plain_fine_tuning_with_the_same_seed(judged, compared, tmp_path) -> None:
    words = ["train.steps=12", "train.batch_size=16", "train.lr=3e-4", "eval_every=4", "seed=3", "few=0"]
    found, plain = compared("arms=[pretrained]", *words), tmp_path / "plain"
    command = ["finetune", str(judged.base), "--data", str(judged.data), "--label", "label", "--peft", "none"]
    assert main([*command, *words, "--output", str(plain)]) == 0
    report = json.loads((plain / "evaluation.json").read_text())
    assert found["pretrained"] == report["tasks"]["fine-tuned"]["image/accuracy"]["finetuned"]
    assert report["settings"]["best_step"] > 0, "else nothing was trained"
