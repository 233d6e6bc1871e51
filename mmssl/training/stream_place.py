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

    def __init__(self, accelerator: Accelerator, lengths: Mapping[str, Lengths]) -> None:
        """lengths: name of the data -> what this process's reading knows of its shards."""
        self.accelerator, self.lengths = accelerator, lengths
        self.told: set[tuple[str, int]] = set()
        self._learned: dict[tuple[str, int], int] = {}

    def due(self, moment: Moment) -> bool:
        """Before a checkpoint, where there are others to ask."""
        return (moment.saves or moment.last) and self.accelerator.num_processes > 1

    def look(self, moment: Moment) -> Measured:
        """Ask the others what they learned since they were asked before."""
        known = {(name, shard): rows for name, of in self.lengths.items() for shard, rows in of.known.items()}
        new = {key: rows for key, rows in known.items() if key not in self.told}
        self._learned = {key: rows for learned in gather_object([new]) for key, rows in learned.items()}
        return {}

    def note(self, moment: Moment, found: Measured) -> Verdict | None:
        """Keep it."""
        for (name, shard), rows in self._learned.items():
            self.lengths[name].update({shard: rows})
        self.told |= set(self._learned)
        return None

    def tensors(self) -> dict[str, Tensor]:
        """{"NAME/lengths": (n, 2) int64: shard, rows; "NAME/shards": how many there are}, where one was read to its
        end."""
        out = {}
        for name, of in self.lengths.items():
            if of.known and of.shards is not None:
                out[f"{name}/lengths"] = torch.tensor(sorted(of.known.items()), dtype=torch.int64)
                out[f"{name}/shards"] = torch.tensor(of.shards)
        return out

    def load_state_dict(self, state: State, tensors: Mapping[str, Tensor]) -> None:
        """What is in the checkpoint is known besides what is known already."""
        for name, of in self.lengths.items():
            if f"{name}/lengths" in tensors and of.shards in (None, shards := int(tensors[f"{name}/shards"])):
                of.begin(shards)
                of.update(dict(tensors[f"{name}/lengths"].tolist()))
