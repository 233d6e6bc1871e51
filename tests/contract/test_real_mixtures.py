"""Real data that differ in one batch: recordings of other montages and rates, graphs of every kind and many sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import samples as samples_of

import mmssl_eeg
import mmssl_graph
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig


def encoder(name: str, preprocessor: Any) -> MMSSLModel:
    torch.manual_seed(0)
    config = MMSSLConfig(
        modalities={name: {"type": name, **preprocessor.sizes()}},
        towers={name: tower_spec(TowerConfig(width=24, depth=2, heads=2))},
    )
    return MMSSLModel(config).eval()


@torch.no_grad()
def same_alone(name: str, preprocessor: Any, raw: list[Any], some: int) -> Tensor:
    """Pooled outputs of one batch of all; those of `some` of the samples are the same by themselves."""
    model = encoder(name, preprocessor)
    together = model.encode_batch({name: preprocessor(raw)}).pooled[name]
    assert bool(together.isfinite().all())
    for row in range(0, len(raw), max(len(raw) // some, 1)):
        alone = model.encode_batch({name: preprocessor([raw[row]])}).pooled[name][0]
        torch.testing.assert_close(alone, together[row], rtol=0, atol=1e-6 * float(together.abs().max()))
    return together


def test_three_eeg_sets_of_other_montages_and_rates(shared_data: Path) -> None:
    """24 channels at 160 Hz, one of unknown place at 173.61 Hz, 14 at 128 Hz with an offset of 4,200 uV."""
    parquet = pytest.importorskip("pyarrow.parquet")
    channels = json.loads((shared_data / "eegmmi_s001" / "channels.json").read_text())["channels"]
    cap = samples_of._column(shared_data / "eegmmi_s001" / "motor-test.parquet", "signal", 3)
    raw = [{"signal": x, "channels": channels, "rate": 160, "unit": "uV"} for x in cap]
    bonn = samples_of._column(shared_data / "bonn_eeg" / "test.parquet", "signal", 2)
    raw += [{"signal": x, "channels": ["scalp"], "rate": 173.61, "unit": "uV"} for x in bonn]
    table = parquet.read_table(shared_data / "eeg_eye_state" / "eye_state.parquet").slice(0, 1280)
    names = [n for n in table.column_names if n not in ("t", "eye_closed", "split")]
    raw.append({"signal": np.stack([table[n].to_numpy() for n in names]), "channels": names, "rate": 128, "unit": "uV"})
    config = mmssl_eeg.Config(rate=128, window=0.5, seconds=2.0, highpass=1.0, unknown="keep")
    p = mmssl_eeg.Preprocessor(config).fit(raw)
    inputs = p(raw)
    assert inputs["signal"].shape[:2] == (6, len(channels))
    patches = mmssl_eeg.Modality(16, **p.sizes()).patchify(inputs)
    assert patches.valid.sum(1).tolist() == [24 * 4] * 3 + [4] * 2 + [14 * 4]
    places = patches.coords[..., 1:]
    assert bool((places[3:5] == 0).all())  # nobody knows where: the middle of the head
    each = places.unflatten(1, (len(channels), -1))[:, :, 0]  # (B, C, 3)
    o1 = {row: each[row, names_of.index("O1")] for row, names_of in ((0, channels), (5, names))}
    assert torch.equal(o1[0], o1[5]) and bool(o1[0].norm() > 0.05)  # metres: one electrode in two caps
    same_alone("eeg", p, raw, 6)


def test_many_small_graphs_of_very_different_sizes(shared_data: Path) -> None:
    for name in ("mutag", "proteins"):
        raw = mmssl_graph.open_rows(str(shared_data / name / f"{name}.npz"), "train")["graph"][:80]
        p = mmssl_graph.Preprocessor(mmssl_graph.Config(max_nodes=1000)).fit(raw)
        raw = [one for one in raw if len(p.read(one).x) <= 60][:64]  # type: ignore[union-attr]
        sizes = p(raw)["nodes"].sum(1)
        assert len(sizes) > 40 and int(sizes.max()) > 1.5 * int(sizes.min())
        same_alone("graph", p, raw, 4)


def test_nodes_without_links_and_graphs_without_features(shared_data: Path) -> None:
    """citeseer has 48 papers that nobody links to; its nodes known by their degree alone."""
    with np.load(shared_data / "citeseer" / "citeseer.npz") as file:
        linked = np.zeros(len(file["y"]), bool)
        linked[file["edge_index"].reshape(-1)] = True
    rows = mmssl_graph.open_rows(str(shared_data / "citeseer" / "citeseer.npz"), "all")["graph"]
    lonely = np.flatnonzero(~linked)
    assert len(lonely) == 48
    raw = [rows[int(i)] for i in [*lonely[:5], *np.flatnonzero(linked)[:5]]]
    for features in (None, "degree"):
        p = mmssl_graph.Preprocessor(mmssl_graph.Config(nodes=16, features=features)).fit(raw)
        sizes = p(raw)["nodes"].sum(1)
        assert sizes[:5].tolist() == [1] * 5 and bool((sizes[5:] > 1).all())
        same_alone("graph", p, raw, 10)


def test_the_direction_and_the_weight_of_real_edges_count(shared_data: Path) -> None:
    """mutag with every bond in one direction: turned round it is another graph, unless directions are ignored."""
    with np.load(shared_data / "mutag" / "mutag.npz") as file:
        edges, of, labels = file["edge_index"], file["graph_id"], file["node_labels"]
    raw, turned, heavier = [], [], []
    for number in range(12):
        nodes = np.flatnonzero(of == number)
        own = edges[:, np.isin(edges[0], nodes)] - nodes[0]
        own = own[:, own[0] < own[1]]
        one = {"num_nodes": len(nodes), "node_labels": labels[nodes].tolist()}
        weight = np.linspace(0.5, 2.0, own.shape[1]).tolist()
        raw.append(one | {"edge_index": own.tolist()})
        turned.append(one | {"edge_index": own[::-1].tolist()})
        heavier.append(one | {"edge_index": own.tolist(), "edge_weight": weight})
    for directed in (True, False):
        p = mmssl_graph.Preprocessor(mmssl_graph.Config(directed=directed)).fit(raw)
        straight = same_alone("graph", p, raw, 4)
        differ = (straight - same_alone("graph", p, turned, 4)).abs().amax(1)
        assert bool((differ > 1e-4).all()) if directed else bool((differ < 1e-5).all())
        assert bool(((straight - same_alone("graph", p, heavier, 4)).abs().amax(1) > 1e-4).all())
