"""Runs of neighbouring patches along one coordinate: spans of text, of sound, of a signal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..draws import Draws
from ..lazy import later
from ..options import option, strict
from ..patches import Patches, Split
from .growing import Growing
from .splits import axis_of, check_ratio, hidden_counts, ratio_of, rising, split_groups

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch", __name__)


@strict
@dataclass(kw_only=True)
class Span(Growing):
    """Spans hidden along one coordinate: exactly `ratio` of each sample's places on it, `length` of them on average.

    Patches at the same place are hidden together, whatever their other coordinates: `axis: 0` of text are tokens,
    `axis: 1` whole words (SpanBERT, Joshi et al. 2020); of audio and of signals the time (wav2vec 2.0, Baevski et al.
    2020). Those papers draw spans until a budget is reached or let them overlap, so that their counts vary. Here, of n
    places h are hidden in s = h / length spans, and both the lengths (s positive numbers that sum to h) and the gaps
    between them are uniform among all that fit. Spans never touch; the number of places is counted as in `Random`.
    A fixed patch is passed over: a span may lie on both sides.

    SpanBERT draws geometric lengths (p = 0.2) of at most 10; of 256 tokens 15 % come in 10.3 runs of 3.8 +- 2.7 tokens.
    `length: 3.8` gives 10.0 of 3.9 +- 3.1: nearly geometric, too, and without an end at 10. wav2vec 2.0 draws starts of
    spans of 10 that may overlap; of 500 frames 49 % come in 16.7 runs of 14.7 +- 7.1 with none below 10. `ratio: 0.49`,
    `length: 14.7` gives 17 of 14.4 +- 13.4, a tenth of them of 2 or less: as many runs, but of more uneven length.
    """

    ratio: float | dict[str, float] = option(0.15, min=0, below=1, help="share of places hidden; or one a modality")
    length: float = option(3.0, min=1, max=1_000, help="places of a span, on average")
    axis: int = option(0, min=0, max=16, help="the coordinate that spans run along")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out = {}
        for name, p in patches.items():
            ratio = ratio_of(self.ratio, name)
            if ratio is not None:
                along = rising(p.coords[:, :, axis_of(self.axis, p, name, "span", "axis")])
                out[name] = split_groups(p, along, partial(self._hidden, ratio, draws(name)))
        return out

    def _hidden(self, ratio: float, draws: Draws, rank: Tensor, places: Tensor) -> Tensor:
        """(B, N) bool, the patches whose place `rank` (B, N) of `places` (B,) lies in a span."""
        most = rank.shape[1]
        hidden = hidden_counts(places, ratio)  # (B,)
        spans = (hidden / self.length).round().to(torch.int64)
        spans = spans.clamp(min=1).minimum(hidden).minimum(places - hidden + 1)
        # a new span begins at the first of the h hidden places and at s - 1 of the others
        at = torch.arange(most, device=rank.device)[None]
        begins = _some_of(draws("lengths").bits(most), (at > 0) & (at < hidden[:, None]), spans - 1) | (at == 0)
        span = begins.cumsum(1) - 1  # (B, N) which span the j-th hidden place belongs to
        # the spans lie in s different ones of the places - h + 1 gaps before, between and after what stays
        slots = torch.arange(most + 1, device=rank.device)[None]
        inside = slots <= (places - hidden)[:, None]
        chosen = _some_of(draws("gaps").bits(most + 1), inside, spans)
        slot = (~chosen).to(torch.int8).argsort(dim=1, stable=True)  # the chosen ones first, in rising order
        place = slot.gather(1, span.clamp(max=most)) + at  # those that stay before it, and those hidden before it
        marked = torch.zeros(len(rank), most + 1, dtype=torch.bool, device=rank.device)
        marked.scatter_(1, torch.where(at < hidden[:, None], place, most), True)
        return marked[:, :most].gather(1, rank.clamp(max=most - 1)) if most else marked[:, :0]


@strict
@dataclass(kw_only=True)
class Suffix(Growing):
    """The end of each sample along one coordinate, to be told from what comes before it: UL2's S-denoiser (Tay et al.
    2023), the prefix language model of T5. `ratio` is the share of a sample's places, counted as in `Random`, or drawn
    for each sample; the first place always stays. UL2 hides a quarter on average."""

    ratio: float | list[float] | dict[str, float] = option(
        0.25,
        min=0,
        below=1,
        help="share of places hidden; or [lowest, highest], drawn for each sample; or a modality's",
    )
    axis: int = option(0, min=0, max=16, help="the coordinate whose end is hidden")

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        super().__post_init__()

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out = {}
        for name, p in patches.items():
            ratio = self.ratio if isinstance(self.ratio, list) else ratio_of(self.ratio, name)
            if ratio is not None:
                along = rising(p.coords[:, :, axis_of(self.axis, p, name, "suffix", "axis")])
                out[name] = split_groups(p, along, partial(self._hidden, ratio, draws(name)))
        return out

    @staticmethod
    def _hidden(ratio: float | list[float], draws: Draws, rank: Tensor, places: Tensor) -> Tensor:
        share: float | Tensor = ratio if not isinstance(ratio, list) else 0.0
        if isinstance(ratio, list):
            share = (ratio[0] + (ratio[1] - ratio[0]) * draws("ratio").uniform().double()).to(places.device)
        return rank >= (places - hidden_counts(places, share))[:, None]


def _some_of(bits: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """(B, N) bool: exactly `count` (B,) of the places set in `among` (B, N), chosen by their random `bits` (B, N)."""
    order = bits.masked_fill(~among, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(bits.shape[1], device=bits.device).expand_as(order))
    return among & (rank < count[:, None])
