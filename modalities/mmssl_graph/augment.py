"""Views of graphs: subgraphs, dropped nodes and edges, masked features. Shapes: B graphs, N nodes, F features."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl.draws import Draws
from mmssl.modality import Inputs

from .options import View


def augment(inputs: Inputs, draws: Draws, view: View) -> Inputs:
    """One view of a batch (GraphCL, You et al. 2020; features as in GRACE, Zhu et al. 2020).

    Where nodes or edges went the encodings are taken out, so that `patchify` computes them of what is left: old ones
    would tell of the edges that were dropped.

    Args:
        inputs: "x" (B, N, F), "links" (B, N, N), "nodes" (B, N) bool, "centre" (B,), and "encodings".
        draws: random numbers of the B samples.
        view: what is done.
    """
    nodes, links = inputs["nodes"], inputs["links"]
    count = links.shape[1]
    centre = centres(inputs)
    if view.subgraph is not None:
        nodes = grown(links, nodes, centre, draws("subgraph"), view.subgraph)
    if view.drop_nodes:
        keep = ~draws("nodes").chance(view.drop_nodes, count) | centre
        kept = nodes & keep
        nodes = torch.where(kept.any(1, keepdim=True), kept, nodes)  # never a graph without nodes
    links = links * (nodes[:, :, None] & nodes[:, None, :])
    if view.drop_edges:
        drawn = draws("edges").uniform(count, count).to(links.device)
        upper = torch.ones(count, count, dtype=torch.bool, device=links.device).triu()
        links = links * (torch.where(upper, drawn, drawn.transpose(1, 2)) >= view.drop_edges)
    out = inputs | {"nodes": nodes, "links": links}
    if view.mask_features:
        masked = draws("features").chance(view.mask_features, inputs["x"].shape[-1])
        out["x"] = inputs["x"].masked_fill(masked[:, None], 0.0)
    if view.subgraph is not None or view.drop_nodes or view.drop_edges:
        out.pop("encodings", None)
    return out


def centres(inputs: Inputs) -> Tensor:
    """(B, N) bool: the centre of each sample that has one."""
    number = inputs["centre"][:, None]
    return torch.arange(inputs["nodes"].shape[1], device=number.device)[None] == number


def grown(links: Tensor, nodes: Tensor, centre: Tensor, draws: Draws, share: float) -> Tensor:
    """(B, N) bool: max(1, int(share * n)) nodes, grown from the centre (or a random node) by random neighbours; in a
    graph of several parts the start's part at most."""
    luck = draws.uniform(nodes.shape[1]).to(links.device).masked_fill(~nodes, -1.0)
    wanted = (nodes.sum(1) * share + 1e-6).to(torch.int64).clamp(min=1)
    start = torch.where(centre.any(1, keepdim=True), centre, luck == luck.amax(1, keepdim=True)) & nodes
    near = (links > 0) | (links > 0).transpose(1, 2)
    reach = (start[:, :, None] & near).any(1)  # who has a neighbour in it
    for _ in range(int(wanted.max()) - 1 if len(wanted) else 0):
        edge = reach & ~start & nodes
        best = luck.masked_fill(~edge, -1.0).argmax(1, keepdim=True)
        grows = (edge.any(1) & (start.sum(1) < wanted))[:, None]
        start = start | (torch.zeros_like(start).scatter_(1, best, True) & grows)
        reach = reach | (near.gather(1, best[:, :, None].expand(-1, -1, near.shape[2]))[:, 0] & grows)
    return start
