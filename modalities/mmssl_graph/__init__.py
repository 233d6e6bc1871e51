"""Graphs, one token a node: many small ones, or subgraphs sampled from a big one.

See README.md in this folder.
"""

from .modality import Modality
from .preprocessor import Config, Preprocessor
from .sources import open_rows

__all__ = ["NEEDS", "READS", "Config", "Modality", "Preprocessor", "open_rows"]

READS = "torch_geometric's Data, dicts of edges and features, .npz, parquet and json, folders of csv tables"
NEEDS: dict[str, str] = {}
