"""The mask of several modalities that share one budget of visible patches. Shapes: B batch, M modalities, N patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..draws import Draws
from ..errors import UserError
from ..lazy import later
from ..options import option, strict
from ..patches import Patches, Split
from .splits import maskable_of, patch_bits, split_by_counts

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch", __name__)

PROPOSALS = 12
"""Of a gamma number; each is taken with a probability above 0.95, so that all fail once in 10^15."""


@strict
@dataclass(kw_only=True)
class Budget:
    """A number of visible patches shared by modalities: drawn anew for each sample, or fixed (MultiMAE, 4M).

    visible: one number is the sample's total, divided by shares drawn from Dirichlet(alpha) over the modalities that
    the sample has (MultiMAE, Bachmann et al. 2022; 4M, Mizrahi et al. 2023): a small alpha shows mostly one modality,
    a large one equal parts. What a modality has too few patches for goes to the others. A number for each modality is
    fixed instead. Modalities not named in a dict are seen whole.

    MultiMAE rounds the shares, and evens out what is then too much or too little by patches drawn from all; here shares
    are rounded down, and the rest goes to those that lost most. Counts are distributed alike but for one patch.
    """

    visible: int | dict[str, int] = option(min=1, max=65_536, help="visible patches in all; or of each modality")
    alpha: float | dict[str, float] = option(
        1.0, above=0, max=1_000, help="of the Dirichlet distribution; or one a modality"
    )

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        chosen = self.visible if isinstance(self.visible, dict) else self.alpha
        names = [name for name in patches if not isinstance(chosen, dict) or name in chosen]
        if not names:
            raise UserError(f"mask budget: found none of {', '.join(patches)} among its modalities")
        there = torch.stack([maskable_of(patches[name]).sum(1) for name in names], 1)  # (B, M)
        if isinstance(self.visible, dict):
            counts = torch.minimum(there, torch.tensor([self.visible[n] for n in names]).to(there))
        else:
            alphas = [self.alpha[n] if isinstance(self.alpha, dict) else self.alpha for n in names]
            logs = torch.stack([log_gamma(a, draws("share", n)) for n, a in zip(names, alphas, strict=True)], 1)
            logs = logs.to(there.device)
            shares = logs.masked_fill(there == 0, -torch.inf).softmax(1).nan_to_num(0.0)
            counts = divide(self.visible, shares, there)
        return {
            n: split_by_counts(patches[n], patch_bits(patches[n], draws(n)), counts[:, i]) for i, n in enumerate(names)
        }


def log_gamma(alpha: float, draws: Draws) -> Tensor:
    """(B,) float64 logarithms of Gamma(alpha, 1) numbers (Marsaglia and Tsang 2000); their softmax is Dirichlet.

    Below 1 a number of alpha + 1 is multiplied by u^(1 / alpha); as logarithms, because that underflows.
    """
    shape = alpha if alpha >= 1 else alpha + 1
    d = shape - 1 / 3
    x = draws("normal").normal(PROPOSALS).double()
    v = (1 + x / (9 * d) ** 0.5) ** 3
    u = draws("accept").uniform(PROPOSALS).double().clamp(min=2**-25)
    positive = v.clamp(min=1e-300)
    taken = (v > 0) & (u.log() < 0.5 * x.square() + d - d * v + d * positive.log())
    first = taken.to(torch.int8).argmax(1, keepdim=True)
    log = (d * positive).log().gather(1, first)[:, 0]
    if alpha < 1:
        log = log + draws("small").uniform().double().clamp(min=2**-25).log() / alpha
    return log


def divide(total: int, shares: Tensor, most: Tensor) -> Tensor:
    """(B, M) int64 whole numbers near `total * shares` (B, M), at most `most` (B, M), that sum to `total` or to all."""
    counts = torch.minimum((total * shares).floor().long(), most)
    for _ in range(shares.shape[1]):  # what one has no room for goes to those that have
        left = (total - counts.sum(1, keepdim=True)).clamp(min=0)
        weight = shares * (counts < most)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-300)
        counts = torch.minimum(counts + (left * weight).floor().long(), most)
    # the rest of rounding: one patch each by what rounding took, so that no modality is favoured; then where there is
    # room
    for key, many in (((total * shares).frac(), 1), (shares, total)):
        for index in key.argsort(dim=1, descending=True, stable=True).unbind(1):
            left = (total - counts.sum(1)).clamp(min=0, max=many)
            room = (most - counts).gather(1, index[:, None])[:, 0]
            counts = counts.scatter_add(1, index[:, None], torch.minimum(left, room)[:, None])
    return counts
