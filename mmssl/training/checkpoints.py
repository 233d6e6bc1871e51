"""Checkpoints: written whole or not at all, checked before use, no pickle.

`checkpoints/step-00001000/` holds `weights.safetensors` (model, objectives and their teachers),
`optimizer.safetensors`, what an observer of the loop keeps (`best.safetensors`: the weights that did best so far), and
`state.json` (step, whether the run was healthy, the state of the observers, and size and SHA-256 of the other files).
A folder under that name was complete once: it is written under a temporary name and renamed at the end. Random numbers
need no state: all are functions of (seed, step).

Of processes that each hold a share of every tensor, each writes its own into `shards/` instead of the first two files
(`mmssl.training.shards`); either kind is read by any number of processes, whether they hold shares or everything.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import RunError, UserError
from ..files import sync
from . import shards
from .optimizer import restore_optimizer

logger = logging.getLogger("mmssl")
WEIGHTS, OPTIMIZER = shards.WHOLE
STATE = "state.json"
BEST = "keep_best"
"""In it: the state of what says which checkpoint was the best so far (`mmssl.training.best`)."""
HELD = "held"
"""In it: the step behind which the annealing of the learning rate began; null before. Its checkpoint stays."""
State = dict[str, Any]
"""Of `state.json`: plain data."""
_NAME = re.compile(r"step-(\d{8,})")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def found(folder: Path) -> list[Path]:
    """All checkpoints of a run, oldest first. Whether one was damaged since it was written, only `latest` finds out."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir() and _NAME.fullmatch(p.name)), key=_step)


def name_of(step: int) -> str:
    """Of the checkpoint of a step."""
    return f"step-{step:08d}"


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def sweep(folder: Path) -> None:
    """Delete what is half written or half deleted, also of a process that was killed."""
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def _set_aside(path: Path) -> None:
    """Rename a checkpoint for `sweep` to delete, so that a crash leaves no half of one under its name."""
    path.rename(path.with_name(f".{path.name}.deleted"))


