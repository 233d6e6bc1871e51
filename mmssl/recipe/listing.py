"""What `mmssl list` shows: names with one line each. Every function returns (name, line) pairs."""

from __future__ import annotations

import inspect
from types import ModuleType

from ..errors import UserError
from ..masking import load_mask, mask_names
from ..modality import installed, modality_names, modality_package
from ..objectives.options import objective_config, objective_module, objective_names
from ..options import plainyaml
from ..options.describing import docstring
from .loading import recipe_names, recipe_path

Listing = list[tuple[str, str]]


def modalities() -> Listing:
    """Installed modality packages: what each is, what it reads, what that needs and whether it is installed.

    Lines that go on about the one above have an empty name.
    """
    listing = []
    for name in modality_names():
        try:
            package = modality_package(name)
        except UserError as error:
            listing.append((name, f"not usable: {error}"))
            continue
        listing.append((name, _first_line(package)))
        listing += [("", line) for line in _reads(package)]
    return listing


def _reads(package: ModuleType) -> list[str]:
    """What a modality's package says of itself in its `READS` and `NEEDS`, see `mmssl.modality`."""
    lines = [f"reads {package.READS}"] if hasattr(package, "READS") else []
    needs = getattr(package, "NEEDS", {})
    for dependency, requirement in needs.items():
        state = "installed" if installed(dependency) else f"not installed, pip install '{requirement}'"
        lines.append(f"needs {dependency}: {state}")
    return lines if needs else [*lines, "needs nothing further"]


def objectives() -> Listing:
    """The objectives that mmssl ships; below each, when to use it and the data it suits. `show` tells of its papers."""
    listing = []
    for name in objective_names():
        objective = objective_config(name)
        listing.append((name, docstring(objective_module(name)).partition("\n")[0]))
        facts = {"when": objective.when, "data": objective.suits}
        listing += [("", f"{fact}: {text}") for fact, text in facts.items() if text]
    return listing


def objectives_table() -> str:
    """Which objective suits which data, in Markdown, for the site."""
    lines = ["| objective | suits | use it when | papers |", "|---|---|---|---|"]
    for name in objective_names():
        objective = objective_config(name)
        lines.append(f"| `{name}` | {objective.suits} | {objective.when} | {objective.papers} |")
    return "\n".join(lines)


def masks() -> Listing:
    """The masks that mmssl ships."""
    return [(name, _first_line(load_mask(name))) for name in mask_names()]


def recipes() -> Listing:
    """The recipes that mmssl ships."""
    listing = []
    for name in recipe_names():
        data = plainyaml.read(recipe_path(name))
        listing.append((name, " ".join(str(data.get("description", "")).split())))
    return listing


def formats() -> Listing:
    """The stock formats that `mmssl export` writes."""
    from ..models.stock.formats import described

    return [(name, f"{title}: {text.partition(chr(10))[0]}") for name, title, text in described()]


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]
