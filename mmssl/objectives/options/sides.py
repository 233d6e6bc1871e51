"""Options of what is compared with what: see `mmssl.objectives.parts.sides`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...options import SET, Needs, needs, option, strict


@strict
@dataclass(kw_only=True)
class SideOptions:
    """Which sides there are, and which of them are paired."""

    towers: list[str] = option(help="the towers whose embeddings are compared")
    views: list[str] = option(factory=lambda: ["clean"], help="one view for all, or the views of each tower")
    mask: str | None = option(None, help="encode only what this mask leaves visible")
    masks: list[str] | None = option(None, help="a mask for each view; with one view: two masks make two views of it")
    mode: str = option(
        "drop",
        choices=("drop", "replace"),
        help="what becomes of hidden patches: left out, or a mask token in their place",
    )
    pairs: str | None = option(
        None,
        choices=("across", "within", "both"),
        help="across towers, within each tower between its views, or both; default: within where there is one tower",
    )
    hub_tower: str | None = option(None, help="across: pair every tower with this one only; default: all pairs")
    within_towers: list[str] | None = option(None, help="which towers are paired within; default: all of them")
    cache_rows: int | None = option(
        None,
        min=1,
        max=1_000_000,
        help="encode this many rows at a time and again in the backward pass: big batches in little memory",
    )

    NEEDS: ClassVar[tuple[Needs, ...]] = (needs("mode", mask=SET, holds=lambda c: c.mask is not None or bool(c.masks)),)

    @property
    def kind(self) -> str:
        """`pairs`, or its default."""
        return self.pairs or ("within" if len(self.towers) == 1 else "across")
