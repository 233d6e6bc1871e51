"""Masks: coordinates in, `Split`s out. No mask knows a modality; all draws are per sample (see `mmssl.draws`).

A mask is a strict dataclass of its options that is also the function
`mask(patches: dict[name, Patches], draws: Draws) -> dict[name, Split]`. It sees a whole tower's dict, because budgets
may be joint; a name that it leaves out is seen whole. Found by its class name in lower case with dashes
(`per-modality`), or by the dotted path of a class.

Shapes: B batch, N patches, k kept, m hidden, K coordinates.

New masks go into a module of this package (or anybody's) and, when mmssl ships them, into `SHIPPED`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..draws import Draws
from ..errors import UserError, unknown
from ..options import option, strict
from ..patches import Patches, Split
from ..provenance import by_user
from .boxes import MultiBlock
from .budget import Budget
from .groups import Channel, Temporal, Tube, Whole
from .growing import mask_at
from .mixture import Weighted, chosen, mode_numbers, mode_of, picked, unweighted, weight_of, whole
from .neighbours import Regions, Subgraphs
from .patchwise import Block, Random
from .spans import Span, Suffix
from .splits import coordinate_bits, patch_bits, split_by_order, split_groups
from .targets import FeatureSubsets, TimeBlocks

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "SHIPPED",
    "Block",
    "Budget",
    "Channel",
    "FeatureSubsets",
    "Mixture",
    "MultiBlock",
    "PerModality",
    "Random",
    "Regions",
    "Span",
    "Subgraphs",
    "Suffix",
    "Temporal",
    "TimeBlocks",
    "Tube",
    "Whole",
    "build_mask",
    "coordinate_bits",
    "load_mask",
    "mask_at",
    "mask_names",
    "mode_numbers",
    "patch_bits",
    "split_by_order",
    "split_groups",
]


@strict
@dataclass(kw_only=True)
class PerModality:
    """A mask of its own for each named modality; modalities not named are seen whole."""

    masks: dict[str, Any] = option(factory=dict, help="modality -> {type: ..., options}")

    def __post_init__(self) -> None:
        self._built = {name: build_mask(spec) for name, spec in self.masks.items()}

    def at(self, progress: float, steps: int) -> PerModality:
        """Each mask as it is at that share of a run of so many steps."""
        return PerModality(masks={name: mask_at(mask, progress, steps) for name, mask in self._built.items()})

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out: dict[str, Split] = {}
        for name, mask in self._built.items():
            if name in patches:
                out |= mask({name: patches[name]}, draws)
        return out


@strict
@dataclass(kw_only=True)
class Mixture:
    """Each sample draws one of several masks, by their weights: blocks for some, spans for others, a little and much,
    a past and a future (UL2's idea, Tay et al. 2023, for patches of any kind).

    Every mask is drawn for every sample, and the drawn one is taken: `keep` and `hide` have the widths of the widest,
    -1 padded, whatever came up. A modality that a mask leaves alone is seen whole by the samples that drew it.
    """

    kinds: dict[str, Any] = option(
        factory=dict,
        help="name -> {type: ..., weight: ..., options}; weight 1 by default; mode: its name in a tower's `modes`",
    )

    def __post_init__(self) -> None:
        if len(self.kinds) < 2:
            raise UserError(f"kinds: found {len(self.kinds)}, expected two masks or more to draw from")
        self._weights = {name: weight_of(name, spec) for name, spec in self.kinds.items()}
        self.modes = {name: mode_of(name, spec) for name, spec in self.kinds.items()}
        self._built = {name: build_mask(unweighted(spec)) for name, spec in self.kinds.items()}

    def at(self, progress: float, steps: int) -> Mixture:
        """Each mask as it is at that share of a run of so many steps."""
        now = {name: mask_at(mask, progress, steps) for name, mask in self._built.items()}
        if all(now[name] is mask for name, mask in self._built.items()):
            return self
        return Mixture(
            kinds={name: Weighted(mask, self._weights[name], self.modes[name]) for name, mask in now.items()}
        )

    def chosen(self, draws: Draws) -> Tensor:
        """(B,) int64: the number of the kind that each sample has drawn, in the order of `kinds`."""
        return chosen([*self._weights.values()], draws)

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        found = [mask(patches, draws("of", name)) for name, mask in self._built.items()]
        number = self.chosen(draws)
        names = [name for name in patches if any(name in splits for splits in found)]
        return {name: picked([splits.get(name) or whole(patches[name]) for splits in found], number) for name in names}


SHIPPED: tuple[type, ...] = (
    Random,
    Block,
    Tube,
    Temporal,
    Channel,
    Whole,
    Span,
    Suffix,
    MultiBlock,
    TimeBlocks,
    FeatureSubsets,
    Regions,
    Subgraphs,
    Budget,
    PerModality,
    Mixture,
)


def _slug(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def mask_names() -> list[str]:
    """Names of the masks that mmssl ships."""
    return sorted(_slug(c.__name__) for c in SHIPPED)


def load_mask(name: str) -> type:
    """The mask class of that name (`random`, `block`, ...), or at that dotted path (`mylab.masks.Rings`)."""
    if "." in name:
        module, _, attribute = name.rpartition(".")
        try:
            return getattr(by_user(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"mask '{name}': {error}") from None
    for candidate in SHIPPED:
        if _slug(candidate.__name__) == name:
            return candidate
    names = mask_names()
    raise unknown("mask", name, names)


def build_mask(spec: Any) -> Any:
    """A mask from `{type: name, options}`; an object that is callable already is returned as it is."""
    if callable(spec):
        return spec
    from ..options.schema import load

    options = dict(spec)
    return load(load_mask(options.pop("type", "random")), options)
