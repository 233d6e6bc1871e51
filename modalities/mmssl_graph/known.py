"""What is known of a graph without labels (Jin et al. 2020, "Self-supervised learning on graphs: deep insights and new
direction", arXiv 2006.10141; ChandlerBang/SelfTask-GNN). Of subgraphs around a node, what they say of themselves.

Shapes: B graphs, N nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.modality import Inputs
from mmssl.modality.known import Property
from mmssl.patches import Patches

from .encodings import distances

NEAR = 3
"""Edges up to which distances are told apart; all that is further, or not connected, is one more class."""
LANDMARKS = 4
REACH = 6
"""Edges up to which distances to landmarks, and between them, count."""
PROPERTIES = {
    "degree": Property("patch", "log(1 + neighbours of a node)"),
    "landmarks": Property("patch", f"edges to the centres of {LANDMARKS} clusters, over {REACH}", 0, LANDMARKS),
    "edge": Property("pair", "whether two nodes are connected, of pairs that the view does not connect", 2),
    "distance": Property("pair", f"edges between two nodes: 1 to {NEAR}, or more", NEAR + 1),
    "similarity": Property("pair", "cosine of the features of two nodes"),
}


def known(name: str, inputs: Inputs, patches: Patches, seen: Patches) -> Tensor:
    """As `Modality.known`."""
    assert patches.links is not None and seen.links is not None
    links, nodes = patches.links, patches.valid
    near = (links > 0) | (links > 0).transpose(1, 2)
    if name == "degree":
        return near.sum(2).float().log1p()[..., None]
    if name == "similarity":
        x = F.normalize(inputs["x"].float(), dim=-1)
        return x @ x.transpose(1, 2)
    if name == "edge":
        shown = (seen.links > 0) | (seen.links > 0).transpose(1, 2)
        return near.float().masked_fill(shown, torch.nan)
    if name == "distance":
        hops = distances(links, NEAR).float() - 1
        return hops.masked_fill(links < 0, torch.nan)
    return _to_centres(links, nodes, near.sum(2))


def _to_centres(links: Tensor, nodes: Tensor, degree: Tensor) -> Tensor:
    """(B, N, LANDMARKS) edges over REACH to the centres of clusters (DistanceCluster, where METIS makes the clusters).

    The first seed is the node of most neighbours, each next one the node furthest from those before it; a node is in
    the cluster of the nearest seed, and a centre is the cluster's node of most neighbours. Of equals the first is
    taken. From what a smaller graph does not have, all lie as far as can be.
    """
    hops = distances(links, REACH).clamp(max=REACH)
    batch, count = nodes.shape
    row = torch.arange(batch, device=nodes.device)
    number = torch.arange(count, device=nodes.device)

    def first(score: Tensor, among: Tensor) -> Tensor:
        """(B,) the node of the highest score (B, N) >= 0, of equal ones the first."""
        return (score * count + count - 1 - number).masked_fill(~among, -1).argmax(1)

    nearest = torch.full_like(degree, REACH + 1)
    cluster = torch.zeros_like(degree)
    taken = torch.zeros_like(nodes)
    for place in range(min(LANDMARKS, count)):
        seed = first(nearest if place else degree, nodes & ~taken)
        taken[row, seed] = True
        own = hops[row, :, seed]
        cluster = torch.where(own < nearest, place, cluster)
        nearest = nearest.minimum(own)
    out = hops.new_ones(batch, count, LANDMARKS, dtype=torch.float32)
    for place in range(LANDMARKS):
        members = nodes & (cluster == place)
        centre = first(degree, members)
        out[..., place] = torch.where(members.any(1, keepdim=True), hops[row, :, centre].float() / REACH, 1.0)
    return out
