"""The address of the page, and what is said before a model is opened; the page itself where Gradio is installed."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from toys.refusals import refused

from mmssl.cli import main
from mmssl.demonstrating import serving
from mmssl.demonstrating.serving import check_installed, listening
from mmssl.modality import installed


def test_a_port_that_is_taken_is_a_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with refused("--port", str(port)):
            listening("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [("127.0.0.1", 70_000, ("--port", "70000")), ("no.such.host.invalid", 0, ("--host", "no.such.host.invalid"))],
)
def test_what_is_no_address_is_a_line(host: str, port: int, words: tuple[str, ...]) -> None:
    with refused(*words):
        listening(host, port)


def test_the_loopback_is_listened_at_by_default() -> None:
    made = listening("127.0.0.1", 0)
    assert made.getsockname()[0] == "127.0.0.1" and made.getsockname()[1] > 0
    made.close()


def test_without_gradio_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with refused("demo", "gradio", "pip install 'mmssl[demo]'"):
        check_installed()
    assert main(["demo", "nowhere", "--data", "builtin:digits"]) == 2  # before the model is looked for
    assert "mmssl[demo]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere"),
        (["{model}", "--data", "no_such_folder"], "no_such_folder"),
        (["{model}", "spilt=test"], "spilt"),
        (["{model}", "--port", "x"], "--port"),
        (["{model}", "--data", "{rows}", "--column", "image=img"], "img"),
        (["{model}", "--data", "{rows}", "--embeddings", "{rows}"], "output"),
        (["{model}"], "--data"),
    ],
)
def test_bad_input_is_a_line_and_code_2(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.setattr("mmssl.demonstrating.opening.check_installed", lambda: None)
    given = [word.format(model=saved, rows=saved.parent / "rows") for word in words]
    assert main(["demo", *given, *([] if "--port" in words else ["--port", "0"])]) == 2
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("error:")]
    assert said in line and "Traceback" not in error


def test_gradio_is_told_nothing_but_what_the_page_needs_and_its_settings_go() -> None:
    before = dict(os.environ)
    with serving._quiet():
        place = Path(os.environ["GRADIO_TEMP_DIR"])
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False" and place.is_dir()
    assert dict(os.environ) == before and not place.exists()


def test_gradio_is_installed() -> None:
    """So that it is seen where the tests of the page (tests/runs/test_demo.py) do nothing."""
    if not installed("gradio"):
        pytest.skip("the page is not tested: Gradio is not installed (pip install 'mmssl[demo]')")
