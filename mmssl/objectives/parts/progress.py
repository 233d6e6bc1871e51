"""`Progress`: how far a run is, for what an objective does in a share of it only."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Progress(nn.Module):
    """The share of the run that is done, kept in checkpoints; read off the device once after a start or a resume.

    Attributes:
        share: () float32.
    """

    share: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("share", torch.zeros(()))
        self._host: float | None = None

    def now(self) -> float:
        """In [0, 1]."""
        if self._host is None:
            self._host = float(self.share)
        return self._host

    def move(self, progress: float) -> None:
        """Note what `Objective.after_step` was told."""
        self._host = progress
        self.share.fill_(progress)

    def _load_from_state_dict(self, *args: object) -> None:
        self._host = None
        super()._load_from_state_dict(*args)
