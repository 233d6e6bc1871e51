"""Files: those that come with mmssl, and writing whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import RunError


def shipped_folder(name: str) -> Path:
    """`configs` or `hub_cards`: inside the package in a wheel, at the root of the repository in a source tree."""
    here = Path(__file__).resolve().parent
    for folder in (here / name, here.parent / name):
        if folder.is_dir():
            return folder
    raise RunError(f"this installation of mmssl lacks its folder '{name}': pip install --force-reinstall mmssl")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new file to write into that takes the place of `path` at the end; whole or not at all.

    What was there before stays until then. The folder is made where it is missing. OSError when it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into that takes the place of `folder` at the end; whole or not at all.

    What was there before stays until then. OSError when it cannot be written.
    """
    from safetensors import SafetensorError

    partial, old = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "old"))
    if old.exists() and not folder.exists():  # a process was killed between two renames
        old.rename(folder)
    for rest in (partial, old):
        shutil.rmtree(rest, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(old)  # only now, and it is back under its name if the next line fails
        partial.rename(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for rest in (partial, old):
            shutil.rmtree(rest, ignore_errors=True)
