"""The stock formats: one file each, found by its name (`vision-text-dual-encoder` is `vision_text_dual_encoder.py`).

A format is a module with

    TITLE       the class that others load, e.g. "transformers.ViTModel"
    NEEDS       modality type -> what the recipe's options must be (`mmssl.models.stock.compatibility.Need`)
    REQUIRED    modality types of which the model must have a tower; empty: at least one of those in NEEDS
    write       (Source, folder) -> Job: write the folder through the public class, say how to prove it

and, where models can start from it (`model.towers.X.from`), `reads` and `read` (see `mmssl.models.stock.reading`).
Stock classes are imported within functions: `mmssl list formats` and the check of a recipe do not load them.
"""

from __future__ import annotations

import importlib
import pkgutil
from ast import Assign, Name, get_docstring, literal_eval  # `ast` in here is a format
from pathlib import Path
from types import ModuleType

from ....errors import UserError, nearest
from ....options.describing import source_of


def format_names() -> list[str]:
    """Names of all formats."""
    return sorted(
        m.name.replace("_", "-") if m.name in DASHED else m.name
        for m in pkgutil.iter_modules([str(Path(__file__).parent)])
    )


DASHED = ("vision_text_dual_encoder", "sentence_transformers")
"""Files whose format is known elsewhere by a name with dashes."""


def described() -> list[tuple[str, str, str]]:
    """(name, `TITLE`, docstring) of every format, read off its source: importing it would import torch."""
    found = []
    for name in format_names():
        tree = source_of(_module(name))
        titles = [literal_eval(n.value) for n in tree.body if isinstance(n, Assign) and _name(n) == "TITLE"]
        found.append((name, titles[0], get_docstring(tree) or ""))
    return found


def _name(node: Assign) -> str:
    return node.targets[0].id if isinstance(node.targets[0], Name) else ""


def _module(name: str) -> str:
    return f"{__name__}.{name.replace('-', '_')}"


def load_format(name: str) -> ModuleType:
    """The module of a format; UserError naming the nearest one."""
    known = format_names()
    if name not in known:
        raise UserError(f"unknown format '{name}', expected one of {', '.join(known)}{nearest(name, known)}")
    return importlib.import_module(_module(name))
