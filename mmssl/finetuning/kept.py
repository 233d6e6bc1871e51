"""The part of an objective's projection head that a fine-tuning keeps, out of the checkpoint of its run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError, nearest
from .supervised import Kept


def kept_head(model_path: str, name: str, towers: Sequence[str], width: int, layers: int = 1) -> Kept:
    """The first hidden layers of the projection head that objective `name` had on the tower at the end of a run.

    Heads are no part of the model; they are in the last checkpoint of run `model_path`. UserError when there is none
    that fits. A batch norm keeps no statistics: `Kept.settle` gives it those of the rows that are learned from.
    """
    from safetensors import safe_open

    from ..training.checkpoints import WEIGHTS, latest

    if len(towers) > 1:
        raise UserError(
            f"keep_head: a head belongs to one tower, but the task has {', '.join(towers)}; name modalities of one"
        )
    run = Path(model_path)
    run = run.parent if run.name == "model" else run
    checkpoint = latest(run / "checkpoints")
    if checkpoint is None:
        raise UserError(
            f"keep_head: {run} has no checkpoint, and objectives' heads are nowhere else; expected the folder of a run"
        )
    with safe_open(checkpoint / WEIGHTS, "pt") as file:
        keys = [k for k in file.keys() if k.startswith("objectives.")]  # noqa: SIM118 - no dict
        names = sorted({k.split(".")[1] for k in keys})
        if name not in names:
            known = ", ".join(names) or "none"
            raise UserError(
                f"keep_head: {checkpoint} has no objective '{name}' with weights, but {known}{nearest(name, names)}"
            )
        prefix = f"objectives.{name}.heads.{towers[0]}."
        found = {k.removeprefix(prefix): file.get_tensor(k) for k in keys if k.startswith(prefix)}
    if "dense.1.weight" not in found:
        raise UserError(f"keep_head: objective '{name}' has no projection head with a hidden layer on '{towers[0]}'")
    hidden, into = found["dense.0.weight"].shape
    if into != width:
        raise UserError(f"keep_head: the head of '{name}' takes {into} features, the task's tower gives {width}")
    there = sum(key.startswith("dense.") and key.endswith(".weight") for key in found) - 1
    if layers > there:
        raise UserError(f"keep_layers: found {layers}, but the head of '{name}' has {there} hidden layers")
    norm = "batch" if "dense.0.bias" not in found else "layer" if "norms.0.weight" in found else "none"
    kept = Kept(into, hidden, norm, layers)
    state = kept.state_dict()
    for layer in range(layers):
        place = f"more.{layer - 1}." if layer else ""
        for theirs, ours in ((f"dense.{layer}.", "fc1."), (f"norms.{layer}.", "norm.")):
            state |= {f"{place}{ours}{k.removeprefix(theirs)}": v for k, v in found.items() if k.startswith(theirs)}
    kept.load_state_dict(state)
    return kept
