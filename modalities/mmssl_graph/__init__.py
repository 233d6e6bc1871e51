"""Graphs, one token a node: many small ones, or subgraphs sampled from a big one. See README.md in this folder."""

from .modality import Modality
from .preprocessor import Config, Preprocessor
from .sources import open_rows

__all__ = ["Config", "Modality", "Preprocessor", "open_rows"]
