"""Options of a head on a pooled embedding: see `mmssl.objectives.parts.heads`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...options import Needs, needs, option, strict


@strict
@dataclass(kw_only=True)
class HeadOptions:
    """The projector: a perceptron of `head_layers` dense layers."""

    head_layers: int = option(2, min=0, max=1_024, help="dense layers of the projection head; 0: none")
    head_hidden: int = option(2048, min=1, max=65_536, help="hidden width of the projection head")
    head_width: int = option(128, min=1, max=65_536, help="output width of that head")
    head_norm: str = option("layer", choices=("layer", "batch", "none"), help="after each hidden layer of the head")

    NEEDS: ClassVar[tuple[Needs, ...]] = (
        needs("head_width", head_layers="1 or more", holds=lambda c: c.head_layers > 0),
        needs("head_hidden", head_layers="2 or more", holds=lambda c: c.head_layers > 1),
        needs("head_norm", head_layers="2 or more", holds=lambda c: c.norms),
    )

    @property
    def norms(self) -> bool:
        """Whether there is a hidden layer that `head_norm` follows."""
        return self.head_layers > 1
