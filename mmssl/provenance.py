"""Whose code is run: modules that the user names, and none that a file of somebody else names.

A recipe that the user gives may name a type by any dotted path: it is imported as if the user had imported it. What a
model folder, a card or a record names is a stranger's word. It gets packages `mmssl_<name>` alone that are installed in
this Python's environment, which is more than that Python would find them: `python -m`, a notebook and PYTHONPATH all
put folders in front of the installed packages, and these folders may be the stranger's, too. Anything else needs the
user's word: `--trust MODULE`, or `mmssl.trust("MODULE")`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

from .errors import UserError

HERE = Path(__file__).resolve().parent
_TRUSTED: set[str] = set()
"""Modules that the user named in this process; what lies below them is meant, too."""


def trust(*modules: str) -> None:
    """Let model folders name these modules, and those below them, as types: their code is run when they do.

    modules: dotted names: `mylab.lidar` means `mylab.lidar` and `mylab.lidar.variants`, not `mylab`.
    """
    for name in modules:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
            raise UserError(f"--trust: found '{name}', expected the name of a module, e.g. mylab.lidar")
        _TRUSTED.add(name)


def trusted(module: str) -> bool:
    """Whether the user named this module, or one that it lies in."""
    parts = module.split(".")
    return any(".".join(parts[: i + 1]) in _TRUSTED for i in range(len(parts)))


def by_user(module: str) -> ModuleType:
    """A module that the user names: imported, and trusted from then on. ImportError where there is none."""
    found = installed(module)
    if found is not None:
        return found
    found = importlib.import_module(module)
    trust(module)
    return found


def by_stranger(module: str, where: str, place: str | Path | None = None) -> ModuleType:
    """A module that a model folder, a card or a record names.

    Args:
        module: its dotted name.
        where: what it is the type of, for the message: "modality 'lidar'".
        place: the folder that names it, where that is known: what lies in or around it is not installed.

    Raises:
        UserError: it is no installed package `mmssl_<name>`, and the user did not name it.
        ImportError: there is none of that name.
    """
    found = installed(module, place)
    if found is not None:
        return found
    if "." not in module and importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)
    check(module, where)
    return importlib.import_module(module)


def check(module: str, where: str) -> None:
    """UserError unless the user named this module, which a stranger's file names."""
    if not trusted(module):
        raise UserError(
            f"{where}: a model folder names the module '{module}', which is no installed package mmssl_<name>, and its "
            f"code was not run; if you trust it: --trust {module} (in Python: mmssl.trust('{module}'))"
        )


def installed(module: str, place: str | Path | None = None) -> ModuleType | None:
    """The package `mmssl_<name>` where it is installed in this environment, imported from there; else None.

    It is looked for where installed packages lie, not along `sys.path`: a folder of the same name in front of it is
    passed over.
    """
    if not re.fullmatch(r"mmssl_\w+", module):
        return None
    spec = next((s for root in _roots(module, place) if (s := _spec(module, root)) is not None), None)
    if spec is None or spec.loader is None:
        return None
    there = sys.modules.get(module)
    if there is not None:
        same = getattr(there, "__spec__", None) is not None and there.__spec__.origin == spec.origin  # type: ignore
        return there if same else None
    made = importlib.util.module_from_spec(spec)
    sys.modules[module] = made
    try:
        spec.loader.exec_module(made)
    except BaseException:
        sys.modules.pop(module, None)
        raise
    return sys.modules[module]


def installed_names() -> list[str]:
    """<name> of every installed package `mmssl_<name>`; nothing is imported."""
    found: set[str] = set()
    for root in [*_standard_roots(), *map(Path, _named_folders(None))]:
        if not root.is_dir():
            continue
        for entry in root.iterdir():
            name = entry.name.removesuffix(".py")
            if re.fullmatch(r"mmssl_\w+", name) and name not in found and any(_in(name, r) for r in _roots(name, None)):
                found.add(name)
    found |= {name for name in _editables() if any(_in(name, root) for root in _roots(name, None))}
    return sorted(name.removeprefix("mmssl_") for name in found)


def _in(module: str, root: Path) -> bool:
    return _spec(module, root) is not None


