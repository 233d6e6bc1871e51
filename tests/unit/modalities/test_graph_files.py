"""Graphs as other programs write them: GraphML, GML, and what is refused with an advice that is true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toys.refusals import refused

import mmssl_graph
from mmssl.data.sources import open_source
from mmssl.errors import BadSample
from mmssl.limits import Limits, within
from mmssl_graph.sources import load_store

nx = pytest.importorskip("networkx", reason="networkx is not installed")


def edges(graph: nx.Graph) -> set[tuple[int, int]]:
    number = {node: row for row, node in enumerate(graph.nodes)}
    pairs = {(number[a], number[b]) for a, b in graph.edges() if a != b}
    return pairs | ({(b, a) for a, b in pairs} if not graph.is_directed() else set())


def named() -> nx.Graph:
    """Nodes by name, with features, labels and parts; weighted edges, a loop and one edge twice."""
    graph = nx.MultiGraph()
    for row, name in enumerate(("ann", "bob", "cy", "dee")):
        graph.add_node(name, size=row + 0.5, age=row, label=row % 2, split=("train", "test")[row % 2], town="Ulm")
    graph.add_edge("ann", "bob", weight=2.0)
    graph.add_edge("ann", "bob", weight=1.0)
    graph.add_edge("bob", "cy", weight=0.5)
    graph.add_edge("dee", "dee", weight=1.0)
    return graph


@pytest.mark.parametrize("ending", ["graphml", "gml"])
def test_graphs_of_networkx(tmp_path: Path, ending: str) -> None:
    write = {"graphml": nx.write_graphml, "gml": nx.write_gml}[ending]
    graph = nx.karate_club_graph() if ending == "graphml" else nx.les_miserables_graph()
    path = tmp_path / f"k.{ending}"
    write(graph, path)
    rows = open_source(f"graph:{path}", split="all")
    assert len(rows) == len(graph)
    pre = mmssl_graph.Preprocessor(mmssl_graph.Config(nodes=8)).fit(rows["graph"][:])
    whole = pre._graph({"path": str(path)})
    assert {(int(a), int(b)) for a, b in zip(whole.source, whole.target, strict=True)} == edges(graph)
    assert pre([rows["graph"][0]])["x"].isfinite().all()


@pytest.mark.parametrize("ending", ["graphml", "gml"])
def test_attributes_become_what_their_names_say(tmp_path: Path, ending: str) -> None:
    graph = named()
    if ending == "gml":  # the writer wants the label for the name
        graph = nx.relabel_nodes(graph, {name: number for number, name in enumerate(graph)})
        for _, data in graph.nodes(data=True):
            data["y"] = data.pop("label")
        nx.write_gml(graph, tmp_path / "n.gml", stringizer=str)
    else:
        nx.write_graphml(graph, tmp_path / "n.graphml")
    path = tmp_path / f"n.{ending}"
    train, test = (open_source(f"graph:{path}", split=split) for split in ("train", "test"))
    assert len(train) == len(test) == 2
    store = mmssl_graph.Preprocessor(mmssl_graph.Config())._graph({"path": str(path)})
    if ending == "graphml":
        assert [train["label"][:], test["label"][:]] == [[0, 0], [1, 1]]
        np.testing.assert_array_equal(store.x, [[row + 0.5, row] for row in range(4)])
        assert store.links().tolist() == [[0, 2, 0, 0], [2, 0, 0.5, 0], [0, 0.5, 0, 0], [0, 0, 0, 0]]


def test_a_graph_without_edges_or_with_a_direction(tmp_path: Path) -> None:
    lone = nx.empty_graph(3)
    nx.write_graphml(lone, tmp_path / "lone.graphml")
    assert mmssl_graph.Preprocessor(mmssl_graph.Config())._graph(str(tmp_path / "lone.graphml")).nodes == 3
    nx.write_graphml(nx.DiGraph([(0, 1), (1, 2)]), tmp_path / "d.graphml")
    for directed, count in ((False, 4), (True, 2)):
        pre = mmssl_graph.Preprocessor(mmssl_graph.Config(directed=directed))
        assert len(pre._graph(str(tmp_path / "d.graphml")).target) == count


def test_several_graphs_in_a_file_and_weights_of_some_edges(tmp_path: Path) -> None:
    """networkx reads the first graph, and counts an edge without a weight as 1."""
    graph = nx.path_graph(3)
    graph.edges[0, 1]["weight"] = 2.5
    nx.write_graphml(graph, tmp_path / "w.graphml")
    links = mmssl_graph.Preprocessor(mmssl_graph.Config())._graph(str(tmp_path / "w.graphml")).links()
    assert [links[0, 1], links[1, 2]] == [2.5, 1.0]
    text = (tmp_path / "w.graphml").read_text()
    (tmp_path / "two.graphml").write_text(text.replace("</graphml>", '<graph edgedefault="directed"/></graphml>'))
    with refused("two.graphml", "2 graphs", "expected one"):
        open_source(f"graph:{tmp_path / 'two.graphml'}")


RING = {"edge_index": [[0, 1, 2], [1, 2, 0]], "x": [[1.0], [2.0], [3.0]]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (RING | {"x": [[1.0], [None], [3.0]]}, "features of node 1 hold NaN"),
        (RING | {"x": [[1.0], ["a"], [None]]}, "x holds values of several types"),
        (RING | {"node_labels": ["C", None, "N"]}, "node_labels holds values of several types"),
        (RING | {"num_nodes": 3.5}, "num_nodes: found .*3.5.*, expected a whole number"),
        ([RING, {"edge_index": [[0], [1]]}], "x is in 1 of 2 graphs, expected all of them"),
    ],
)
def test_what_a_graph_is_made_of_is_not_left_out(content: object, said: str, tmp_path: Path) -> None:
    """It was: the graphs were then others, without features."""
    (tmp_path / "g.json").write_text(json.dumps(content))
    with pytest.raises(BadSample, match=said):
        mmssl_graph.Preprocessor(mmssl_graph.Config())._graph(str(tmp_path / "g.json"))


def test_weights_of_some_links(tmp_path: Path) -> None:
    links = [{"source": 0, "target": 1, "weight": 2.5}, {"source": 1, "target": 2}]
    (tmp_path / "g.json").write_text(json.dumps({"nodes": [{"id": row} for row in range(3)], "links": links}))
    found = mmssl_graph.Preprocessor(mmssl_graph.Config())._graph(str(tmp_path / "g.json")).links()
    assert [found[0, 1], found[1, 2]] == [2.5, 1.0]


@pytest.mark.parametrize("name", ["k.pt", "k.pkl", "k.gpickle", "k.json", "k.adjlist", "k.npy", "k.net", "k"])
def test_other_files_are_refused_with_a_true_advice(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "k.npy":
        np.save(path, np.zeros((2, 3)))
    else:
        path.write_bytes(b"\x80\x04}q\x00." if "p" in name[2:] else b"0 1\n1 2\n")
    with refused(".npz", ".graphml", ".gml", "parquet") as caught:
        open_source(f"graph:{path}")
    assert "allow_pickle" not in str(caught.value) and "unsafe" not in str(caught.value)


def test_files_that_are_not_what_they_are_called(tmp_path: Path) -> None:
    for ending in ("graphml", "gml"):
        (tmp_path / f"b.{ending}").write_text("this is no graph <")
        with refused(f"b.{ending}", f"cannot be read as {ending}"):
            open_source(f"graph:{tmp_path / f'b.{ending}'}")
    np.savez(tmp_path / "o.npz", edge_index=np.array([{}], dtype=object))
    with refused("edge_index", "array of numbers") as caught:
        open_source(f"graph:{tmp_path / 'o.npz'}")
    assert "allow_pickle" not in str(caught.value)


def test_tables_of_a_folder_are_looked_at_before_they_are_decoded(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"source": [0, 1], "target": [1, 2]}), tmp_path / "edges.parquet")
    assert load_store(tmp_path, directed=False).graph.nodes == 3
    labels = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * 100_000]))
    pq.write_table(pa.table({"label": labels}), tmp_path / "nodes.parquet", store_schema=False)
    with within(Limits(bytes=1 << 20)), refused("nodes.parquet", "data.limits.bytes", error=BadSample):
        load_store(tmp_path, directed=False)
