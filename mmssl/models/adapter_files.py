"""Adapter folders: what PEFT writes, the processor, and `mmssl_adapter.json`, which says what it belongs on.

`PeftModel.from_pretrained(AutoModel.from_pretrained(BASE), FOLDER)` loads it without any of mmssl's files. With them
an adapter on other weights than those it was trained on is refused: it would load, and give nonsense. Only safetensors
are read.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ..boundary import check_folder, read_json_object
from ..errors import UserError
from .foreign import public_origin, split_origin
from .locating import ADAPTER, PEFT_CONFIG, PEFT_WEIGHTS, locate
from .modeling_mmssl import MMSSLModel
from .peft_config import check_peft_config
from .privacy import public
from .processing_mmssl import MMSSLProcessor
from .saving import weights_hash

if TYPE_CHECKING:
    from peft import PeftModel


AUTO_MAPPING = {"base_model_class": "AutoModel", "parent_library": "transformers"}
"""By which `peft.AutoPeftModel` opens the base; a class of mmssl's own it imports from nowhere."""


class AdapterSpec(TypedDict):
    """`mmssl_adapter.json`: the fields of `Base` as `write_adapter` writes them; paths are relative to its folder."""

    base: str | None
    base_path: str | None
    weights_sha256: str
    architecture: dict[str, Any]
    origins: dict[str, str]


@dataclass
class Base:
    """What an adapter belongs on.

    Attributes:
        name: as the user called it (a folder or a Hub id), None for a model that was only ever built from pretrained
            towers.
        weights: hash of those under the adapter.
        architecture: modalities, towers, projection and seed, as in `config.json`.
        origins: tower -> where such a tower came from.
    """

    name: str | None
    weights: str
    architecture: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether `AutoModel` alone loads the base as the adapter needs it: a model of mmssl, not a stock class."""
        return self.name is not None and locate(self.name).kind == "mmssl"


def base_of(model: MMSSLModel, name: str | None, origins: dict[str, str] | None = None) -> Base:
    """Take this down before the adapter is put in."""
    keys = ("modalities", "towers", "projection", "projection_hidden", "projection_standard", "initializer_seed")
    # through JSON: what is read back must compare equal
    architecture = json.loads(json.dumps({key: getattr(model.config, key) for key in keys}))
    return Base(name, weights_hash(model.state_dict().items()), architecture, dict(origins or {}))


def write_adapter(handle: PeftModel, base: Base, processor: MMSSLProcessor, folder: Path, final: Path) -> None:
    """Write everything into `folder`, which will be called `final` (paths to the base are relative to that)."""
    first = next(iter(base.origins.values()), None) if base.name is None else called(base.name)
    name = None if first is None else public_origin(first)
    opened_by = name if base.name is None else _from_here(base.name)
    handle.peft_config["default"].base_model_name_or_path = opened_by
    handle.save_pretrained(str(folder), save_embedding_layers=False)
    written = json.loads((folder / PEFT_CONFIG).read_text())  # PEFT names our class as it saves
    (folder / PEFT_CONFIG).write_text(json.dumps({**written, "auto_mapping": AUTO_MAPPING}, indent=2) + "\n")
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template; ours is written by the caller
    processor.save_pretrained(folder)
    spec: AdapterSpec = {
        "base": name,
        "base_path": None if base.name is None else _relative(base.name, final),
        "weights_sha256": base.weights,
        "architecture": public(base.architecture),
        "origins": {tower: _relative(origin, final) for tower, origin in base.origins.items()},
    }
    (folder / ADAPTER).write_text(json.dumps(spec, indent=2) + "\n")


def called(name: str) -> str:
    """A run's name rather than that of the `model/` in it."""
    path = Path(name)
    return str(path.parent) if path.name == "model" and path.is_dir() and path.parent.name else name


def _from_here(name: str) -> str:
    """A base as `AutoPeftModel` and `pipeline` open it: a folder below the working directory by its path from there."""
    path = Path(name)
    below = path.exists() and path.absolute().is_relative_to(Path.cwd())
    return os.path.relpath(path) if below else public_origin(name)


def _relative(name: str, folder: Path) -> str:
    """A folder relative to the adapter's, a Hub id as it is."""
    prefix, path = split_origin(name)
    return prefix + os.path.relpath(path, folder) if Path(path).exists() else name


def absolute(name: str, folder: Path) -> str:
    """The inverse of `_relative`: a path from the working directory where it exists, else the Hub id as it is."""
    prefix, rest = split_origin(name)
    path = folder / rest
    return prefix + os.path.normpath(path) if path.exists() else name


# ------------------------------------------------------------------------------------------------------------ read


def read_spec(folder: Path) -> AdapterSpec:
    """`mmssl_adapter.json`. UserError when the folder is an adapter of another library, damaged or incomplete."""
    if not (folder / ADAPTER).is_file():
        raise UserError(f"{folder}: an adapter without {ADAPTER}, so not one that mmssl wrote; load it with PEFT")
    check_folder(folder)
    spec: Any = read_json_object(folder / ADAPTER, f"{folder}: {ADAPTER}")
    kinds = {"base": str | None, "base_path": str | None, "weights_sha256": str, "architecture": dict, "origins": dict}
    for key, kind in kinds.items():
        if key not in spec:
            raise UserError(f"{folder}: {ADAPTER} is damaged (keys are missing: {key})")
        if not isinstance(spec[key], kind):
            raise UserError(f"{folder}: {ADAPTER} is damaged ({key}: found {spec[key]!r:.60})")
    architecture = spec["architecture"]
    if any(not isinstance(architecture.get(key), dict) for key in ("modalities", "towers")):
        raise UserError(f"{folder}: {ADAPTER} is damaged (architecture: expected modalities and towers)")
    if any(not isinstance(origin, str) for origin in spec["origins"].values()):
        raise UserError(f"{folder}: {ADAPTER} is damaged (origins: expected where towers came from)")
    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: the adapter lacks {name}")
    check_peft_config(folder, PEFT_CONFIG)
    result: AdapterSpec = spec
    return result
