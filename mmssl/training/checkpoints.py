"""Checkpoints: written whole or not at all, checked before use, no pickle.

`checkpoints/step-00001000/` holds `weights.safetensors` (model, objectives and their teachers), `optimizer.safetensors`
and `state.json` (step, and size and SHA-256 of both files). A folder under that name is complete: it is written under a
temporary name and renamed at the end. Random numbers need no state: all are functions of (seed, step).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import RunError, UserError
from .optimizer import optimizer_tensors, restore_optimizer

logger = logging.getLogger("mmssl")
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def complete(folder: Path) -> list[Path]:
    """All complete checkpoints of a run, oldest first."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir() and (p / STATE).is_file())


def save(
    folder: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Any], keep: int
) -> Path:
    """Write `folder/step-<step>` atomically, then delete all but the newest `keep`.

    Raises RunError when it cannot be written (a full disk): nothing half-written stays, older checkpoints stay.
    """
    target = folder / f"step-{step:08d}"
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        weights = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
        save_file(weights, partial / WEIGHTS)
        state = {k: v.detach().cpu().contiguous() for k, v in optimizer_tensors(module, optimizer)}
        save_file(state, partial / OPTIMIZER)
        files = {f: {"bytes": (partial / f).stat().st_size, "sha256": _sha256(partial / f)} for f in (WEIGHTS, OPTIMIZER)}
        (partial / STATE).write_text(json.dumps({"step": step, "files": files, **extra}, indent=2))
        for file in (WEIGHTS, OPTIMIZER, STATE):
            _sync(partial / file)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        done = complete(folder)
        last = f"the last complete one is {done[-1].name}" if done else "there is none yet"
        raise RunError(f"checkpoint {target.name} could not be written to {folder}: {error}; {last}") from error
    for old in complete(folder)[:-keep] if keep else []:
        shutil.rmtree(old)
    return target


def _fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        state = json.loads((path / STATE).read_text())
        for name, facts in state["files"].items():
            size = (path / name).stat().st_size
            if size != facts["bytes"]:
                return f"{name} has {size} bytes, expected {facts['bytes']}"
            if _sha256(path / name) != facts["sha256"]:
                return f"{name} is damaged (its SHA-256 differs)"
    except (OSError, json.JSONDecodeError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole, or None where there is none at all.

    A damaged one is named in a warning and the one before is taken; UserError when all are damaged.
    """
    found = complete(folder)
    faults = []
    for path in reversed(found):
        fault = _fault(path)
        if fault is None:
            return path
        faults.append(f"{path}: {fault}")
        logger.warning("checkpoint %s is damaged (%s); trying the one before", path, fault)
    if faults:
        raise UserError("no usable checkpoint: " + "; ".join(faults))
    return None


def load(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore weights and optimiser in place; returns `state.json`. UserError when they do not fit the recipe."""
    weights = load_file(path / WEIGHTS)
    own = module.state_dict()
    odd = sorted(set(weights) ^ set(own)) + [k for k in set(weights) & set(own) if weights[k].shape != own[k].shape]
    if odd:
        raise UserError(
            f"{path} does not fit this recipe: {len(odd)} tensors differ, the first is '{odd[0]}'; "
            "resume with the recipe it was trained with"
        )
    module.load_state_dict(weights)
    restore_optimizer(module, optimizer, load_file(path / OPTIMIZER))
    state: dict[str, Any] = json.loads((path / STATE).read_text())
    return state
