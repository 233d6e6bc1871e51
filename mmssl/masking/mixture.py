"""What several masks in one are made of, of which each sample draws one (`mmssl.masking.Mixture`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..draws import Draws
from ..errors import UserError
from ..lazy import later
from ..patches import Patches, Split

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch", __name__)


@dataclass(frozen=True)
class Weighted:
    """A mask that is built already, with its weight and its mode."""

    mask: Callable[[dict[str, Patches], Draws], dict[str, Split]]
    weight: float
    mode: str

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        return self.mask(patches, draws)


def weight_of(name: str, spec: Any) -> float:
    """The weight of a kind; UserError where it is none."""
    weight = spec.get("weight", 1.0) if isinstance(spec, Mapping) else getattr(spec, "weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e6:
        raise UserError(f"kinds.{name}.weight: found {weight!r:.60}, expected a number above 0")
    return float(weight)


def mode_of(name: str, spec: Any) -> str:
    """What a kind is called in `TowerConfig.modes`: several may be one. UserError where that is no name."""
    mode = spec.get("mode", name) if isinstance(spec, Mapping) else getattr(spec, "mode", name)
    if not isinstance(mode, str):
        raise UserError(f"kinds.{name}.mode: found {mode!r:.60}, expected a name")
    return mode


def mode_numbers(mask: object, split: Split, modes: Sequence[str], where: str) -> Tensor | None:
    """(B,) int64 the number among `modes` of what each sample has drawn; None of a mask that is no mixture.

    where: the tower's name, for the message.
    """
    named: dict[str, str] | None = getattr(mask, "modes", None)
    if named is None or split.kind is None:
        return None
    strange = [mode for mode in named.values() if mode not in modes]
    if strange:
        raise UserError(
            f"model.towers.{where}.modes: found {', '.join(modes)}, expected a mask's '{strange[0]}' among them"
        )
    numbers = torch.tensor([modes.index(mode) for mode in named.values()], device=split.kind.device)
    return numbers[split.kind]


def unweighted(spec: Any) -> Any:
    """What a kind's mask is built of."""
    return {k: v for k, v in spec.items() if k not in ("weight", "mode")} if isinstance(spec, Mapping) else spec


def chosen(weights: Sequence[float], draws: Draws) -> Tensor:
    """(B,) int64: the number of the kind that each sample draws, by these weights."""
    shares = torch.tensor(weights, dtype=torch.float64)
    ends = (shares.cumsum(0) / shares.sum())[:-1]
    number: Tensor = torch.bucketize(draws("kind").uniform().double().cpu(), ends, right=True)
    return number.to(draws.device)


def whole(p: Patches) -> Split:
    """Nothing hidden."""
    every = torch.arange(p.count, device=p.valid.device).expand(p.batch, -1)
    keep = every if p.full else every.masked_fill(~p.valid, -1)
    return Split(keep, keep[:, None, :0], p.full)


def picked(splits: list[Split], number: Tensor) -> Split:
    """Of every sample the split with its `number` (B,), all as wide as the widest."""
    sets = max(split.hide.shape[1] for split in splits)
    kept, hidden = max(split.keep.shape[1] for split in splits), max(split.hide.shape[2] for split in splits)
    keep = torch.stack([_wide(split.keep, kept) for split in splits], 1)
    hide = torch.stack([_wide(split.hide, sets, hidden) for split in splits], 1)
    row = torch.arange(len(number), device=number.device)
    full = all(split.full and split.keep.shape == splits[0].keep.shape for split in splits)
    full = full and all(split.hide.shape == splits[0].hide.shape for split in splits)
    return Split(keep[row, number], hide[row, number], full, number)


def _wide(index: Tensor, *sizes: int) -> Tensor:
    """index (B, ...) with -1 up to these sizes."""
    out = index.new_full((len(index), *sizes), -1)
    out[(slice(None), *(slice(size) for size in index.shape[1:]))] = index
    return out
