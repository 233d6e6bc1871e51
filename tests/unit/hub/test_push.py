"""`mmssl push` with the real Hub client against a Hub on the loopback, and what it refuses to publish."""

from __future__ import annotations

import json
import os
import sys
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from toys import forking, world
from toys.hub_server import Hub

from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.hub.push import check_repo_id, local_folder, publishable
from mmssl.models.loader import LOADER_SOURCE, write_loader
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
    with pytest.raises(UserError, match="no such folder"):
        local_folder(tmp_path / "nothing")
    with pytest.raises(UserError, match="no config.json, expected the folder of a model"):
        local_folder(tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mmssl"}))
    part = {"type": "text", "config": {}, "state": {}, "files": ["text/spiece.model"]}
    (tmp_path / "processor_config.json").write_text(json.dumps({"modalities": {"text": part}}))
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "README.md").write_text("# a card\n\n![loss](training.png)\n")
    write_loader(tmp_path)
    return tmp_path


def test_what_is_published(small: Path) -> None:
    (small / ".cache" / "huggingface").mkdir(parents=True)
    (small / ".cache" / "huggingface" / "x.lock").write_text("")
    (small / "text").mkdir()
    (small / "text" / "spiece.model").write_bytes(b"\x00pieces")
    (small / "training.png").write_bytes(picture(b"Software", b"Matplotlib"))
    assert publishable(small) == [
        "README.md",
        "config.json",
        "mmssl_loader.py",
        "model.safetensors",
        "processor_config.json",
        "text/spiece.model",
        "training.png",
    ]


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def picture(key: bytes, text: bytes, kind: bytes = b"tEXt", behind: bytes = b"") -> bytes:
    """A PNG of one pixel with a text in it."""
    head = chunk(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\0\0\0\0") + chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(kind, key + b"\0" + text) + chunk(b"IEND", b"") + behind


TOKEN = b"hf_" + b"a" * 34
SECRETS = {
    "Hugging Face": TOKEN.decode(),
    "GitHub": "github_pat_" + "1A" * 20,
    "GitHub, older": "ghp_" + "aB3" * 12,
    "Google": "AIza" + "Sy1_" * 8 + "abc",
    "Slack": "xoxb-" + "123456789012-" + "abcdefGHIJ",
    "GitLab": "glpat-" + "aB1_" * 5,
    "AWS": "AKIA" + "ABCD1234" * 2,
    "AWS, for a time": "ASIA" + "ABCD1234" * 2,
    "JWT": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0." + "c2lnbmF0dXJlLXg",
    "address": "https://jo:" + "pass1word@host.example/data",
    "query": "https://host.example/x?access_" + "token=0123456789",
    "key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "PyPI": "pypi-" + "AgEIcHlwaS5vcmc" + "A" * 80,
    "Stripe": "sk_live_" + "a1" * 12,
    "npm": "//registry.npmjs.org/:_authToken=npm_" + "a1B2" * 9,
}
PLACES = {
    "home": OTHER + "/patients",
    "scratch": "/scratch/" + "somebody/x",
    "wsl": "/mnt/c/Users/" + "somebody/x",
    "data disk": "/data1/home/" + "somebody/x",
    "mac": "/Users/" + "somebody/x",
    "windows": "C:\\Users\\" + "somebody\\x",
    "address": "file:///home/" + "somebody/x",
    "root": "/root/" + ".cache",
}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("place", ["README.md", "config.json", "text/spiece.model", "training.png", "packed.png"])
def test_secrets_are_found_in_every_kind_of_file(small: Path, name: str, place: str) -> None:
    text = SECRETS[name].encode()
    file = small / place.replace("packed", "training")
    file.parent.mkdir(exist_ok=True)
    contents = {
        "README.md": b"# a card\n![loss](training.png)\nsee " + text + b" for more\n",
        "config.json": json.dumps({"model_type": "mmssl", "x": text.decode()}).encode(),
        "text/spiece.model": b"\x00\x01" + text + b"\x00",
        "training.png": picture(b"Comment", text),
        "packed.png": picture(b"Comment", b"\0" + zlib.compress(text), b"zTXt"),
    }
    file.write_bytes(contents[place])
    with pytest.raises(UserError, match=f"push: {file.relative_to(small)}: holds") as caught:
        publishable(small)
    assert text.decode() not in str(caught.value)


@pytest.mark.parametrize("name", PLACES)
def test_places_that_name_people_are_found(small: Path, name: str) -> None:
    (small / "README.md").write_text(f"trained on {PLACES[name]} with care")
    with pytest.raises(UserError, match=r"README.md: holds a path of this machine"):
        publishable(small)


def test_what_is_no_secret_and_no_place(small: Path) -> None:
    (small / "README.md").write_text(
        "see https://host.example/home/page and https://huggingface.co/me/x?library=mmssl, a ratio of 3:4@2, "
        "the file data/home/x, token=null, sk-learn, /usr/share/x\n"
    )
    assert "README.md" in publishable(small)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (picture(b"a", b"b", b"eXIf"), "holds the chunk eXIf"),
        (picture(b"a", b"b", behind=b"PK rows"), "holds 7 bytes behind its end"),
        (picture(b"a", b"\0" + zlib.compress(b"0" * (2 << 20)), b"zTXt"), "holds a text of more than a megabyte"),
        (b"id,name\n1,jo\n", "is no PNG picture"),
    ],
)
def test_a_picture_is_no_more_than_that(small: Path, content: bytes, words: str) -> None:
    (small / "training.png").write_bytes(content)
    with pytest.raises(UserError, match=f"training.png: {words}"):
        publishable(small)


