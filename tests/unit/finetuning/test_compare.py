"""`finetune --compare`: the same rows for all arms, no test row among them, pairs that are pairs, and going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from toys import runs, tuned
from toys.refusals import refused

import mmssl
from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.evaluation.linear import fit_probe
from mmssl.finetuning import arms, compare
from mmssl.finetuning.comparison import difference_rows, plain, score_rows
from mmssl.models.opening import open_model
from mmssl.models.running import untrained_twin

ROWS, PEOPLE = 240, 60
QUICK = {"steps": 2, "batch_size": 16, "lr": 1e-3}
FAST = ["probe", "raw_linear"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder whose weights are not those of its twin."""
    folder = tuned.image_base(tmp_path_factory.mktemp("model") / "base")
    model, processor = open_model(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    """Handwritten digits of three classes with their number and a person who wrote four of them."""
    from sklearn.datasets import load_digits

    x, y = load_digits(n_class=3, return_X_y=True)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Value("int64"), "id": datasets.Value("int64")}
        | {"who": datasets.Value("int64")}
    )
    pictures = list((x[:ROWS].reshape(-1, 8, 8) * 15).astype(np.uint8))
    numbers = np.arange(ROWS)
    return datasets.Dataset.from_dict(
        {"image": pictures, "label": y[:ROWS], "id": numbers, "who": numbers % PEOPLE}, features=features
    )


