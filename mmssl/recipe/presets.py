"""Presets: one recipe in several sizes, and values that fit the data and the device.

A recipe may hold `presets`: name -> changes of the recipe, as overrides write them. The body of the recipe is the
smallest, `demo`; `small` and `base` are the sizes that papers train. Such a recipe says of `data.path` only that it is
the user's (`YOURS`), and is not meant to the letter: what the user does not set himself follows his data and his
device (`mmssl.training.choosing`). A recipe without presets is taken as it is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError, nearest
from ..options.schema import Faults
from ..options.wording import show

DEMO = "demo"
"""The preset that is the body of the recipe."""
YOURS = "YOUR_DATA"
"""What stands for data.path in a recipe that waits for the user's."""


def presets_of(data: Mapping[str, object]) -> list[str]:
    """The names of a recipe's presets, the smallest first; none where it has none."""
    presets = data.get("presets")
    return [DEMO, *map(str, presets)] if isinstance(presets, Mapping) else []


def take_preset(data: dict[str, Any], wanted: str | None, faults: Faults) -> Mapping[str, object]:
    """Take the presets out of a recipe's plain data, in place.

    Args:
        data: the recipe; `presets` is gone from it.
        wanted: the name of a preset; None: the body alone.
        faults: what is wrong with them is added here.

    Returns:
        The changes that the preset makes.

    Raises:
        UserError: the recipe has no preset of this name.
    """
    known = presets_of(data)
    presets = data.pop("presets", None)
    if presets is not None and not known:
        faults.append(f"presets: found {show(presets)}, expected a mapping: name -> changes of the recipe")
    for name, changes in presets.items() if isinstance(presets, Mapping) else ():
        if not isinstance(changes, Mapping) or name == DEMO:
            expected = "a mapping of changes" if name != DEMO else "none of that name: it is the recipe's own body"
            faults.append(f"presets.{name}: found {show(changes)}, expected {expected}")
    if wanted is None or (wanted == DEMO and known):
        return {}
    if wanted not in known:
        there = f"expected one of {', '.join(known)}{nearest(wanted, known)}" if known else "but the recipe has none"
        raise UserError(f"--preset: found '{wanted}', {there}")
    changes = presets[wanted] if isinstance(presets, Mapping) else None
    return changes if isinstance(changes, Mapping) else {}


def set_by(overrides: Sequence[str] | Mapping[str, object]) -> set[str]:
    """The dotted keys that overrides set: `{"train": {"lr": 1}}` and `["train.lr=1"]` both give {"train.lr"}."""
    if not isinstance(overrides, Mapping):
        return {text.partition("=")[0].strip() for text in overrides}
    found: set[str] = set()
    for key, value in overrides.items():
        inner = set_by(value) if isinstance(value, Mapping) else set()
        found |= {f"{key}.{below}" for below in inner} or {str(key)}
    return found


def is_set(key: str, given: set[str]) -> bool:
    """Whether overrides that set the keys `given` say anything of a key: itself, a part of it, or what it lies in."""
    return any(key == one or key.startswith(f"{one}.") or one.startswith(f"{key}.") for one in given)