@pytest.mark.parametrize(
    "name", ["rows.json", "text/rows.json", "notes.txt", "patients.png", "text/notes.txt", "config.yaml", "more.onnx"]
)
def test_what_no_folder_of_the_kind_holds(small: Path, name: str) -> None:
    (small / "text").mkdir(exist_ok=True)
    (small / name).write_bytes(picture(b"a", b"b") if name.endswith("png") else b"[1]")
    with pytest.raises(UserError, match=f"push: {name}: does not belong"):
        publishable(small)


@pytest.mark.parametrize("name", ["README.md", "processor_config.json", "mmssl_loader.py"])
def test_a_folder_that_is_no_whole_model(small: Path, name: str) -> None:
    (small / name).unlink()
    with pytest.raises(UserError, match=f"has no {name}, expected a whole model"):
        publishable(small)


def test_a_loader_that_is_not_ours(small: Path) -> None:
    with (small / "mmssl_loader.py").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"mmssl_loader.py: it is not mmssl's own"):
        publishable(small)


def test_weights_of_two_saves(small: Path) -> None:
    save_file({"w": torch.zeros(2)}, small / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"w": "model-00002-of-00002.safetensors"}}
    (small / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError) as caught:
        publishable(small)
    said = str(caught.value)
    assert "model.safetensors: it lies beside the shards" in said
    assert "model-00002-of-00002.safetensors: model.safetensors.index.json names it, but it is not there" in said
    assert "model-00001-of-00002.safetensors: model.safetensors.index.json does not name it" in said


def test_saved_again_in_shards_and_back(folder: Path, tmp_path: Path) -> None:
    model, processor = load_model(folder)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    target = tmp_path / "again"
    for size, whole in (("1GB", True), ("5KB", False), ("1GB", True)):
        for value in model.parameters():
            value.data.add_(1)
        model.save_pretrained(target, max_shard_size=size)
        processor.save_pretrained(target)
        assert (target / "model.safetensors").is_file() is whole
        assert bool(list(target.glob("model-*.safetensors"))) is not whole
        assert (target / "mmssl_loader.py").read_text() == LOADER_SOURCE
        found = load_model(target)[0].state_dict()
        assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    assert any(not torch.equal(weights[name], value) for name, value in model.state_dict().items())
    save_file({"w": torch.zeros(2)}, target / "model-00001-of-00001.safetensors")
    (target / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="one is left from before"):
        load_model(target)


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
        ("README.md", b"login with hf_" + b"a" * 34, "holds a Hugging Face token"),
        ("LICENSE.txt", b"-----BEGIN RSA PRIVATE KEY-----", "holds a private key"),
        ("reproduction.json", json.dumps({"data": OTHER + "/patients"}).encode(), "holds a path of this machine"),
        ("NOTICE", b"path: C:\\Users\\jo\\data", "holds a path of this machine"),
        ("head.safetensors", b"\xff" * 20, "no safetensors file"),
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
    (small / "LICENSE").symlink_to(small / "config.json")
    with pytest.raises(UserError, match="a link"):
        publishable(small)
