"""What is imported is declared, what is declared is imported, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from accelerate.utils import LoggerType
from packaging.requirements import Requirement
from toys import forking

from mmssl import doctor
from mmssl.errors import UserError
from mmssl.hub import picture
from mmssl.recipe.config import TrainConfig
from mmssl.training import trackers

REPO = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
OURS = {"dev", "docs", "bench", "all"}
"""Extras that are for who works on mmssl, or only name others."""
APART = {
    "bitsandbytes": "kernels for GPUs, of an option that few need",
    "faiss": "30 MB that clusters of very many rows alone need",
    "demo": "Gradio holds Pillow below the version that all others get",
    "umap": "its compiling costs each run half a minute",
}
"""Extras that are installed by name alone, and why."""
NAMED = {"transformers", "accelerate", "torch", "torchaudio", "open_clip_torch", "peft", "datasets", "sentencepiece"}
IMPORTED_AS = {
    "open_clip_torch": "open_clip",
    "scikit_learn": "sklearn",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "umap_learn": "umap",
    "faiss_cpu": "faiss",
}
"""Where the import name is not the package's."""
NOT_IMPORTED = {"tensorboard": "Accelerate's tracker imports it"}
USED_ELSEWHERE = {"mmssl_audio": {"video"}, "mmssl": set(EXTRAS) - OURS}
"""Package -> extras it may use besides its own: sound is read from videos, the core uses what it is asked to use."""


def module_of(requirement: str) -> str:
    name = Requirement(requirement).name.replace("-", "_")
    return IMPORTED_AS.get(name, name)


CORE = {module_of(line) for line in PROJECT["dependencies"]}


@cache
def third_party() -> tuple[tuple[str, str, bool, str], ...]:
    """(package of ours, top-level package imported, whether at the top of the module, where) of every import."""
    return tuple(_third_party())


def _third_party() -> Iterator[tuple[str, str, bool, str]]:
    for root in (REPO / "mmssl", REPO / "modalities"):
        for path in sorted(root.rglob("*.py")):
            tree = ast.parse(path.read_text())
            ours = path.relative_to(REPO / "modalities").parts[0] if root.name == "modalities" else "mmssl"
            first = {id(node) for node in tree.body}
            for node in ast.walk(tree):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    names = [node.module]
                for name in {name.partition(".")[0] for name in names}:
                    if name not in sys.stdlib_module_names and not re.fullmatch(r"mmssl(_\w+)?", name):
                        yield ours, name, id(node) in first, f"{path.relative_to(REPO)}:{node.lineno}"


def test_every_import_is_declared() -> None:
    assert len(third_party()) > 300
    missing = []
    for ours, name, _, where in third_party():
        extras = USED_ELSEWHERE.get(ours, set()) | {ours.removeprefix("mmssl_")} & set(EXTRAS)
        if name not in CORE | {module_of(line) for extra in extras for line in EXTRAS[extra]}:
            missing.append(f"{where}: {name}")
    assert missing == []


def test_everything_declared_is_imported() -> None:
    imported = {name for _, name, _, _ in third_party()}
    declared = CORE | {module_of(line) for extra, lines in EXTRAS.items() if extra not in OURS for line in lines}
    assert declared - imported == set(NOT_IMPORTED)


def test_the_eight_are_core_and_lazy_where_a_command_may_do_without() -> None:
    names = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert names >= NAMED
    lazy = {
        "torchaudio",
        "open_clip",
        "peft",
        "datasets",
        "sentencepiece",
        "timm",
        "sklearn",
        "scipy",
        "pyarrow",
        "PIL",
    }
    lazy |= {module_of(line) for extra, lines in EXTRAS.items() if extra not in OURS for line in lines}
    # a class of theirs is the base of one of ours: the whole module is imported where it is needed
    based = ("archives", "builders", "numbered", "parquet_rows", "undecoded", "zarr_rows")
    whole = {f"mmssl/data/{name}.py" for name in based}
    early = [f"{where}: {name}" for _, name, top, where in third_party() if top and name in lazy]
    assert [where for where in early if where.partition(":")[0] not in whole] == []
    sources = (REPO / "mmssl/data/sources.py").read_text()
    assert "\nfrom . import builders" not in sources and "        from . import builders" in sources


def test_all_holds_every_extra_and_dev_all() -> None:
    (everything,) = EXTRAS["all"]
    assert Requirement(everything).extras == {extra for extra, lines in EXTRAS.items() if lines} - OURS - set(APART)
    assert "mmssl[all]" in EXTRAS["dev"]


def test_torch_and_torchaudio_have_the_same_ranges_everywhere() -> None:
    ranges = [line for line in PROJECT["dependencies"] if module_of(line) in ("torch", "torchaudio")]
    assert len(ranges) == 2
    for text in (doctor.PAIR, (REPO / "Makefile").read_text()):
        assert all(f"'{line}'" in text for line in ranges)


def test_importing_mmssl_loads_no_package_that_it_may_not_need() -> None:
    """transformers loads some by itself; these are ours to keep away."""
    names = (
        "open_clip",
        "peft",
        "datasets",
        "timm",
        "sklearn",
        "pyarrow",
        "matplotlib",
        "tensorboard",
        "torch_geometric",
    )
    code = f"import sys, mmssl, mmssl.training.pretrain; print([n for n in {names} if n in sys.modules])"
    assert forking.run(["-c", code], level="torch", check=True).stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------ without an extra


def test_trackers_by_default_are_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = TrainConfig()
    assert trackers.choose_trackers(asked).trackers == ["tensorboard"] and asked.trackers is None
    assert caplog.messages == []
    monkeypatch.setattr(trackers, "is_tensorboard_available", lambda: False)
    assert trackers.choose_trackers(asked).trackers == []
    (line,) = caplog.messages
    assert "pip install 'mmssl[tensorboard]'" in line and "\n" not in line
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [LoggerType.WANDB])
    for given in ([], ["wandb"]):
        train = TrainConfig(trackers=given)
        assert trackers.choose_trackers(train) is train
    assert len(caplog.messages) == 1


def test_a_tracker_asked_for_and_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [LoggerType.WANDB])
    with pytest.raises(UserError) as error:
        trackers.choose_trackers(TrainConfig(trackers=["wandb", "tensorboard"]))
    assert str(error.value) == (
        "train.trackers: tensorboard is not installed: pip install 'mmssl[tensorboard]', or leave it out"
    )


def test_a_card_without_matplotlib_has_no_picture(
    drawn: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert picture.draw_training(metrics, tmp_path / "picture.png") is False
    assert not (tmp_path / "picture.png").exists()
    (line,) = caplog.messages
    assert "pip install 'mmssl[plots]'" in line and "\n" not in line
    monkeypatch.undo()
    assert picture.draw_training(metrics, tmp_path / "picture.png") is True
