"""HiCMAE's skips: the decoder looks at earlier blocks of the encoder."""

import re

import pytest
import torch
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.models.trunk import CrossAttention
from mmssl.objectives import contrastive, mae
from mmssl.objectives.step import Step


def test_cross_attention_equals_its_formula():
    torch.manual_seed(0)
    module = CrossAttention(8, 2, 12).double()
    x, other = torch.randn(3, 5, 8).double(), torch.randn(3, 7, 12).double()
    there = torch.rand(3, 7) > 0.3
    there[:, 0] = True
    ours = module(x, other, there[:, None, None])
    stock = torch.nn.MultiheadAttention(8, 2, kdim=8, vdim=8, batch_first=True).double()
    keys, values = module.kv(module.norm_other(other)).chunk(2, -1)
    with torch.no_grad():
        stock.in_proj_weight.copy_(torch.cat([module.q.weight, torch.eye(8), torch.eye(8)]))
        stock.in_proj_bias.copy_(torch.cat([module.q.bias, torch.zeros(16)]))
        stock.out_proj.weight.copy_(module.proj.weight)
        stock.out_proj.bias.copy_(module.proj.bias)
    expected = x + stock(module.norm(x), keys, values, key_padding_mask=~there, need_weights=False)[0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


def test_each_of_the_last_blocks_looks_at_its_layer():
    work = toy_world.masked()
    decoder = work.objectives["skips"].decoders["signal"]
    seen: dict[int, torch.Tensor] = {}
    order: list[str] = []
    for number, skip in enumerate(decoder.skips):
        skip.register_forward_pre_hook(
            lambda _, args, kwargs, n=number: (seen.__setitem__(n, kwargs["other"]), order.append(f"skip {n}"))[0],
            with_kwargs=True,
        )
    for number, block in enumerate(decoder.trunk.blocks):
        block.register_forward_pre_hook(lambda *_, n=number: order.append(f"block {n}"))
    step = Step(toy_world.batch(toy_world.raw(5)), work.model, work.views, work.masks, Draws(1, 5))
    work.objectives["skips"](step)
    encoded = step.encode("signal", mask="few", layers=(1, 2))
    for number in (0, 1):
        assert torch.equal(seen[number], encoded.layers[number + 1]["signal"])
    assert order == ["skip 1", "block 0", "skip 0", "block 1"]  # deep layers first


@pytest.mark.parametrize("placed", [False, True])
def test_what_is_looked_at_is_as_it_is_or_placed_as_the_decoders_tokens(placed):
    net = toy_world.model()
    decoder = mae.DecoderConfig(width=16, depth=3, heads=2, skips=[1, 2], skips_placed=placed)
    objective = mae.MAE(mae.Config(tower="signal", mask="few", decoder=decoder), net)
    module, seen = objective.decoders["signal"], {}
    for number, skip in enumerate(module.skips):
        skip.register_forward_pre_hook(
            lambda _, args, kwargs, n=number: seen.__setitem__(n, kwargs["other"]), with_kwargs=True
        )
    content, masks = toy_world.batch(toy_world.raw(5)), {"few": toy_world.Random(ratio=0.5)}
    step = Step(content, net, {}, masks, Draws(1, 5))
    objective(step).total.backward()
    encoded = step.encode("signal", mask="few", layers=(1, 2))
    positions = module.positions(encoded.patches["signal"].coords)
    for number in (0, 1):
        tokens = encoded.layers[number + 1]["signal"]
        expected = module.project(net.tower("signal").trunk.norm(tokens)) + positions if placed else tokens
        torch.testing.assert_close(seen[number], expected, rtol=0, atol=1e-6)
    assert all(p.grad.abs().sum() > 0 for p in module.skips.parameters())
    with pytest.raises(UserError, match="skips_placed: found true"):
        mae.MAE(mae.Config(tower="signal", mask="few", decoder=mae.DecoderConfig(skips_placed=True)), net)


def test_skips_train_and_are_refused_where_there_is_nothing_to_look_at():
    work = toy_world.masked()
    work(toy_world.batch(toy_world.raw(6)), Draws(1, 6)).total.backward()
    trained = [p for n, p in work.named_parameters() if re.search(r"decoders\.\w+\.skips\.", n)]
    assert len(trained) == 2 * 2 * 10 and all(p.grad.abs().sum() > 0 for p in trained)
    net = toy_world.model()
    for skips, line in (([1, 3], "has 2 blocks"), ([1, 2], "the decoder of 'signal' has 1 blocks to look at them")):
        with pytest.raises(UserError, match=line):
            decoder = mae.DecoderConfig(width=16, depth=1, heads=2, skips=skips)
            mae.MAE(mae.Config(tower="signal", mask="few", decoder=decoder), net)


@pytest.mark.parametrize("normed", [False, True])
def test_contrast_at_earlier_blocks_shares_the_forward_and_equals_its_formula(normed):
    """HiCMAE: the sum over layers of symmetric InfoNCE between mean visible tokens, at a fixed temperature."""
    net = toy_world.model()
    options = {
        "towers": ["table", "signal"],
        "mask": "few",
        "layers": [1, 2],
        "temperature": 0.07,
        "layers_normed": normed,
    }
    contrast = contrastive.Contrastive(contrastive.Config(learn_temperature=False, **options), net)
    decoder = mae.DecoderConfig(width=16, depth=2, heads=2, skips=[1, 2])
    skips = mae.MAE(mae.Config(tower="signal", mask="few", decoder=decoder), net)
    calls = []
    net.towers["signal"].register_forward_hook(lambda *_: calls.append(1))
    content, masks = toy_world.batch(toy_world.raw(6, absent=0.0)), {"few": toy_world.Random(ratio=0.5)}
    step = Step(content, net, {}, masks, Draws(1, 6))
    skips(step)
    ours = contrast(step).total
    assert len(calls) == 1
    total = 0.0
    for layer in (1, 2):
        sides = []
        for name in ("table", "signal"):
            encoded = step.encode(name, mask="few", layers=(1, 2))
            valid = encoded.patches[name].valid.double()[..., None]
            tokens, norm = encoded.layers[layer][name].double(), net.tower(name).trunk.norm
            if normed:
                tokens = torch.nn.functional.layer_norm(
                    tokens, (24,), norm.weight.double(), norm.bias.double(), norm.eps
                )
            mean = (tokens * valid).sum(1) / valid.sum(1)
            sides.append(mean / mean.norm(dim=1, keepdim=True))
        logits = sides[0] @ sides[1].T / 0.07
        total += -(logits.log_softmax(1).diagonal().mean() + logits.log_softmax(0).diagonal().mean()) / 2
    assert abs(ours.item() - float(total.detach())) < 1e-5
    refusals = [({"layers": [3]}, "towers need one width"), ({"cache_rows": 2}, "without cache_rows")]
    for bad, line in refusals + [({"layers": []}, "layers_normed: found true")] * normed:
        with pytest.raises(UserError, match=line):
            contrastive.Contrastive(contrastive.Config(**{**options, **bad}), net)
