"""Pretraining that goes on from a saved model (`model.from`), and adapter-only self-supervision.

With `model.towers.X.adapter` the tower is frozen and an adapter in it is trained by any objective. The EMA teacher
(`mmssl.objectives.parts.teacher`) shares what is frozen with the student, so that one backbone is in memory and the
teacher is as large as the adapter; the run's result is an adapter folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..files import whole_folder
from ..models.adapter_files import Base, base_of, write_adapter
from ..models.adapters import add_adapter, check_adapter
from ..models.locating import locate
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import open_model, saved_parts
from ..models.processing_mmssl import MMSSLProcessor
from ..models.running import in_float32
from ..recipe.continuing import refuse_placeholder

if TYPE_CHECKING:
    from peft import PeftModel

    from ..models.foreign import Foreign
    from ..recipe.config import ModelConfig


@dataclass
class Adapter:
    """An adapter that pretraining trains.

    Attributes:
        handle: PEFT's, which writes it.
        base: what it belongs on.
    """

    handle: PeftModel
    base: Base

    def save(self, processor: MMSSLProcessor, folder: Path) -> None:
        """Write the adapter folder; whole or not at all. OSError when it cannot."""
        with whole_folder(folder) as partial:
            write_adapter(self.handle, self.base, processor, partial, folder)


def check_adapters(model: ModelConfig, recipe: str) -> None:
    """UserError for adapters that cannot be, before anything is written; recipe: its name, for the message."""
    towers = model.towers
    refuse_placeholder(model.from_, {name: tower.from_ for name, tower in towers.items()}, recipe)
    having = {name: tower.adapter for name, tower in towers.items() if tower.adapter is not None}
    first = next(iter(having), None)
    if first is None:
        return
    for name, tower in towers.items():
        where = f"model.towers.{name}"
        if tower.adapter is None:
            if not tower.frozen:
                raise UserError(
                    f"{where}: found neither adapter nor frozen: true, but tower '{first}' has an adapter: "
                    "then an adapter is all that is trained and kept"
                )
            continue
        check_adapter(tower.adapter, f"{where}.adapter")
        if tower.frozen:
            raise UserError(
                f"{where}.frozen: found true beside an adapter, expected one of them; an adapter's tower "
                "is frozen anyway"
            )
        if tower.from_ is None and model.from_ is None:
            raise UserError(f"{where}.adapter: found an adapter on random weights, expected model.from or {where}.from")
        if tower.adapter != having[first]:
            raise UserError(f"{where}.adapter: differs from that of tower '{first}', expected the same for all towers")


def put_adapters(model: MMSSLModel, asked: ModelConfig) -> Adapter | None:
    """Put the adapters that a recipe's `model` asks for into it; None where it asks for none."""
    towers = [name for name, tower in asked.towers.items() if tower.adapter is not None]
    if not towers:
        return None
    config = asked.towers[towers[0]].adapter
    assert config is not None
    started = asked.from_
    origins = {} if started else {n: t.from_ for n, t in asked.towers.items() if t.from_ is not None}
    place, stored = None if started is None else locate(started).place, model
    if started is not None and saved_parts(started)[0].get("dtype") not in (None, "float32"):
        stored = open_model(started)[0]  # an adapter names the weights as they lie there, not as they are trained on
    base = base_of(stored, place, origins)
    # projections that nobody has trained are trained whole
    save = [] if started else [f"projections.{name}" for name in model.projections]
    handle = add_adapter(model, config, towers, where=f"model.towers.{towers[0]}.adapter", save=save)
    return Adapter(handle, base)


def load_start(model: MMSSLModel, origin: str) -> None:
    """Copy the weights of the saved model `origin` into `model`, without codes that objectives of its run have left in
    it. UserError when they do not fit."""
    started = open_model(origin)[0]
    started.codes.clear()
    in_float32(started, whole=True)
    theirs, mine = started.state_dict(), model.state_dict()
    odd = sorted(set(theirs) ^ set(mine)) or sorted(k for k in mine if mine[k].shape != theirs[k].shape)
    if odd:
        shapes = [tuple(s[odd[0]].shape) if odd[0] in s else None for s in (theirs, mine)]
        raise UserError(
            f"model.from: {origin} does not fit this recipe: {len(odd)} tensors differ, the first is "
            f"'{odd[0]}' ({shapes[0]} there, {shapes[1]} here)"
        )
    model.load_state_dict(theirs)


def foreign_of(origin: str) -> dict[str, Foreign]:
    """tower -> what rebuilds a wrapped pretrained model in it, from the saved model `origin`."""
    return {name: tower["foreign"] for name, tower in saved_parts(origin)[0]["towers"].items() if tower.get("foreign")}
