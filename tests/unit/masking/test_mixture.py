"""Mixtures: every sample has one of the kinds whole, drawn by weight; widths do not depend on what came up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import world as toy_world
from toys.refusals import refused

from mmssl import provenance
from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.finetuning.finetune import read_in_modes
from mmssl.masking import Mixture, MultiBlock, Random, Span, build_mask, mask_at, mask_names
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import mae
from mmssl.objectives.pretraining import Pretraining
from mmssl.patches import Patches, Split
from mmssl.recipe.loading import load_recipe
from mmssl.training.optimizer import no_decay_names

ROWS = 400
KINDS = {
    "few": {"type": "random", "ratio": 0.25, "weight": 2},
    "many": {"type": "random", "ratio": 0.75, "weight": 1},
    "spans": {"type": "span", "ratio": 0.5, "length": 5, "weight": 5},
}


def patches(batch: int = ROWS, n: int = 20, full: bool = True) -> Patches:
    coords = torch.arange(n, dtype=torch.float32).expand(batch, n)[..., None].contiguous()
    valid = torch.ones(batch, n, dtype=torch.bool)
    if not full:
        valid[::2, n // 2 :] = False
        valid[0] = False
    return Patches(torch.randn(batch, n, 3), coords, valid, full)


def sets(index: torch.Tensor) -> list[set[int]]:
    return [set(row[row >= 0].tolist()) for row in index.flatten(1)]


@pytest.mark.parametrize("full", [True, False])
def test_every_sample_has_what_its_kind_would_have_given_it(full):
    mixture, p, draws = Mixture(kinds=KINDS), patches(full=full), Draws(3, ROWS)
    split = mixture({"x": p}, draws)["x"]
    number = mixture.chosen(draws)
    kept, hidden = sets(split.keep), sets(split.hide)
    for kind, name in enumerate(KINDS):
        options = {k: v for k, v in KINDS[name].items() if k != "weight"}
        alone = build_mask(options)({"x": p}, draws("of", name))["x"]
        assert (number == kind).any()
        alone_kept, alone_hidden = sets(alone.keep), sets(alone.hide)
        for at in (number == kind).nonzero()[:, 0].tolist():
            assert kept[at] == alone_kept[at] and hidden[at] == alone_hidden[at]
    for keep, hide, there in zip(kept, hidden, p.valid, strict=True):
        assert not keep & hide and keep | hide == set(there.nonzero()[:, 0].tolist())
    assert split.keep.shape[1] == 15 and split.hide.shape[2] == 15 and not split.full  # of `few`, and of `many`


def test_kinds_come_by_their_weights_and_alike_in_any_number_of_processes():
    mixture = Mixture(kinds=KINDS)
    shares = torch.bincount(mixture.chosen(Draws(1, 40000)), minlength=3) / 40000
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.125, 0.625]), rtol=0, atol=0.01)
    whole = mixture({"x": patches(8)}, Draws(5, 8))["x"]
    halves = [mixture({"x": patches(4)}, Draws(5, 4, first, 8))["x"] for first in (0, 4)]
    assert torch.equal(whole.keep, torch.cat([half.keep for half in halves]))
    assert torch.equal(whole.hide, torch.cat([half.hide for half in halves]))
    one = mixture({"x": patches(1)}, Draws(5, 1, 0, 8))["x"]
    assert one.keep.shape[1] == whole.keep.shape[1] and one.hide.shape == (1, 1, 15)  # whatever came up


def test_kinds_of_other_sets_and_modalities_go_together():
    kinds = {"jepa": MultiBlock(axes=[0]), "mae": Random(ratio={"x": 0.5, "y": 0.5})}
    found = Mixture(kinds={**kinds, "other": Random(ratio={"y": 0.3})})(
        {"x": patches(), "y": patches()}, Draws(2, ROWS)
    )
    number = Mixture(kinds={**kinds, "other": Random(ratio={"y": 0.3})}).chosen(Draws(2, ROWS))
    assert found["x"].hide.shape[1] == 4
    assert (found["x"].hide[number == 1][:, 1:] == -1).all() and (found["x"].hide[number == 2] == -1).all()
    assert all(len(keep) == 20 for keep in sets(found["x"].keep[number == 2]))
    assert set(found) == {"x", "y"}


def test_alike_kinds_have_no_holes():
    split: Split = Mixture(kinds={"a": Random(ratio=0.5), "b": Random(ratio=0.5)})({"x": patches()}, Draws(2, ROWS))[
        "x"
    ]
    assert split.full and (split.keep >= 0).all()


def test_ramps_within_go_on():
    ramp = {"first": 0.5, "end": 1.0}
    mixture = build_mask({"type": "mixture", "kinds": {**KINDS, "few": {"ratio": 0.5, "ramp": ramp}}})
    now = mask_at(mixture, 0.0, 10)
    number = now.chosen(Draws(3, ROWS))
    assert torch.equal(number, mixture.chosen(Draws(3, ROWS)))
    hidden = [len(hide) for hide in sets(now({"x": patches()}, Draws(3, ROWS))["x"].hide)]
    assert {hidden[at] for at in (number == 0).nonzero()[:, 0].tolist()} == {5}
    steady = Mixture(kinds=KINDS)
    assert mask_at(steady, 0.3, 10) is steady


def test_recipes_and_refusals():
    assert "mixture" in mask_names()
    masks = "masks.random={type: mixture, kinds: {a: {ratio: 0.5}, b: {type: span, weight: 3, ratio: 0.4}}}"
    mask = load_recipe("examples/image_mae", [masks]).masks["random"].config
    assert isinstance(mask, Mixture) and isinstance(mask._built["b"], Span)
    for kinds, line in (
        ({"a": {}}, "kinds: found 1, expected two"),
        ({"a": {}, "b": {"weight": 0}}, "kinds.b.weight: found 0, expected a number above 0"),
    ):
        with pytest.raises(UserError, match=line):
            Mixture(kinds=kinds)
    with refused("ratoi", meant="ratio"):
        Mixture(kinds={"a": {}, "b": {"ratoi": 0.3}})


# ------------------------------------------------------------------------------------------------------ mode tokens

MODES = {"r": {"ratio": 0.25, "mode": "R"}, "x": {"ratio": 0.75, "mode": "X"}, "s": {"ratio": 0.5, "mode": "R"}}


def toy(modes: list[str], **options: Any) -> Any:
    torch.manual_seed(0)
    spec = tower_spec(TowerConfig(width=16, depth=1, heads=2, modes=modes, **options))
    sizes = {"type": "toys.signal", **toy_world.PREPROCESSORS["signal"].sizes()}
    return MMSSLModel(MMSSLConfig(modalities={"signal": sizes}, towers={"signal": spec})).eval()


def test_the_token_of_the_kind_that_was_drawn_stands_in_front_and_the_first_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_TRUSTED", {"toys"})
    net, mask = toy(["X", "R"]), Mixture(kinds=MODES)
    tower, rows = net.tower("signal"), 8
    batch = {"signal": toy_world.batch(toy_world.raw(rows, absent=0.0))["signal"]}
    work = Pretraining(net, {}, {}, {"m": mask})
    step = work.step(batch, Draws(3, rows))
    number = step.splits("signal", "m")["signal"].kind
    wanted = torch.tensor([1, 0, 1])[number]
    assert len(set(wanted.tolist())) == 2
    for mode in ("drop", "replace"):
        found = step.encode("signal", mask="m", mode=mode)
        assert found.patches["signal"].mode.tolist() == wanted.tolist() and found.prefix.shape[1] == 2
        with torch.no_grad():  # both tokens alike: nothing but the token depends on what was drawn
            kept = tower.modes.tokens.clone()
            for row in range(rows):
                tower.modes.tokens.copy_(kept[wanted[row]].expand(2, -1))
                alone = tower(*step._seen("signal", "clean", "m", mode))
                torch.testing.assert_close(alone.tokens["signal"][row], found.tokens["signal"][row], rtol=0, atol=1e-6)
            tower.modes.tokens.copy_(kept)
    whole = net.encode_batch(batch).pooled["signal"]
    with torch.no_grad():
        tower.modes.tokens[1] += torch.randn(16)
        torch.testing.assert_close(net.encode_batch(batch).pooled["signal"], whole)
        tower.modes.tokens[0] += torch.randn(16)
    assert not torch.allclose(net.encode_batch(batch).pooled["signal"], whole)
    net.save_pretrained(tmp_path)
    loaded = MMSSLModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.tower("signal").modes.tokens, tower.modes.tokens)
    assert "towers.signal.modes.tokens" in no_decay_names(net)


def test_a_tower_reads_in_the_mode_that_it_is_told_to_where_nothing_is_hidden(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_TRUSTED", {"toys"})
    batch = {"signal": toy_world.batch(toy_world.raw(4, absent=0.0))["signal"]}
    first, second = toy(["X", "R"]), toy(["X", "R"], mode="R")
    with torch.no_grad():
        second.tower("signal").modes.tokens.copy_(first.tower("signal").modes.tokens.flip(0))
        wanted = first.encode_batch(batch).pooled["signal"]
        torch.testing.assert_close(second.encode_batch(batch).pooled["signal"], wanted, rtol=0, atol=0)
        read_in_modes(second, {"signal": "X"})
        assert not torch.allclose(second.encode_batch(batch).pooled["signal"], wanted)
        read_in_modes(second, {"signal": "R"})
        second.save_pretrained(tmp_path)
        loaded = MMSSLModel.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(loaded.encode_batch(batch).pooled["signal"], wanted, rtol=0, atol=0)
    for modes, line in (
        ({"signal": "S"}, "modes.signal: mode: found 'S', expected one of modes X, R"),
        ({"text": "R"}, "modes: found tower 'text', expected one of signal"),
    ):
        with pytest.raises(UserError, match=line):
            read_in_modes(second, modes)
    with pytest.raises(UserError, match="told of no modes"):
        read_in_modes(toy([]), {"signal": "R"})
    with pytest.raises(UserError, match="mode: found 'S', expected one of modes X, R"):
        toy(["X", "R"], mode="S")


def test_modes_train_and_are_refused_where_a_mask_has_others():
    net = toy(["X", "R"])
    options = mae.Config(tower="signal", mask="m", decoder=toy_world.DECODER)
    work = Pretraining(net, {"it": mae.MAE(options, net)}, {}, {"m": Mixture(kinds=MODES)})
    batch = {"signal": toy_world.batch(toy_world.raw(8, absent=0.0))["signal"]}
    work(batch, Draws(3, 8)).total.backward()
    assert (net.tower("signal").modes.tokens.grad.abs().sum(1) > 0).all()
    other = toy(["X", "S"])
    with refused("modes", "R"):
        Pretraining(other, {"it": mae.MAE(options, other)}, {}, {"m": Mixture(kinds=MODES)})(batch, Draws(3, 8))
    with refused("mode", "3"):
        Mixture(kinds={"a": {}, "b": {"mode": 3}})
