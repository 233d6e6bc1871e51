"""Fusion: towers look at one another before they are decoded (HiCMAE), against the formulas written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.objectives import mae
from mmssl.objectives.options.mae import FusionConfig
from mmssl.objectives.parts.fusion import Fusion
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step

TOWERS = ["table", "signal"]


def objective(net, **options):  # type: ignore[no-untyped-def]
    decoder = mae.DecoderConfig(width=16, depth=2, heads=2, skips=[1, 2])
    given = {"towers": TOWERS, "mask": "few", "fusion": FusionConfig(depth=2, heads=2), "decoder": decoder}
    return mae.MAE(mae.Config(**given | options), net)


def norm(x, layer):  # type: ignore[no-untyped-def]
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def attend(q, k, v, heads, there):  # type: ignore[no-untyped-def]
    """One sample: q (n, D), k, v (m, D), there (m,) bool."""
    parts = []
    for a, b, c in zip(*(x.chunk(heads, -1) for x in (q, k, v)), strict=True):
        scores = (a @ b.T / a.shape[-1] ** 0.5).masked_fill(~there, -torch.inf)
        parts.append(scores.softmax(-1) @ c)
    return torch.cat(parts, -1)


def by_hand(fusion, encoded, row):  # type: ignore[no-untyped-def]
    """A sample's fused streams in float64, layer by layer from what was there before the layer."""
    streams = {t: torch.cat([e.prefix, *e.tokens.values()], 1)[row].double() for t, e in encoded.items()}
    valid = {t: torch.cat([p.valid for p in e.patches.values()], 1)[row] for t, e in encoded.items()}
    for layer in range(fusion.depth):
        before = dict(streams)
        for tower, other in (TOWERS, TOWERS[::-1]):
            look, block, x = fusion.looks[tower][layer], fusion.blocks[tower][layer], before[tower]
            seen = before[other][encoded[other].prefix.shape[1] :]
            if valid[other].any():
                k, v = look.kv(norm(seen, look.norm_other)).chunk(2, -1)
                x = x + look.proj(attend(look.q(norm(x, look.norm)), k, v, look.heads, valid[other]))
            there = torch.cat([valid[tower].new_ones(encoded[tower].prefix.shape[1]), valid[tower]])
            q, k, v = block.attention.qkv(norm(x, block.norm1)).chunk(3, -1)
            x = x + block.attention.proj(attend(q, k, v, block.attention.heads, there))
            x = x + block.mlp.fc2(gelu(block.mlp.fc1(norm(x, block.norm2))))
            streams[tower] = x
    return {t: norm(x, fusion.norms[t]) for t, x in streams.items()}


def test_fusion_equals_its_formula_also_where_a_sample_lacks_a_tower() -> None:
    net = toy_world.model()
    fusion = objective(net).fusion
    assert isinstance(fusion, Fusion)
    step = Step(toy_world.batch(toy_world.raw(8)), net, {}, {"few": toy_world.Random(ratio=0.5)}, Draws(1, 8))
    encoded = {t: step.encode(t, mask="few") for t in TOWERS}
    lacks = [~e.present() for e in encoded.values()]
    assert all(x.any() and not x.all() for x in lacks), "samples with and without each"
    fused = fusion(encoded)
    copy = Fusion(TOWERS, net.tower("table").width, 2, 2).double()
    copy.load_state_dict(fusion.state_dict())
    for row in range(8):
        for tower, expected in by_hand(copy, encoded, row).items():
            start = encoded[tower].prefix.shape[1]
            for name, tokens in fused[tower].tokens.items():
                there = encoded[tower].patches[name].valid[row]
                torch.testing.assert_close(tokens[row][there].double(), expected[start:][there], atol=1e-5, rtol=0)
                assert not tokens[row][~there].any()


def test_what_one_tower_sees_changes_the_other_ones_decoding_and_everything_is_trained() -> None:
    net = toy_world.model()
    work = Pretraining(net, {"mae": objective(net)}, {}, {"few": toy_world.Random(ratio=0.3)})
    content = toy_world.batch(toy_world.raw(6, absent=0.0))
    out = work(content, Draws(1, 6))
    out.total.backward()
    still = [n for n, p in work.objectives.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not still
    signal = work(content, Draws(1, 6)).parts["mae.signal"]
    changed = content | {"table": {k: v + 1 if v.is_floating_point() else v for k, v in content["table"].items()}}
    assert not torch.equal(work(changed, Draws(1, 6)).parts["mae.signal"], signal)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"towers": []}, "found tower: None and towers: \\[\\], expected one of them"),
        ({"tower": "table"}, "expected one of them"),
        ({"towers": [], "tower": "table"}, "fusion needs several towers"),
        ({"fusion": None}, "without fusion, expected two or more different ones"),
        ({"towers": ["table"]}, "a single one is named as tower"),
        ({"fusion": FusionConfig(depth=1, heads=5)}, "one width that the heads divide"),
        ({"decoder": mae.DecoderConfig(width=16, depth=1, heads=2, layer=1)}, "with fusion what is decoded"),
        ({"weights": {"sound": 1.0}}, "weights names modality 'sound', but tower 'table' and tower 'signal' has"),
    ],
)
def test_contradictions_are_one_line(options: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line):
        objective(toy_world.model(), **options)
