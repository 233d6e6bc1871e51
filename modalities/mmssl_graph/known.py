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
"""Edges up to which the distance to a landmark counts."""
PROPERTIES = {
    "degree": Property("patch", "log(1 + neighbours of a node)"),
    "landmarks": Property("patch", f"edges to the {LANDMARKS} nodes of most neighbours, over {REACH}", 0, LANDMARKS),
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
    # of equal degrees the node of the lower number, so that the order is one
    number = torch.arange(near.shape[1], device=near.device)
    order = (near.sum(2) * len(number) + len(number) - 1 - number).masked_fill(~nodes, -1)
    first = order.topk(min(LANDMARKS, len(number)), dim=1)
    hops = distances(links, REACH).clamp(max=REACH).float() / REACH
    out = hops.new_ones(*nodes.shape, LANDMARKS)  # as far as can be from what a smaller graph does not have
    found = hops.gather(2, first.indices[:, None].expand(-1, near.shape[1], -1))
    out[..., : found.shape[2]] = found.masked_fill((first.values < 0)[:, None], 1.0)
    return out
