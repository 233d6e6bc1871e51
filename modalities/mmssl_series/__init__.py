"""Series of numbers over time in named channels: movement, machines, wearables, markets, radio.

See README.md in this folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmssl.lazy import attributes

from .options import Config, View

if TYPE_CHECKING:
    from .modality import Modality
    from .preprocessor import Preprocessor
    from .sources import open_rows
else:
    __getattr__ = attributes(__name__, Modality=".modality", Preprocessor=".preprocessor", open_rows=".sources")

__all__ = ["NEEDS", "READS", "Config", "Modality", "Preprocessor", "View", "open_rows"]

READS = (
    "a csv a series, .npy, .mat, .ts (aeon, sktime), arrays with their channels, times or rates, "
    "series:TABLE of one row a time"
)
NEEDS: dict[str, str] = {}
