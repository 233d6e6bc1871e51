"""Where a node is in its graph: Laplacian and random-walk encodings, of padded batches.

A graph's encodings depend on its own nodes alone: each one's eigenvectors are computed at its own size, because in a
padded matrix equal eigenvalues (every molecule has some) would come out with another basis.

torch_geometric's transforms compute the same (tests compare the two) for one graph at a time, on the CPU, and take 3 to
5 times as long (`python -m benchmarks.readers --only graph`). Views drop nodes and edges on the device, so encodings of
what is left are needed in every step.

Shapes: B graphs, N nodes (padded), K encodings.
"""

from __future__ import annotations

import torch
from torch import Tensor


def encodings(links: Tensor, nodes: Tensor, laplacian: int, walk: int) -> Tensor:
    """(B, N, laplacian + walk) float32 of links (B, N, N) between the nodes (B, N) bool; zero elsewhere."""
    parts = [laplacian_encoding(links, nodes, laplacian), walk_encoding(links, nodes, walk)]
    return torch.cat(parts, -1)


def laplacian_encoding(links: Tensor, nodes: Tensor, count: int) -> Tensor:
    """(B, N, count) eigenvectors of I - D^-1/2 A D^-1/2, of length 1, of the smallest eigenvalues after the first.

    As in torch_geometric's `AddLaplacianEigenvectorPE` (Dwivedi et al. 2020); directed graphs count as undirected, the
    greater weight of both directions. An eigenvector's sign is free: its entry of greatest absolute value (of equal
    ones the first) is made positive. Of equal eigenvalues only the span is determined. Fewer than `count`: zeros.
    """
    batch, width = nodes.shape
    out = links.new_zeros(batch, width, count)
    if not count or not width:
        return out
    order = (~nodes).to(torch.int8).argsort(dim=1, stable=True)  # a graph's own nodes first
    a = torch.maximum(links, links.transpose(1, 2)).to(torch.float64)
    a = a.gather(1, order[:, :, None].expand_as(a)).gather(2, order[:, None, :].expand_as(a))
    sizes = nodes.sum(1)
    for n in sizes.unique().tolist():
        if n < 2:
            continue
        rows = torch.nonzero(sizes == n)[:, 0]
        own = a[rows, :n, :n]
        scale = own.sum(-1)
        scale = torch.where(scale > 0, scale.clamp(min=1e-12) ** -0.5, 0.0)
        matrix = torch.eye(n, dtype=a.dtype, device=a.device) - scale[:, :, None] * own * scale[:, None, :]
        vectors = torch.linalg.eigh(matrix)[1][:, :, 1 : count + 1]
        size = vectors.abs()
        first = (size > size.amax(1, keepdim=True) - 1e-6).to(torch.int8).argmax(1, keepdim=True)
        vectors = vectors * torch.where(vectors.gather(1, first) < 0, -1.0, 1.0)
        place = order[rows, :n]
        block = out.new_zeros(len(rows), width, count)
        block[:, :, : vectors.shape[2]].scatter_(
            1, place[..., None].expand(-1, -1, vectors.shape[2]), vectors.to(out.dtype)
        )
        out[rows] = block
    return out


def walk_encoding(links: Tensor, nodes: Tensor, count: int) -> Tensor:
    """(B, N, count) the chance that a random walk along the edges is back after 1, 2, ..., `count` steps.

    As in torch_geometric's `AddRandomWalkPE` (Dwivedi et al. 2022). Unlike eigenvectors it has no free sign.
    """
    links = links * (nodes[:, :, None] & nodes[:, None, :])
    step = links / links.sum(-1, keepdim=True).clamp(min=1e-12)
    power, out = step, []
    for number in range(count):
        if number:
            power = power @ step
        out.append(power.diagonal(dim1=1, dim2=2))
    return torch.stack(out, -1) if out else links.new_zeros(*nodes.shape, 0)


def distances(links: Tensor, most: int) -> Tensor:
    """(B, n, n) int64 edges from node to node, in either direction: 0 the node itself (or its double), 1..most, and
    most + 1 for what is further or not connected. links as in `Patches.links`: -1 marks the node itself."""
    near = (links > 0) | (links > 0).transpose(1, 2)
    out = torch.full(links.shape, most + 1, dtype=torch.int64, device=links.device)
    reach, step = near, near.to(torch.float32)
    for distance in range(1, most + 1):
        if distance > 1:
            reach = (reach.to(torch.float32) @ step) > 0
        out = torch.where(reach & (out > most), distance, out)
    return out.masked_fill(links < 0, 0)
