"""What stands in the place of hidden ids: the mask token, a random id, or the id itself (BERT's 80-10-10).

BERT (Devlin et al. 2019, section 3.1) shows the encoder, of the tokens that it asks for, 80 % as the mask token, 10 %
as a random token and 10 % as they are, because there is no mask token in fine-tuning; all of them are predicted. Each
token's fate is drawn by itself, and the random id is any of the vocabulary, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..draws import Draws
from ..errors import UserError
from ..lazy import later
from ..options import option, strict
from ..patches import Patches

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch", __name__)


@strict
@dataclass(kw_only=True, frozen=True)
class Replacement:
    """Shares of the hidden tokens; the others become the mask token."""

    random: float = option(0.1, min=0, max=1, help="share that is shown as a random id")
    same: float = option(0.1, min=0, max=1, help="share that is shown as it is")

    def __post_init__(self) -> None:
        if self.random + self.same > 1:
            raise UserError(f"random + same: found {self.random:g} + {self.same:g}, expected at most 1")


def replaced(
    patches: Patches, hidden: Tensor, shares: Replacement, vocabulary: int, draws: Draws
) -> tuple[Patches, Tensor]:
    """(what the encoder is shown, (B, N) bool: which of it is behind the mask token) of the `hidden` (B, N) ids."""
    fate = draws("fate").uniform(patches.count)
    swapped = hidden & (fate < shares.random)
    kept = hidden & (fate >= 1 - shares.same)
    values = torch.where(swapped, draws("id").integers(vocabulary, patches.count), patches.values)
    return patches.replace(values=values), hidden & ~swapped & ~kept
