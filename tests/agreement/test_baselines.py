"""Raw features are one baseline: `mmssl evaluate` and `mmssl finetune` give them the same number, and so has chance."""

from __future__ import annotations


def test_raw_features_score_the_same_in_both_commands(judged, evaluated, tmp_path) -> None:
    found, said = judged.tuned(tmp_path / "out", "--peft", "lora"), evaluated("linear")
    assert found["linear probe"]["raw"] == said["raw features"]
    assert said["raw features"] not in (said["pretrained"], said["chance"]), "two columns that are alike prove nothing"
