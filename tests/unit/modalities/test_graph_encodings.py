"""Positions in a graph, by hand and against torch_geometric: walks, eigenvectors, distances, messages along edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toys.networks import PATH, fitted, links_of, module, network

from mmssl.patches import Patches
from mmssl_graph.encodings import distances, encodings, laplacian_encoding, walk_encoding
from mmssl_graph.modality import EdgeBias, Messages


def test_coordinates_of_a_path_by_hand() -> None:
    p = fitted([PATH], laplacian=2, walk=3)
    coords = module(p).patchify(p([PATH | {"centre": 1}])).coords[0]
    assert coords[:, 0].tolist() == [1, 0, 0]  # the centre comes first: nodes 1, then its neighbours
    coords = module(p).patchify(p([PATH])).coords[0]
    r = math.sqrt(0.5)
    # eigenvalues 0, 1, 2 of the normalised Laplacian; 1: (r, 0, -r); 2: (1/2, -r, 1/2), its greatest entry positive
    expected = torch.tensor([[0, r, -0.5, 0, 0.5, 0], [0, 0, r, 0, 1.0, 0], [0, -r, -0.5, 0, 0.5, 0]])
    torch.testing.assert_close(coords, expected, rtol=0, atol=1e-6)


def eigenspaces(links: Tensor) -> list[tuple[int, int]]:
    """[first, last) numbers of equal eigenvalues of the normalised Laplacian."""
    d = links.sum(1)
    s = torch.where(d > 0, d.clamp(min=1e-9) ** -0.5, 0.0)
    values = torch.linalg.eigvalsh((torch.eye(len(links)) - s[:, None] * links * s).double())
    cuts = [0, *[i for i in range(1, len(values)) if values[i] - values[i - 1] > 1e-6], len(values)]
    return list(zip(cuts[:-1], cuts[1:], strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2, None])
def test_encodings_are_torch_geometrics(seed: int | None) -> None:
    pytest.importorskip("torch_geometric", reason="torch_geometric is not installed")
    pytest.importorskip("scipy", reason="scipy is not installed")
    from torch_geometric.data import Data
    from torch_geometric.transforms import AddLaplacianEigenvectorPE, AddRandomWalkPE

    # None: a ring, whose eigenvalues come in pairs
    raw = (
        {"edge_index": np.array([range(12), [*range(1, 12), 0]]), "num_nodes": 12}
        if seed is None
        else network(12, 0.4, seed)
    )
    links = links_of(raw)
    spaces = eigenspaces(links)
    assert spaces[0] == (0, 1), "the graph must be connected: else which vector of eigenvalue 0 is left out is open"
    index = links.nonzero().T
    data = Data(edge_index=index, num_nodes=12)
    theirs = AddLaplacianEigenvectorPE(11, attr_name="pe", is_undirected=True)(data.clone()).pe.double()
    ours = laplacian_encoding(links[None], torch.ones(1, 12, dtype=torch.bool), 11)[0].double()
    for first, last in spaces[1:]:
        a, b = ours[:, first - 1 : last - 1], theirs[:, first - 1 : last - 1]
        torch.testing.assert_close(a @ a.T, b @ b.T, rtol=0, atol=1e-5)  # equal projections: the same space
    walk = AddRandomWalkPE(6, attr_name="pe")(data.clone()).pe
    torch.testing.assert_close(
        walk_encoding(links[None], torch.ones(1, 12, dtype=torch.bool), 6)[0], walk, rtol=0, atol=1e-6
    )


def test_padding_holes_and_isolated_nodes_do_not_move_encodings() -> None:
    ring = torch.zeros(6, 6)
    for i in range(6):  # pairs of equal eigenvalues: a padded matrix would give another basis
        ring[i, (i + 1) % 6] = ring[(i + 1) % 6, i] = 1
    alone = encodings(ring[None], torch.ones(1, 6, dtype=torch.bool), 4, 4)
    padded, place = torch.zeros(2, 11, 11), torch.tensor([0, 2, 3, 5, 8, 9])
    padded[0, place[:, None], place] = ring
    nodes = torch.zeros(2, 11, dtype=torch.bool)
    nodes[0, place] = True
    out = encodings(padded, nodes, 4, 4)
    torch.testing.assert_close(out[0, place], alone[0], rtol=0, atol=0)
    assert bool((out[0, ~nodes[0]] == 0).all()) and bool((out[1] == 0).all())
    empty = encodings(torch.zeros(1, 3, 3), torch.ones(1, 3, dtype=torch.bool), 4, 4)
    assert bool(torch.isfinite(empty).all()) and empty.shape == (1, 3, 8)
    assert encodings(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool), 2, 2).tolist() == [[[0, 0, 0, 0]]]


def test_distances_and_the_bias_of_direction_and_weight() -> None:
    links = torch.zeros(1, 5, 5)
    links[0, 0, 1], links[0, 1, 2], links[0, 2, 3] = 2.0, 1.0, 1.0  # 0 -> 1 -> 2 -> 3, and 4 alone
    links[0].fill_diagonal_(-1)
    assert distances(links, 2)[0].tolist() == [
        [0, 1, 2, 3, 3],
        [1, 0, 1, 2, 3],
        [2, 1, 0, 1, 3],
        [3, 2, 1, 0, 3],
        [3, 3, 3, 3, 0],
    ]
    bias = EdgeBias(2, 2)
    with torch.no_grad():
        bias.distance.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.5], [2.0, 1.0], [3.0, 1.5]]))
        bias.leaving.fill_(10), bias.arriving.fill_(20), bias.weight.fill_(1)
    p = Patches(torch.zeros(1, 5, 1), torch.zeros(1, 5, 1), torch.ones(1, 5, dtype=torch.bool), links=links)
    out = bias(p)[0, 0].detach()
    assert float(out[0, 1]) == pytest.approx(1 + 10 + math.log(2)) and float(out[1, 0]) == pytest.approx(
        1 + 20 + math.log(2)
    )
    assert float(out[0, 2]) == 2 and float(out[0, 4]) == 3 and float(out[3, 3]) == 0


def test_messages_come_along_arriving_edges_only() -> None:
    layer = Messages(2)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.eye(2)), layer.linear.bias.zero_()
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
    links = torch.zeros(1, 3, 3)
    links[0, 0, 1], links[0, 2, 1] = 1.0, 3.0
    out = layer(x, links)[0]
    torch.testing.assert_close(out[1], x[0, 1] + F.gelu((x[0, 0] + 3 * x[0, 2]) / 4))
    torch.testing.assert_close(out[[0, 2]], x[0, [0, 2]])
