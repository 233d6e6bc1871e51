"""Graphs, one token a node: many small ones, or subgraphs sampled from a big one.

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
    "TUDatasets, GraphML, GML, JSON, .npz, .pt (not unpickled), tables of edges, torch_geometric's Data, "
    "dicts of edges and features"
)
NEEDS: dict[str, str] = {"torch_geometric": "mmssl[graph]"}
