"""The stock formats: one file each, found by its name (`vision-text-dual-encoder` is `vision_text_dual_encoder.py`).

Each holds a `FORMAT` (`mmssl.models.stock.contract.Format`), and its title as the constant `TITLE`, so that it can be
listed without importing it. Stock classes are imported within functions.
"""

from __future__ import annotations

import importlib
import pkgutil
from ast import Assign, Name, get_docstring, literal_eval  # `ast` in here is a format
from pathlib import Path

from ....errors import unknown
from ....options.describing import source_of
from ..contract import Format


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


def refuse_unknown(name: str) -> None:
    """UserError naming the nearest format where there is none of that name."""
    known = format_names()
    if name not in known:
        raise unknown("format", name, known)


def load_format(name: str) -> Format:
    """The format of that name; UserError naming the nearest one."""
    refuse_unknown(name)
    found: Format = importlib.import_module(_module(name)).FORMAT
    return found
