"""The model folder: written so that `AutoModel` finds mmssl, read with one clear line when it is damaged."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..boundary import check_folder, reading_of
from ..errors import UserError
from ..files import whole_folder
from ..modality import load_modality
from .configuration_mmssl import MMSSLConfig
from .modeling_mmssl import MMSSLModel
from .processing_mmssl import MMSSLProcessor


def save_model(model: MMSSLModel, processor: MMSSLProcessor, folder: Path) -> None:
    """Write config, safetensors, processor and loader into `folder`; whole or not at all. OSError when it cannot."""
    with whole_folder(folder) as partial:
        write_model(model, processor, partial)


def write_model(model: MMSSLModel, processor: MMSSLProcessor, folder: Path) -> None:
    """The files of `save_model` into a folder that exists."""
    with no_progress_bars():
        model.save_pretrained(folder)
    processor.save_pretrained(folder)


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


def refuse_two_weights(folder: Path) -> None:
    """UserError where weights lie in one file and in several: transformers takes the one, which may be of long ago."""
    one, several = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if one.exists() and several.exists():
        raise UserError(
            f"{folder}: found {one.name} and {several.name} with its shards, expected one of them: one is left from "
            f"before; take it out"
        )


def check_agreement(config: MMSSLConfig, processor: MMSSLProcessor, place: str) -> None:
    """UserError where `config.json` and `processor_config.json` of a model are not of the same modalities and sizes.

    A width or size that was damaged, or made up, is met here, before memory is taken for it.
    """
    for name, preprocessor in processor.preprocessors.items():
        wanted = {"type": processor.types[name], **preprocessor.sizes()}
        wanted = json.loads(json.dumps(wanted))
        found = (config.modalities or {}).get(name)
        if not isinstance(found, dict):
            raise UserError(f"{place}: its config.json has no modality '{name}', its processor_config.json has")
        # what a model says nothing of is what its modality was before it had that option
        usual = inspect.signature(load_modality(processor.types[name]).Modality).parameters
        known = {k: p.default for k, p in usual.items() if k in wanted and p.default is not inspect.Parameter.empty}
        found = {**json.loads(json.dumps(known)), **found}
        for key in {**wanted, **found}:
            if key == "type" and key not in found and wanted[key] == name:
                continue
            if key not in found or key not in wanted or found[key] != wanted[key]:
                raise UserError(
                    f"{place}: its config.json has modalities.{name}.{key} {found.get(key)!r:.60}, its "
                    f"processor_config.json {wanted.get(key)!r:.60}; they are not of one model"
                )


def load_model(path: str | Path) -> tuple[MMSSLModel, MMSSLProcessor]:
    """Model (in eval mode) and processor of a folder or Hub id, through the Auto classes.

    UserError, in one line, when it is not there, not of mmssl, damaged, or lacks weights.
    """
    from transformers import AutoConfig, AutoModel, AutoProcessor

    folder = Path(path)
    if folder.exists() and not (folder / "config.json").is_file():
        inner = folder / "model"
        hint = f"; did you mean {inner}?" if (inner / "config.json").is_file() else ""
        raise UserError(f"{path}: no config.json, expected a model folder{hint}")
    if folder.exists():
        check_folder(folder)
        refuse_two_weights(folder)
    with reading_of(f"{path}: the model cannot be loaded"), no_progress_bars():
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        if not isinstance(config, MMSSLConfig):
            raise UserError(f"{path}: holds a model of type '{config.model_type}', expected a model trained by mmssl")
        processor = AutoProcessor.from_pretrained(str(path), trust_remote_code=False)
        if not isinstance(processor, MMSSLProcessor):
            raise UserError(f"{path}: holds a {type(processor).__name__}, expected the processor of an mmssl model")
        check_agreement(config, processor, str(path))
        model, info = AutoModel.from_pretrained(
            str(path), output_loading_info=True, use_safetensors=True, trust_remote_code=False
        )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(f"{path}: the weights lack {len(missing)} tensors of those the config asks for: '{missing[0]}'")
    return model, processor
