"""Adapter folders: what PEFT writes, the processor, and `mmssl_adapter.json`, which says what it belongs on.

`PeftModel.from_pretrained(AutoModel.from_pretrained(BASE), FOLDER)` loads it without any of mmssl's files. With them
an adapter on other weights than those it was trained on is refused: it would load, and give nonsense. Only safetensors
are read.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import UserError
from ..models.foreign import OPEN_CLIP, public_origin
from ..models.modeling_mmssl import MMSSLModel
from ..models.privacy import public
from ..models.processing_mmssl import MMSSLProcessor

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_FILE = "mmssl_adapter.json"
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass
class Base:
    """What an adapter belongs on.

    name: as the user called it (a folder or a Hub id), None for a model that was only ever built from pretrained
    towers. origins: tower -> where such a tower came from. fingerprint: of the weights under the adapter.
    architecture: modalities, towers, projection and seed, as in `config.json`.
    """

    name: str | None
    fingerprint: str
    architecture: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of a model's tensors: the same wherever it was saved."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def base_of(model: MMSSLModel, name: str | None, origins: dict[str, str] | None = None) -> Base:
    """Take this down before the adapter is put in."""
    keys = ("modalities", "towers", "projection", "initializer_seed")
    # through JSON: what is read back must compare equal
    architecture = json.loads(json.dumps({key: getattr(model.config, key) for key in keys}))
    return Base(name, fingerprint(model), architecture, dict(origins or {}))


def write_adapter(handle: PeftModel, base: Base, processor: MMSSLProcessor, folder: Path, final: Path) -> None:
    """Write everything into `folder`, which will be called `final` (paths to the base are relative to that)."""
    first = next(iter(base.origins.values()), None) if base.name is None else called(base.name)
    name = None if first is None else public_origin(first)
    handle.peft_config["default"].base_model_name_or_path = name
    handle.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template; ours is written by the caller
    processor.save_pretrained(folder)
    spec = {
        "base": name,
        "base_path": None if base.name is None else _relative(base.name, final),
        "fingerprint": base.fingerprint,
        "architecture": public(base.architecture),
        "origins": {tower: _relative(origin, final) for tower, origin in base.origins.items()},
    }
    (folder / ADAPTER_FILE).write_text(json.dumps(spec, indent=2) + "\n")


def called(name: str) -> str:
    """A run's name rather than that of the `model/` in it."""
    path = Path(name)
    return str(path.parent) if path.name == "model" and path.is_dir() and path.parent.name else name


def _relative(name: str, folder: Path) -> str:
    """A folder relative to the adapter's, a Hub id as it is."""
    prefix = OPEN_CLIP if name.startswith(OPEN_CLIP) else ""
    path = name.removeprefix(prefix)
    return prefix + os.path.relpath(path, folder) if Path(path).exists() else name


def _absolute(name: str, folder: Path) -> str:
    prefix = OPEN_CLIP if name.startswith(OPEN_CLIP) else ""
    path = folder / name.removeprefix(prefix)
    return prefix + os.path.normpath(path) if path.exists() else name


# ------------------------------------------------------------------------------------------------------------ read


def adapter_folder(path: str | Path) -> Path | None:
    """The folder of an adapter: `path` itself, its `model/` (a run's), or a Hub repository's snapshot; else None."""
    for folder in (Path(path), Path(path) / "model"):
        if (folder / PEFT_CONFIG).is_file() or (folder / ADAPTER_FILE).is_file():
            return folder
    if Path(path).exists() or not isinstance(path, str):
        return None
    return snapshot(path, ADAPTER_FILE)


def snapshot(repo: str, marker: str) -> Path | None:
    """A Hub repository that holds the file `marker`, fetched; None where it does not, or cannot be reached."""
    from huggingface_hub import snapshot_download
    from transformers.utils import cached_file

    try:
        if cached_file(repo, marker, _raise_exceptions_for_missing_entries=False) is None:
            return None
        return Path(snapshot_download(repo, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    except (OSError, ValueError):
        return None  # nothing of ours: whoever asked goes on to load a model of that name, which says what is wrong


def read_spec(folder: Path) -> dict[str, Any]:
    """`mmssl_adapter.json`. UserError when the folder is an adapter of another library, damaged or incomplete."""
    if not (folder / ADAPTER_FILE).is_file():
        raise UserError(f"{folder}: an adapter without {ADAPTER_FILE}, so not one that mmssl wrote; load it with PEFT")
    try:
        spec = json.loads((folder / ADAPTER_FILE).read_text())
        if not {"base", "base_path", "fingerprint", "architecture", "origins"} <= set(spec):
            raise ValueError("keys are missing")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: {ADAPTER_FILE} is damaged ({error})") from error
    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: the adapter lacks {name}")
    result: dict[str, Any] = spec
    return result
