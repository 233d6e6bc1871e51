"""An adapter on the Hub: it names its base as others know it, no path of this machine, and loads from there."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from toys import forking, tuned
from toys.hub_server import Hub
from toys.refusals import refused

from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.finetuning.finetune import finetune
from mmssl.hub.push import publishable
from mmssl.hub.staging import stage_adapter

PROCESS = """
import json, sys
from mmssl.cli import main
base, adapter, other = sys.argv[1:]
assert main(["push", base, "me/base"]) == 0
assert main(["push", other, "me/other"]) == 0
assert main(["push", adapter, "me/wrong", "--base", "me/other"]) == 2
assert main(["push", adapter, "me/adapter", "--base", "me/base"]) == 0
import torch
from peft import PeftModel
from transformers import AutoModel
from mmssl.models.opening import open_model
batch = {"image": {"pixel_values": torch.linspace(-1, 1, 64).view(1, 1, 8, 8), "present": torch.ones(1).bool()}}
local = open_model(adapter)[0].encode_batch(batch).pooled["image"]
ours = open_model("me/adapter")[0].encode_batch(batch).pooled["image"]
start = AutoModel.from_pretrained("me/base")
frozen = start.encode_batch(batch).pooled["image"]
theirs = PeftModel.from_pretrained(start, "me/adapter").base_model.model.encode_batch(batch).pooled["image"]
numbers = [(ours - local).abs().max(), (theirs - local).abs().max(), (frozen - local).abs().max()]
answer = __import__("mmssl").load_task("me/adapter").predict(image=[torch.zeros(8, 8).byte().numpy()])[0]["label"]
print(json.dumps([[float(n) for n in numbers], answer]))
"""
"""In a process of its own: the client reads HF_ENDPOINT when it is imported."""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    tuned.image_base(folder / "base" / "model")
    tuned.image_base(folder / "other" / "model", seed=5)
    for name in ("base", "other"):
        (folder / name / "model" / "README.md").write_text("# a toy\n")
    train = {"steps": 6, "batch_size": 16, "lr": 0.05}
    finetune(
        folder / "base",
        "builtin:digits",
        "label",
        output=folder / "tuned",
        train=train,
        limit=96,
        head_start="zero",
        validation_share=0,
    )
    return folder / "tuned" / "model"


def test_pushed_with_its_base_and_loaded_from_the_hub(adapter: Path, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in adapter.iterdir()}
    runs = adapter.parents[1]
    with Hub() as hub:
        keep = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        keep |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_test"}
        keep |= {"PYTHONPATH": os.pathsep.join(sys.path)}
        words = ["-c", PROCESS, str(runs / "base"), str(adapter), str(runs / "other")]
        done = forking.run(words, level="torch", env=keep)
        assert done.returncode == 0, done.stderr
        (ours, theirs, start), answer = json.loads(done.stdout.splitlines()[-1])
        assert ours < 1e-6 and theirs < 1e-5 < 1e-3 < start
        assert answer in ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
        assert "was trained on other weights than those of me/other" in done.stderr
        assert not hub.repos.get("me/wrong", {"branches": {"main": {}}})["branches"]["main"]
        files = hub.repos["me/adapter"]["branches"]["main"]
    spec = json.loads(files["mmssl_adapter.json"])
    assert spec["base"] == spec["base_path"] == "me/base"
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    card = files["README.md"].decode()
    assert "base_model: me/base" in card and 'AutoModel.from_pretrained("me/base")' in card
    for name, content in files.items():
        assert str(runs).encode() not in content and str(Path.home()).encode() + b"/" not in content, name
    assert {p.name: p.read_bytes() for p in adapter.iterdir()} == before  # the folder here is as it was


def test_a_local_base_stays_relative_and_is_said(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["push", str(adapter), "me/adapter", "--dry-run"]) == 0
    assert "note: its base 'base' is a folder of this machine" in capsys.readouterr().out
    target, _ = stage_adapter(adapter, tmp_path, None)
    spec = json.loads((target / "mmssl_adapter.json").read_text())
    assert spec["base_path"] == "../../base/model"
    assert json.loads((target / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    with refused("--base MODEL"):
        from mmssl.models.opening import load_adapter

        load_adapter(target)


@pytest.mark.parametrize("through_home", [True, False])
def test_a_way_through_other_folders_is_cut(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through_home: bool
) -> None:
    home = adapter.parents[2] / "people" / "jo"
    if through_home:
        monkeypatch.setenv("HOME", str(home))
    spec = json.loads((adapter / "mmssl_adapter.json").read_text())
    folder = tmp_path / "tuned"
    folder.mkdir()
    for path in adapter.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    far = os.path.relpath(home / "secret project" / "ecg" / "model", folder)
    (folder / "mmssl_adapter.json").write_text(json.dumps(spec | {"base_path": far, "origins": {"image": far}}))
    target, _ = stage_adapter(folder, tmp_path / "copy", None)
    published = (target / "mmssl_adapter.json").read_text()
    assert "secret" not in published and "people" not in published
    assert json.loads(published)["base_path"] == "../ecg"
    assert publishable(target)


def test_base_is_for_adapters(adapter: Path, capsys: pytest.CaptureFixture) -> None:
    base = adapter.parents[1] / "base"
    assert main(["push", str(base), "me/x", "--dry-run", "--base", "me/base"]) == 2
    assert "is no adapter that mmssl trained" in capsys.readouterr().err
    assert main(["push", str(adapter), "me/x", "--dry-run", "--base", "a/b/c"]) == 2
    assert "'a/b/c' is no repository id" in capsys.readouterr().err


def test_a_folder_here_is_no_base_on_the_hub(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert "base_model:" not in (adapter / "README.md").read_text()
    monkeypatch.chdir(adapter.parents[2])
    folder = f"{adapter.parents[1].name}/base"  # looks like OWNER/NAME, and holds the right weights
    assert main(["push", str(adapter), "me/x", "--dry-run", "--base", folder]) == 2
    assert capsys.readouterr().err.startswith(f"error: --base {folder}: this is a folder here, expected a model on the")


@pytest.mark.parametrize("name", ["README.md", "adapter_config.json"])
def test_damaged_files_are_said_in_one_line(
    adapter: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tuned"
    shutil.copytree(adapter, folder)
    (folder / name).write_text("---\nlicense: [mit\n---\n")
    monkeypatch.setattr("mmssl.hub.staging.load_base", lambda *_: None)
    with pytest.raises(UserError, match=name) as caught:
        stage_adapter(folder, tmp_path / "copy", "me/base")
    assert "\n" not in str(caught.value)
