"""The page as a Space: what its folder holds, that its own lines serve it, and the push to a Hub on the loopback."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from toys import shown
from toys.hub_server import Hub
from toys.refusals import refused

import mmssl
from mmssl.cli import main
from mmssl.demonstrating.options import DemoConfig
from mmssl.demonstrating.space import OWN, write_space
from mmssl.options import plainyaml


@pytest.fixture
def pushable(tmp_path: Path) -> Path:
    folder = shown.save(tmp_path / "run")
    (folder / "README.md").write_text("---\nlibrary_name: mmssl\n---\n\n# toy\n")
    return folder


def digits(**options: object) -> DemoConfig:
    columns = {"image": "image", "text": "text"}
    return DemoConfig(path="builtin:digits", columns=columns, **options)  # type: ignore[arg-type]


def reach(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let the client in this process talk to `url`."""
    for name, value in (("ENDPOINT", url), ("HF_HUB_DISABLE_XET", True), ("HF_HUB_OFFLINE", False)):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")


def test_its_lines_serve_the_model_beside_them(pushable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "space"
    files, _ = write_space(
        pushable, "me/digit-search", digits(split="test", limit=40, templates=['the "digit" {}']), folder
    )
    assert sorted(files) == sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert (folder / "model" / "model.safetensors").read_bytes() == (pushable / "model.safetensors").read_bytes()
    asked: dict[str, Any] = {}

    class Page:
        def wait(self) -> None:
            asked["waited"] = True

    def demo(model: object, **options: object) -> Page:
        asked.update(model=model, **options)
        return Page()

    monkeypatch.setattr(mmssl, "demo", demo)
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    source = (folder / "app.py").read_text()
    exec(compile(source, str(folder / "app.py"), "exec"), {"__file__": str(folder / "app.py"), "__name__": "__main__"})
    assert asked == {
        "model": folder / "model",
        "data": "builtin:digits",
        "columns": {"image": "image", "text": "text"},
        "split": "test",
        "limit": 40,
        "templates": ['the "digit" {}'],
        "host": "0.0.0.0",
        "port": 7860,
        "waited": True,
    }


def test_what_the_hub_reads_of_it(pushable: Path, tmp_path: Path) -> None:
    write_space(pushable, "me/digit-search", digits(), tmp_path / "space")
    head = re.match(r"---\n(.*?)\n---\n", (tmp_path / "space" / "README.md").read_text(), re.DOTALL)
    assert head is not None
    said = plainyaml.parse(head[1], "README.md")
    assert said["sdk"] == "gradio" and said["app_file"] == "app.py" and said["title"] == "digit search"
    assert re.fullmatch(r"\d+\.\d+\.\d+", said["sdk_version"]) and "models" not in said and "datasets" not in said
    (line,) = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    wanted = Requirement(line)
    assert wanted.name == "mmssl" and wanted.extras == {"demo", *shown.COLUMNS}
    assert str(wanted.specifier) == f"=={mmssl.__version__}"
    ast.parse((tmp_path / "space" / "app.py").read_text())


def test_it_is_pushed_as_a_space(
    pushable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["push", str(pushable), "me/search", "--space", str(tmp_path / "space"), "--data", "builtin:digits"]
    words += ["--column", "image=image", "--private", "split=test"]
    with Hub() as hub:
        reach(monkeypatch, hub.url)
        assert main([*words, "--dry-run"]) == 0
        said = capsys.readouterr().out
        assert hub.log == [] and "nothing was sent" in said and "requirements.txt" in said
        assert main(words) == 0
        repo = hub.repos["me/search"]
        assert repo["type"] == "space" and repo["sdk"] == "gradio" and repo["private"]
        written = {
            p.relative_to(tmp_path / "space").as_posix(): p.read_bytes()
            for p in (tmp_path / "space").rglob("*")
            if p.is_file()
        }
        assert repo["branches"]["main"] == written and set(OWN) < set(written)
        assert f"{hub.url}/me/search/commit/" in capsys.readouterr().out
        assert main(words) == 0  # the folder of an earlier call is replaced, and what is there is sent no second time


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--data", "/somewhere"], ("--data", "/somewhere", "this machine")),
        (["--data", "{rows}"], ("--data", "this machine")),
        (["--data", "builtin:digits", "embeddings=e.parquet"], ("embeddings", "e.parquet")),
        (["--data", "builtin:digits", "--revision", "v2"], ("--revision", "v2")),
        (["--data", "builtin:digits", "--space", "{model}"], ("--space", "other things")),
        (["--data", "https://host/x.parquet?token=abcdefgh"], ("token", "app.py")),
        ([], ("--data", "none")),
        (["--data", "builtin:digits", "spilt=test"], ("spilt", "split")),
    ],
)
def test_what_cannot_be_a_space_is_a_line(
    pushable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: tuple[str, ...]
) -> None:
    given = [word.format(rows=pushable.parent / "rows", model=pushable) for word in more]
    assert main(["push", str(pushable), "me/search", "--space", str(tmp_path / "new"), *given]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error:") and all(word in said for word in words), said
    assert not (tmp_path / "new").exists()


def test_what_must_not_be_published_is_not_written(pushable: Path, tmp_path: Path) -> None:
    (pushable / "rows.pkl").write_bytes(b"x")
    with refused("rows.pkl"):
        write_space(pushable, "me/search", digits(), tmp_path / "space")
    assert not (tmp_path / "space").exists()


@pytest.mark.parametrize("word", ["--data=x", "--column=image=img", "split=test"])
def test_words_about_data_want_a_space(pushable: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert main(["push", str(pushable), "me/search", "--dry-run", word]) == 2
    assert "without --space" in capsys.readouterr().err
