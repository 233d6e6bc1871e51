"""`Queue`: the embeddings of earlier steps, as more negatives than a batch has or as neighbours (MoCo, NNCLR)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Queue(nn.Module):
    """The last `size` rows that were put in, oldest out first (He et al. 2020; facebookresearch/moco).

    It holds the global batch's rows in their order, so that any number of processes has the same; all of it is in a
    checkpoint. Forward passes only `note` what `update` puts in once the step is done. Unlike the authors' it is empty
    at first, not full of random rows: `valid` says what is there.

    Attributes:
        rows: (size, D) float32.
        put: () int64, rows put in so far.
    """

    rows: Tensor
    put: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, width))
        self.register_buffer("put", torch.zeros((), dtype=torch.int64))
        self._noted: tuple[Tensor, Tensor] | None = None

    @property
    def valid(self) -> Tensor:
        """(size,) bool: places that hold a row."""
        return torch.arange(len(self.rows), device=self.rows.device) < self.put

    def nearest(self, x: Tensor) -> Tensor:
        """(n, D): of each row of x (n, D), normalised as those of the queue, the row that is most similar to it,
        without gradient; x itself where the queue is empty."""
        with torch.no_grad():
            similarity = (x @ self.rows.T).masked_fill(~self.valid, -torch.inf)
            return torch.where(self.put > 0, self.rows[similarity.argmax(1)], x.detach())

    def note(self, rows: Tensor, valid: Tensor) -> None:
        """Rows (m, D) of the global batch for the next `update`, those that are valid (m,); the last call counts."""
        self._noted = rows.detach().float(), valid

    def forget(self) -> None:
        """Drop what was noted: the step is done once more."""
        self._noted = None

    @torch.no_grad()
    def update(self) -> None:
        """Put in what was noted, but for rows that are absent or not finite: one broken batch must not stay."""
        if self._noted is None:
            return
        (rows, valid), self._noted, size = self._noted, None, len(self.rows)
        # waits for the device, once an optimiser step
        rows = rows[valid & rows.isfinite().all(1)]
        last = rows[-size:]
        first = self.put + len(rows) - len(last)
        at = (first + torch.arange(len(last), device=rows.device)) % size
        self.rows[at] = last
        self.put += len(rows)
