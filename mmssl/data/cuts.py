"""Views that readers cut out of rows (`mmssl.modality.cutting`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..draws import Draws, key_of
from ..modality import Batch
from ..modality.cutting import Cutter, cut_of, drawn_as
from .shards import Items


@dataclass(frozen=True)
class Cuts:
    """Input (a modality, or a further column of one) -> what reads it and cuts views out of it; `seed` of the draws."""

    seed: int
    cutters: Mapping[str, Cutter[Any]]

    def batch(self, name: str, samples: Sequence[Any], items: Items) -> Batch:
        """What the views show of an input that is cut, and the input itself where it is wanted.

        samples: what was read of these items, None = absent.
        """
        cutter = self.cutters[name]
        out = {name: cutter.collate(samples)} if cutter.whole else {}
        for view in cutter.views:
            keys = [key_of(self.seed, epoch, row, "view", drawn_as(view), name) for epoch, row, _ in items]
            out[cut_of(name, view)] = cutter.cut(samples, view, [Draws(key, 1) for key in keys])
        return out
