"""Rows of a table, one token a cell: numbers, categories, booleans, ordinals, dates.

See README.md in this folder.
"""

from .modality import Modality
from .preprocessor import Config, Preprocessor

__all__ = ["NEEDS", "READS", "Config", "Modality", "Preprocessor"]

READS = "rows of csv, parquet, Arrow, json, pandas and Arrow tables"
NEEDS: dict[str, str] = {}
