"""A suite's numbers are those of the single command; cells are kept, and one that is broken costs no other."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import runs

from mmssl.cli import main
from mmssl.judging import suite as judging
from mmssl.judging.table import plain_suite


@pytest.fixture(scope="module")
def other(judged, tmp_path_factory):
    """The encoder with other weights."""
    folder = tmp_path_factory.mktemp("other") / "shaken"
    shutil.copytree(judged.base, folder)
    weights, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    moved = {
        k: v + v.std() * torch.randn(v.shape, generator=generator) if v.ndim > 1 else v for k, v in weights.items()
    }
    save_file(moved, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def suite(judged, other, tmp_path_factory):
    """(exit code, folder, what it wrote) of two models on two sets, of which one is broken for both."""
    folder = tmp_path_factory.mktemp("suite")
    sets = folder / "sets.yaml"
    sets.write_text(f"people: {{path: '{judged.data}', label: label, group: person, by: person}}\n")
    (folder / "broken").mkdir()
    (folder / "broken" / "rows.csv").write_text("label\n" + "1\n2\n" * 30)
    words = ["evaluate", str(judged.base), str(other), "--data", str(judged.data), str(sets), str(folder / "broken")]
    code = main([*words, "--task", "knn", "--task", "linear", "label=label", "--output", str(folder / "out")])
    return code, words, folder, json.loads((folder / "out" / "suite.json").read_text())


def rows(report, **wanted):
    return [row for row in report["rows"] if all(row[key] == value for key, value in wanted.items())]


def test_its_numbers_are_those_of_the_single_command(judged, evaluated, suite) -> None:
    _, _, _, report = suite
    for called, more in (("data", []), ("people", ["group=person"])):
        for task in ("knn", "linear"):
            alone = evaluated(task, *more)
            row = rows(report, set=called, task=task, metric="image/accuracy")[0]
            assert round(row["score"], 3) == alone["pretrained"], (called, task)
            assert round(row["baselines"]["untrained"], 3) == alone["untrained"]
            assert (
                round(row["baselines"]["raw"], 3) == alone["raw features"]
                and round(row["chance"], 3) == alone["chance"]
            )


def test_differences_are_those_of_the_scores_on_the_same_rows(suite) -> None:
    report = suite[3]
    for row in rows(report, metric="image/accuracy"):
        for key in ("untrained", "raw"):
            less = row["less"][key]
            assert less["mean"] == pytest.approx(row["score"] - row["baselines"][key], abs=1e-9) and less["n"] == 200
            assert less["low"] <= less["mean"] <= less["high"]
            assert (less["says"] is None) == (less["low"] <= 0 <= less["high"])
    first, second = rows(report, set="data", task="knn", metric="image/accuracy")
    assert first["model"] == report["first"] and "first" not in first["less"]
    assert second["less"]["first"]["mean"] == pytest.approx(second["score"] - first["score"], abs=1e-9)
    alone, grouped = (
        rows(report, set=s, task="knn", metric="image/accuracy")[1]["less"]["raw"] for s in ("data", "people")
    )
    assert alone["mean"] == grouped["mean"] and alone["low"] != grouped["low"], "people are resampled whole"


def test_a_broken_cell_is_told_and_the_others_are_kept(suite) -> None:
    code, _, folder, report = suite
    assert code == 1 and len(report["broken"]) == 2 and {one["set"] for one in report["broken"]} == {"broken"}
    assert "none of the model's modalities" in report["broken"][0]["reason"]
    assert len(list((folder / "out" / "cells").glob("*.safetensors"))) == 4
    said = plain_suite(report)
    assert "group: 12 of 12 of the test rows' 'person' are also among those learned from" in said
    assert "on broken: left out" in said and "by person" in said and "disparity" in said
    assert (folder / "out" / "README.md").read_text().count("| people |") == len(rows(report, set="people")) * 2 - 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "DATA", "label=nosuch"], "evaluation.label: the data has no column 'nosuch'"),
        (["--data", "DATA", "label=label", "by=nosuch"], "by: the data has no column 'nosuch'"),
        (
            ["--data", "DATA", "label=label", "condition=nosuch"],
            "evaluation.condition: the data has no column 'nosuch'",
        ),
        (["--data", "nowhere", "label=label"], "data.path: 'nowhere' is neither a file or folder here"),
        (["--data", "empty.csv", "label=label"], "empty.csv' is empty (0 bytes)"),
        (["--data", "DATA", "label=label", "k=0"], "k: found 0, expected >= 1"),
        (["--data", "DATA", "--task", "nosuch"], "tasks: found 'nosuch'"),
        (["--data", "DATA", "label=label", "--output", "DATA"], "this is the folder of the data"),
        (["--data", "DATA", "label=label", "--output", "empty.csv"], "this is a file, expected a folder"),
        (["--data", "list.yaml"], "expected a file with the options of a set"),
        (["--data", "wrong.yaml"], "x: found "),
        (["--data", "nowhere.yaml"], "--data nowhere.yaml: no such file"),
        (["nowhere", "--data", "DATA", "label=label"], "nowhere: no such folder here"),
        (["--data", "DATA", "label=label", "--resume", "--output", "none"], "there is no run in none"),
        (["--data", "DATA", "--task", "look-alikes"], "it needs data with at least two of the model's modalities"),
        ([], "--data: found none"),
    ],
)
def test_bad_input_of_a_suite_is_one_line_and_leaves_nothing(
    words: list[str], said: str, judged, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, text in (("empty.csv", ""), ("list.yaml", "- 1\n"), ("wrong.yaml", "x: {pth: d}\n")):
        (tmp_path / name).write_text(text)
    there = sorted(p.name for folder in (tmp_path, judged.data) for p in folder.iterdir())
    words = [str(judged.data) if word == "DATA" else word for word in words]
    output = [] if "--output" in words else ["--output", "out"]
    assert main(["evaluate", str(judged.base), str(judged.base), *words, *output]) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert said in line
    assert sorted(p.name for folder in (tmp_path, judged.data) for p in folder.iterdir()) == there


def test_a_suite_that_is_killed_goes_on_with_what_is_there(suite, monkeypatch, capsys) -> None:
    _, words, folder, report = suite
    words = [*words[:-1], "--task", "knn", "--task", "linear", "label=label", "--output", str(folder / "out")]
    assert main(words) == 2, "not without being asked for"
    capsys.readouterr()
    (folder / "out" / "cells" / "shaken.people.safetensors").unlink()
    measured = []
    real = judging._measure
    monkeypatch.setattr(judging, "_measure", lambda *args: measured.append(args) or real(*args))
    assert main([*words, "--resume"]) == 0 and len(measured) == 1
    again = json.loads((folder / "out" / "suite.json").read_text())
    assert again["rows"] == report["rows"] and not again["broken"]
    assert main([*words, "--resume", "k=3"]) == 0 and len(measured) == 5, "other options are other cells"


def test_a_task_that_is_not_possible_is_an_error_where_it_is_all_that_is_asked_for(judged, capsys) -> None:
    words = ["evaluate", str(judged.base), "--data", str(judged.data), "label=label", "--task", "zero-shot"]
    assert main(words) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "nothing can be measured: zero-shot: the model has no text modality" in line
    assert main([*words, "--task", "knn", "group=person"]) == 0
    said = capsys.readouterr().out
    assert "zero-shot: left out, the model has no text modality" in said
    assert "group: 12 of 12 of the test rows' 'person' are also among those learned from" in said


def test_one_model_on_one_set_is_what_it_was(judged, capsys) -> None:
    words = ["evaluate", str(judged.base), "--data", str(judged.data), "--task", "knn", "label=label"]
    said = []
    for line in (words, [*words[:4], "label=label", *words[4:-1]], ["evaluate", *words[2:4], *words[1:2], *words[4:]]):
        assert main(line) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2] and said[0].splitlines()[0].split()[:3] == ["task", "metric", "pretrained"]


def test_models_are_compared_by_their_features_and_by_when_they_are_sure(judged, other, tmp_path, capsys) -> None:
    words = ["evaluate", str(judged.base), str(other), "--data", str(judged.data), "label=label"]
    assert main([*words, "--task", "cka", "--task", "selective", "--output", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "suite.json").read_text())
    for row in rows(report, task="cka"):
        assert row["score"] is None and -0.2 < row["baselines"]["raw"] < 1 and row["baselines"]["untrained"] is not None
    assert rows(report, task="cka")[0]["baselines"]["untrained"] == pytest.approx(1, abs=1e-6), "it is its own twin"
    (pair,) = report["cka"]
    assert pair["models"][1] == "shaken" and pair["n"] == 200 and 0 < pair["value"] < 0.999
    areas = rows(report, metric="image/AURC")
    assert all(0 < row["score"] < row["chance"] and not row["less"] for row in areas)
    assert main([*words[:2], *words[3:], "--task", "selective", "--task", "linear"]) == 0
    said = capsys.readouterr().out
    assert f"{areas[0]['score']:.3f}" in said and "risk at 80 % coverage" in said.replace("80%", "80 %")
    assert main([*words, "--task", "cka", "--task", "selective", "--output", str(tmp_path / "out"), "--resume"]) == 0
    assert json.loads((tmp_path / "out" / "suite.json").read_text())["cka"] == report["cka"]


def test_what_is_wrong_is_told_in_a_line(judged, tmp_path, capsys) -> None:
    (tmp_path / "sets.yaml").write_text("a: {label: x}\nb: 3\n")
    (tmp_path / "other.yaml").write_text(f"path: {judged.data}\nlabl: x\n")
    base, data = str(judged.base), str(judged.data)
    for words, facts in (
        ([base, base], ["--data", "found none"]),
        (["--data", data], ["MODEL"]),
        ([base, "--data", data, str(tmp_path / "sets.yaml")], ["sets.yaml: a", "sets.yaml: b", "a path"]),
        ([base, "--data", data, str(tmp_path / "other.yaml")], ["other: labl", "did you mean"]),
        ([base, "--data", data, "no.yaml"], ["no.yaml"]),
        ([base, "no/model", "--data", data], ["no/model"]),
        ([base, "--data", data, "--task", "knn", "by=colour", "label=label"], ["by: the data has no column 'colour'"]),
    ):
        assert (
            main(
                ["evaluate", *words, "--output", str(tmp_path / "out")]
                if "by=colour" not in words
                else ["evaluate", *words]
            )
            == 2
        )
        said = capsys.readouterr().err
        assert all(fact in said for fact in facts), said
    assert not (tmp_path / "out" / "suite.json").exists()


def test_the_boosting_of_raw_features_is_fitted_once_for_models_that_share_them(
    judged, other, tmp_path, monkeypatch
) -> None:
    from mmssl.evaluation import boosting

    fitted = []

    def quick(x, y, *, outputs, **_):
        fitted.append(len(x))
        centres = np.stack([x[y == c].mean(0) for c in range(outputs)])
        return lambda z: -np.square(z[:, None] - centres).sum(2)

    monkeypatch.setattr(boosting, "fit_boosting", quick)
    words = ["evaluate", str(judged.base), str(other), "--data", str(judged.data), "label=label", "--output"]
    assert main([*words, str(tmp_path / "out"), "--task", "knn", "--task", "boosting"]) == 0 and fitted == [300]
    report = json.loads((tmp_path / "out" / "suite.json").read_text())
    first, second = rows(report, task="knn", metric="image/accuracy")
    assert first["baselines"]["boosting"] == second["baselines"]["boosting"] > 0.5
    assert first["less"]["boosting"]["mean"] == pytest.approx(first["score"] - first["baselines"]["boosting"], abs=1e-9)
