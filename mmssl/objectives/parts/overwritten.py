"""What a corrupted view overwrote, which is reconstructed (GMML, Atito et al. 2021; see `mmssl.masking.corruption`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

from ...errors import UserError

if TYPE_CHECKING:
    from ..options.mae import Config
    from ..step import Step


def overwritten(step: Step, config: Config, names: Iterable[str], where: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Of these modalities that the view corrupts: (target (B, N, P), which of its numbers the view overwrote).

    where: whose modalities they are, for messages. UserError where it corrupts none, or where the target has others.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name in names:
        hit, kind = step.corrupted(name, config.view), config.target.get(name)
        if hit is None:
            continue
        target = step.target(name, config.target_view, kind)
        if target.shape != hit.shape:
            raise UserError(
                f"objective mae: target {name}: '{kind or 'its default'}' has {target.shape[-1]} numbers a patch, "
                f"expected a kind that has the {hit.shape[-1]} that view '{config.view}' overwrites"
            )
        there = step.patches(name, config.target_view).valid[..., None]  # another column may not be
        found[name] = target, hit & there & ~target.isnan()
    if not found:
        raise UserError(
            f"objective mae: no mask, and view '{config.view}' corrupts no modality of {where}; "
            f"name a mask, or a view with 'corrupt'"
        )
    return found
