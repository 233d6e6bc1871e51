"""Denoising: sentinels and targets against a loop over tokens, UL2's denoisers, what the decoder may know, the loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from toys.processes import joined, two_processes
from toys.refusals import refused
from toys.steps import in_parts, one_pass

from mmssl.draws import Draws
from mmssl.masking import Mixture, Random, Span, Suffix, build_mask
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives.denoising import Config, Corrupted, Denoising, corrupted
from mmssl.objectives.options.denoising import WriterConfig
from mmssl.objectives.pretraining import Pretraining
from mmssl.patches import Patches, Split
from mmssl.recipe.loading import load_recipe

V = 30
DENOISERS: dict[str, dict[str, Any]] = {
    "r3": {"type": "span", "length": 3, "ratio": 0.15},
    "r8": {"type": "span", "length": 8, "ratio": 0.15},
    "s": {"type": "suffix", "ratio": 0.25},
    "x3": {"type": "span", "length": 3, "ratio": 0.5},
    "x8": {"type": "span", "length": 8, "ratio": 0.5},
    "x64": {"type": "span", "length": 64, "ratio": 0.5},
    "x64r": {"type": "span", "length": 64, "ratio": 0.15},
}
"""Tay et al. 2023, table 1."""


def texts(batch: int = 5, count: int = 24, seed: int = 0) -> Patches:
    """Of unequal length, one absent, with a special token in front that no mask hides."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, V, (batch, count), generator=generator)
    valid = torch.arange(count)[None] < torch.tensor([count, count - 5, 9, 2, 0])[:batch, None]
    fixed = torch.zeros_like(valid)
    fixed[:, 0] = True
    token = torch.arange(count).expand(batch, -1)
    return Patches(ids, torch.stack([token, token], -1).float(), valid, fixed=fixed & valid)


def by_hand(ids: list[int], hidden: list[bool]) -> tuple[list[int | str], list[int], list[int]]:
    """(what is read, with "X" for a sentinel; what is written; the place of what is written) of one text."""
    read: list[int | str] = []
    written: list[int] = []
    place: list[int] = []
    for at, (token, gone) in enumerate(zip(ids, hidden, strict=True)):
        if not gone:
            read.append(token)
            continue
        if at == 0 or not hidden[at - 1]:
            read.append("X")
            written.append(V)
            place.append(len(read) - 1)
        written.append(token)
        place.append(len(read) - 1)
    return read, [*written, V] if written else [], [*place, len(read)] if written else []


def split_of(p: Patches, mask: Any, key: int = 1) -> Split:
    return mask({"text": p}, Draws(key, p.batch))["text"]


MASKS = [Span(ratio=0.4, length=2.5), Suffix(ratio=0.3), Random(ratio=0.6), Mixture(kinds=DENOISERS)]


@pytest.mark.parametrize("mask", MASKS)
def test_what_is_read_and_written_is_what_a_loop_over_tokens_gives(mask):
    p = texts()
    split = split_of(p, mask)
    found = corrupted(p, split, V)
    hidden = p.hidden_by(split.hide)
    for row in range(p.batch):
        there = int(p.valid[row].sum())
        read, written, place = by_hand(p.values[row, :there].tolist(), hidden[row, :there].tolist())
        valid = found.patches.valid[row]
        assert valid.tolist() == [True] * len(read) + [False] * (len(valid) - len(read))
        assert found.sentinels[row].tolist() == [x == "X" for x in read] + [False] * (len(valid) - len(read))
        shown = [(i, x) for i, x in enumerate(read) if x != "X"]
        assert all(found.patches.values[row, i] == x for i, x in shown)
        assert found.patches.coords[row, : len(read), 0].tolist() == list(range(len(read)))
        count = int((found.target[row] >= 0).sum())
        assert found.target[row, :count].tolist() == written and found.place[row, :count].tolist() == place
        assert (found.target[row, count:] == -1).all()


