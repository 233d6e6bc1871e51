"""What the tests of faults share."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import strangers


@pytest.fixture(autouse=True)
def mmssl_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Warnings are recorded, whatever an earlier test set the logger to."""
    with caplog.at_level(logging.WARNING, logger="mmssl"):
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `toys.strangers.make` makes."""
    return strangers.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def place(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[strangers.Place]:
    """A stranger's folders, in front of `sys.path`; afterwards none of their code was run, and no address asked."""
    found = strangers.Place(tmp_path, made)
    for entry in (found.downloads, found.tuned, found.model):
        monkeypatch.syspath_prepend(str(entry))
    monkeypatch.chdir(found.model)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("theirs", "mmssl_evil", "mmssl_lidar")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf_modules"))
    asked: list[object] = []

    def connect(self: socket.socket, address: object, *_: object) -> None:
        asked.append(address)
        raise OSError("no connections in this test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    yield found
    assert not found.canary.exists(), "the folder's code was run"
    assert not asked, f"it asked {asked}"
