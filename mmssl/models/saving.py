"""The model folder: written so that `AutoModel` finds mmssl, read with one clear line when it is damaged."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import RunError, UserError, one_line
from ..files import whole_folder
from .modeling_mmssl import MMSSLModel
from .processing_mmssl import LOADER, MMSSLProcessor

LOADER_SOURCE = '''"""Lets transformers find mmssl's classes: AutoModel.from_pretrained(..., trust_remote_code=True)."""

try:
    from mmssl.models.configuration_mmssl import MMSSLConfig
    from mmssl.models.modeling_mmssl import MMSSLModel
    from mmssl.models.processing_mmssl import MMSSLProcessor
except ImportError as error:
    raise ImportError("this checkpoint needs mmssl: pip install mmssl") from error

__all__ = ["MMSSLConfig", "MMSSLModel", "MMSSLProcessor"]
'''


def save_model(model: MMSSLModel, processor: MMSSLProcessor, folder: Path) -> None:
    """Write config, safetensors, processor and loader into `folder`; whole or not at all. OSError when it cannot."""
    with whole_folder(folder) as partial:
        write_model(model, processor, partial)


def write_model(model: MMSSLModel, processor: MMSSLProcessor, folder: Path) -> None:
    """The files of `save_model` into a folder that exists."""
    model.config.auto_map = {"AutoConfig": f"{LOADER}.MMSSLConfig", "AutoModel": f"{LOADER}.MMSSLModel"}
    # set by transformers when a model was loaded with trust_remote_code; it would copy our sources into the folder
    type(model)._auto_class = None
    type(model.config)._auto_class = None
    with no_progress_bars():
        model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / f"{LOADER}.py").write_text(LOADER_SOURCE)


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """transformers draws bars for writing and loading weights, also where standard error is a file."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def weights_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over the names, types, shapes and bytes of tensors in the order of their names, however they are stored.

    Args:
        tensors: (name, tensor) of any shape and type, in any order.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_model(path: str | Path) -> tuple[MMSSLModel, MMSSLProcessor]:
    """Model (in eval mode) and processor of a folder or Hub id, through the Auto classes.

    UserError, in one line, when it is not there, not of mmssl, damaged, or lacks weights.
    """
    from transformers import AutoModel, AutoProcessor

    folder = Path(path)
    if folder.exists() and not (folder / "config.json").is_file():
        inner = folder / "model"
        hint = f"; did you mean {inner}?" if (inner / "config.json").is_file() else ""
        raise UserError(f"{path}: no config.json, expected a model folder{hint}")
    try:
        with no_progress_bars():
            model, info = AutoModel.from_pretrained(
                str(path), output_loading_info=True, use_safetensors=True, trust_remote_code=False
            )
        if not isinstance(model, MMSSLModel):
            raise UserError(f"{path}: holds a {type(model).__name__}, expected a model trained by mmssl")
        processor = AutoProcessor.from_pretrained(str(path), trust_remote_code=False)
    except (UserError, RunError):
        raise
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        first = one_line(error)
        raise UserError(f"{path}: the model cannot be loaded ({type(error).__name__}: {first})") from error
    if not isinstance(processor, MMSSLProcessor):
        raise UserError(f"{path}: holds a {type(processor).__name__}, expected the processor of an mmssl model")
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(f"{path}: the weights lack {len(missing)} tensors of those the config asks for: '{missing[0]}'")
    return model, processor
