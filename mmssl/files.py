"""Files: those that come with mmssl, and writing whole or not at all."""

from __future__ import annotations

from pathlib import Path

from .errors import RunError


def shipped_folder(name: str) -> Path:
    """`configs` or `hub_cards`: inside the package in a wheel, at the root of the repository in a source tree."""
    here = Path(__file__).resolve().parent
    for folder in (here / name, here.parent / name):
        if folder.is_dir():
            return folder
    raise RunError(f"this installation of mmssl lacks its folder '{name}': pip install --force-reinstall mmssl")
