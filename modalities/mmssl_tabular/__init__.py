"""Rows of a table, one token a cell: numbers, categories, booleans, ordinals, dates.

See README.md in this folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmssl.lazy import attributes

from .options import Config, View

if TYPE_CHECKING:
    from .modality import Modality
    from .preprocessor import Preprocessor
else:
    __getattr__ = attributes(__name__, Modality=".modality", Preprocessor=".preprocessor")

__all__ = ["NEEDS", "READS", "Config", "Modality", "Preprocessor", "View"]

READS = "rows of csv, parquet, Arrow, json, pandas and Arrow tables"
NEEDS: dict[str, str] = {}