@pytest.fixture(scope="module")
def whole(base: Path, rows: datasets.Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A whole comparison by person, and which rows each arm was given: {"report", "folder", "seen": [...]}."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        run = arms.Bench.run

        def spy(bench: arms.Bench, arm: str, draw: arms.Draw) -> arms.Answers:
            answers = run(bench, arm, draw)
            parts = {"test": bench.pool.test, "labelled": draw.partition.labelled, "train": draw.partition.train}
            parts["validation"] = draw.partition.validation
            ids = {name: list(part.source["id"]) for name, part in parts.items() if part is not None}
            seen.append({"arm": arm, "size": len(draw.rows), "draw": draw.number, **ids})
            return answers

        patch.setattr(arms.Bench, "run", spy)
        out = tmp_path_factory.mktemp("whole") / "out"
        found = mmssl.finetune(
            base, rows, "label", compare=True, labels=[12, 40], draws=2, group="who", train=QUICK, few=0, output=out
        )
    return {"report": found.report, "folder": out, "seen": seen, "shown": repr(found)}


def test_all_arms_of_a_draw_get_the_same_rows_and_none_of_them_is_measured_on(whole):
    seen, who = whole["seen"], lambda ids: {i % PEOPLE for i in ids}
    assert {s["arm"] for s in seen} == set(arms.TITLES) - {"start", "start_probe"}
    tested = seen[0]["test"]
    for size in (12, 40):
        for draw in (0, 1):
            own = [s for s in seen if (s["size"], s["draw"]) == (size, draw)]
            assert len(own) == 6
            for s in own:
                assert s["test"] == tested and s["labelled"] == own[0]["labelled"] and len(s["labelled"]) == size
                assert sorted(s["train"] + s["validation"]) == sorted(s["labelled"]), "rows to stop by cost labels, too"
                assert not who(s["train"]) & who(s["validation"])
                assert not who(s["labelled"]) & who(tested)
    by = {(s["size"], s["draw"]): set(s["labelled"]) for s in seen}
    assert by[12, 0] < by[40, 0] and by[12, 1] < by[40, 1], "the few are among the many"
    assert by[12, 0] != by[12, 1] and by[40, 0] != by[40, 1]


def test_an_arm_learned_from_those_rows_and_answered_for_the_test_rows(whole, base, rows):
    model, processor = open_model(base)
    encoders = {"probe": model, "untrained_probe": untrained_twin(model)}
    for size, draw in ((12, 0), (40, 1)):
        s = next(s for s in whole["seen"] if (s["size"], s["draw"]) == (size, draw))
        parts = [rows.select(s[name]) for name in ("labelled", "test")]
        for arm, encoder in encoders.items():
            with torch.no_grad():
                x, x_test = (encoder(**processor(image=list(p["image"]))).pooled["image"].numpy() for p in parts)
            y, truth = (np.array(p["label"]) for p in parts)
            probe = fit_probe(x, y, outputs=3, groups=[i % PEOPLE for i in s["labelled"]], seed=draw)
            kept = arms_cell(whole["folder"], arm, size, draw)
            np.testing.assert_allclose(kept, probe(x_test), atol=1e-3)
            right = whole["report"]["scores"]["accuracy"][arm][str(size)]["draws"][draw]
            assert right == pytest.approx((kept.argmax(1) == truth).mean())
    assert (arms_cell(whole["folder"], "probe", 40, 0) != arms_cell(whole["folder"], "untrained_probe", 40, 0)).any()
    tuned_, scratch = (arms_cell(whole["folder"], arm, 40, 0) for arm in ("pretrained", "scratch"))
    assert np.abs(tuned_ - scratch).max() > 1e-3


def arms_cell(folder: Path, arm: str, size: int, draw: int) -> np.ndarray:
    found = compare._read(folder / compare.CELLS / f"{arm}-{size}-{draw}.safetensors")
    assert found is not None
    return found.logits.numpy()


def test_the_report_has_every_arm_and_pairs_the_first_with_all_others(whole):
    report = whole["report"]
    assert json.loads((whole["folder"] / "comparison.json").read_text()) == json.loads(json.dumps(report))
    assert set(report["differences"]) == set(report["arms"]) - {"pretrained"} and report["arms"][0] == "pretrained"
    for arm, found in report["differences"].items():
        for size, value in found.items():
            ours, theirs = (report["scores"]["accuracy"][a][size]["draws"] for a in ("pretrained", arm))
            assert value["mean"] == pytest.approx(np.mean(np.array(ours) - theirs))
            assert value["low"] <= value["mean"] <= value["high"]
            clear = value["low"] > 0 or value["high"] < 0
            assert value["says"] == ((None, "better" if value["mean"] > 0 else "worse")[clear])
    card = (whole["folder"] / "README.md").read_text()
    for text in (whole["shown"], card):
        assert "raw features, boosting" in text and "from scratch, same steps" in text and "chance" in text
    assert not (whole["folder"] / arms.RUNNING).exists()
    assert {c["lr"] for c in report["cells"] if c["arm"] == "scratch"} == {1e-3}, "the rate that was asked for"


def test_it_goes_on_where_it_was_stopped_and_gives_the_same(base, rows, tmp_path, monkeypatch):
    words = {"labels": [12], "draws": 2, "arms": ["untrained_probe", *FAST], "train": QUICK}
    at_once = mmssl.finetune(base, rows, "label", compare=True, **words, output=tmp_path / "once").report
    run, done = arms.Bench.run, []

    def stopped(bench, arm, draw):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append((arm, draw.number))
        return run(bench, arm, draw)

    monkeypatch.setattr(arms.Bench, "run", stopped)
    again = {**words, "output": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        mmssl.finetune(base, rows, "label", compare=True, **again)
    with pytest.raises(UserError, match="holds a run already"):
        mmssl.finetune(base, rows, "label", compare=True, **again)
    first, done[:] = list(done), []
    monkeypatch.setattr(
        arms.Bench, "run", lambda bench, arm, draw: done.append((arm, draw.number)) or run(bench, arm, draw)
    )
    for name, value in (("train", {**QUICK, "steps": 3}), ("seed", 1), ("class_weights", "balanced")):
        with pytest.raises(UserError, match=f"--resume: .*{name}.*changed since the comparison was started"):
            mmssl.finetune(base, rows, "label", compare=True, **{**again, name: value}, resume=True)
    with pytest.raises(UserError, match="--resume: the rows changed"):
        mmssl.finetune(base, rows.select(range(200)), "label", compare=True, **again, resume=True)
    report = mmssl.finetune(base, rows, "label", compare=True, **again, resume=True).report
    assert len(first) == 2 and not set(first) & set(done) and len(done) == 4
    for key in ("scores", "differences"):
        assert report[key] == at_once[key]
    done.clear()
    more = mmssl.finetune(base, rows, "label", compare=True, **{**again, "score": "auroc"}, resume=True).report
    assert not done and more["score"] == "auroc" and more["scores"] == report["scores"]


def test_a_rate_is_chosen_on_the_rows_to_stop_by_and_random_weights_are_trained_whole(
    base, rows, tmp_path, monkeypatch
):
    tried = []

    def train(bench, arm, draw, peft, rate, place):
        assert draw.partition.validation is not None
        tried.append((arm, peft, rate))
        return arms.Answers(torch.zeros(int(bench.test.present.sum()), 3), {"lr": rate, "validation": abs(rate - 1e-3)})

    monkeypatch.setattr(arms.Bench, "_train", train)
    given = {"compare": True, "labels": [40], "draws": 1, "arms": ["pretrained", "scratch"], "few": 0}
    report = mmssl.finetune(base, rows, "label", **given, output=tmp_path / "a").report
    assert [c["lr"] for c in report["cells"]] == [1e-3, 1e-3] and report["options"]["peft"] == "none"
    assert tried == [(arm, "none", rate) for arm in ("pretrained", "scratch") for rate in (2e-4, 1e-3)]
    tried.clear()
    mmssl.finetune(base, rows, "label", **given, peft="lora", rates=[0.1, 0.2, 1e-3], output=tmp_path / "b")
    assert tried == [(a, p, r) for a, p in (("pretrained", "lora"), ("scratch", "none")) for r in (0.1, 0.2, 1e-3)]


def test_training_that_is_stopped_within_an_arm_loses_nothing(base, rows, tmp_path, monkeypatch):
    from mmssl.training.validation import Validation

    words = {"labels": [24], "draws": 1, "arms": ["pretrained"], "train": {**QUICK, "steps": 4}, "eval_every": 1}
    words["few"] = 0
    at_once = mmssl.finetune(base, rows, "label", compare=True, **words, output=tmp_path / "once").report
    look, looks = Validation.look, []

    def stopped(validation, moment):
        looks.append(moment.step)
        if moment.step == 3 and looks.count(3) == 1:
            raise KeyboardInterrupt
        return look(validation, moment)

    monkeypatch.setattr(Validation, "look", stopped)
    words["output"] = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        mmssl.finetune(base, rows, "label", compare=True, **words)
    before = len(looks)
    report = mmssl.finetune(base, rows, "label", compare=True, **words, resume=True).report
    assert looks[before] == 3, "it went on after step 3"
    assert report["scores"] == at_once["scores"]
    np.testing.assert_array_equal(*(arms_cell(tmp_path / f, "pretrained", 24, 0) for f in ("once", "out")))


def test_more_labels_than_there_are_are_refused_and_shares_are_named(base, rows, tmp_path, monkeypatch):
    asked = {"compare": True, "arms": FAST, "draws": 1, "output": tmp_path / "a"}
    with refused("labels: found 1000, but only 192 training rows have a label"):
        mmssl.finetune(base, rows, "label", **asked, labels=[12, 1000])
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr("mmssl.finetuning.compare.BUDGETS", (12, 1000))  # of those that nobody asked for all are taken
    report = mmssl.finetune(base, rows, "label", **asked).report
    assert report["budgets"] == {"12": "12", "192": "192 (all)"}
    assert any(note.startswith("one draw") for note in report["notes"])
    report = mmssl.finetune(
        base, rows, "label", compare=True, arms=FAST, fraction=[0.1, 1], draws=1, output=tmp_path / "b"
    ).report
    assert report["budgets"] == {"19": "10 % (19)", "192": "100 % (192)"}
    assert report["arms"] == FAST and set(report["differences"]) == {"raw_linear"}
    assert score_rows(report)[0] == ["accuracy, labels:", "10 % (19)", "100 % (192)"]
    assert difference_rows(report)[0][0] == "pretrained, linear probe, less" and plain(report)


def test_numbers_and_several_labels_are_compared_too(base, rows, tmp_path):
    y = np.array(rows["label"])
    table = rows.add_column("amount", (y * 2.5 + 0.25).tolist()).add_column("one", (y == 1).astype(int).tolist())
    table = table.add_column("two", (y == 2).astype(int).tolist())
    given = {"compare": True, "labels": [40], "draws": 2, "arms": [*FAST, "raw_boosting"], "modalities": ["image"]}
    found = mmssl.finetune(base, table, ["one", "two"], **given, output=tmp_path / "b").report
    assert found["score"] == "auroc" and found["scores"]["auroc"]["raw_boosting"]["40"]["mean"] > 0.8
    given["arms"] = FAST
    found = mmssl.finetune(base, table, "amount", **given, score="mae", output=tmp_path / "a").report
    assert found["score"] == "mae" and set(found["scores"]) == {"r2", "spearman", "mae"}
    for value in found["differences"]["raw_linear"].values():  # the smaller error is the better one
        assert value["says"] in (None, "better" if value["mean"] < 0 else "worse")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--label: found none, expected the column(s) of the labels"),
        (["--label", "lable"], "the data has no column 'lable'"),
        (["--label", "label", "task=retrieval"], "task: found retrieval, but --compare learns from labels"),
        (["--label", "label", "--teacher", "x"], "--teacher: found it with --compare"),
        (["--label", "label", "validation=train"], "validation: found train, which does not go with --compare"),
        (["--label", "label", "score=auc"], "score: found 'auc', expected one of accuracy, balanced_accuracy, auroc"),
        (["--label", "label", "arms=[pretrianed]"], "arms: found 'pretrianed'"),
        (
            ["--label", "label", "arms=[probe,start]", "limit=60"],
            "arms: found start, but the model went on from nothing",
        ),
        (["--label", "label", "labels=[20]", "fraction=0.1"], "labels: found both fraction and labels"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(base, tmp_path, words, said, capsys):
    out = tmp_path / "out"
    asked = ["finetune", str(base), "--data", "builtin:digits", "--column", "image=image", "--compare"]
    assert main([*asked, *words, "--output", str(out)]) == 2
    lines = runs.errors(capsys.readouterr().err)
    assert len(lines) == 1 and said in lines[0] and not out.exists()


def test_the_command_prints_one_table_of_scores_and_one_of_differences(base, tmp_path, capsys):
    words = ["--label", "label", "--compare", "limit=80", "labels=[20]", "draws=2", "arms=[probe,raw_linear]"]
    asked = ["finetune", str(base), "--data", "builtin:digits", "--column", "image=image", *words]
    assert main([*asked, "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert plain(report) in said and "20 labels, draw 2: raw features, linear" in said
    log = (tmp_path / "out" / "train.log").read_text()
    assert "20 labels, draw 2: raw features, linear" in log and log.endswith("---- done\n")
    assert said.index("accuracy, labels:") < said.index("pretrained, linear probe, less")
    assert said.rstrip().endswith(f"the comparison, with every draw: {tmp_path / 'out'}")


@pytest.mark.parametrize("words", [["labels=[20,100]"], ["draws=3"], ["arms=[probe]"], ["fraction=[0.1]"]])
def test_words_of_a_comparison_need_the_flag(base, words, capsys):
    assert main(["finetune", str(base), "--data", "builtin:digits", "--label", "label", *words]) == 2
    assert "--compare" in runs.errors(capsys.readouterr().err)[0]


def test_what_the_model_went_on_from_is_an_arm(base, tmp_path):
    content = runs.recipe(model={"from": str(base), "towers": {}}, train={"steps": 1}, evaluation={"tasks": []})
    content.pop("modalities")
    run = mmssl.pretrain(content, output=tmp_path / "on")
    report = run.finetune(
        "label", compare=True, labels=[20], draws=1, limit=60, output=tmp_path / "out", arms=["probe", "start_probe"]
    ).report
    assert set(report["scores"]["accuracy"]) == {"probe", "start_probe"}
