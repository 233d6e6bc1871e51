"""Fine-tuning from end to end: what is trained, what is kept, what comes back."""

import json

import datasets
import numpy as np
import pytest
import torch
from peft import PeftModel
from toys import tuned
from transformers import AutoModel

import mmssl
from mmssl.cli import main
from mmssl.data.sources import open_source
from mmssl.finetuning.finetune import finetune
from mmssl.finetuning.task import load_task
from mmssl.models.opening import open_model
from mmssl.models.saving import load_model

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def run(base, out, *words):
    return main(["finetune", str(base), "--data", "builtin:digits", "--output", str(out), *words, *tuned.QUICK])


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_lora_end_to_end(base, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(base, out, "--label", "label", "adapter.r=2", "labels=100", "train.lr=0.05", "head_start=zero") == 0
    shown = capsys.readouterr().out
    assert "fine-tuned" in shown and "linear probe" in shown and "finetuned" in shown and "pretrained" in shown
    names = sorted(p.name for p in (out / "model").iterdir())
    assert names == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "head.safetensors",
        "mmssl_adapter.json",
        "mmssl_loader.py",
        "mmssl_task.json",
        "processor_config.json",
    ]
    report = json.loads((out / "evaluation.json").read_text())
    assert (report["n_train"], report["n_validation"]) == (80, 20) and report["pool"] == 160
    accuracy = report["tasks"]["fine-tuned"]["image/accuracy"]
    low, high = accuracy["interval"]["finetuned"]
    assert accuracy["model"] is None, "what was fine-tuned does not stand under `pretrained`"
    assert low <= accuracy["finetuned"] <= high and accuracy["chance"] == pytest.approx(0.1, abs=0.05)
    assert {"model", "untrained", "raw"} <= set(report["tasks"]["linear probe"]["image/accuracy"]["interval"])
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "validation/loss" in r] == [0, 2, 4]
    assert [r["step"] for r in rows if "loss" in r] == [2, 4]
    card = (out / "model" / "README.md").read_text()
    assert "library_name: peft" in card and str(tmp_path) not in card
    for name in ("mmssl_adapter.json", "adapter_config.json", "mmssl_task.json"):
        assert str(tmp_path) not in (out / "model" / name).read_text()

    source = open_source("builtin:digits", split="test").select(range(5))
    task = mmssl.load_task(out)
    answers = task.predict(image=[*source["image"], None])
    assert answers[-1] is None and all(sum(a["scores"].values()) == pytest.approx(1) for a in answers[:-1])
    wrapped = PeftModel.from_pretrained(AutoModel.from_pretrained(base), out / "model")
    batch = {"image": task.processor.preprocessors["image"](source["image"])}
    mine = task.model.encode_batch(batch).pooled["image"]
    theirs = wrapped.base_model.model.encode_batch(batch).pooled["image"]
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    start = AutoModel.from_pretrained(base).encode_batch(batch).pooled["image"]
    assert (mine - start).abs().max() > 1e-3

    parquet = tmp_path / "e.parquet"
    assert main(["embed", str(out), "--data", "builtin:digits", "--output", str(parquet), "limit=5"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(out / "model"), "--data", "builtin:digits", "--task", "knn", "limit=20"]) == 0
    shown = capsys.readouterr().out
    assert "finetuned" in shown and "pretrained" not in shown


def test_linear_trains_the_head_alone_and_none_trains_all(base, tmp_path):
    before = weights(load_model(base)[0])
    for peft, changed in (("linear", False), ("none", True)):
        out = tmp_path / peft
        assert (
            run(base, out, "--label", "label", "--peft", peft, "monitor=score", "train.lr=0.01", "validation_share=0")
            == 0
        )
        after = weights(load_model(out / "model")[0])  # a whole model folder, through AutoModel
        moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
        assert bool(moved) is changed
        if changed:
            assert {"towers.image.trunk.blocks.0.attention.qkv.weight", "towers.image.trunk.norm.weight"} <= moved
        report = json.loads((out / "evaluation.json").read_text())
        assert report["parameters"]["trained"] == (16 * 10 + 10 if peft == "linear" else report["parameters"]["all"])
        assert load_task(out).predict(image=[np.zeros((8, 8), np.uint8)])[0]["label"] in NAMES


def picture(bright, noise=0.0):
    out = np.full((8, 8), 128.0)
    out[:, :4] = 255 * bright
    return np.clip(out + noise, 0, 255).astype(np.uint8)


def signal(n, seed):
    """Pictures whose left half is more or less bright; each of 20 people has several."""
    rng = np.random.default_rng(seed)
    bright = rng.random(n)
    pictures = [picture(b, rng.normal(0, 5, (8, 8))) for b in bright]
    return {
        "image": [(p / 255).tolist() for p in pictures],
        "bright": (bright * 3 + 5).tolist(),
        "tags": [[t for t, on in (("light", b > 0.5), ("very", b > 0.8)) if on] for b in bright],
        "person": rng.integers(20, size=n).tolist(),
    }


@pytest.fixture(scope="module")
def pictures():
    return datasets.DatasetDict(
        {s: datasets.Dataset.from_dict(signal(n, k)) for k, (s, n) in enumerate([("train", 160), ("test", 60)])}
    )


@pytest.mark.slow
def test_regression_and_several_labels(base, tmp_path, pictures):
    quick = {"steps": 30, "batch_size": 32, "lr": 3e-3}
    run = finetune(base, pictures, "bright", peft="lora", output=tmp_path / "r", train=quick, group="person", test=None)
    metrics = run.report["tasks"]["fine-tuned"]
    assert metrics["image/r2"]["finetuned"] > 0.9 and metrics["image/mae"]["finetuned"] < 0.3
    assert run.report["split"]["test"] == "0.2 of train"
    answer = run.load().predict(image=[picture(0.5)])[0]
    assert answer["bright"] == pytest.approx(6.5, abs=0.5)
    run = finetune(base, pictures, "tags", peft="ia3", output=tmp_path / "m", train=quick, class_weights="balanced")
    assert run.report["tasks"]["fine-tuned"]["image/auroc"]["finetuned"] > 0.95
    assert run.load().predict(image=[picture(0.95)])[0]["labels"] == ["light", "very"]


def test_two_runs_are_the_same_and_a_seed_changes_them(base, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(base, tmp_path / name, "--label", "label", f"seed={seed}", "head_start=zero", "patience=null") == 0
    a, b, c = (open_model(tmp_path / n)[0].state_dict() for n in "abc")
    key = "towers.image.trunk.blocks.1.mlp.fc1.weight"
    assert torch.equal(a[key], b[key]) and not torch.equal(a[key], c[key])


def test_the_best_weights_are_kept(base, tmp_path):
    # a rate that ruins everything: the start is the best, and is what is saved
    out, words = tmp_path / "out", ["train.lr=10", "train.warmup=0", "patience=1", "train.clip=null"]
    assert run(base, out, "--label", "label", "validation=test", "test=null", *words) == 0
    report = json.loads((out / "evaluation.json").read_text())
    assert report["settings"]["best_step"] == 0 and report["settings"]["steps"] == 2
    start, after = load_model(base)[0].state_dict(), open_model(out)[0].state_dict()
    assert all(torch.equal(start[name], after[name]) for name in start)
    tasks = report["tasks"]
    # with rows of their own to stop by, the head began as the very probe of the report
    assert tasks["fine-tuned"]["image/accuracy"]["finetuned"] == tasks["linear probe"]["image/accuracy"]["model"]
