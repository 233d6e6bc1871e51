"""One encoder, two commands, one number: the linear probe of `mmssl evaluate` and that of `mmssl finetune`."""

from __future__ import annotations

import pytest
from toys import runs

from mmssl.cli import main
from mmssl.evaluation import linear

pytestmark = pytest.mark.usefixtures("whole_probe")


def test_evaluate_and_the_baseline_of_a_fine_tuning_give_the_same_number(judged, evaluated, tmp_path) -> None:
    found = judged.tuned(tmp_path / "out", "--peft", "lora")
    assert found["linear probe"]["model"] == evaluated("linear")["pretrained"]
    assert "finetuned" not in found["linear probe"] and found["fine-tuned"]["model"] is None


@pytest.mark.parametrize("peft", ["linear", "none"])
def test_the_head_starts_as_the_probe_that_evaluate_reports(judged, evaluated, tmp_path, peft) -> None:
    found = judged.tuned(tmp_path / "out", "--peft", peft, "validation_share=0")
    assert found["fine-tuned"]["finetuned"] == found["linear probe"]["model"] == evaluated("linear")["pretrained"]


@pytest.mark.slow
def test_the_data_can_tell_probes_apart(evaluated, monkeypatch) -> None:
    chosen = evaluated("linear")["pretrained"]
    others = []
    for strength in linear.STRENGTHS:
        monkeypatch.setattr(linear, "STRENGTHS", (strength,))
        others.append(evaluated("linear")["pretrained"])
    assert chosen in others and len(set(others)) >= 4, "else agreement would say nothing"


def test_rows_of_a_group_are_held_out_together_by_both(judged, evaluated, tmp_path, monkeypatch) -> None:
    """How strongly a probe is regularised is not chosen on rows of people that it has learned from."""
    monkeypatch.setattr(linear, "FEW", 0)  # one fifth, which ways of sharing out differ more by than by five
    by_person = evaluated("linear", "group=person")["pretrained"]
    assert judged.tuned(tmp_path / "out", "--peft", "lora", "group=person")["linear probe"]["model"] == by_person
    assert by_person != evaluated("linear")["pretrained"], "else this says nothing"


def test_a_group_that_is_not_there_is_told_of_before_anything_is_trained_or_embedded(
    judged, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("mmssl.evaluation.measuring.embed_source", pytest.fail)
    monkeypatch.setattr("mmssl.training.preparing.Loop", pytest.fail)
    words = ["evaluate", str(judged.base), "--data", str(judged.data), "--task", "linear", "label=label"]
    content = runs.recipe(evaluation={"label": "label", "group": "persn", "tasks": ["knn"]})
    content["data"] = {"path": str(judged.data)}
    for command in (
        [*words, "group=persn"],
        ["pretrain", str(runs.write(tmp_path, content)), "--output", str(tmp_path / "run")],
    ):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "group: the data has no column 'persn'" in said and "did you mean 'person'" in said