def _stored(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Tensors on the CPU, each with memory of its own: safetensors refuses those that share it."""
    out: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors:
        value = tensor.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        out[name] = value.clone() if place in seen else value
        seen.add(place)
    return out


def begin(folder: Path, step: int) -> Path:
    """The folder that a checkpoint is written in before it gets its name, made anew. OSError where that cannot be."""
    sweep(folder)
    partial = folder / f".{name_of(step)}.partial"
    partial.mkdir(parents=True)
    return partial


def commit(
    folder: Path,
    step: int,
    files: Mapping[str, State],
    extra: State,
    keep: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
) -> Path:
    """Write into `begin`'s folder what is not there yet, and give it its name; what is too old is deleted.

    files: `facts` of those that others have written, by their path in it, which are on the disk already. extra: what
    goes into `state.json`. tensors: file -> what is in it. OSError or SafetensorError where it cannot be written.
    """
    target, partial = folder / name_of(step), folder / f".{name_of(step)}.partial"
    for name, held in tensors.items():
        save_file(_stored(held.items()), partial / name)
    written = sorted(path for path in partial.iterdir() if path.is_file())
    files = {path.name: facts(path) for path in written} | dict(files)
    (partial / STATE).write_text(json.dumps({"step": step, "files": files, **extra}, indent=2))
    # on the disk before the folder gets its name: else a power cut could leave the name without the bytes
    for path in [*written, partial / STATE, *(path for path in partial.iterdir() if path.is_dir()), partial]:
        sync(path)
    # of a run that went back and comes by this step again
    if target.exists():
        _set_aside(target)
    partial.rename(target)
    sync(folder)
    _thin_out(folder, step, keep, {extra.get(BEST, {}).get("step"), extra.get(HELD)})
    return target


def facts(path: Path) -> State:
    """Size and hash of a file."""
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def digests(path: Path) -> dict[str, str]:
    """Tensor -> SHA-256 of its bits, of weights and the optimiser's state; those in parts as one. Files do not tell:
    they may hold the same tensors in another order."""
    found: dict[str, hashlib._Hash] = {}
    for file in sorted(path.glob("**/*.safetensors")):
        for name, tensor in sorted(load_file(file).items()):
            digest = found.setdefault(name, hashlib.sha256())
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return {name: digest.hexdigest() for name, digest in found.items()}


def failed(folder: Path, step: int, error: object) -> RunError:
    """What is said of a checkpoint that cannot be written."""
    return RunError(f"checkpoint {name_of(step)} could not be written to {folder}: {error}; {_last(folder)}")


def _thin_out(folder: Path, step: int, keep: int, more: set[int | None]) -> None:
    """Delete what is later than `step`, and all before it but the newest `keep`, the newest that is healthy, and those
    of the steps `more`."""
    done = found(folder)
    later = [path for path in done if _step(path) > step]
    done = done[: len(done) - len(later)]
    healthy = [path for path in done if is_healthy(path)]
    for old in later + [p for p in done[:-keep] if p not in healthy[-1:] and _step(p) not in more]:
        try:
            _set_aside(old)
        except OSError as error:
            logger.warning("the old checkpoint %s could not be deleted (%s)", old, error)
    sweep(folder)


def _last(folder: Path) -> str:
    done = found(folder)
    return f"the last complete one is {done[-1].name}" if done else "there is none yet"


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
        int(state["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{STATE}: {type(error).__name__}: {error}"
    return None


def of_step(folder: Path, step: int) -> Path | None:
    """The checkpoint of a step; None where there is none, or it is damaged."""
    path = folder / name_of(step)
    return path if path.is_dir() and _fault(path) is None else None


def held_step(path: Path) -> int | None:
    """Of a whole checkpoint: the step behind which its run began to anneal; None where it had not."""
    held: int | None = _read(path).get(HELD)
    return held


def best_step(path: Path) -> int | None:
    """Of a whole checkpoint: the step of the best one so far; None where none is kept."""
    step: int | None = _read(path).get(BEST, {}).get("step")
    return step


def optimizer_of(path: Path) -> str:
    """Of a whole checkpoint: the name of the rule whose state it holds."""
    rule: str = _read(path).get("optimizer", "adamw")  # there was no other once
    return rule


def is_healthy(path: Path) -> bool:
    """Whether the run was measured and healthy when this checkpoint was written."""
    try:
        return bool(json.loads((path / STATE).read_text()).get("healthy"))
    except (OSError, ValueError, AttributeError):
        return False  # damaged: `latest` says so when it comes to it


def latest(folder: Path, healthy: bool = False) -> Path | None:
    """The newest checkpoint that is whole (and healthy), or None where there is none at all.

    A damaged one is named in a warning and the one before is taken; UserError when all are damaged.
    """
    faults = []
    for path in reversed([path for path in found(folder) if not healthy or is_healthy(path)]):
        fault = _fault(path)
        if fault is None:
            return path
        faults.append(f"{path.name}: {fault}")
        logger.warning("checkpoint %s is damaged (%s); trying the one before", path, fault)
    if faults:
        raise UserError(
            f"--resume: no checkpoint in {folder} is usable ({'; '.join(faults)}); "
            "start anew with another --output, or delete that folder to start from the first step"
        )
    return None


def load(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Restore weights and optimiser in place; returns `state.json`. UserError when they do not fit the recipe.

    Where the tensors or the files are cut over processes, all call it together (`mmssl.training.shards`).
    """
    own = module.state_dict()
    stored = shards.Stored.of(path, own)
    if stored is None:
        weights: Mapping[str, torch.Tensor] = load_file(path / WEIGHTS)
        shapes = {name: value.shape for name, value in weights.items()}
    else:
        shapes = stored.weights
    odd = sorted(set(shapes) ^ set(own)) + [k for k in set(shapes) & set(own) if shapes[k] != own[k].shape]
    if odd:
        raise UserError(
            f"{path} does not fit this recipe: {len(odd)} tensors differ, the first is '{odd[0]}'; "
            "resume with the recipe it was trained with"
        )
    state = _read(path)
    lacking = [key for key in ("seconds", "looked", "course", "batch_size") if key not in state]
    if lacking:
        raise UserError(
            f"{path}: {STATE} lacks {', '.join(lacking)}: another version of mmssl wrote it; "
            "go on with that version, or start anew with another --output"
        )
    if stored is None:
        moments = load_file(path / OPTIMIZER)
    else:
        weights, moments = stored.read(own, dict(module.named_parameters()))
    module.load_state_dict(weights)
    restore_optimizer(module, optimizer, moments)
    return state


def tensors(path: Path, name: str) -> dict[str, torch.Tensor]:
    """What was stored under a name besides weights and optimiser, on the CPU; nothing where there was nothing."""
    file = path / f"{name}.safetensors"
    return load_file(file) if file.is_file() else {}


def check_origin(path: Path, origin: Mapping[str, object], batch_size: int, optimizer: str = "adamw") -> None:
    """UserError when a checkpoint is of a run that was started from something else, or with other steps.

    origin: what, by name. batch_size: samples of a step, in which the place in the data and the schedules count.
    optimizer: by name; the state of another one is of no use to it.
    """
    state = _read(path)
    before, size = state.get("origin", {}), state.get("batch_size", batch_size)
    if size != batch_size:
        raise UserError(
            f"--resume: found train.batch_size {batch_size}, but the run's place in the data is counted in steps of "
            f"{size}; expected {size} (for less memory raise train.accumulation, which changes no number)"
        )
    if (rule := optimizer_of(path)) != optimizer:
        raise UserError(
            f"--resume: found train.optimizer {optimizer}, but the run's checkpoints hold the state of {rule}; "
            f"expected {rule}"
        )
    for key, value in origin.items():
        if before.get(key) != value:
            raise UserError(
                f"--resume: the run was started with other {key} ({_short(before.get(key))}, now {_short(value)}); "
                "name what it was started with"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _read(path: Path) -> State:
    """`state.json` of a checkpoint that `latest` found whole."""
    state: State = json.loads((path / STATE).read_text())
    return state
