"""What a stock class asks of one option of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Need:
    """One option that must have a certain value.

    part: "tower", "modality" or "model"; key: the option; put: what `compatible_with` sets where the recipe says
    nothing; holds: whether a value will do; expected: that in words; why: what the stock class has instead.
    """

    part: str
    key: str
    put: object
    holds: Callable[[Any], bool]
    expected: str
    why: str


def in_yaml(value: object) -> str:
    """A value as YAML has it."""
    if value is None:
        return "null"
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def need(part: str, key: str, *values: object, why: str) -> Need:
    """An option with one or more possible values; the first is what `compatible_with` sets."""
    return Need(part, key, values[0], lambda value: value in values, " or ".join(map(in_yaml, values)), why)


def square(part: str, key: str, why: str) -> Need:
    """An option that is one number, or two equal ones."""

    def holds(value: object) -> bool:
        return isinstance(value, int) or (isinstance(value, (list, tuple)) and len(set(value)) == 1)

    return Need(part, key, None, holds, "a square", why)


ADDITIVE = need("tower", "positions", "additive", why="its positions are added to the tokens")

UNGATED = need(
    "tower", "activation", "gelu", "gelu_tanh", "quick_gelu", "silu", why="its perceptrons are two maps without a gate"
)

ATTENDS = need("tower", "trunk", "transformer", why="its blocks are those of a transformer")

NO_MODES = Need("tower", "modes", [], lambda value: not value, "none", "it has no tokens of modes in front")

STOCK_TOWER = (
    ATTENDS,
    NO_MODES,
    ADDITIVE,
    UNGATED,
    need("tower", "causal", False, why="its attention looks both ways"),
    need("tower", "embed_norm", False, why="it has no norm before its first block"),
)
"""What most classes ask."""