def _spec(module: str, root: Path) -> importlib.machinery.ModuleSpec | None:
    """Its spec in this folder; None where it has none, or a folder without any code of its own."""
    spec = importlib.machinery.PathFinder.find_spec(module, [str(root)])
    return spec if spec is not None and spec.origin is not None else None


def _roots(module: str, place: str | Path | None) -> Iterator[Path]:
    """The folders in which this package may lie and counts as installed, the likeliest first."""
    yield from _standard_roots()
    yield from _editable_roots(module)
    for entry in _named_folders(place):
        if _owned(module, entry):
            yield Path(entry)


@functools.cache
def _standard_roots() -> tuple[Path, ...]:
    """Where mmssl's own modality packages lie, and where pip installs."""
    ours = [HERE.parent / "modalities"] if (HERE.parent / "modalities" / "mmssl_image").is_dir() else [HERE.parent]
    return (*ours, *_sites(), *_listed())


@functools.cache
def _sites() -> tuple[Path, ...]:
    """site-packages of this environment, and the user's own where it is in use."""
    places = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    places += site.getsitepackages() if hasattr(site, "getsitepackages") else []
    places += [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return tuple(dict.fromkeys(Path(place).resolve() for place in places if place and Path(place).is_dir()))


def _listed() -> Iterator[Path]:
    """Folders that a .pth file in site-packages adds: editable installs."""
    for folder in _sites():
        for file in sorted(folder.glob("*.pth")):
            try:
                lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                continue
            for line in lines:
                if line.strip() and not line.startswith(("#", "import ", "import\t")):
                    listed = (folder / line.strip()).resolve()
                    if listed.is_dir():
                        yield listed


def _editable(dist: importlib.metadata.Distribution) -> Path | None:
    """The folder of an editable install, whose finder may be a hook instead of a line in a .pth file."""
    try:
        said = json.loads(dist.read_text("direct_url.json") or "{}")
        url = urlsplit(str(said.get("url", "")))
        editable = bool((said.get("dir_info") or {}).get("editable"))
    except (ValueError, AttributeError):
        return None
    return Path(unquote(url.path)) if editable and url.scheme == "file" else None


@functools.cache
def _editables() -> dict[str, Path]:
    """Import name -> folder of every editable install whose name could be a modality's."""
    found = {}
    for folder in _sites():
        for info in folder.glob("mmssl[-_.]*.dist-info"):  # not all packages: reading their metadata takes a while
            name = re.sub(r"[-_.]+", "_", info.name.removesuffix(".dist-info").partition("-")[0]).lower()
            if name.startswith("mmssl_") and (root := _editable(importlib.metadata.PathDistribution(info))) is not None:
                found[name] = root
    return found


def _editable_roots(module: str) -> Iterator[Path]:
    root = _editables().get(module)
    if root is not None:
        yield from (root, root / "src")


def _named_folders(place: str | Path | None) -> Iterator[str]:
    """The folders of PYTHONPATH that the user may have installed packages to (`pip install --target`)."""
    for entry in dict.fromkeys(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if _may_hold_packages(entry, place) and Path(entry).resolve() not in _standard_roots():
            yield entry


def _may_hold_packages(entry: str, place: str | Path | None) -> bool:
    """Whether a folder is one that the user installed packages to.

    Not the working directory or one that it lies in, nor the model's folder, what is in it or what it lies in: what
    somebody else packed would say of itself that it is installed.
    """
    if not entry or not os.path.isabs(entry) or not os.path.isdir(entry):
        return False
    root = Path(entry).resolve()
    around = [Path.cwd().resolve()]
    if place is not None and os.path.isdir(place):
        around.append(Path(place).resolve())
        if root.is_relative_to(around[-1]):
            return False
    return not any(where.is_relative_to(root) for where in around)


def _owned(module: str, entry: str) -> bool:
    """Whether a distribution in this folder lists the package among its files."""
    first = (f"{module}/__init__.py", f"{module}.py")
    for dist in importlib.metadata.distributions(path=[entry]):
        if any(str(file) in first for file in dist.files or ()):
            return True
    return False
