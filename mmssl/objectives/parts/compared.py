"""What is compared with what in a contrastive loss: the sides that ask, and the keys among which each has its own.

Shapes: B rows of this process, M of the global batch, m keys, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...distributed import gather_rows, rank
from .heads import Head
from .queue import Queue
from .relations import Relations, Said, together
from .sides import Side


class Embedding(NamedTuple):
    """Rows (B, D), and which samples have one (B,)."""

    rows: Tensor
    present: Tensor


class Candidates(NamedTuple):
    """What the B queries of one direction are compared with.

    Attributes:
        keys: (m, D).
        valid: (m,) bool, keys that count.
        positive: (B,) int64 key of each query; or its rows (B, D), which are no keys.
        own: (B,) int64 key that is the query itself, if any.
        said: role -> what a column says of the keys.
    """

    keys: Tensor
    valid: Tensor
    positive: Tensor
    own: Tensor | None
    said: Mapping[str, Said]


Made = Callable[[Side], tuple[Tensor, Tensor]]
"""(embedding (B, D), present (B,)) of a side."""


@dataclass
class Compared:
    """The embeddings of the sides of one step, each made once, normalised and in float32.

    Attributes:
        embed: what the encoder makes of a side.
        teach: what an averaged teacher makes of it, without gradient; None: keys are the encoder's own.
        predictors: by tower, or none: they make of the encoder's embeddings those that ask.
        queues: by tower, or none: earlier keys.
        batch: the batch's other samples are among the keys.
        queued: the queue's rows are among the keys.
        own_view: so are the other samples' rows of the side that asks.
        nearest: the key's neighbour in the queue asks, and what has the gradient is the key (NNCLR).
        relations: what columns say of the samples, or None.
    """

    embed: Made
    teach: Made | None
    predictors: Mapping[str, Head]
    queues: Mapping[str, Queue]
    batch: bool
    queued: bool
    own_view: bool
    nearest: bool
    relations: Relations | None = None
    _found: dict[tuple[str, Side], Embedding] = field(default_factory=dict)
    _gathered: dict[tuple[str, Side], Embedding] = field(default_factory=dict)

    @property
    def alike(self) -> bool:
        """Whether a side asks with what it is a key by, and all of the batch and nothing else is compared."""
        return self.teach is None and not self.predictors and not self.queues and self.relations is None

    def _once(self, role: str, side: Side, make: Made) -> Embedding:
        if (role, side) not in self._found:
            rows, present = make(side)
            with torch.autocast(rows.device.type, enabled=False):
                self._found[role, side] = Embedding(F.normalize(rows.float(), dim=-1), present)
        return self._found[role, side]

    def _raw(self, side: Side) -> Embedding:
        """What the encoder makes of a side, as it is."""
        if ("raw", side) not in self._found:
            self._found["raw", side] = Embedding(*self.embed(side))
        return self._found["raw", side]

    def _predicted(self, side: Side) -> Embedding:
        rows, present = self._raw(side)
        return Embedding(self.predictors[side.tower](rows, present), present)

    def asks(self, side: Side) -> Embedding:
        """What has the gradient: the encoder's embedding, behind its predictor where there is one."""
        return self._once("asks", side, self._predicted if self.predictors else self._raw)

    def keys(self, side: Side) -> Embedding:
        """The teacher's embedding, or the encoder's own."""
        if self.teach is not None:
            return self._once("keys", side, self.teach)
        return self._once("keys", side, self._raw) if self.predictors else self.asks(side)

    def pair(self, a: Side, b: Side) -> tuple[Embedding, Embedding]:
        """(what asks, the key that is meant) where side a asks side b."""
        if not self.nearest:
            self._keyed(b)
            return self.asks(a), self.keys(b)
        rows, present = self.keys(a)
        self._keyed(a)
        return Embedding(self.queues[a.tower].nearest(rows), present), self.asks(b)

    def _keyed(self, side: Side) -> None:
        """Remember a side as one of those that the queues take in."""
        if self.queues and ("queued", side) not in self._found:
            self._found["queued", side] = self.keys(side)

    def every(self, side: Side) -> Tensor:
        """(M, D) of the global batch: keys of a side, or with `nearest` what has the gradient."""
        role, made = ("asks", self.asks) if self.nearest else ("keys", self.keys)
        if (role, side) not in self._gathered:
            rows, present = made(side)
            self._gathered[role, side] = Embedding(gather_rows(rows), present)
        return self._gathered[role, side].rows

    def candidates(self, a: Side, b: Side, key: Tensor, both: Tensor) -> Candidates:
        """What side a is compared with where it asks side b: key (B, D), the one that is meant, and others.

        both: (B,) bool, samples that have the two sides.
        """
        keys, valid, positive, own = [], [], key, None
        mine = self.relations.said if self.relations is not None else {}
        said: dict[str, list[Said]] = {role: [] for role in mine}
        if self.batch:
            every = gather_rows(both)
            # where the rows of this process are among the gathered ones
            positive = torch.arange(len(both), device=both.device) + rank() * len(both)
            keys, valid = [self.every(b)], [every]
            if self.own_view:
                # the query itself is among the keys of its own side, where it is neither positive nor negative
                own = positive + len(every)
                keys, valid = [*keys, self.every(a)], [*valid, every]
            said = {role: [one] * len(keys) for role, one in mine.items()}
        if self.queued:
            queue = self.queues[b.tower]
            keys, valid = [*keys, queue.rows], [*valid, queue.valid]
            for role, earlier in queue.said.items():
                said[role].append(earlier)
        found, there = (x[0] if len(x) == 1 else torch.cat(x) for x in (keys, valid))
        return Candidates(found, there, positive, own, {role: together(x) for role, x in said.items()})

    def note(self, sides: Iterable[Side]) -> None:
        """Give the queues what they take in after the step: of each tower's samples the key of the last of the sides
        that were keys."""
        last = {side.tower: side for side in sides if ("queued", side) in self._found}
        said = self.relations.said if self.relations is not None else None
        for tower, side in last.items():
            rows, present = self._found["queued", side]
            with torch.no_grad():
                self.queues[tower].note(gather_rows(rows), gather_rows(present), said)
