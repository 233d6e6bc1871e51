"""`Queue`: the embeddings of earlier steps, as more negatives than a batch has or as neighbours (MoCo, NNCLR)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .relations import Said


class Queue(nn.Module):
    """The last `size` rows that were put in, oldest out first (He et al. 2020; facebookresearch/moco).

    It holds the global batch's rows in their order, so that any number of processes has the same; all of it is in a
    checkpoint. Forward passes only `note` what `update` puts in once the step is done. Unlike the authors' it is empty
    at first, not full of random rows: `valid` says what is there.

    Attributes:
        rows: (size, D) float32.
        put: () int64, rows put in so far.
        roles: names of the columns that are kept beside the rows, as buffers.
    """

    rows: Tensor
    put: Tensor

    def __init__(self, size: int, width: int, columns: Mapping[str, torch.dtype] | None = None) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, width))
        self.register_buffer("put", torch.zeros((), dtype=torch.int64))
        self.roles = tuple(columns or ())
        for role, kind in (columns or {}).items():
            self.register_buffer(f"{role}_value", torch.zeros(size, dtype=kind))
            self.register_buffer(f"{role}_known", torch.zeros(size, dtype=torch.bool))
        self._noted: tuple[Tensor, Tensor, Mapping[str, Said]] | None = None

    @property
    def valid(self) -> Tensor:
        """(size,) bool: places that hold a row."""
        return torch.arange(len(self.rows), device=self.rows.device) < self.put

    @property
    def said(self) -> dict[str, Said]:
        """role -> what its column says of the rows."""
        return {r: Said(self.get_buffer(f"{r}_value"), self.get_buffer(f"{r}_known")) for r in self.roles}

    def nearest(self, x: Tensor) -> Tensor:
        """(n, D): of each row of x (n, D), normalised as those of the queue, the row that is most similar to it,
        without gradient; x itself where the queue is empty."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            similarity = (x @ self.rows.T).masked_fill(~self.valid, -torch.inf)
            return torch.where(self.put > 0, self.rows[similarity.argmax(1)], x.detach())

    def note(self, rows: Tensor, valid: Tensor, said: Mapping[str, Said] | None = None) -> None:
        """Rows (m, D) of the global batch for the next `update`, those that are valid (m,), and what columns say of
        them; the last call counts."""
        self._noted = rows.detach().float(), valid, said or {}

    def forget(self) -> None:
        """Drop what was noted: the step is done once more."""
        self._noted = None

    @torch.no_grad()
    def update(self) -> None:
        """Put in what was noted, but for rows that are absent or not finite: one broken batch must not stay."""
        if self._noted is None:
            return
        (rows, valid, said), self._noted, size = self._noted, None, len(self.rows)
        # waits for the device, once an optimiser step
        found = (valid & rows.isfinite().all(1)).nonzero()[:, 0]
        last = found[-size:]
        at = (self.put + len(found) - len(last) + torch.arange(len(last), device=rows.device)) % size
        self.rows[at] = rows[last]
        for role, kept in self.said.items():
            kept.value[at], kept.known[at] = said[role].value[last], said[role].known[last]
        self.put += len(found)
