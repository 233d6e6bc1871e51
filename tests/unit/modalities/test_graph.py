"""The graph modality: what is read, subgraphs, views, real graphs."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toys.networks import PATH, fitted, links_of, model, module, network
from toys.refusals import refused

import mmssl_graph
from mmssl.draws import Draws
from mmssl.errors import BadSample, UserError
from mmssl_graph import graph as graphs
from mmssl_graph.encodings import encodings
from mmssl_graph.preprocessor import Sample
from mmssl_graph.sources import load_store

# ------------------------------------------------------------------------------------------------------ what is read


def test_every_form_of_a_graph_reads_the_same() -> None:
    p = fitted([PATH], scale="none")
    expected = p([PATH])
    data = SimpleNamespace(
        edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]),
        x=torch.tensor(PATH["x"]),
        num_nodes=3,
        y=torch.tensor([1]),
    )
    forms = [
        data,
        {"edge_index": [[0, 1], [1, 2]], "x": np.array(PATH["x"])},
        {"edge_index": torch.tensor([[1, 0], [2, 1], [1, 1]]), "x": PATH["x"]},
    ]
    for form in forms:
        for key, value in p([form]).items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=0)
    assert expected["links"][0].tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert expected["x"][0].tolist() == PATH["x"] and expected["centre"].tolist() == [-1]


def test_torch_geometrics_own_data() -> None:
    pyg = pytest.importorskip("torch_geometric.data", reason="torch_geometric is not installed")
    p = fitted([PATH], scale="none")
    data = pyg.Data(x=torch.tensor(PATH["x"]), edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]))
    for key, value in p([data]).items():
        torch.testing.assert_close(value, p([PATH])[key], rtol=0, atol=0)


def test_directed_weighted_repeated_loops_and_isolated() -> None:
    raw = {"edge_index": [[0, 1, 0, 2], [1, 1, 1, 0]], "edge_weight": [0.5, 9.0, 2.0, 0.25], "num_nodes": 4}
    one_way = graphs.from_raw(raw, directed=True).links()
    assert one_way.tolist() == [[0, 2, 0, 0], [0, 0, 0, 0], [0.25, 0, 0, 0], [0, 0, 0, 0]]
    both = graphs.from_raw(raw, directed=False).links()
    np.testing.assert_array_equal(both, np.maximum(one_way, one_way.T))
    p = fitted([raw], directed=True)
    inputs = p([raw])
    # no features: known by the number of edges that leave them, told apart up to max_degree
    assert inputs["x"][0].argmax(-1).tolist() == [1, 0, 1, 0] and p.sizes()["features"] == 17
    tokens = model(p).encode_batch({"graph": inputs}).tokens["graph"]
    assert bool(torch.isfinite(tokens).all()) and tokens.shape == (1, 4, 24)


def test_node_labels_and_those_never_met() -> None:
    p = fitted(
        [{"edge_index": [[0], [1]], "node_labels": ["C", "N"]}, {"edge_index": [[0], [1]], "node_labels": ["C", "O"]}]
    )
    assert p.state == {"source": "labels", "width": 3, "labels": ["C", "N", "O"]}
    x = p([{"edge_index": [[0], [1]], "node_labels": ["O", "Xe"]}])["x"][0]
    assert x.tolist() == [[0, 0, 1], [0, 0, 0]]


def test_features_are_scaled_unless_they_are_zeros_and_ones() -> None:
    assert fitted([{"edge_index": [[0], [1]], "x": [[0, 1], [1, 1]]}]).state["scale"] == "none"
    p = fitted([PATH])
    x = p([PATH])["x"][0]
    torch.testing.assert_close(x.mean(0), torch.zeros(2))
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(2))
    assert fitted([PATH], scale="row")([PATH])["x"][0, 2].tolist() == [0.5, 0.5]
    assert json.loads(json.dumps(p.state)) == p.state


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"edge_index": [[0, 5], [1, 1]], "x": PATH["x"]}, r"edge 5 -> 1: the graph has the nodes 0..2"),
        ({"edge_index": [[0, -1], [1, 1]], "x": PATH["x"]}, r"edge -1 -> 1"),
        ({"edge_index": [[0.5], [1]], "x": PATH["x"]}, "expected whole numbers"),
        ({"edge_index": [[0, 1, 2]], "x": PATH["x"]}, r"has shape \(1, 3\)"),
        ({"edge_index": [[0, 1], [1]], "x": PATH["x"]}, "edge_index is no table"),
        ({"x": PATH["x"]}, "has no edge_index"),
        ({"edges": [[0], [1]]}, "unknown entry 'edges'"),
        ({"edge_index": [[0], [1]], "x": [[1.0, math.nan], [0, 0], [0, 0]]}, "features of node 0 hold NaN"),
        ({"edge_index": [[0], [1]], "x": [["a", "b"]]}, "no table of numbers"),
        ({"edge_index": [[0], [1]], "x": [[1.0]] * 3}, "nodes have 1 features, the model knows 2"),
        ({"edge_index": [[0], [1]]}, "no features x"),
        ({"edge_index": [[], []]}, "needs features or num_nodes"),
        ({"edge_index": [[], []], "num_nodes": 0}, "has no nodes"),
        ({"edge_index": [[0], [1]], "x": PATH["x"], "num_nodes": 5}, "differ in the number of nodes"),
        ({"edge_index": [[0], [1]], "x": PATH["x"], "edge_weight": [-1]}, "edge_weight holds -1"),
        ({"edge_index": [[0], [1]], "x": PATH["x"], "edge_weight": [1, 2]}, "has 2 numbers, edge_index 1"),
        ({"edge_index": [[0], [1]], "x": PATH["x"], "centre": 7}, "centre 7"),
        ({"edge_index": [[0], [1]], "x": PATH["x"], "edge_weight": ["a"]}, "edge_weight is no list of numbers"),
        ({"edge_index": [[0], [1]], "x": PATH["x"], "centre": "b"}, "centre: found 'b', expected a whole number"),
        ({"edge_index": [[0], [1]], "x": PATH["x"], "centre": 0.5}, "centre: found 0.5, expected a whole"),
        ({"edge_index": [[0], [1]], "x": PATH["x"], "num_nodes": 3.5}, "num_nodes: found 3.5, expected a whole"),
        ({"edge_index": [[0], [1]], "x": PATH["x"], "num_nodes": math.nan}, "num_nodes: found nan, expected a whole"),
        ({"edge_index": [[0], [1]], "x": [[1.0, 1.0]] * 600}, "more than max_nodes 512"),
        (5, "found int, expected a graph"),
    ],
)
def test_broken_graphs_are_bad_samples(raw: Any, said: str) -> None:
    with pytest.raises(BadSample, match=said):
        fitted([PATH]).read(raw)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no zip at all"])
def test_broken_files_are_bad_samples_and_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "g.npz").write_bytes(content)
    with refused("g.npz", error=BadSample):
        fitted([PATH]).read(str(tmp_path / "g.npz"))
    with refused("g.npz"):
        mmssl_graph.open_rows(str(tmp_path / "g.npz"), "train")
    np.savez(tmp_path / "other.npz", edges=np.zeros((2, 3)))
    with pytest.raises(UserError, match="no array 'edge_index', found edges"):
        mmssl_graph.open_rows(str(tmp_path / "other.npz"), "train")
    with refused(meant="other.npz"):
        mmssl_graph.open_rows(str(tmp_path / "othr.npz"), "train")
    with refused("gone.npz", "no such file", error=BadSample):
        fitted([PATH]).read(str(tmp_path / "gone.npz"))


def test_folders_of_tables(tmp_path: Path) -> None:
    (tmp_path / "edges.csv").write_text("source,target,weight\na,b,1\nb,c,2.5\n")
    (tmp_path / "nodes.csv").write_text(
        "id,f1,f2,label,split\nc,1,2,0,test\na,3,4,1,train\nb,5,6,1,train\nd,7,8,0,train\n"
    )
    rows = mmssl_graph.open_rows(str(tmp_path), "train")
    assert rows["label"][:] == [1, 1, 0] and [row["node"] for row in rows["graph"]] == [1, 2, 3]
    p = fitted(rows["graph"][:], scale="none", nodes=4)
    sample = p.read(rows["graph"][0])
    assert sample is not None and sample.x.tolist() == [[3, 4], [5, 6], [1, 2]]  # a, then b, then c
    assert sample.links.tolist() == [[0, 1, 0], [1, 0, 2.5], [0, 2.5, 0]]
    isolated = p.read(rows["graph"][2])
    assert isolated is not None and isolated.x.tolist() == [[7, 8]]
    (tmp_path / "edges.csv").write_text("source,target\na,zz\n")
    with pytest.raises(UserError, match="an edge names node 'zz'"):
        mmssl_graph.open_rows(str(tmp_path), "train")
    with refused("split 'tst'"):
        (tmp_path / "edges.csv").write_text("source,target\na,b\n")
        mmssl_graph.open_rows(str(tmp_path), "tst")


def test_tudatasets_are_read_with_torch_geometric(tmp_path: Path, shared_data: Path) -> None:
    """Mutag written as the text files it was published as gives the graphs of its .npz, one by one."""
    file = shared_data / "mutag" / "mutag.npz"
    kept = load_store(file, directed=False)
    arrays = dict(np.load(file))
    # published unsorted: neither the order of the edges nor a loop may matter
    edges = np.concatenate([arrays["edge_index"].T[::-1], [[0, 0]]]) + 1
    np.savetxt(tmp_path / "M_A.txt", edges, "%d", delimiter=", ")
    np.savetxt(tmp_path / "M_graph_indicator.txt", arrays["graph_id"] + 1, "%d")
    np.savetxt(tmp_path / "M_node_labels.txt", arrays["node_labels"], "%d")
    np.savetxt(tmp_path / "M_graph_labels.txt", 2 * arrays["y"] - 1, "%d")
    found = load_store(tmp_path, directed=False)
    assert found.items == kept.items == 188
    for number in range(188):
        own, other = found.pick(number), kept.pick(number)
        assert np.array_equal(own.links(), other.links()) and np.array_equal(own.labels, other.labels)
    assert np.array_equal(found.columns["label"], kept.columns["label"])
    rows = mmssl_graph.open_rows(str(tmp_path), "all")
    assert len(rows) == 188 and rows[3]["graph"]["graph"] == 3

    np.savetxt(tmp_path / "M_node_attributes.txt", np.arange(2 * len(arrays["graph_id"])).reshape(-1, 2), delimiter=",")
    both = load_store(tmp_path, directed=False).pick(1)
    assert both.x is not None and both.labels is None
    first = kept.first[1]
    assert both.x[:, :2].tolist() == [[2.0 * node, 2.0 * node + 1] for node in range(first, kept.first[2])]
    assert np.array_equal(both.x[:, 2:].argmax(1), kept.pick(1).labels)


def test_folders_that_are_no_tudataset_and_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "M_A.txt").write_text("1, 2\n2, 1\n")
    with pytest.raises(UserError, match="cannot read .* as a graph: .*M: .*graph_indicator"):
        mmssl_graph.open_rows(str(tmp_path), "all")
    (tmp_path / "M_graph_indicator.txt").write_text("1\n1\n")
    plain = load_store(tmp_path, directed=False)  # neither labels nor attributes: known by their degree
    assert plain.items == 1 and plain.pick(0).links().tolist() == [[0, 1], [1, 0]] and plain.pick(0).x is None
    (tmp_path / "N_A.txt").write_text("1, 2\n")
    with pytest.raises(UserError, match="several data sets .M_A.txt, N_A.txt., expected one"):
        mmssl_graph.open_rows(str(tmp_path), "all")
    (tmp_path / "N_A.txt").unlink()
    (tmp_path / "M_A.txt").write_text("1, 2\n2, 1\n\n")
    monkeypatch.setitem(sys.modules, "torch_geometric.io", None)
    with pytest.raises(UserError, match=r"needs torch_geometric: pip install 'mmssl\[graph\]'"):
        mmssl_graph.open_rows(str(tmp_path), "all")


def test_the_prefix_opens_what_the_package_reads(tmp_path: Path) -> None:
    from mmssl.data.sources import open_source

    np.savez(
        tmp_path / "g.npz",
        edge_index=np.array([[0, 1], [1, 2]]),
        x=np.eye(3),
        y=np.array([0, 1, 0]),
        train_mask=np.array([1, 0, 0]),
        test_mask=np.array([0, 0, 1]),
    )
    rows = open_source(f"graph:{tmp_path / 'g.npz'}", split="all", columns={"graph": "graph"})
    assert rows["label"][:] == [0, None, None]  # a probe on all nodes learns from the training part only
    assert open_source(f"graph:{tmp_path / 'g.npz'}", split="test")["label"][:] == [0]
    with refused("split 'validation'", "train, test, all"):
        open_source(f"graph:{tmp_path / 'g.npz'}", split="validation")
    with pytest.raises(UserError, match="modality 'text' opens no files of its own"):
        open_source("text:x.txt")


# --------------------------------------------------------------------------------------------------------- subgraphs


def test_walks_prefer_what_is_near_and_are_a_function_of_the_choice() -> None:
    ring = {"edge_index": [list(range(200)), [*range(1, 200), 0]], "num_nodes": 200}
    graph = graphs.from_raw(ring, False)
    nodes = graphs.walk_sample(graph, 10, 9, 0.15, seed=3)
    assert nodes[0] == 10 and len(set(nodes.tolist())) == 9
    assert np.abs(nodes - 10).max() <= 8
    np.testing.assert_array_equal(nodes, graphs.walk_sample(graph, 10, 9, 0.15, seed=3))
    others = {tuple(sorted(graphs.walk_sample(graph, 10, 9, 0.15, seed=s).tolist())) for s in range(20)}
    assert len(others) > 2
    ego = graphs.ego_sample(graph, 10, 4, 2, seed=0)
    assert ego[0] == 10 and set(ego[1:3].tolist()) == {9, 11} and ego[3] in (8, 12)
    lone = graphs.from_raw({"edge_index": [[0], [1]], "num_nodes": 3}, False)
    assert graphs.walk_sample(lone, 2, 8, 0.15, 0).tolist() == [2] == graphs.ego_sample(lone, 2, 8, 2, 0).tolist()
    heavy = graphs.from_raw({"edge_index": [[0, 0], [1, 2]], "edge_weight": [1e-6, 1.0]}, False, "ends_first")
    assert graphs.walk_sample(heavy, 0, 2, 0.15, 0).tolist() == [0, 2]
    one_way = graphs.from_raw({"edge_index": [[0, 1], [1, 2]]}, True)
    assert sorted(graphs.walk_sample(one_way, 0, 3, 0.15, 0).tolist()) == [0, 1, 2]
    assert graphs.walk_sample(one_way, 2, 3, 0.15, 0).tolist() == [2]


def test_a_subgraph_keeps_all_edges_between_its_nodes() -> None:
    whole = graphs.from_raw(network(30, 0.2), False)
    nodes = np.array([7, 3, 22, 11, 0])
    part = whole.part(nodes, 0)
    np.testing.assert_array_equal(part.links(), whole.links()[np.ix_(nodes, nodes)])
    np.testing.assert_array_equal(part.x, whole.x[nodes])  # type: ignore[index]


def test_the_raw_features_are_sgc_on_the_whole_graph() -> None:
    raw = network(30, 0.15, seed=2) | {"centre": 4}
    a = links_of(raw).numpy() + np.eye(30)
    s = np.diag(a.sum(1) ** -0.5) @ a @ np.diag(a.sum(1) ** -0.5)
    p = fitted([raw], scale="none", nodes=3)
    inputs = p([raw])
    assert inputs["nodes"].sum() == 3  # the subgraph is smaller than two hops
    np.testing.assert_allclose(module(p).raw_features(inputs)[0], (s @ s @ raw["x"])[4], rtol=1e-4, atol=1e-5)
    raw.pop("centre")
    expected = np.concatenate([raw["x"].mean(0), (s @ raw["x"]).mean(0), (s @ s @ raw["x"]).mean(0)])
    np.testing.assert_allclose(p([raw])["propagated"][0], expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- views


def test_dropped_edges_go_in_both_directions_and_encodings_follow() -> None:
    p = fitted([network(20, 0.4)])
    m = module(p)
    inputs = p([network(20, 0.4, s) for s in range(8)])
    view = m.augment(inputs, Draws(2, 8), drop_edges=0.4)
    assert torch.equal(view["links"], view["links"].transpose(1, 2))
    share = float((view["links"] > 0).sum() / (inputs["links"] > 0).sum())
    assert 0.5 < share < 0.7 and "encodings" not in view
    coords = m.patchify(view).coords
    torch.testing.assert_close(coords[..., 1:], encodings(view["links"], view["nodes"], 8, 8), rtol=0, atol=0)
    assert not torch.allclose(coords[..., 1:], inputs["encodings"])
    alone = m.augment({k: v[3:5] for k, v in inputs.items()}, Draws(2, 2, first=3, total=8), drop_edges=0.4)
    assert torch.equal(alone["links"], view["links"][3:5])  # a function of the sample, not of the process


def test_masked_features_subgraphs_and_dropped_nodes() -> None:
    raw = [network(20, 0.2, s) | {"centre": 3} for s in range(6)]
    p = fitted(raw, nodes=20, scale="none")
    m = module(p)
    inputs = p(raw)
    masked = m.augment(inputs, Draws(2, 6), mask_features=0.5)
    off = (masked["x"] == 0) & (inputs["x"] != 0)
    assert (
        torch.equal(off.any(1)[:, None] & inputs["nodes"][..., None], off)
        and 0.2 < float(off.any(1).float().mean()) < 0.8
    )
    assert "encodings" in masked  # no edge has gone
    part = m.augment(inputs, Draws(2, 6), subgraph=0.5)
    for row in range(6):
        n = int(inputs["nodes"][row].sum())
        chosen = part["nodes"][row]
        assert int(chosen.sum()) == max(int(n * 0.5), 1) and bool(chosen[0])  # grown from the centre
        reach = torch.zeros_like(chosen)
        reach[0] = True
        for _ in range(20):
            reach = reach | ((part["links"][row][reach] > 0).any(0) & chosen)
        assert torch.equal(reach, chosen)  # connected
    assert not bool(part["links"][~part["nodes"]].any())
    fewer = m.augment(inputs, Draws(2, 6), drop_nodes=0.9)
    assert bool(fewer["nodes"][:, 0].all()) and int(fewer["nodes"].sum()) < 0.4 * int(inputs["nodes"].sum())
    tiny = fitted([PATH])
    assert int(module(tiny).augment(tiny([PATH] * 50), Draws(1, 50), drop_nodes=0.95)["nodes"].sum(1).min()) >= 1
    with refused(meant="drop_edges"):
        m.augment(inputs, Draws(2, 6), drop_edge=0.5)


# --------------------------------------------------------------------------------------------------------- real data


def test_cora(shared_data: Path) -> None:
    path = shared_data / "cora" / "cora.npz"
    rows = {split: mmssl_graph.open_rows(str(path), split) for split in ("all", "train", "val", "test")}
    assert {split: len(source) for split, source in rows.items()} == {
        "all": 2708,
        "train": 140,
        "val": 500,
        "test": 1000,
    }
    assert sum(label is not None for label in rows["all"]["label"]) == 140
    p = fitted(rows["train"]["graph"][:], nodes=24)
    assert p.state == {"source": "x", "width": 1433, "scale": "none", "centred": True}
    train, test = (p(rows[split]["graph"][:400]) for split in ("train", "test"))
    store = load_store(path, False)
    assert len(store.graph.target) == 10556
    # SGC by two sampled hops beats the words alone by far, as it does in the literature (0.806 against 0.566)
    from sklearn.linear_model import LogisticRegression

    m = module(p)
    probe = LogisticRegression(C=100, max_iter=500).fit(m.raw_features(train), rows["train"]["label"])
    assert probe.score(m.raw_features(test), rows["test"]["label"][:400]) > 0.76


def test_mutag(shared_data: Path) -> None:
    rows = mmssl_graph.open_rows(str(shared_data / "mutag" / "mutag.npz"), "train")
    assert set(rows.column_names) >= {"graph", "label", "fold", "split"} and 0 not in rows["fold"]
    held_out = mmssl_graph.open_rows(str(shared_data / "mutag" / "mutag.npz"), "test")
    assert len(rows) + len(held_out) == 188 and set(held_out["fold"]) == {0}
    p = fitted(rows["graph"][:])
    assert p.state == {"source": "labels", "width": 7, "labels": list(range(7))}
    sample = p.read(rows["graph"][0])
    assert isinstance(sample, Sample) and sample.centre == -1 and torch.equal(sample.links, sample.links.T)
    inputs = p(rows["graph"][:40])
    assert inputs["nodes"].shape[1] <= 28 and bool((inputs["x"].sum(-1) == inputs["nodes"]).all())
    assert bool(torch.isfinite(model(p).encode_batch({"graph": inputs}).pooled["graph"]).all())