@pytest.mark.parametrize("name", DENOISERS)
def test_each_of_ul2s_denoisers_has_its_rate_and_its_length(name):
    options = DENOISERS[name]
    ids = torch.zeros(20, 512, dtype=torch.int64)
    token = torch.arange(512).expand(20, -1)
    p = Patches(ids, torch.stack([token, token], -1).float(), torch.ones(20, 512, dtype=torch.bool), full=True)
    text = corrupted(p, split_of(p, build_mask(options)), V)
    runs = text.sentinels.sum(1).double()
    written = (text.target >= 0).sum(1) - runs - 1
    assert written.unique().tolist() == [512 - int(512 * (1 - options["ratio"]) + 1e-6)]
    if options["type"] == "suffix":
        assert runs.unique().tolist() == [1] and (text.patches.values.shape[1] == 512 * 3 // 4 + 1)
        assert text.sentinels[:, -1].all()
    else:
        # as many runs of that length as come nearest to what is hidden; of 64 in 77 tokens one
        assert runs.unique().tolist() == [max(round(float(written[0]) / options["length"]), 1)]


def test_a_suffix_may_be_drawn():
    p = texts(1, 24).replace(fixed=None)
    p = Patches(*(x.repeat(400, *[1] * (x.ndim - 1)) for x in (p.values, p.coords, p.valid)), full=True)
    counts = (split_of(p, Suffix(ratio=[0.1, 0.4])).hide[:, 0] >= 0).sum(1)
    assert counts.min() >= 2 and counts.max() <= 10 and 5.2 < counts.double().mean() < 6.8 and len(counts.unique()) > 4
    with refused("ratio"):
        Suffix(ratio=[0.4, 0.1])


# ---------------------------------------------------------------------------------------------------------- the model


def model() -> MMSSLModel:
    torch.manual_seed(0)
    tower = tower_spec(TowerConfig(width=16, depth=2, heads=2))
    sizes = {"type": "text", "vocab_size": V, "max_length": 24}
    return MMSSLModel(MMSSLConfig(modalities={"text": sizes}, towers={"text": tower}))


def objective(net: MMSSLModel, **options: Any) -> Denoising:
    torch.manual_seed(1)
    return Denoising(Config(tower="text", mask="m", decoder=WriterConfig(width=16, depth=2, heads=2), **options), net)


def batch(rows: int = 5) -> dict[str, dict[str, torch.Tensor]]:
    p = texts(rows)
    assert p.fixed is not None
    mask = {"attention_mask": p.valid.long(), "special_tokens_mask": p.fixed.long()}
    return {"text": {"input_ids": p.values, "present": p.present, **mask}}


def work(mask: Any = MASKS[0]) -> Pretraining:
    net = model()
    return Pretraining(net, {"it": objective(net)}, {}, {"m": mask})


def parts(pretraining: Pretraining) -> tuple[Corrupted, torch.Tensor]:
    """(the text, logits) of the batch."""
    step = pretraining.step(batch(), Draws(3, 5))
    it: Any = pretraining.objectives["it"]
    text = it._text(step)
    encoded = pretraining.model.tower("text")({"text": text.patches}, {"text": text.sentinels})
    return text, it.writer(text, encoded, "text")


def test_the_loss_is_the_mean_over_all_that_is_written():
    pretraining = work()
    loss = pretraining(batch(), Draws(3, 5))
    text, logits = parts(pretraining)
    counted = text.target >= 0
    logs = logits.double().log_softmax(-1)[counted]
    wanted = -logs.gather(1, text.target[counted][:, None]).mean()
    assert loss.total.item() == pytest.approx(wanted.item(), abs=1e-6)
    right = (logs.argmax(1) == text.target[counted]).double().mean().item()
    assert loss.parts["it.right"].item() == pytest.approx(right)
    loss.total.backward()
    assert all(p.grad is not None for n, p in pretraining.named_parameters() if "prefix" not in n)


def test_a_token_is_written_from_those_before_it_and_from_what_is_read():
    pretraining = work()
    it: Any = pretraining.objectives["it"]
    text, logits = parts(pretraining)
    encoded = pretraining.model.tower("text")({"text": text.patches}, {"text": text.sentinels})
    for at in (1, 3):
        target, place = text.target.clone(), text.place.clone()
        target[0, at:] = (target[0, at:] + 1) % V
        place[0, at:] += 1
        other = it.writer(Corrupted(text.patches, text.sentinels, target, place), encoded, "text")
        assert torch.equal(other[0, : at + 1], logits[0, : at + 1])
        assert not torch.allclose(other[0, at + 1], logits[0, at + 1])
    encoded.tokens["text"] = encoded.tokens["text"].clone()
    encoded.tokens["text"][0, 0] += 1.0
    assert not torch.allclose(it.writer(text, encoded, "text")[0, 0], logits[0, 0])
    encoded.tokens["text"][2, -1] += 1.0  # padding of a short text
    assert torch.equal(it.writer(text, encoded, "text")[2], logits[2])


def test_what_is_read_does_not_tell_how_long_a_run_was():
    token = torch.arange(8).expand(2, -1)
    p = Patches(token.clone(), torch.stack([token, token], -1).float(), torch.ones(2, 8, dtype=torch.bool), full=True)
    p.values[1] = torch.tensor([0, 1, 9, 9, 4, 5, 6, 7])
    valid = p.valid.clone()
    valid[1, 7] = False
    p = p.replace(valid=valid, full=False)
    p.values[1] = torch.tensor([0, 1, 9, 5, 6, 7, 0, 0])
    p = p.replace(valid=torch.arange(8)[None] < torch.tensor([[8], [6]]))
    hide = torch.tensor([[[2, 3, 4]], [[2, -1, -1]]])
    found = corrupted(p, Split(hide[:, 0], hide), V)
    assert found.patches.valid.all() and torch.equal(found.sentinels[0], found.sentinels[1])
    seen = found.patches.values.masked_fill(found.sentinels, 0)
    assert torch.equal(seen[0], seen[1]) and torch.equal(found.patches.coords[0, :, 0], found.patches.coords[1, :, 0])


def test_parts_and_half_precision_and_nothing_to_write():
    whole, cut = work(), work()
    one = one_pass(whole, whole, batch(4), Draws(3, 4))
    halves = [{"text": {k: v[i : i + 2] for k, v in batch(4)["text"].items()}} for i in (0, 2)]
    both = in_parts(cut, cut, halves, Draws(3, 4))
    torch.testing.assert_close(both[""], one[""], rtol=0, atol=1e-6)
    for (name, p), (_, q) in zip(whole.named_parameters(), cut.named_parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, rtol=0, atol=1e-6, msg=name)
    with torch.autocast("cpu", torch.bfloat16):
        rough = work()(batch(), Draws(3, 5)).total
    assert rough.item() == pytest.approx(work()(batch(), Draws(3, 5)).total.item(), abs=0.05)
    nothing = batch(2)
    nothing["text"]["present"][:] = False
    loss = work()(nothing, Draws(3, 2)).total
    loss.backward()
    assert loss.item() == 0.0


def worker(rank: int, port: int, results: Any) -> None:
    with joined(rank, port):
        pretraining = work()
        mine = {"text": {k: v[2 * rank : 2 * rank + 2] for k, v in batch(4)["text"].items()}}
        loss = pretraining(mine, Draws(3, 2, 2 * rank, 4)).total
        loss.backward()
        found = {"": loss.detach()} | {n: p.grad for n, p in pretraining.named_parameters() if p.grad is not None}
        for value in found.values():
            dist.all_reduce(value)
        results[rank] = {name: (value / 2).numpy() for name, value in found.items()}


@pytest.mark.slow
def test_two_processes_equal_one():
    single = work()
    loss = single(batch(4), Draws(3, 4)).total
    loss.backward()
    wanted = {"": loss.detach()} | {n: p.grad for n, p in single.named_parameters() if p.grad is not None}
    for found in two_processes(worker).values():
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(torch.from_numpy(found[name]), value, rtol=0, atol=1e-6, msg=name)


def test_recipes_and_refusals():
    kinds = ", ".join(f"{name}: {{{', '.join(f'{k}: {v}' for k, v in o.items())}}}" for name, o in DENOISERS.items())
    words = [
        "objectives={ul2: {type: denoising, tower: text, mask: ul2, decoder: {width: 32, depth: 1, heads: 2}}}",
        f"masks={{ul2: {{type: mixture, kinds: {{{kinds}}}}}}}",
    ]
    recipe = load_recipe("examples/text_mae", [words[1], "objectives.mlm=null", *words[:1]])
    assert recipe.objectives["ul2"].config.decoder.width == 32
    with refused("heads", "3", "width"):
        WriterConfig(width=16, heads=3)
    from toys import world as toy_world

    with refused("signal", "ids"):
        Denoising(Config(tower="signal", mask="m"), toy_world.model())


def test_a_step_lowers_the_loss():
    pretraining = work(Span(ratio=0.3, length=3))
    optimizer = torch.optim.Adam(pretraining.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = pretraining(batch(), Draws(3, 5)).total
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(V + 1), abs=1)  # it knows nothing yet
    assert losses[-1] < 0.5 * losses[0]


def test_the_tower_is_told_which_denoiser_a_text_drew():
    torch.manual_seed(0)
    tower = tower_spec(TowerConfig(width=16, depth=2, heads=2, modes=["S", "R", "X"]))
    sizes = {"type": "text", "vocab_size": V, "max_length": 24}
    net = MMSSLModel(MMSSLConfig(modalities={"text": sizes}, towers={"text": tower}))
    mask = Mixture(kinds={name: {**options, "mode": name[0].upper()} for name, options in DENOISERS.items()})
    pretraining = Pretraining(net, {"it": objective(net)}, {}, {"m": mask})
    step = pretraining.step(batch(), Draws(3, 5))
    it: Any = pretraining.objectives["it"]
    drawn = [[*DENOISERS][kind][0].upper() for kind in step.splits("text", "m")["text"].kind.tolist()]
    assert it._text(step).patches.mode.tolist() == ["SRX".index(mode) for mode in drawn]
    pretraining(batch(), Draws(3, 5)).total.backward()
    moved = (net.tower("text").modes.tokens.grad.abs().sum(1) > 0).tolist()
    writing = (it._text(step).target >= 0).any(1).tolist()  # the last text is absent, the one before hides nothing
    assert moved == [mode in {m for m, w in zip(drawn, writing, strict=True) if w} for mode in "SRX"] and any(moved)
