"""Message passing: each layer against sums by hand and torch_geometric; towers and decoders made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toys.networks import SOME, fitted, network

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.masking import Random
from mmssl.models.adapters import add_adapter
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.message_tower import MessageDecoder, MessageTower
from mmssl.models.messages import GAT, GCN, GIN, MessageTrunk
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import MESSAGES, AdapterConfig, TowerConfig
from mmssl.objectives import jepa, mae
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step

D, H, N = 8, 2, 7


def model_of(samples: list[Any] | None = None, modality: dict[str, Any] | None = None, **tower: Any) -> Any:
    """(model, processed samples)."""
    samples = SOME if samples is None else samples
    p = fitted(samples, stem=0, **(modality or {}))
    options = {"width": 12, "depth": 2, "heads": 3, "mlp_ratio": 2.0, "readout": "mean", **tower}
    config = MMSSLConfig(
        modalities={"graph": {"type": "graph", **p.sizes()}}, towers={"graph": tower_spec(TowerConfig(**options))}
    )
    torch.manual_seed(0)
    return MMSSLModel(config).eval(), p(samples)


def directed(weighted: bool = True) -> Tensor:
    """(N, N) float64 weights of the edges from row to column, none at the last node; -1 on the diagonal, as patches."""
    torch.manual_seed(1)
    links = (torch.rand(N, N) < 0.5).double() * (torch.rand(N, N).double() + 0.1 if weighted else 1.0)
    links[N - 1] = links[:, N - 1] = 0
    return links.fill_diagonal_(-1)


def layer_of(kind: str) -> Any:
    torch.manual_seed(2)
    layer = {"gin": lambda: GIN(D, 16, "gelu"), "gcn": lambda: GCN(D), "gat": lambda: GAT(D, H)}[kind]().double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-0.7, 0.7)
    return layer


# ------------------------------------------------------------------------------------------------------------ layers


def test_gin_is_the_sum_over_arriving_edges() -> None:
    links, x, layer = directed(), torch.randn(N, D).double(), layer_of("gin")
    rows = [x[i] * (1 + layer.eps) + sum(links[j, i] * x[j] for j in range(N) if links[j, i] > 0) for i in range(N)]
    torch.testing.assert_close(layer(x[None], links[None])[0], layer.mlp(torch.stack(rows)), rtol=0, atol=1e-12)


def test_gcn_is_the_normalised_adjacency_times_the_map() -> None:
    links, x, layer = directed(), torch.randn(N, D).double(), layer_of("gcn")
    adjacency = links.clamp(min=0).T + torch.eye(N).double()
    scale = torch.diag(adjacency.sum(1) ** -0.5)
    expected = scale @ adjacency @ scale @ x @ layer.linear.weight.T + layer.bias
    torch.testing.assert_close(layer(x[None], links[None])[0], expected, rtol=0, atol=1e-12)


def test_gat_is_a_softmax_over_arriving_edges_and_the_node_itself() -> None:
    links, x, layer = directed(), torch.randn(N, D).double(), layer_of("gat")
    y = (x @ layer.linear.weight.T).view(N, H, D // H)
    rows = []
    for i in range(N):
        near = [j for j in range(N) if links[j, i] > 0 or j == i]
        heads = []
        for h in range(H):
            scores = torch.stack(
                [F.leaky_relu(layer.receives[h] @ y[i, h] + layer.sends[h] @ y[j, h], 0.2) for j in near]
            )
            heads.append(sum(share * y[j, h] for share, j in zip(scores.softmax(0), near, strict=True)))
        rows.append(torch.cat(heads) + layer.bias)  # type: ignore[arg-type]
    torch.testing.assert_close(layer(x[None], links[None])[0], torch.stack(rows), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", MESSAGES)
def test_layers_equal_those_of_torch_geometric(kind: str) -> None:
    conv = pytest.importorskip("torch_geometric.nn")
    layer, x = layer_of(kind), torch.randn(N, D).double()
    links = directed(weighted=kind == "gcn")
    edges = (links > 0).nonzero().T
    with torch.no_grad():
        if kind == "gin":
            theirs = conv.GINConv(layer.mlp, train_eps=True).double()
            theirs.eps.copy_(layer.eps)
            expected = theirs(x, edges)
        elif kind == "gcn":
            theirs = conv.GCNConv(D, D).double()
            theirs.lin.weight.copy_(layer.linear.weight), theirs.bias.copy_(layer.bias)
            expected = theirs(x, edges, links[edges[0], edges[1]])
        else:
            theirs = conv.GATConv(D, D // H, H).double()
            theirs.lin.weight.copy_(layer.linear.weight), theirs.bias.copy_(layer.bias)
            theirs.att_src.copy_(layer.sends[None]), theirs.att_dst.copy_(layer.receives[None])
            expected = theirs(x, edges)
        torch.testing.assert_close(layer(x[None], links[None])[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_block_reaches_one_edge_and_a_trunk_as_many_as_it_has_blocks(kind: str) -> None:
    links = torch.zeros(1, 4, 4)
    links[0, [0, 1, 2], [1, 2, 3]] = 1.0  # a path, one way
    trunk = MessageTrunk(kind, D, 2, H).double().requires_grad_(False)
    x = torch.randn(1, 4, D).double().requires_grad_()
    out, kept = trunk(x, links, layers=[1])
    for node, block, seen in [(3, 1, [2, 3]), (3, 2, [1, 2, 3]), (0, 2, [0])]:
        of = kept[1] if block == 1 else out
        (gradient,) = torch.autograd.grad(of[0, node].square().sum(), x, retain_graph=True)
        assert gradient[0].abs().sum(1).nonzero()[:, 0].tolist() == seen


# ------------------------------------------------------------------------------------------------------------ towers


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_graph_alone_has_the_tokens_that_it_has_in_a_batch(kind: str) -> None:
    samples = [SOME[0], None, *SOME[1:]]
    model, inputs = model_of(samples, trunk=kind)
    p = fitted(samples)
    together = model.double().encode_batch({"graph": inputs})
    assert together.present["graph"].tolist() == [raw is not None for raw in samples]
    assert together.tokens["graph"][1].abs().sum() == 0
    for row, raw in enumerate(samples):
        if raw is not None:
            one = model.encode_batch({"graph": p([raw])})
            n = one.tokens["graph"].shape[1]
            torch.testing.assert_close(one.tokens["graph"][0], together.tokens["graph"][row, :n], rtol=0, atol=1e-6)
            assert together.tokens["graph"][row, n:].abs().sum() == 0
            torch.testing.assert_close(one.pooled["graph"][0], together.pooled["graph"][row], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", MESSAGES)
def test_tokens_follow_their_nodes(kind: str) -> None:
    model, inputs = model_of(trunk=kind)
    patches = model.modality("graph").patchify(inputs)
    order = torch.stack([torch.randperm(patches.count) for _ in SOME])
    straight, permuted = (model.tower("graph")({"graph": x}).tokens["graph"] for x in (patches, patches.take(order)))
    torch.testing.assert_close(permuted, straight.gather(1, order[..., None].expand_as(straight)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_saved_model_is_the_same_model(kind: str, tmp_path: Path) -> None:
    model, inputs = model_of(trunk=kind, readout="mean+max", readout_layers=2, final_norm=False, layer_scale=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["towers"]["graph"]["trunk"] == kind
    again = MMSSLModel.from_pretrained(tmp_path).eval()
    assert isinstance(again.tower("graph"), MessageTower)
    found, wanted = (m.encode_batch({"graph": inputs}, states=True) for m in (again, model))
    assert found.embeddings["graph"].shape == (len(SOME), 4 * 12)
    assert torch.equal(found.embeddings["graph"], wanted.embeddings["graph"])
    assert found.last_hidden_state.shape[1] == max(len(raw["x"]) for raw in SOME)
    assert [s.shape for s in found.hidden_states["graph"]] == [found.last_hidden_state.shape] * 2


def test_dropout_is_drawn_in_training_alone() -> None:
    model, inputs = model_of(trunk="gin", dropout=0.5)
    batch = {"graph": inputs}
    assert torch.equal(model.encode_batch(batch).tokens["graph"], model.encode_batch(batch).tokens["graph"])
    model.train()
    assert not torch.equal(model.encode_batch(batch).tokens["graph"], model.encode_batch(batch).tokens["graph"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"trunk": "gin", "pooling": "cls"}, "no class token"),
        ({"trunk": "gat", "heads": 5}, "not a multiple of heads 5"),
        ({"trunk": "gin", "pooling": "centre"}, "lie in no cells of 'centre'"),
    ],
)
def test_what_a_message_passing_tower_cannot_be(options: dict[str, Any], reason: str) -> None:
    with pytest.raises((UserError, ValueError), match=reason):
        model_of(**options)


def test_patches_without_edges_have_no_messages() -> None:
    modality = nn.Module()
    modality.has_links = False  # type: ignore[assignment]
    with pytest.raises(UserError, match="modality 'image': found trunk: gcn, but its patches have no edges"):
        MessageTower(TowerConfig(trunk="gcn"), {"image": modality})  # type: ignore[dict-item]


@pytest.mark.parametrize(("kind", "count"), [("gin", 4), ("gcn", 2), ("gat", 2)])
def test_adapters_lie_on_the_layers_of_the_blocks(kind: str, count: int) -> None:
    model, inputs = model_of(trunk=kind)
    before = model.encode_batch({"graph": inputs}).embeddings["graph"]
    add_adapter(model, AdapterConfig(r=2), ["graph"])
    added = [name for name, _ in model.named_modules() if name.endswith("lora_A.default")]
    assert len(added) == count and all(".messages." in name for name in added)
    assert torch.equal(model.eval().encode_batch({"graph": inputs}).embeddings["graph"], before)
    model.encode_batch({"graph": inputs}).pooled["graph"].sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora_" in n)


# --------------------------------------------------------------------------------------------------------- objectives


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("mode", ["drop", "replace"])
def test_masked_autoencoding_trains_all_of_it(kind: str, mode: str) -> None:
    model, inputs = model_of(trunk=kind)
    config = mae.Config(
        tower="graph", mask="half", mode=mode, decoder=mae.DecoderConfig(trunk=kind, width=6, depth=1, heads=2)
    )
    work = Pretraining(model.train(), {"mae": mae.MAE(config, model)}, {}, {"half": Random(ratio=0.5)})
    work({"graph": inputs}, Draws(3, len(SOME))).total.backward()
    missing = [n for n, p in work.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    shown = ["modalities.graph.mask.token"] if mode == "drop" else []  # no mask token is in the encoder
    assert [n.partition("towers.graph.")[2] for n in missing] == shown, missing


def test_what_the_encoder_made_of_a_hidden_node_does_not_reach_the_decoder() -> None:
    model, inputs = model_of(trunk="gin")
    decoder_options = mae.DecoderConfig(trunk="gin", width=6, depth=1, heads=2)
    objective = mae.MAE(mae.Config(tower="graph", mask="half", mode="replace", decoder=decoder_options), model).eval()
    step = Step({"graph": inputs}, model, {}, {"half": Random(ratio=0.5)}, Draws(1, len(SOME)))
    split, whole = step.splits("graph", "half")["graph"], step.patches("graph")
    hide = split.hide.flatten(1)
    queries = whole.take(hide)
    encoded = step.encode("graph", mask="half", mode="replace")
    found = objective._predict("graph", encoded, None, whole, split.keep, hide, queries)
    # by hand, every node in its own place: hidden ones are the decoder's mask token
    decoder: Any = objective.decoders["graph"]
    hidden = whole.hidden_by(hide)
    x = torch.where(hidden[..., None], decoder.mask.tokens, decoder.project(encoded.tokens["graph"]))
    out = decoder.head(decoder.trunk(x + decoder.positions(whole.coords), whole.links)[0])
    expected = out.gather(1, hide.clamp(min=0)[..., None].expand(-1, -1, out.shape[2]))
    torch.testing.assert_close(found * queries.valid[..., None], expected * queries.valid[..., None], rtol=0, atol=1e-6)
    spoiled = encoded.tokens["graph"] + 9.0 * hidden[..., None]
    encoded.tokens["graph"] = spoiled
    torch.testing.assert_close(objective._predict("graph", encoded, None, whole, split.keep, hide, queries), found)


def test_a_graph_decoder_needs_edges_and_a_perceptron_has_no_trunk() -> None:
    with pytest.raises(UserError, match="trunk: found gin, which has no effect with depth: 0"):
        model, _ = model_of(trunk="gin")
        config = mae.Config(tower="graph", mask="half", mode="replace", decoder=mae.DecoderConfig(depth=0, trunk="gin"))
        mae.MAE(config, model)


def test_jepa_predicts_subgraphs_from_the_messages_of_what_is_left() -> None:
    model, inputs = model_of(trunk="gin")
    config = jepa.Config(tower="graph", mask="half", predictor=jepa.PredictorConfig(width=8, depth=1, heads=2))
    work = Pretraining(model.train(), {"jepa": jepa.JEPA(config, model)}, {}, {"half": Random(ratio=0.5)})
    work({"graph": inputs}, Draws(3, len(SOME))).total.backward()
    grads = {n: p.grad for n, p in model.tower("graph").trunk.named_parameters()}
    assert grads and all(g is not None and bool(torch.isfinite(g).all()) for g in grads.values())


# -------------------------------------------------------------------------------------------------------- the centre


def test_a_subgraph_is_read_out_at_the_node_it_was_sampled_around() -> None:
    rows = [network(9, 0.3, 5) | {"centre": 4}, network(9, 0.3, 5) | {"centre": 0}, network(4, 0.9, 1)]
    model, inputs = model_of(rows, {"nodes": 6}, trunk="gin", readout=None, pooling="centre")
    assert model.modality("graph").centred
    out = model.encode_batch({"graph": inputs})
    for row in (0, 1):
        assert inputs["centre"][row] == 0
        torch.testing.assert_close(out.pooled["graph"][row], out.tokens["graph"][row, 0])
    # a whole graph among them is the mean of its nodes
    torch.testing.assert_close(out.pooled["graph"][2], out.tokens["graph"][2, :4].mean(0))


def test_the_default_readout_of_subgraphs_has_the_centre_in_it() -> None:
    model, _ = model_of([network(9, 0.3, 5) | {"centre": 4}], readout=None)
    model.settle_readouts()
    assert model.config.towers["graph"]["readout"] == "centre+mean"
    whole, _ = model_of(readout=None)
    whole.settle_readouts()
    assert whole.config.towers["graph"]["readout"] == "mean+std"


def test_a_decoder_is_as_wide_as_asked() -> None:
    model, _ = model_of()
    decoder = MessageDecoder(model.modality("graph"), "gat", 12, 5, 6, 3, 2)
    assert len(decoder.trunk.blocks) == 3 and isinstance(decoder.head, nn.Linear) and decoder.head.out_features == 5
