"""The graph modality in a model: round trips, masking before messages, scores and targets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toys.networks import PATH, SOME, fitted, model, module

from mmssl.draws import Draws
from mmssl.masking import Random
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.objectives import mae
from mmssl.objectives.pretraining import Pretraining


def test_round_trip_and_reload(tmp_path: Path) -> None:
    p = fitted(SOME)
    inputs = p([*SOME, None])
    m = module(p)
    back = m.unpatchify(m.patchify(inputs).values, inputs)
    for key, value in inputs.items():
        torch.testing.assert_close(back[key], value, rtol=0, atol=0)
    MMSSLProcessor({"graph": p}).save_pretrained(tmp_path)
    again = MMSSLProcessor.from_pretrained(tmp_path)(graph=[*SOME, None])
    for key, value in inputs.items():
        torch.testing.assert_close(again[f"graph_{key}"], value, rtol=0, atol=0)
    net = model(p)
    net.save_pretrained(tmp_path / "model")
    reloaded = MMSSLModel.from_pretrained(tmp_path / "model").eval()
    assert torch.equal(
        net.encode_batch({"graph": inputs}).embeddings["graph"],
        reloaded.encode_batch({"graph": inputs}).embeddings["graph"],
    )


def test_padding_and_absent_graphs_change_nothing_elsewhere() -> None:
    p = fitted(SOME)
    net = model(p)
    together = net.encode_batch({"graph": p([SOME[0], None, *SOME[1:]])})
    for i, raw in enumerate(SOME):
        alone = net.encode_batch({"graph": p([raw])}).pooled["graph"][0]
        torch.testing.assert_close(alone, together.pooled["graph"][i if i == 0 else i + 1], rtol=0, atol=2e-6)
    assert together.present["graph"].tolist() == [True, False, True, True, True, True]


def test_permuting_patches_with_coordinates_and_links_permutes_the_tokens() -> None:
    p = fitted(SOME)
    net = model(p)
    patches = net.modality("graph").patchify(p(SOME))
    order = torch.stack([torch.randperm(patches.count) for _ in SOME])
    tower = net.towers["graph"]
    straight, permuted = (tower({"graph": x}).tokens["graph"] for x in (patches, patches.take(order)))
    torch.testing.assert_close(permuted, straight.gather(1, order[..., None].expand_as(straight)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("mode", ["drop", "replace"])
def test_what_is_hidden_sends_no_message(mode: str) -> None:
    from mmssl.objectives.step import Step

    p = fitted(SOME, stem=2)
    net = model(p)
    inputs = p(SOME)

    def tokens(content: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        step = Step({"graph": content}, net, {}, {"half": Random(ratio=0.5)}, Draws(1, len(SOME)))
        hide = step.splits("graph", "half")["graph"].hide
        return step.encode("graph", mask="half", mode=mode).tokens["graph"], step.patches("graph").hidden_by(hide)

    before, hidden = tokens(inputs)
    x = inputs["x"].clone()
    x[hidden] += 5.0
    torch.testing.assert_close(tokens(inputs | {"x": x})[0], before, rtol=0, atol=0)
    x = inputs["x"] + 5.0 * (inputs["nodes"] & ~hidden)[..., None]
    assert not torch.allclose(tokens(inputs | {"x": x})[0], before)


def test_scores_by_hand() -> None:
    p = fitted([PATH], scale="none", gamma=3.0)
    m = module(p)
    inputs = p([PATH])
    patches = m.patchify(inputs)
    target = m.target(inputs, patches)
    torch.testing.assert_close(m.score(2.5 * target, target, patches), torch.zeros(1, 3), rtol=0, atol=1e-6)
    pred = torch.tensor([[[0.0, 1.0], [0.0, -1.0], [1.0, 0.0]]])
    expected = torch.tensor([[1.0, 8.0, (1 - math.sqrt(0.5)) ** 3]])
    torch.testing.assert_close(m.score(pred, target, patches), expected, rtol=1e-5, atol=1e-6)
    mse = m.score(pred, target, patches, "features_mse")
    torch.testing.assert_close(mse, torch.tensor([[1.0, 4.5, 6.5]]))


def test_edges_are_judged_on_pairs_that_the_encoder_did_not_see() -> None:
    raw = {"edge_index": [[0, 1, 2], [1, 2, 3]], "x": np.eye(5)}
    p = fitted([raw])
    m = module(p)
    clean = p([raw])
    seen = clean["links"].clone()
    seen[0, 0, 1] = seen[0, 1, 0] = 0  # the view lost the edge 0 - 1
    patches = m.patchify({k: v for k, v in (clean | {"links": seen}).items() if k != "encodings"})
    hide = torch.tensor([[3, 0, 1, 2, -1]])
    queries = patches.take(hide)
    target = m.target(clean, patches, "edges")[0][hide[0].clamp(min=0)][None]
    pred = torch.randn(1, 5, m.pred_width("edges"))
    score = m.score(pred, target, queries, "edges")[0]
    logit = (pred[0] @ pred[0].T) / math.sqrt(m.pred_width("edges"))
    # query 1 is node 0: lost edge to node 1 (query 2), no edge to nodes 3 and 2 (queries 0 and 3)
    expected = F.softplus(-logit[1, 2]) + (F.softplus(logit[1, 0]) + F.softplus(logit[1, 3])) / 2
    assert float(score[1]) == pytest.approx(float(expected), rel=1e-5)
    # query 3 is node 2: its edges were seen, so only node 0 counts
    assert float(score[3]) == pytest.approx(float(F.softplus(logit[3, 1])), rel=1e-5)


@pytest.mark.parametrize(
    ("target", "mode", "depth"),
    [("features", "drop", 1), ("features", "replace", 0), ("features_mse", "replace", 1), ("edges", "replace", 0)],
)
def test_every_target_trains(target: str, mode: str, depth: int) -> None:
    p = fitted(SOME)
    net = model(p).train()
    decoder = mae.DecoderConfig(width=16, depth=depth, heads=2) if depth else mae.DecoderConfig(depth=0)
    config = mae.Config(tower="graph", mask="half", mode=mode, target={"graph": target}, decoder=decoder, view="v")
    views = {"v": {"graph": {"drop_edges": 0.5}}}
    work = Pretraining(net, {"mae": mae.MAE(config, net)}, views, {"half": Random(ratio=0.5)})
    loss = work({"graph": p([*SOME, None])}, Draws(3, 6)).total
    loss.backward()
    missing = [n for n, q in work.named_parameters() if q.grad is None or not bool(torch.isfinite(q.grad).all())]
    assert float(loss.detach()) > 0 and all(n.endswith("mask.token") for n in missing), missing
