"""What the folder of a run says of itself: the rows that it learned from, and the command that it was."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ..data.given import is_object
from ..errors import UserError
from ..models.locating import Located
from ..options.plainyaml import parse, read
from ..recipe.config import RowsConfig
from .leaks import LabelRead

T = TypeVar("T", bound=RowsConfig)
SAID = ("name", "header", "encoding", "texts")
"""Options of the data that are the same for every command."""
MOST = 12
"""Columns that a command names one by one."""


def settings_of(found: Located) -> tuple[Path, dict[str, Any]] | None:
    """(`config.yaml` of the run that a model lies in, what it holds); None where it lies in none."""
    place = Path(found.place)
    path = place.parent / "config.yaml"
    if place.name != "model" or not path.is_file():
        return None
    held = read(path)
    return (path, held) if isinstance(held, dict) else None


def with_rows(asked: T, found: Located) -> T:
    """The options of a command; where they name no data, with those that the model learned from.

    Raises:
        UserError: it lies in no run, or in one whose data were an object in Python.
    """
    if asked.path is not None:
        return asked
    settings = settings_of(found)
    said = {} if settings is None else settings[1].get("data", settings[1])  # of pretraining, of fine-tuning
    path = said.get("path") if isinstance(said, Mapping) else None
    if path is None or is_object(path):
        where = "an object in Python" if path is not None else "none"
        raise UserError(
            f"--data: found {where}, as {found.name} says what it learned from; expected --data DATA: a folder, file, "
            "glob, Hub id or builtin:NAME"
        )
    own = {key: said[key] for key in SAID if key in said and getattr(asked, key) in (None, "auto")}
    # a model knows its further columns itself, and commands that have no use for them are not given them
    modalities = settings[1]["modalities"] if settings is not None and "objectives" in settings[1] else None
    kept = {n: of for n, of in (said.get("columns") or {}).items() if modalities is None or n in modalities}
    return replace(asked, path=path, columns={**kept, **asked.columns}, **own)


def with_way_out(error: LabelRead, found: Located) -> UserError:
    """The same error, with the command that pretrains without the label, where the model lies in its run."""
    settings = settings_of(found)
    if settings is None or "objectives" not in settings[1]:
        return error
    path, recipe = settings
    columns = recipe.get("data", {}).get("columns", {}).get(error.modality)
    rest = [column for column in columns if column != error.label] if isinstance(columns, list) else []
    named = json.dumps(rest, ensure_ascii=False) if 0 < len(rest) <= MOST else "null"  # null: by looking
    words = [f"data.columns.{error.modality}={named}", f"evaluation.label={_plain(error.label)}"]
    return UserError(f"{error.found}; pretrain without it: {shlex.join(['mmssl', 'pretrain', str(path), *words])}")


def _plain(name: str) -> str:
    """A name as an override is read: one that looks like a number stands in quotes."""
    return name if name.isidentifier() and parse(name, "label") == name else json.dumps(name, ensure_ascii=False)
