"""`data.mix`: further data that are trained on, and how much of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..modality import name_fault
from ..options import option, strict
from ..options.schema import BAD, Faults

MOST = 100
"""Data that may be mixed in: rows are numbered over all of them."""
FIRST = "data"
"""What the data of `data.path` are called among those of a mixture."""


@strict
@dataclass(kw_only=True)
class MixConfig:
    """Data that are mixed in. How files are read, cut and looked through stands in `data`, for all of them."""

    path: str = option(local=True, help="as data.path")
    name: str | None = option(None, help="configuration of a `datasets` data set")
    split: str = option("train", help="which rows of the data: one of its splits")
    columns: dict[str, str | list[str]] = option(
        factory=dict, help="as data.columns; default: those of data.columns or of its own name, where they are there"
    )
    limit: int | None = option(None, min=1, max=1_000_000_000, help="so many rows of the split: any, always the same")
    select: str | None = option(None, local=True, help="as data.select")
    weight: float | None = option(None, above=0, max=1_000_000, help="of its samples, among those of all the data")
    repeat: float | None = option(None, above=0, max=1_000_000, help="how often its rows come in an epoch; null: once")
    source: str | None = option(None, resumable=True, local=True, help="where the data come from, for the card")
    license: str | None = option(None, resumable=True, local=True, help="licence of the data, for the card")


def check_mixture(data: Any, known: Callable[[object, str], None], faults: Faults) -> None:
    """Add what is wrong with a recipe's mixture. known: is told each name of a modality, and where it stands."""
    mix = BAD if data is BAD else data.mix
    if mix is BAD or not mix:
        return
    if data.readers not in (None, BAD):
        faults.append(
            f"data.readers: found {data.readers}, but of a mixture each process has one reader in each stream"
        )
    if len(mix) > MOST:
        faults.append(f"data.mix: found {len(mix)} data, expected at most {MOST}")
    asked: dict[str, Any] = {FIRST: data}
    for name, of in mix.items():
        fault = name_fault(name, module=False)
        if fault or name == FIRST:
            faults.append(f"data.mix.{name}: {fault or f'expected another name: {FIRST} are those of data.path'}")
        if of is BAD:
            return
        asked[name] = of
        for modality in of.columns if isinstance(of.columns, Mapping) else ():
            known(modality, f"data.mix.{name}.columns.{modality}")
    _check_amounts(asked, data.temperature, data.streaming is True, faults)


def _check_amounts(asked: Mapping[str, Any], temperature: Any, streaming: bool, faults: Faults) -> None:
    keys = {name: FIRST if name == FIRST else f"data.mix.{name}" for name in asked}
    weights = {name: of.weight for name, of in asked.items()}
    if BAD in weights.values() or temperature is BAD:
        return
    weighed = [name for name, weight in weights.items() if weight is not None]
    if not weighed and streaming:
        faults.append(
            "data.weight: found null, expected a number for each of the data: how long streams are is unknown"
        )
    if not weighed:
        return
    first = keys[weighed[0]]
    for name in asked:
        if weights[name] is None:
            faults.append(
                f"{keys[name]}.weight: found null, expected a number, as {first}.weight is one (or none of all)"
            )
        if asked[name].repeat not in (None, BAD):
            faults.append(
                f"{keys[name]}.repeat: found {asked[name].repeat:g} beside {first}.weight, expected one of them"
            )
    if temperature != 1:
        faults.append(f"data.temperature: found {temperature:g} beside {first}.weight, expected one of them")
