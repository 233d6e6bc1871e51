"""Imports point one way. Walks the AST of every module and fails on an arrow that runs back (design.md section 2)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

BASE = {"errors", "options", "draws", "patches", "wording", "schema", "plainyaml", "privacy", "origin"}
"""Modules that anybody may use; they use only each other."""

ALLOWED: dict[str, set[str]] = {
    "modality": BASE,
    "masking": BASE | {"masking"},
    "corruption": BASE | {"distributed"},
    "distributed": BASE,
    "losses": BASE | {"losses"},
    "pixels": BASE | {"pixels"},
    "biosignals": BASE | {"biosignals", "modality", "losses"},
    "models": BASE | {"models", "modality", "masking", "distributed"},
    "step": BASE | {"corruption", "models", "modality", "masking", "distributed"},
    "objectives": BASE | {"objectives", "models", "modality", "masking", "losses", "distributed", "step"},
    "pretraining": BASE | {"corruption", "objectives.base", "models", "modality", "masking", "distributed", "step"},
    "data": BASE | {"data", "modality", "distributed"},
    "config": BASE
    | {"modality", "masking", "models.configuration_mmssl", "objectives.base", "checks"}
    | {"export.compatibility", "export.convert"},
    "checks": BASE | {"corruption", "modality", "config"},
}
"""Part of mmssl -> parts it may import. `objectives.base` allows that module only, `objectives` all of them."""

FORBIDDEN: dict[str, set[str]] = {
    "evaluation": {"objectives", "training", "cli"},
    "cards": {"objectives", "training", "cli"},
    "training": {"cli"},
    "export": {"objectives", "training", "cli"},
}
"""Parts that put others together, and what even they must not know."""

MODALITY_MAY = BASE | {"modality", "masking", "models", "losses", "distributed", "pixels", "biosignals"}
"""Losses, pixels and signals are pure functions that several packages share."""

STOCK_CLASS = re.compile(r"(?!Auto|PreTrained)\w+(Model|For[A-Z]\w+)$")
"""Model classes of transformers, which only export/ and finetuning/ know."""


def arrows(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything imported at run time by a module that lies in `package`."""
    tree = ast.parse(source)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
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


def fault(package: str, target: str) -> str | None:
    """Why a module of `package` (or the module itself) must not import `target`, or None."""
    top, _, inner = target.partition(".")
    mine, _, part = package.partition(".")
    part = part.partition(".")[0]
    if mine.startswith("mmssl_"):
        if top.startswith("mmssl_") and top != mine:
            return "modality packages do not know each other"
        if top == "mmssl" and not _within(inner, MODALITY_MAY):
            return "modality packages know patches, modality, masking, models, losses, pixels and biosignals only"
    elif top.startswith("mmssl_"):
        return "mmssl finds modalities by name and imports none"
    elif top == "mmssl" and part in BASE and not _within(inner, BASE):
        return "a base module uses base modules only"
    elif top == "mmssl" and part in ALLOWED and not _within(inner, ALLOWED[part]):
        return f"{part} may import {', '.join(sorted(ALLOWED[part]))}"
    elif top == "mmssl" and part in FORBIDDEN and _within(inner, FORBIDDEN[part]):
        return f"{part} must not know {', '.join(sorted(FORBIDDEN[part]))}"
    elif top == "mmssl" and part in ("training", "pretraining") and _within(inner, {"objectives"}):
        if not _within(inner, {"objectives.base"}):
            return "objectives are known through their contract only"
    if top == "transformers" and part not in ("export", "finetuning"):
        # the Auto classes' tables name no architecture
        own = inner.startswith("models.") and not inner.startswith("models.auto.")
        if own or STOCK_CLASS.fullmatch(target.rpartition(".")[2]):
            return "only export/ and finetuning/ import transformers' model classes"
    return None


def _within(inner: str, parts: set[str]) -> bool:
    return any(inner == p or inner.startswith(p + ".") for p in parts)


def modules() -> list[tuple[Path, str]]:
    """(file, dotted name of the package that it lies in, or of the module itself at the top of mmssl)."""
    found = []
    for root, base in ((REPO / "mmssl", REPO), (REPO / "modalities", REPO / "modalities")):
        for path in sorted(root.rglob("*.py")):
            name = ".".join(path.relative_to(base).with_suffix("").parts)
            found.append((path, name.removesuffix(".__init__")))
    return found


def package_of(path: Path, module: str) -> str:
    """The package that relative imports of a module start from."""
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def test_no_arrow_runs_back() -> None:
    found = modules()
    assert len(found) > 20
    wrong = [
        f"{path.relative_to(REPO)}:{line}: imports {target}: {reason}"
        for path, module in found
        for line, target in arrows(path.read_text(), package_of(path, module))
        if (reason := fault(module, target))
    ]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mmssl_image.modality", "from mmssl.objectives.mae import Config"),
        ("mmssl_image.modality", "from mmssl.training import loop"),
        ("mmssl_image.modality", "import mmssl_text"),
        ("mmssl.masking", "from .objectives import base"),
        ("mmssl.losses.contrastive", "from ..models import tower"),
        ("mmssl.models.tower", "def f():\n    from ..objectives.mae import Config"),
        ("mmssl.objectives.mae", "from ..training.loop import Loop"),
        ("mmssl.objectives.mae", "from mmssl_image import Modality"),
        ("mmssl.training.loop", "from ..objectives.mae import Mae"),
        ("mmssl.training.loop", "from ..objectives import contrastive"),
        ("mmssl.evaluation.knn", "import mmssl.training.loop"),
        ("mmssl.patches", "from .modality import Batch"),
        ("mmssl.models.foreign", "from transformers import ViTModel"),
        ("mmssl.models.foreign", "from transformers.models.vit.modeling_vit import ViTLayer"),
    ],
)
def test_an_arrow_that_runs_back_is_found(module: str, source: str) -> None:
    targets = list(arrows(source, module.rpartition(".")[0]))
    assert any(fault(module, target) for _, target in targets), targets


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mmssl_image.modality", "from mmssl.models.positions import SinCos"),
        ("mmssl_image.modality", "from mmssl.pixels.augment import augment"),
        ("mmssl.objectives.mae", "from ..losses.reconstruction import mean"),
        ("mmssl.training.pretrain", "from ..objectives.base import load_objective"),
        ("mmssl.models.foreign", "from transformers import AutoModel, PreTrainedModel"),
        ("mmssl.models.tower", "if TYPE_CHECKING:\n    from ..objectives.mae import Config"),
    ],
)
def test_an_arrow_that_points_the_right_way_passes(module: str, source: str) -> None:
    targets = list(arrows(source, module.rpartition(".")[0]))
    assert not any(fault(module, target) for _, target in targets), targets
