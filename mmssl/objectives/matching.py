"""Matching: do these two modalities belong to one sample? Image-text matching, for any two modalities.

Of the samples that have both, a share is shown with the second modality of another sample, and a classifier says of
each pair whether it was torn (ViLBERT, Lu et al. 2019; M3AE, Chen et al. 2022). With one tower that holds both
modalities the swapped inputs go through it in a forward of their own, so that its attention must compare them. With
two towers the embeddings are swapped and compared by the head alone, which costs no forward: those of the plain views
are there already.

Torn are exactly round(share * n) of the n samples of the global batch that have both (at least two, none where there is
one), drawn at random; each gets the content of the next among them, so that none keeps its own. A torn pair whose new
content is the same as the old one (two captions alike) counts as whole.

Example::

    objectives:
      match: {type: matching, towers: [joint], swap: text}      # one tower with modalities: [image, text]
      pairs: {type: matching, towers: [image, text]}
      answers: {type: matching, towers: [text], other_view: answer}   # a view that reads another column
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributed import gather_padded, gather_rows, global_mean, rank
from ..draws import Draws, mix
from ..errors import UserError, nearest
from ..models.initialization import init_weights
from ..patches import Patches
from .base import Loss, Objective
from .options.matching import Config

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step


class Classifier(nn.Module):
    """One embedding, or two and their product, to a logit: dense, GELU, norm, dense."""

    def __init__(self, widths: list[int], hidden: int) -> None:
        super().__init__()
        self.sides = nn.ModuleList(nn.Linear(width, hidden) for width in widths)
        self.norm = nn.LayerNorm(hidden * (1 if len(widths) == 1 else 3), eps=1e-6)
        self.out = nn.Linear(self.norm.normalized_shape[0], 1)

    def forward(self, *sides: Tensor) -> Tensor:
        """(n, width) of each side -> (n,)."""
        found = [dense(x) for dense, x in zip(self.sides, sides, strict=True)]
        both = torch.cat([*found, found[0] * found[1]], -1) if len(found) == 2 else found[0]
        return self.out(self.norm(F.gelu(both)))[:, 0]


class Matching(Objective):
    """Whether two modalities are of one sample."""

    asks_named = True

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        self.swapped = self._swapped(config, model)
        sides = config.towers * (2 if config.other_view is not None else 1)
        self.head = Classifier([model.tower(name).pooled_width for name in sides], config.hidden)
        init_weights(self.head)

    @staticmethod
    def _swapped(config: Config, model: MMSSLModel) -> list[str]:
        """The modalities that are swapped together."""
        towers = config.towers
        if len(towers) not in (1, 2) or len(set(towers)) < len(towers):
            raise UserError(f"objective matching: towers: found {towers}, expected one, or two different ones")
        names = list(model.tower(towers[-1]).modalities)
        if config.other_view is not None:
            if len(towers) > 1 or config.swap is not None or config.other_view == config.view:
                raise UserError(
                    f"objective matching: other_view: found '{config.other_view}' with towers {towers}, swap: "
                    f"{config.swap} and view: {config.view}; expected one tower, no swap, and two different views"
                )
            return names
        if len(towers) == 2:
            if config.swap is not None:
                raise UserError(
                    f"objective matching: swap: found '{config.swap}' with two towers, whose embeddings "
                    f"are swapped as they are; leave it out"
                )
            return names
        if len(names) < 2:
            raise UserError(
                f"objective matching: towers: found '{towers[0]}' alone, which holds one modality; "
                f"expected one that holds two, two towers, or other_view"
            )
        if config.swap is not None and config.swap not in names:
            raise UserError(
                f"objective matching: swap: found '{config.swap}', expected one of tower '{towers[0]}': "
                f"{', '.join(names)}{nearest(config.swap, names)}"
            )
        return [config.swap or names[-1]]

    def forward(self, step: Step) -> Loss:
        """Binary cross-entropy over the samples that have both sides; logs what the classifier gets right."""
        c = self.config
        first, last = c.towers[0], c.towers[-1]
        other = c.view if c.other_view is None else c.other_view
        apart = first != last or c.other_view is not None
        fixed = [n for n in step.model.tower(first).modalities if n not in self.swapped or c.other_view is not None]
        here, theirs = self._there(step, fixed, c.view), self._there(step, self.swapped, other)
        both = gather_rows(here & theirs)
        # drawn over the global batch, alike on all processes, before each takes its rows
        partner = partners(step.draws("matching", c.view, *c.towers), both, c.share)
        content = gather_rows(torch.stack([content_hash(step.patches(name, other)) for name in self.swapped], 1))
        # by content, not by number: two samples with the same text are no torn pair
        whole = (content[partner] == content).all(1)
        mine = slice(rank() * len(here), (rank() + 1) * len(here))
        partner, whole, valid = partner[mine], whole[mine], both[mine]
        if apart:
            a, b = step.pooled(first, c.view)[0], gather_rows(step.pooled(last, other)[0])[partner]
            logits = self.head(a, b)
        else:
            logits = self.head(self._torn(step, partner))
        with torch.autocast(logits.device.type, enabled=False):
            loss = F.binary_cross_entropy_with_logits(logits.float(), whole.float(), reduction="none")
            right = ((logits > 0) == whole).float()
            return Loss(total=global_mean(loss, valid), parts={"accuracy": global_mean(right, valid).detach()})

    def _there(self, step: Step, names: list[str], view: str) -> Tensor:
        """(B,) samples that have any of these modalities in this view."""
        return torch.stack([step.patches(name, view).present for name in names]).any(0)

    def _torn(self, step: Step, partner: Tensor) -> Tensor:
        """(B, D) of the tower on inputs whose swapped modality is that of the partner."""
        c = self.config

        @torch.no_grad()
        def make() -> dict[str, Patches]:
            tower = step.model.tower(c.towers[0])
            seen = {name: step.patches(name, c.view) for name in tower.modalities}
            return {name: rows_of(p, partner) if name in self.swapped else p for name, p in seen.items()}

        return step.pooled_of(c.towers[0], ("matching", c.view, c.share, *self.swapped), make)[0]


def partners(draws: Draws, both: Tensor, share: float) -> Tensor:
    """(m,) of all processes' rows the row whose content each is shown with: itself, but for round(share * n) of the n
    rows `both` (m,), a random cycle."""
    n = both.sum()
    torn = (n.double() * share + 0.5).floor().long().clamp(min=2)
    torn = torch.where(n < 2, 0, torn.minimum(n))
    order = draws.permutation()
    order = order[both[order].logical_not().to(torch.uint8).argsort(stable=True)]  # those that have both come first
    place = torch.arange(len(both), device=both.device)
    following = order[torch.where(place < torn, (place + 1) % torn.clamp(min=1), place)]
    return torch.empty_like(order).scatter_(0, order, following)


def content_hash(patches: Patches) -> Tensor:
    """(B,) int64, equal for samples of equal content and almost surely for no others, whatever the padding."""
    values, valid = patches.values, patches.valid
    found = _hashed(values if values.ndim > 2 else values[..., None], valid[..., None])
    if patches.links is not None:
        found = found * 31 + _hashed(patches.links, valid[:, :, None] & valid[:, None])
    return found


def _hashed(x: Tensor, there: Tensor) -> Tensor:
    """(B,) int64 sum over the places `there` of x (B, N, P), each times an odd number of its own; it may wrap."""
    numbers = x if x.dtype == torch.int64 else x.to(torch.float32).nan_to_num(7.0).view(torch.int32).long()
    row, column = (torch.arange(size, device=x.device) for size in x.shape[1:])
    row = mix(row ^ 0x2545F491)[:, None]
    factors = (mix(mix(column) ^ row) << 31) ^ (mix((row + column) & 0xFFFFFFFF) << 1) | 1
    return ((numbers + 1) * factors).masked_fill(~there, 0).sum((1, 2))


def rows_of(patches: Patches, rows: Tensor) -> Patches:
    """The samples `rows` (B,) of all processes' patches."""
    values, coords, valid = (gather_padded(x)[rows] for x in (patches.values, patches.coords, patches.valid))
    links, fixed = patches.links, patches.fixed
    if links is not None:
        short = valid.shape[1] - patches.count
        links = gather_rows(F.pad(links, (0, short, 0, short)))[rows]
    if fixed is not None:
        fixed = gather_padded(fixed)[rows]
    extent = None if patches.extent is None else gather_rows(patches.extent)[rows]
    return Patches(values, coords, valid, False, links, fixed, extent)
