"""Rows of a table, one token a cell: numbers, categories, booleans, ordinals, dates. See README.md in this folder."""

from .modality import Modality
from .preprocessor import Config, Preprocessor

__all__ = ["Config", "Modality", "Preprocessor"]
