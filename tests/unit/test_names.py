"""A misspelt name is answered here; the Hub is asked for what looks like an id, and only where it answers at all."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from mmssl import names
from mmssl.cli import main
from mmssl.data.sources import open_source
from mmssl.errors import UserError
from mmssl.models.locating import locate


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place with a folder of pictures and a run, and a Hub that nobody may ask."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "runs" / "image_mae" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def nobody(*args: object, **kwargs: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(socket, "create_connection", nobody)
    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    yield tmp_path


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("pictres", "data.path: no such file or folder: 'pictres'; did you mean 'pictures'?"),
        ("./pictres", "no such file or folder: './pictres'; did you mean 'pictures'?"),
        ("pictures/a.csv", "no such file or folder: 'pictures/a.csv'"),
        ("rows.csv", "no such file or folder: './rows.csv'"),
        ("/nowhere/at/all", "'/nowhere/at/all' (there is no folder '/nowhere/at')"),
        ("C:\\\\data", "no such file or folder"),
        ("a/b/c", "there is no folder 'a/b'"),
    ],
)
def test_data_that_are_not_there(here: Path, name: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(name)
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("image_ma", "no such folder here: 'image_ma'; did you mean 'image_mae'?"),
        ("runs/image_ma", "'runs/image_ma'; did you mean 'image_mae'?"),
        ("runs/other/model", "(there is no folder 'runs/other')"),
        ("pictures", "pictures: no config.json, expected the folder of a model"),
        ("runs/image_mae", "runs/image_mae: no config.json"),
    ],
)
def test_models_that_are_not_there(here: Path, name: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        locate(name)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_every_command_answers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["embed", "image_ma", "--data", "x", "--output", "e.parquet"], ["push", "image_ma", "me/x"]):
        assert main(words) == 2
        assert "did you mean 'image_mae'?" in capsys.readouterr().err


def test_a_hub_that_does_not_answer_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    for name in ("https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert not names.reachable()
    for call in (lambda: open_source("me/pictures"), lambda: locate("me/pictures")):
        with pytest.raises(UserError, match="cannot be reached, and (is not in the cache|its cache has none)"):
            call()
    assert not constants.HF_HUB_OFFLINE, "the process is as it was"
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert names.reachable(), "behind a proxy nobody knows"


def test_a_hub_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert names.reachable()
        with names.asking_the_hub():
            assert not constants.HF_HUB_OFFLINE
