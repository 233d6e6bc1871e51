"""The page as a Space of the Hub: a folder with a few lines that open the model and serve it, and its push.

The model lies in the folder, or is named by its id; data are named alone, and have to be where a Space reaches them.
What a model's folder may hold is what `mmssl push` lets through.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import pprint
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.given import is_object
from ..data.origins import URL, elsewhere
from ..errors import RunError, UserError, one_line
from ..evaluation.own_run import with_rows
from ..files import whole_folder
from ..hub.push import Pushed, check_repo_id, publishable, send, staged, told_of_samples
from ..hub.secrets import findings
from ..modality import installed
from ..models.locating import Located, locate
from ..models.opening import saved_parts
from ..options import changed, plainyaml
from ..options.schema import to_dict
from .cards import TEMPLATES
from .options import DemoConfig

GRADIO = "6.31.0"
"""The version that the page was made with, where none is installed."""
MODEL = "model"
"""Folder of the model in that of the Space."""
OWN = ("README.md", "app.py", "requirements.txt")
SHIPPED = ("audio", "ecg", "eeg", "graph", "image", "series", "tabular", "text", "video", "volume")
"""Modalities that are extras of mmssl; another is a package `mmssl_NAME` of its own."""


def write_space(
    model: str | Path, repo_id: str, asked: DemoConfig, folder: str | Path, base: str | None = None
) -> tuple[list[str], list[str]]:
    """Write the folder of a Space, whole or not at all.

    Args:
        model: a folder, which is copied into it, or an id on the Hub, which is named.
        repo_id: of the Space; its title is made of it.
        asked: the rows, and what is said of them.
        folder: one that is not there yet, or that of an earlier call.
        base: of an adapter, the Hub id of the model that it belongs on.

    Returns:
        (paths of its files, what the user must know).

    Raises:
        UserError: data that a Space does not reach, what must not be published, a folder with other things in it.
        RunError: it cannot be written.
    """
    check_repo_id(repo_id)
    place = Path(folder)
    _refuse_place(place)
    found = locate(model)
    asked = with_rows(asked, found)
    _refuse_here(asked)
    with tempfile.TemporaryDirectory(prefix="mmssl-space-") as scratch:
        source, files, notes = _model_files(found, Path(scratch), base)
        texts = _texts(found, repo_id, asked)
        faults = [f"push: {name}: {fault}" for name, text in texts.items() for fault in findings(text)]
        if faults:
            raise UserError("\n".join(faults))
        try:
            with whole_folder(place) as partial:
                for name, text in texts.items():
                    (partial / name).write_text(text, encoding="utf-8")
                for file in files:
                    (partial / MODEL / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source / file, partial / MODEL / file)
        except OSError as error:
            raise RunError(f"the Space could not be written to {place}: {one_line(error)}") from error
    return [*texts, *(f"{MODEL}/{file}" for file in files)], notes


def push_space(
    model: str | Path,
    repo_id: str,
    asked: DemoConfig,
    folder: str | Path,
    *,
    private: bool = False,
    message: str | None = None,
    base: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Write the folder of a Space (`write_space`) and send it in one commit; with `dry_run` only write it."""
    files, notes = write_space(model, repo_id, asked, folder, base)
    notes.append(f"it installs mmssl {__version__} by requirements.txt; name another place there, if it is not on PyPI")
    if dry_run:
        return Pushed("", repo_id, files, notes)
    said = message or "Upload demo with mmssl"
    return send(Path(folder), files, repo_id, private=private, message=said, notes=notes, space=True)


def _refuse_place(place: Path) -> None:
    """UserError where the folder holds something else than a Space that was written before."""
    if place.is_dir() and any(place.iterdir()) and not all((place / name).is_file() for name in OWN):
        raise UserError(f"--space: '{place}' holds other things, expected a new folder, or that of an earlier call")


def _refuse_here(asked: DemoConfig) -> None:
    """UserError for data, and for other files, that lie on this machine."""
    path = str(asked.path)
    if is_object(path) or not (path.startswith("builtin:") or _is_remote(path)):
        raise UserError(
            f"--data: found '{path}', which lies on this machine, expected what a Space reaches: a Hub id, "
            "builtin:NAME or an address"
        )
    for name in ("embeddings", "select"):
        if (value := getattr(asked, name)) is not None:
            raise UserError(f"{name}: found '{value}', which lies on this machine, expected null for a Space")


def _is_remote(path: str) -> bool:
    """Whether data are an address, or what can be an id on the Hub and is no path here."""
    if elsewhere(path) is None or URL.match(path):
        return elsewhere(path) is not None
    try:
        check_repo_id(path)
    except UserError:
        return False
    return True


def _model_files(found: Located, scratch: Path, base: str | None) -> tuple[Path, list[str], list[str]]:
    """(folder, paths in it, notes) of a model that is copied; no paths of one on the Hub."""
    if not found.local:
        if base is not None:
            raise UserError(f"--base {base}: {found.name} lies on the Hub, which knows its base")
        return scratch, [], []
    source, notes = staged(Path(found.place), scratch, base)
    files = publishable(source)
    return source, files, [*notes, *told_of_samples(files)]


def _texts(found: Located, repo_id: str, asked: DemoConfig) -> dict[str, str]:
    """Name -> content of the files of the Space itself."""
    config, _ = saved_parts(found.name)
    types = sorted({str(part["type"]) for part in (config.get("modalities") or {}).values()})
    options = {name: to_dict(getattr(asked, name)) for name in _said(asked)}
    title = repo_id.rpartition("/")[2].replace("-", " ").replace("_", " ")
    head: dict[str, Any] = {
        "title": title,
        "emoji": "🔎",
        "sdk": "gradio",
        "sdk_version": importlib.metadata.version("gradio") if installed("gradio") else GRADIO,
        "app_file": "app.py",
        "pinned": False,
        "tags": ["mmssl"],
        **({} if found.local else {"models": [found.place]}),
        **({"datasets": [asked.path]} if str(elsewhere(asked.path)).startswith("hf://datasets/") else {}),
    }
    extras = ",".join(["demo", *(name for name in types if name in SHIPPED)])
    values: Mapping[str, Any] = {
        "head": plainyaml.dump(head).rstrip("\n"),
        "title": title,
        "model": None if found.local else pprint.pformat(found.place),
        "data": asked.path,
        "split": asked.split,
        "arguments": [
            (key, pprint.pformat(value, width=100)) for key, value in [("data", asked.path), *options.items()]
        ],
        "requirements": [f"mmssl[{extras}]=={__version__}", *_packages(types)],
        "types": types,
    }
    return {name: _environment().get_template(f"{name}.j2").render(**values) for name in OWN}


def _environment() -> Any:
    """Templates of files that are no HTML: what stands in them is Python's own notation, or YAML's."""
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATES / "space")
    return jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _said(asked: DemoConfig) -> Iterator[str]:
    """The options that were changed, but those of this machine."""
    for one in dataclasses.fields(asked):
        if one.name != "path" and not one.metadata.get("local") and changed(asked, one.name):
            yield one.name


def _packages(types: list[str]) -> list[str]:
    """The packages of modalities that are not mmssl's own."""
    return [name if "." in name else f"mmssl_{name}" for name in types if name not in SHIPPED]
