"""What modalities know of their samples, against counts by hand: graphs by a search in breadth, signals by sines."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest
import torch

from mmssl.modality import load_modality
from mmssl.modality.biosignals.spectrum import strongest
from mmssl.patches import Patches
from mmssl_ecg.beats import beats_a_minute
from mmssl_graph.known import LANDMARKS, NEAR, PROPERTIES, REACH, known

NODES = 12


@pytest.fixture(scope="module")
def graph() -> tuple[dict[str, torch.Tensor], Patches]:
    """Two graphs, the second of 3 nodes; directed edges count in both directions; a node of the first has none."""
    rng = np.random.default_rng(0)
    links = torch.zeros(2, NODES, NODES)
    links[0, :11, :11] = torch.from_numpy((rng.random((11, 11)) < 0.12).astype(np.float32)).triu(1)
    links[1, 0, 1] = links[1, 1, 2] = 1.0
    nodes = torch.arange(NODES)[None] < torch.tensor([[NODES], [3]])
    x = torch.from_numpy(rng.normal(size=(2, NODES, 5)).astype(np.float32)) * nodes[..., None]
    own = torch.eye(NODES, dtype=torch.bool) & nodes[:, :, None]
    patches = Patches(x, torch.zeros(2, NODES, 1), nodes, links=links.masked_fill(own, -1.0))
    return {"x": x, "links": links, "nodes": nodes}, patches


def hops(links: torch.Tensor) -> np.ndarray:
    """(N, N) edges between nodes, infinite where not connected."""
    near = ((links > 0) | (links.T > 0)).numpy()
    out = np.full(near.shape, np.inf)
    for start in range(len(near)):
        out[start, start], line = 0, deque([start])
        while line:
            at = line.popleft()
            for other in np.flatnonzero(near[at]):
                if np.isinf(out[start, other]):
                    out[start, other] = out[start, at] + 1
                    line.append(other)
    return out


def centres_of(apart: np.ndarray, degree: np.ndarray) -> list[int]:
    """The node of most neighbours of each part around nodes that lie far apart, one after the other."""
    seeds: list[int] = []
    while len(seeds) < min(LANDMARKS, len(degree)):
        rest = [n for n in range(len(degree)) if n not in seeds]
        far = [min(apart[n, seeds]) if seeds else degree[n] for n in rest]
        seeds.append(rest[int(np.argmax(far))])
    parts: list[list[int]] = [[] for _ in seeds]
    for n in range(len(degree)):
        parts[seeds.index(n) if n in seeds else int(np.argmin(apart[n, seeds]))].append(n)
    return [max(part, key=lambda n: (degree[n], -n)) for part in parts]


@pytest.mark.parametrize("row", [0, 1])
def test_graphs_know_degrees_and_distances(graph, row):
    inputs, patches = graph
    count = int(patches.valid[row].sum())
    found = {name: known(name, inputs, patches, patches)[row].numpy()[:count] for name in PROPERTIES}
    apart = hops(inputs["links"][row])[:count, :count]
    degree = (apart == 1).sum(1)
    np.testing.assert_allclose(found["degree"][:, 0], np.log1p(degree), rtol=1e-6)
    upper = np.triu_indices(count, 1)
    assert (found["distance"][:, :count][upper] == np.minimum(apart, NEAR + 1)[upper] - 1).all()
    assert {int(v) for v in np.minimum(apart, NEAR + 1)[upper]} >= {1, 2}
    centres = centres_of(np.minimum(apart, REACH), degree)
    wanted = np.ones((count, LANDMARKS))
    wanted[:, : len(centres)] = np.minimum(apart[:, centres], REACH) / REACH
    np.testing.assert_allclose(found["landmarks"], wanted, rtol=1e-6)
    x = inputs["x"][row, :count].double().numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(found["similarity"][:, :count], unit @ unit.T, atol=1e-6)


def test_edges_that_a_view_shows_are_not_asked_for(graph):
    inputs, patches = graph
    seen = patches.links.clone()
    dropped = (seen[0] > 0).nonzero()[::2]
    seen[0, dropped[:, 0], dropped[:, 1]] = 0
    shown = Patches(patches.values, patches.coords, patches.valid, links=seen)
    found = known("edge", inputs, patches, shown)[0]
    for i in range(NODES):
        for j in range(i + 1, NODES):
            there = bool(patches.links[0, i, j] > 0)
            wanted = math.nan if bool(seen[0, i, j] > 0) else float(there)
            assert float(found[i, j]) == wanted or math.isnan(wanted) and math.isnan(float(found[i, j]))
    assert len(dropped) and int((found.triu(1) == 1).sum()) == len(dropped)


def test_declared_properties_are_what_is_computed(graph):
    shapes = {"patch": (2, NODES), "pair": (2, NODES, NODES)}
    for name, of in PROPERTIES.items():
        found = known(name, *graph, graph[1])
        assert found.shape == (*shapes[of.level], *([of.width] if of.level == "patch" else []))
        there = found[~found.isnan()]
        assert not of.classes or set(there.tolist()) <= set(range(of.classes))


def test_the_strongest_frequency_is_the_sine_s():
    time = torch.arange(1024) / 128  # 8 s, an eighth of the rate is 16 Hz
    waves = torch.stack([torch.sin(2 * math.pi * hertz * time) for hertz in (4.0, 32.0, 1.0)])[:, None].repeat(1, 2, 1)
    waves = waves + 0.5 * time  # a drift, which is slower than what counts
    waves[1, 0] = torch.nan
    octave, power = strongest(waves)
    assert octave.tolist() == pytest.approx([-2, 1, -4], abs=0.05) and bool((power > 0).all())
    assert float(strongest(torch.full((1, 2, 1000), torch.nan))[1]) == 0


def test_an_ecg_knows_its_rate_and_does_not_guess():
    time = np.arange(1000) / 100
    beat = np.exp(-(((time % 0.8) - 0.4) ** 2) / 2e-4)
    signal = torch.from_numpy(np.stack([np.stack([beat, -beat]), np.full((2, 1000), np.nan)]).astype(np.float32))
    modality = load_modality("ecg").Modality(8, ["I", "II"], 100.0, 25)
    inputs = {"signal": signal, "present": torch.tensor([True, False])}
    patches = modality.patchify(inputs)
    found = modality.known("heart_rate", inputs, patches, patches)[:, 0]
    assert float(found[0]) == pytest.approx(1.25, rel=0.02) and bool(found[1].isnan())
    assert float(found[0]) == pytest.approx(beats_a_minute(signal[0].numpy(), 100.0) / 60)
    assert bool(modality.known("frequency", inputs, patches, patches)[1].isnan().all())
