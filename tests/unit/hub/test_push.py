"""`mmssl push` with the real Hub client against a Hub on the loopback, and what it refuses to publish."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from toys import forking, world
from toys.hub_server import Hub

from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.hub.push import check_repo_id, local_folder, publishable
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import load_model, save_model

OTHER = "/home/" + "somebody"  # in two parts: this file itself holds no such path


PROCESS = """
import sys, toys
from mmssl.cli import main
assert main(["push", sys.argv[1], "me/toy", "--private"]) == 0
assert main(["push", sys.argv[1], "toy", "--revision", "v2"]) == 0
from transformers import AutoModel
model = AutoModel.from_pretrained("me/toy")
print(sum(p.double().sum().item() for p in model.parameters()))
"""
"""In a process of its own: the client reads HF_ENDPOINT when it is imported."""


def reach(monkeypatch: pytest.MonkeyPatch, endpoint: str, offline: bool = False) -> None:
    """Let the client in this process, which was imported long ago, talk to `endpoint`."""
    for name, value in (("ENDPOINT", endpoint), ("HF_HUB_DISABLE_XET", True), ("HF_HUB_OFFLINE", offline)):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("run") / "model"
    types = {name: f"toys.{name}" for name in world.PREPROCESSORS}
    save_model(world.model(), MMSSLProcessor(dict(world.PREPROCESSORS), types), target)
    (target / "README.md").write_text("---\nlibrary_name: mmssl\n---\n\n# toy\n")
    return target


def test_push_fails_half_way_goes_on_and_loads_from_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Hub() as hub:
        hub.fail = [("POST", "/commit/", 507)]
        reach(monkeypatch, hub.url)
        assert main(["push", str(folder), "me/toy", "--private"]) == 1
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]  # beside the bar
        assert len(said) == 1 and "507" in said[0] and "no commit was made" in said[0]
        assert hub.repos["me/toy"]["branches"]["main"] == {}
        sent = [path for method, path in hub.log if method == "PUT"]
        assert len(sent) == 1  # the weights had arrived

        keep = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        keep |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_test"}
        keep |= {"PYTHONPATH": os.pathsep.join(sys.path)}
        words = ["-c", PROCESS, str(folder.parent)]  # the folder of the run will do as well
        done = forking.run(words, level="torch", env=keep)
        assert done.returncode == 0, done.stderr
        assert f"{hub.url}/me/toy/commit/" in done.stdout
        assert [path for method, path in hub.log if method == "PUT"] == sent  # not sent twice
        branches = hub.repos["me/toy"]["branches"]
        assert set(branches) == {"main", "v2"}
        assert branches["main"] == {p.name: p.read_bytes() for p in folder.iterdir()}
        expected = sum(p.double().sum().item() for p in load_model(folder)[0].parameters())
        assert float(done.stdout.split()[-1]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no token", ["no token found", "HF_TOKEN"]),
        ("wrong token", ["does not accept the token"]),
        ("public already", ["--private", "is public"]),
        ("may not", ["may not write to 'me/toy'"]),
        ("offline", ["HF_HUB_OFFLINE is set"]),
        ("no network", ["no connection to http://127.0.0.1:9"]),
    ],
)
def test_what_the_hub_refuses_is_one_line_and_code_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str, words: list[str]
) -> None:
    with Hub() as hub:
        reach(monkeypatch, "http://127.0.0.1:9" if case == "no network" else hub.url, offline=case == "offline")
        more: list[str] = []
        if case == "no token":
            monkeypatch.delenv("HF_TOKEN")
            monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(folder / "nothing"))
        elif case == "wrong token":
            monkeypatch.setenv("HF_TOKEN", "hf_other")
        elif case == "public already":
            hub.repos["me/toy"] = {"private": False, "branches": {"main": {}}}
            more = ["--private"]
        elif case == "may not":
            hub.fail = [("POST", "/preupload/", 403)]
        code = main(["push", str(folder), "me/toy", *more])
        said = capsys.readouterr().err
        assert code == 2, said
        assert said.startswith(("error: push:", "error: --private"))
        assert said.strip().count("\n") == 0
        for word in words:
            assert word in said
        assert not any(repo["branches"]["main"] for repo in hub.repos.values())


@pytest.mark.parametrize("name", ["a/b/c", "-x", "me/to y", "x" * 97, "me/.git", ""])
def test_malformed_id(name: str) -> None:
    with pytest.raises(UserError, match="expected NAME or OWNER/NAME"):
        check_repo_id(name)


def test_not_a_model_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        local_folder(tmp_path / "nothing")
    with pytest.raises(UserError, match="no config.json, expected the folder of a model"):
        local_folder(tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mmssl"}))
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "README.md").write_text("# a card\n")
    return tmp_path


def test_what_is_published(small: Path) -> None:
    (small / ".cache" / "huggingface").mkdir(parents=True)
    (small / ".cache" / "huggingface" / "x.lock").write_text("")
    (small / "text").mkdir()
    (small / "text" / "spiece.model").write_bytes(b"\x00pieces")
    assert publishable(small) == ["README.md", "config.json", "model.safetensors", "text/spiece.model"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("pytorch_model.bin", b"\x80", "expected weights as safetensors"),
        ("train.parquet", b"PAR1", "does not belong to a model"),
        ("patients.csv", b"a,b", "does not belong to a model"),
        ("photo.jpg", b"\xff\xd8", "does not belong to a model"),
        ("train.py", b"print()", "does not belong to a model"),
        ("optimizer.pt", b"", "expected weights as safetensors"),
        (".env", b"HF_TOKEN=x", "does not belong to a model"),
        ("notes.md", b"login with hf_" + b"a" * 34, "holds a Hugging Face token"),
        ("notes.txt", b"-----BEGIN RSA PRIVATE KEY-----", "holds a private key"),
        ("other.json", json.dumps({"data": OTHER + "/patients"}).encode(), "holds a path of this machine"),
        ("other.yaml", b"path: C:\\Users\\jo\\data", "holds a path of this machine"),
        ("other.safetensors", b"\xff" * 20, "no safetensors file"),
    ],
)
def test_what_is_refused_by_name(small: Path, name: str, content: bytes, words: str) -> None:
    (small / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        publishable(small)
    assert name in str(caught.value) and words in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_own_folders_are_refused_also_in_the_weights_header(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/people/jo")
    save_file({"w": torch.zeros(2)}, small / "model.safetensors", metadata={"from": "/srv/people/jo/data"})
    with pytest.raises(UserError, match=r"model.safetensors: holds a path of this machine"):
        publishable(small)


def test_no_weights(small: Path) -> None:
    (small / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        publishable(small)


def test_a_link_is_refused(small: Path) -> None:
    (small / "more.json").symlink_to(small / "config.json")
    with pytest.raises(UserError, match="a link"):
        publishable(small)
