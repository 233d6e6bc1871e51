"""Spans of text written from what is left of it: T5's span corruption and UL2's mixture of denoisers.

Every run of hidden tokens is one sentinel in the encoder's input: a mask token at the place of its first, the others
are left out, and places are counted anew, so that nothing tells how long it was. The decoder writes all runs one after
the other, a sentinel in front of each and one behind the last, each token from those before it (Raffel et al. 2020,
section 3.1.4). T5's sentinels are tokens of their own by number; here there is one, and the decoder is told the place
of the run that it is in, which is as much: their order is fixed.

What is hidden says the mask. UL2 (Tay et al. 2023, table 1) draws one of seven for each text: R (runs of 3 or 8 tokens,
15 %), S (how the text goes on: a `suffix` of about 25 %), X (runs of 3, 8 or 64, 50 %; of 64, 15 %)::

    masks:
      ul2: {type: mixture, kinds: {
        r3: {type: span, length: 3, ratio: 0.15}, r8: {type: span, length: 8, ratio: 0.15},
        s: {type: suffix, ratio: 0.25},
        x3: {type: span, length: 3, ratio: 0.5}, x8: {type: span, length: 8, ratio: 0.5},
        x64: {type: span, length: 64, ratio: 0.5}, x64r: {type: span, length: 64, ratio: 0.15}}}
    objectives:
      ul2: {type: denoising, tower: text, mask: ul2}

With `modes: [S, R, X]` of the tower and a `mode` of each kind (`r3: {type: span, mode: R, ...}`) the tower is told
which of them a text drew, by a token that it keeps.

Shapes: B batch, N tokens of a text, n those that the encoder reads, T that the decoder writes, V ids, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from ..masking import mode_numbers
from ..masking.splits import indices
from ..models.initialization import init_weights
from ..models.positions import SinCos
from ..models.tower import Encoded, key_mask
from ..models.trunk import CrossAttention, Trunk
from ..patches import Patches, Split, gather
from .base import Loss, Objective
from .options.denoising import Config, WriterConfig

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step


@dataclass(frozen=True)
class Corrupted:
    """A text with sentinels, and what they stand for.

    Attributes:
        patches: (B, n) what the encoder reads, counted anew.
        sentinels: (B, n) bool: which of them are sentinels.
        target: (B, T) int64 what is written: ids, V for a sentinel, -1 behind the end.
        place: (B, T) int64 number, among what is read, of the sentinel that a token stands behind or is.
    """

    patches: Patches
    sentinels: Tensor
    target: Tensor
    place: Tensor


def corrupted(p: Patches, split: Split, sentinel: int) -> Corrupted:
    """What the encoder reads of a text (B, N), of which `split` hides some, and what is to be written.

    sentinel: its id in the target.
    """
    hidden = p.hidden_by(split.hide) & p.valid
    # a run begins where the token before, among those that are there, is shown
    order = torch.arange(p.count, device=hidden.device)[None]
    before = torch.where(p.valid, order, -1).cummax(1).values.roll(1, 1)
    before[:, 0] = -1
    first = hidden & ~(hidden.gather(1, before.clamp(min=0)) & (before >= 0))
    read = (p.valid & ~hidden) | first
    counts = torch.stack([read.sum(1), hidden.sum(1) + first.sum(1)])
    widths = counts.amax(1).tolist()  # one look at the data for both
    index = indices(read, max(widths[0], 1))
    number = torch.arange(index.shape[1], device=index.device, dtype=p.coords.dtype)
    taken = p.take(index)
    coords = torch.cat([number[None, :, None].expand(p.batch, -1, 1), taken.coords[..., 1:]], 2)
    sentinels = gather(first, index) & (index >= 0)
    target, place = _written(p.values, hidden, first, read, widths[1] + 1, sentinel)
    return Corrupted(taken.replace(coords=coords.masked_fill(index[..., None] < 0, 0)), sentinels, target, place)


def _written(
    ids: Tensor, hidden: Tensor, first: Tensor, read: Tensor, length: int, sentinel: int
) -> tuple[Tensor, Tensor]:
    """(target (B, T), place (B, T)) of `Corrupted`."""
    batch = len(ids)
    # the k-th hidden token of the s-th run comes behind k tokens and s sentinels
    at = hidden.cumsum(1) - 1 + first.cumsum(1)
    where = torch.where(first, read.cumsum(1) - 1, 0).cummax(1).values
    target = ids.new_full((batch, length + 1), -1)
    place = ids.new_zeros((batch, length + 1))
    for chosen, index, value in ((hidden, at, ids), (first, at - 1, torch.full_like(ids, sentinel))):
        target.scatter_(1, torch.where(chosen, index, length), value)
        place.scatter_(1, torch.where(chosen, index, length), where)
    end = (hidden.sum(1) + first.sum(1))[:, None]
    written = end > 0  # of a text that hides nothing there is nothing to write
    target.scatter_(1, torch.where(written, end, length), sentinel)
    place.scatter_(1, torch.where(written, end, length), read.sum(1, keepdim=True))
    return target[:, :length], place[:, :length]


class Writer(nn.Module):
    """A causal decoder that looks at what the encoder made of its input ahead of every block."""

    def __init__(self, config: WriterConfig, ids: int, other_width: int) -> None:
        super().__init__()
        width = config.width
        self.table = nn.Embedding(ids + 2, width)  # behind the ids the sentinel, and what stands in front
        self.start = ids + 1
        self.positions, self.places = SinCos(width, 1), SinCos(width, 1)
        self.mix = nn.Linear(width, width)
        self.trunk = Trunk(width, config.depth, config.heads)
        self.looks = nn.ModuleList(CrossAttention(width, config.heads, other_width) for _ in range(config.depth))
        self.head = nn.Linear(width, ids + 1)

    def forward(self, text: Corrupted, encoded: Encoded, name: str) -> Tensor:
        """(B, T, V + 1) logits of what is written, each from what is written before it."""
        given = text.target.clamp(min=0).roll(1, 1)
        given[:, 0] = self.start
        place = text.place.roll(1, 1)
        place[:, 0] = 0
        order = torch.arange(given.shape[1], device=given.device, dtype=torch.float32)
        x = self.table(given) * math.sqrt(self.table.embedding_dim)
        x = x + self.positions(order[None, :, None]) + self.mix(self.places(place[..., None].float()))
        causal = torch.ones(given.shape[1], given.shape[1], dtype=torch.bool, device=x.device).tril()[None, None]
        tokens = encoded.tokens[name]
        other = torch.cat([encoded.prefix.to(tokens.dtype), tokens], 1)
        there = key_mask([text.patches.valid], text.patches.full, encoded.prefix.shape[1])
        before = {block: partial(look, other=other, bias=there) for block, look in enumerate(self.looks, 1)}
        return self.head(self.trunk(x, causal, before=before)[0])


class Denoising(Objective):
    """Cross-entropy, in nats, of every token and sentinel that is written."""

    asks_named = True
    separable = True

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        tower = model.tower(config.tower)
        names = list(tower.modalities)
        if len(names) > 1 or not model.modality(names[0]).ids:
            raise UserError(
                f"objective denoising: tower '{config.tower}' has {', '.join(names)}, expected one modality whose "
                "patches are ids, such as text"
            )
        if not (tower.drops and tower.replaces):
            raise UserError(
                f"objective denoising: tower '{config.tower}' wraps a model that takes no shorter text with mask "
                "tokens in it; expected a tower of mmssl's"
            )
        self.name = names[0]
        self.ids = model.modality(self.name).pred_width()
        self.writer = Writer(config.decoder, self.ids, tower.width)
        init_weights(self.writer)

    def _text(self, step: Step) -> Corrupted:
        split = step.split(self.name, self.config.mask, self.config.view)
        if split is None:
            raise UserError(f"objective denoising: mask '{self.config.mask}' hides nothing of '{self.name}'")
        c, p = self.config, step.patches(self.name, self.config.view)
        modes = step.model.tower(c.tower).mode_names
        p = p.replace(mode=mode_numbers(step.masks[c.mask], split, modes, c.tower)) if modes else p
        return corrupted(p, split, self.ids)

    def counts(self, step: Step) -> dict[str, Tensor]:
        """What is written."""
        return {"written": self._text(step).target >= 0}

    def forward(self, step: Step) -> Loss:
        """The mean over all that is written; logs the share that is right."""
        c = self.config
        with torch.no_grad():
            text = self._text(step)
        key = ("denoising", c.mask, c.view)
        encoded = step.encode_of(c.tower, key, lambda: ({self.name: text.patches}, {self.name: text.sentinels}))
        logits = self.writer(text, encoded, self.name)
        counted = text.target >= 0
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            entropy = F.cross_entropy(logits.flatten(0, 1), text.target.clamp(min=0).flatten(), reduction="none")
            right = (logits.detach().argmax(-1) == text.target).float()
            loss = step.mean("written", entropy.view(text.target.shape), counted)
            return Loss(total=loss, parts={"right": step.mean("written", right, counted)})
