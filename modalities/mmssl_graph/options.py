"""Options of the graph modality, and of their views, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from mmssl.modality.view import View as Base
from mmssl.options import option, strict

LAYOUTS = ("ends_first", "ends_last")
SOURCES = ("x", "labels", "degree")


@strict
@dataclass(kw_only=True)
class Config:
    """What a recipe may set for graphs."""

    features: str | None = option(None, choices=SOURCES, help="what nodes are known by; null: the first that there is")
    scale: str | None = option(None, choices=("none", "standard", "row"), help="null: none for 0/1, else standard")
    layout: str | None = option(
        None, choices=LAYOUTS, help="edge_index is (2, E) or (E, 2); null: by its shape, refused where it is open"
    )
    directed: bool = option(False, help="false: every edge counts in both directions")
    sample: str = option("walk", choices=("walk", "ego"), help="how a subgraph is taken around a centre")
    nodes: int = option(32, min=1, max=65_536, help="most nodes of a sampled subgraph")
    hops: int = option(2, min=1, max=1_024, help="how far an ego sample reaches")
    restart: float = option(0.15, above=0, below=1, help="chance that a walk starts again at the centre")
    max_nodes: int = option(
        512, min=1, max=65_536, help="largest graph that is taken whole; a larger one is a broken sample"
    )
    max_degree: int = option(16, min=1, max=65_536, help="of graphs without features: degrees are told apart up to it")
    laplacian: int = option(8, min=0, max=1_024, help="number of Laplacian encodings")
    walk: int = option(8, min=0, max=1_024, help="number of random-walk encodings")
    stem: int = option(1, min=0, max=1_024, help="rounds of message passing before the trunk")
    distance: int = option(3, min=1, max=1_024, help="greatest distance in edges that attention tells apart")
    gamma: float = option(2.0, above=0, max=1_000, help="exponent of the scaled cosine error")


@strict
@dataclass(kw_only=True)
class View(Base):
    """Options of one kind of view; they are applied in this order, 0 or null leaves a step out."""

    subgraph: float | None = option(None, above=0, max=1, help="share of the nodes that stay, one connected part")
    drop_nodes: float = option(0.0, min=0, below=1, help="probability that a node is left out, never the centre")
    drop_edges: float = option(0.0, min=0, below=1, help="probability that an edge is left out, in both directions")
    mask_features: float = option(0.0, min=0, below=1, help="probability that a feature is 0, in all nodes of a sample")
