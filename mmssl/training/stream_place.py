"""`StreamPlace`: what a checkpoint must hold of streamed data, so that a run goes on without reading what it has read.

That is how long the shards are which were read to their end, by any process. It changes no number: what is not known is
read again (`mmssl.data.shards`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ..data.shards import Lengths
from .checkpoints import State
from .observers import Measured, Moment, Observer, Verdict


class StreamPlace(Observer):
    """Gathers at every checkpoint what the processes have learned, and keeps it in `stream.safetensors`."""

    name = "stream"
    logged = False

    def __init__(self, accelerator: Accelerator, lengths: Lengths) -> None:
        """lengths: of this process's reading."""
        self.accelerator, self.lengths = accelerator, lengths
        self.told: set[int] = set()
        self._learned: dict[int, int] = {}

    def due(self, moment: Moment) -> bool:
        """Before a checkpoint, where there are others to ask."""
        return (moment.saves or moment.last) and self.accelerator.num_processes > 1

    def look(self, moment: Moment) -> Measured:
        """Ask the others what they learned since they were asked before."""
        new = {shard: rows for shard, rows in self.lengths.known.items() if shard not in self.told}
        self._learned = {shard: rows for learned in gather_object([new]) for shard, rows in learned.items()}
        return {}

    def note(self, moment: Moment, found: Measured) -> Verdict | None:
        """Keep it."""
        self.lengths.update(self._learned)
        self.told |= set(self._learned)
        return None

    def tensors(self) -> dict[str, Tensor]:
        """{"lengths": (n, 2) int64: shard, rows; "shards": how many there are}; none where none was read to its end."""
        known, shards = sorted(self.lengths.known.items()), self.lengths.shards
        if not known or shards is None:
            return {}
        return {"lengths": torch.tensor(known, dtype=torch.int64), "shards": torch.tensor(shards)}

    def load_state_dict(self, state: State, tensors: Mapping[str, Tensor]) -> None:
        """What is in the checkpoint is known besides what is known already."""
        if "lengths" in tensors and self.lengths.shards in (None, shards := int(tensors["shards"])):
            self.lengths.begin(shards)
            self.lengths.update(dict(tensors["lengths"].tolist()))
