"""The part of an objective's projection head that a fine-tuning keeps, out of the checkpoint of its run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError, nearest
from .supervised import Kept


def kept_head(model_path: str, name: str, towers: Sequence[str], width: int) -> Kept:
    """The first layer of the projection head that objective `name` had on the tower at the end of run `model_path`.

    Heads are no part of the model; they are in the run's last checkpoint. UserError when there is none that fits.
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
    if "dense.0.bias" not in found:
        raise UserError(
            f"keep_head: the head of '{name}' has a batch norm, which keeps no statistics of its training; "
            "train with head_norm: layer to keep a part of it"
        )
    hidden, into = found["dense.0.weight"].shape
    if into != width:
        raise UserError(f"keep_head: the head of '{name}' takes {into} features, the task's tower gives {width}")
    kept = Kept(into, hidden, "norms.0.weight" in found)
    names_of = {"dense.0.": "fc1.", "norms.0.": "norm."}
    kept.load_state_dict({names_of[k[:8]] + k[8:]: v for k, v in found.items() if k[:8] in names_of})
    return kept
