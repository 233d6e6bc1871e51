"""Sounds that a browser plays as they are."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from toys import shown

from mmssl.boundary import only_below
from mmssl.demonstrating import hearing
from mmssl.demonstrating.hearing import playable


def test_a_sound_is_its_own_bytes(tmp_path: Path) -> None:
    sound = shown.sound(300)
    (tmp_path / "a.wav").write_bytes(sound)
    address = "data:audio/wav;base64," + base64.b64encode(sound).decode()
    for raw in (sound, {"bytes": sound, "path": "x"}, {"bytes": None, "path": str(tmp_path / "a.wav")}):
        assert playable(raw) == address
    with only_below([tmp_path / "elsewhere"]):
        assert playable(str(tmp_path / "a.wav")) == ""


def test_what_no_browser_plays_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = shown.sound(300)
    window = {"bytes": sound, "path": None, "start": 1.0, "stop": 2.0}
    for raw in (None, b"words", {"array": [0.1]}, "no such file", window, {"bytes": None, "path": None}):
        assert playable(raw) == ""
    monkeypatch.setattr(hearing, "MOST", len(sound) - 1)
    assert playable(sound) == ""
