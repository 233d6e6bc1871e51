"""Imports point one way: down the ordered list of rooms. Walks the AST of every module (design.md, section 2)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

ROOMS = (
    "errors",
    "provenance",
    "lazy",
    "names",
    "draws",
    "distributed",
    "patches",
    "options",
    "schedules",
    "algebra",
    "limits",
    "boundary",
    "files",
    "markup",
    "reading",
    "losses",
    "masking",
    "modality",
    "models",
    "saying",
    "data",
    "objectives",
    "recipe",
    "evaluation",
    "curation",
    "hub",
    "reporting",
    "training",
    "judging",
    "exporting",
    "finetuning",
    "tuning",
    "looking",
    "demonstrating",
    "around",
    "api",
    "doctor",
    "cli",
    "__main__",
    "__init__",
)
"""Every package and loose file of mmssl, bottom up: a room may import those before it, at whatever place in a file."""

MODALITY_MAY = ROOMS[: ROOMS.index("data")]
"""What the packages in modalities/ may import; beside objectives, never below or above them."""

CONTRACT_ONLY = {
    "training": "objectives",
    "recipe": "objectives",
    "evaluation": "objectives",
    "reporting": "objectives",
}
"""room -> a room of which it knows what is shared alone, never one of its methods by name."""

SHARED_OBJECTIVES = ("accumulation", "base", "options", "step", "pretraining", "parts")

STOCK_CLASS = re.compile(r"(?!Auto|PreTrained)\w+(Model|For[A-Z]\w+)$")
"""Model classes of transformers, which only models/stock/ and export/ know."""
KNOW_STOCK = ("mmssl.models.stock", "mmssl.exporting")


@cache
def arrows(source: str, package: str) -> tuple[tuple[int, str], ...]:
    """(line, absolute dotted name) of everything imported at run time by a module that lies in `package`."""
    return tuple(_arrows(ast.parse(source), package))


def _arrows(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and any(getattr(n, "id", "") == "TYPE_CHECKING" for n in ast.walk(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def room_of(module: str) -> str:
    """The room of a dotted name below mmssl; `mmssl` itself, and the names it offers, are `__init__`."""
    part = module.split(".")[1] if "." in module else "__init__"
    return part if part in ROOMS else "__init__"


def fault(module: str, target: str) -> str | None:
    """Why `module` must not import `target`, or None."""
    top, _, inner = target.partition(".")
    if module.startswith("mmssl_"):
        if top.startswith("mmssl_") and top != module.partition(".")[0]:
            return "modality packages do not know each other"
        if top == "mmssl" and room_of(target) not in MODALITY_MAY:
            return f"modality packages know {', '.join(MODALITY_MAY)} only"
    elif top.startswith("mmssl_"):
        return "mmssl finds modalities by name and imports none"
    elif top == "mmssl":
        mine, theirs = room_of(module), room_of(target)
        if target == "mmssl.__version__":
            return None
        if ROOMS.index(theirs) > ROOMS.index(mine):
            return f"{theirs} lies above {mine}"
        if CONTRACT_ONLY.get(mine) == theirs and inner.split(".")[1] not in SHARED_OBJECTIVES:
            return "objectives are known through what they share only"
    if top == "transformers" and not module.startswith(KNOW_STOCK):
        # the Auto classes' tables name no architecture
        own = inner.startswith("models.") and not inner.startswith("models.auto.")
        if own or STOCK_CLASS.fullmatch(target.rpartition(".")[2]):
            return f"only {', '.join(KNOW_STOCK)} import transformers' model classes"
    return None


def modules() -> list[tuple[Path, str]]:
    """(file, its dotted name)."""
    found = []
    for root, base in ((REPO / "mmssl", REPO), (REPO / "modalities", REPO / "modalities")):
        for path in sorted(root.rglob("*.py")):
            name = ".".join(path.relative_to(base).with_suffix("").parts)
            found.append((path, name.removesuffix(".__init__")))
    return found


def package_of(path: Path, module: str) -> str:
    """The package that relative imports of a module start from."""
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def test_every_file_lies_in_a_room_of_the_list() -> None:
    there = {p.stem if p.is_file() else p.name for p in (REPO / "mmssl").iterdir()}
    there -= {"__pycache__", "py"}  # py.typed
    assert there == set(ROOMS), f"the list lacks {there - set(ROOMS)}, and has {set(ROOMS) - there} too many"


def test_no_import_runs_up() -> None:
    found = modules()
    assert len(found) > 200
    wrong = [
        f"{path.relative_to(REPO)}:{line}: imports {target}: {reason}"
        for path, module in found
        for line, target in arrows(path.read_text(), package_of(path, module))
        if (reason := fault(module, target))
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_no_two_files_import_each_other() -> None:
    """Circles within a room: between rooms the order rules them out. Imports within functions count too."""
    names = {module for _, module in modules()}
    graph = {
        module: {
            next((t for t in (target, target.rpartition(".")[0]) if t in names), "")
            for _, target in arrows(path.read_text(), package_of(path, module))
        }
        - {"", module}
        for path, module in modules()
    }
    seen: dict[str, int] = {}

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if seen.setdefault(module, 0) == 0:
            for other in sorted(graph[module]):
                walk(other, (*way, module))
            seen[module] = 1

    for module in sorted(graph):
        if module != "mmssl":  # its lazy names lead everywhere, and nothing leads back
            walk(module, ())


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mmssl_image.modality", "from mmssl.objectives.mae import Config"),
        ("mmssl_image.modality", "from mmssl.training import loop"),
        ("mmssl_image.modality", "from mmssl.data.sources import open_source"),
        ("mmssl_image.modality", "import mmssl_text"),
        ("mmssl.masking", "from .objectives import base"),
        ("mmssl.losses.contrastive", "from ..models import tower"),
        ("mmssl.models.tower", "def f():\n    from ..objectives.mae import Config"),
        ("mmssl.objectives.mae", "from ..training.loop import Loop"),
        ("mmssl.objectives.mae", "from mmssl_image import Modality"),
        ("mmssl.training.loop", "from ..objectives.mae import Mae"),
        ("mmssl.training.loop", "from ..objectives import contrastive"),
        ("mmssl.recipe.checks", "from ..objectives.mae import Mae"),
        ("mmssl.evaluation.knn", "import mmssl.training.loop"),
        ("mmssl.evaluation.knn", "from mmssl import pretrain"),
        ("mmssl.patches", "from .modality import Batch"),
        ("mmssl.models.foreign", "from transformers import ViTModel"),
        ("mmssl.models.foreign", "from transformers.models.vit.modeling_vit import ViTLayer"),
    ],
)
def test_an_arrow_that_runs_up_is_found(module: str, source: str) -> None:
    targets = list(arrows(source, module.rpartition(".")[0]))
    assert any(fault(module, target) for _, target in targets), targets


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mmssl_image.modality", "from mmssl.models.positions import SinCos"),
        ("mmssl.objectives.mae", "from ..losses.reconstruction import mean"),
        ("mmssl.training.pretrain", "from ..objectives.base import load_objective"),
        ("mmssl.models.foreign", "from transformers import AutoModel, PreTrainedModel"),
        ("mmssl.models.tower", "if TYPE_CHECKING:\n    from ..objectives.mae import Config"),
    ],
)
def test_an_arrow_that_points_the_right_way_passes(module: str, source: str) -> None:
    targets = list(arrows(source, module.rpartition(".")[0]))
    assert not any(fault(module, target) for _, target in targets), targets
