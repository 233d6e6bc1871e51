"""Accuracy under corruptions: the clean one is the linear probe's, and what is changed is changed for all alike."""

from __future__ import annotations

import json

import pytest
from toys.refusals import refused

from mmssl.cli import main
from mmssl.evaluation.robustness import views_of

NOISE = "corruptions={noise: [{image: {noise_std: 0}}, {image: {noise_std: 1}}, {image: {noise_std: 30}}]}"
TYPES = {"image": "image"}


@pytest.fixture(scope="module")
def report(judged, tmp_path_factory):
    out = tmp_path_factory.mktemp("robust") / "out"
    words = ["evaluate", str(judged.base), "--data", str(judged.data), "label=label", NOISE, "--output", str(out)]
    assert main([*words, "--task", "linear", "--task", "robustness"]) == 0
    return json.loads((out / "suite.json").read_text())


def row(report, metric, task="robustness"):
    return next(row for row in report["rows"] if (row["task"], row["metric"]) == (task, metric))


def test_clean_rows_and_corruptions_that_change_nothing_give_the_linear_probe(report) -> None:
    linear = row(report, "image/accuracy", "linear")
    for name in ("image/clean", "image/noise 1"):
        same = row(report, name)
        assert (same["score"], same["baselines"]["raw"], same["n"]) == (
            linear["score"],
            linear["baselines"]["raw"],
            200,
        )
        assert same["baselines"]["untrained"] == linear["baselines"]["untrained"]


def test_stronger_noise_leaves_less(report) -> None:
    names = ("image/clean", "image/noise 2", "image/noise 3")
    for encoder in ("score", "raw"):
        scores = [
            (row(report, n)["score"] if encoder == "score" else row(report, n)["baselines"]["raw"]) for n in names
        ]
        assert scores[0] > scores[1] > scores[2] and scores[2] < 0.35, "chance is 0.1"
    mean = row(report, "image/mean of corruptions")
    each = [row(report, f"image/noise {severity}")["score"] for severity in (1, 2, 3)]
    assert mean["score"] == pytest.approx(sum(each) / 3)
    less = mean["less"]["raw"]
    assert less["mean"] == pytest.approx(mean["score"] - mean["baselines"]["raw"]) and less["n"] == 200


def test_what_is_no_corruption_is_refused(judged, capsys) -> None:
    for spec, facts in (
        ({"n": [{"image": {"noise_sd": 1}}]}, ("noise_sd", "noise_std")),
        ({"n": [{"picture": {"noise_std": 1}}]}, ("picture", "image")),
        ({"n": []}, ("n", "no severity")),
        ({"n": [{"image": {"noise_std": -1}}]}, ("-1",)),
    ):
        with refused(*facts):
            views_of(spec, TYPES)
    words = ["evaluate", str(judged.base), "--data", str(judged.data), "--task", "robustness", "label=label"]
    assert main([*words, "corruptions={n: [{image: {noise_sd: 1}}]}"]) == 2 and "noise_sd" in capsys.readouterr().err
    assert main(words) == 2
    assert "robustness: it needs views for corruptions" in capsys.readouterr().err


def test_views_are_named_by_severity() -> None:
    blur = {"blur": [{"image": {"blur": 1.0, "blur_sigma": [s, s]}} for s in (0.5, 1.0)]}
    assert list(views_of(blur, TYPES)) == ["blur 1", "blur 2"]
    assert views_of({}, TYPES) == {}
