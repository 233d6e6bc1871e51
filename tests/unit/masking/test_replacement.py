"""BERT's 80-10-10: which masked ids are shown as what, exactly, and the loss of all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from toys import world as toy_world
from toys.processes import joined, two_processes

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.masking import Random
from mmssl.masking.replacement import Replacement, replaced
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import mae
from mmssl.objectives.pretraining import Pretraining
from mmssl.patches import Patches

VOCABULARY = 300
ROWS = 4


def patches(rows: int, length: int, absent: bool = True, seed: int = 0) -> Patches:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (rows, length), generator=generator)
    valid = torch.ones(rows, length, dtype=torch.bool)
    if absent:
        valid[1, length // 2 :] = False
    coords = torch.arange(length).expand(rows, length)[..., None].to(torch.float32)
    return Patches(ids, coords, valid)


def test_shares_and_ids_over_many_tokens():
    whole = patches(200, 500, absent=False)
    hidden = Draws(1, 200).chance(0.4, 500)
    shown, behind = replaced(whole, hidden, Replacement(), VOCABULARY, Draws(2, 200))
    n = int(hidden.sum())
    same = hidden & ~behind & (shown.values == whole.values)
    other = hidden & ~behind & (shown.values != whole.values)
    # a random id is the token's own once in VOCABULARY
    expected = {"behind": 0.8, "same": 0.1 + 0.1 / VOCABULARY, "other": 0.1 - 0.1 / VOCABULARY}
    for name, found in (("behind", behind), ("same", same), ("other", other)):
        p = expected[name]
        assert abs(int(found.sum()) - p * n) < 4 * (n * p * (1 - p)) ** 0.5, name
    assert not (behind & ~hidden).any() and torch.equal(shown.values[~hidden], whole.values[~hidden])
    counts = torch.bincount(shown.values[other], minlength=VOCABULARY).double()
    mean = counts.mean()
    assert len(counts) == VOCABULARY and counts.min() > 0
    assert float(((counts - mean).square() / mean).sum()) < VOCABULARY + 5 * (2 * VOCABULARY) ** 0.5  # chi square


def test_each_fate_is_that_of_its_draw_alone():
    """The exact tokens, recomputed from the draws; two halves of a batch and a longer padding draw the same."""
    whole, draws = patches(6, 40), Draws(3, 6)
    hidden = Draws(4, 6).chance(0.5, 40) & whole.valid
    shares = Replacement(random=0.3, same=0.2)
    shown, behind = replaced(whole, hidden, shares, VOCABULARY, draws)
    fate, ids = draws("fate").uniform(40), draws("id").integers(VOCABULARY, 40)
    for b in range(6):
        for n in range(40):
            u = float(fate[b, n])
            assert bool(behind[b, n]) == (bool(hidden[b, n]) and 0.3 <= u < 0.8), (b, n)
            expected = ids[b, n] if hidden[b, n] and u < 0.3 else whole.values[b, n]
            assert shown.values[b, n] == expected
    for half in (slice(0, 3), slice(3, 6)):
        mine, there = replaced(whole.rows(half), hidden[half], shares, VOCABULARY, Draws(3, 3, half.start, 6))
        assert torch.equal(mine.values, shown.values[half]) and torch.equal(there, behind[half])
    short, seen = replaced(whole.take(torch.arange(30).expand(6, -1)), hidden[:, :30], shares, VOCABULARY, draws)
    assert torch.equal(short.values, shown.values[:, :30]) and torch.equal(seen, behind[:, :30])


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_whole_shares(shares):
    whole = patches(20, 30, absent=False)
    hidden = torch.rand(20, 30) < 0.5
    shown, behind = replaced(whole, hidden, Replacement(random=shares[0], same=shares[1]), VOCABULARY, Draws(1, 20))
    assert torch.equal(behind, hidden & (sum(shares) == 0))
    assert torch.equal(shown.values, whole.values) == (shares[0] == 0)


# ------------------------------------------------------------------------------------------------------- the objective


def language(**options: Any) -> Pretraining:
    torch.manual_seed(0)
    text = {"type": "text", "vocab_size": VOCABULARY, "max_length": 64}
    tower = tower_spec(TowerConfig(width=16, depth=2, heads=2, modalities=["text"]))
    net = MMSSLModel(MMSSLConfig(modalities={"text": text}, towers={"text": tower}))
    config = mae.Config(tower="text", mask="words", mode="replace", decoder=mae.DecoderConfig(depth=0), **options)
    return Pretraining(net, {"mlm": mae.MAE(config, net)}, {}, {"words": Random(ratio=0.4)})


def batch(rows: int = 2 * ROWS) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (rows, 24), generator=generator)
    lengths = torch.tensor([24, 20, 24, 8, 24, 24, 12, 24])[:rows]
    mask = (torch.arange(24) < lengths[:, None]).to(torch.int64)
    return {"text": {"input_ids": ids, "attention_mask": mask, "present": torch.arange(rows) != 2}}


def test_the_encoder_sees_the_replaced_ids_and_all_masked_ones_are_predicted():
    pretraining = language(replacement={"text": Replacement(random=0.4, same=0.3)})
    seen: list[Any] = []
    net = pretraining.model.modality("text")
    embed = net.embed
    net.embed = lambda patches, hidden=None: (seen.append((patches, hidden)), embed(patches, hidden))[1]
    draws = Draws(7, 2 * ROWS)
    step = pretraining.step(batch(), draws)
    objective = pretraining.objectives["mlm"]
    loss = objective(step).total
    ((shown, behind),) = seen
    whole = step.patches("text")
    hide = step.splits("text", "words")["text"].hide.flatten(1)
    hidden = whole.hidden_by(hide)
    expected, covered = replaced(
        whole, hidden, Replacement(random=0.4, same=0.3), VOCABULARY, draws("replacement", "words", "text")
    )
    assert torch.equal(shown.values, expected.values) and torch.equal(behind, covered)
    assert 0 < int(covered.sum()) < int(hidden.sum()) and (shown.values != whole.values).any()
    encoded = pretraining.model.tower("text")({"text": expected}, {"text": covered})
    logits = objective.decoders["text"](encoded.tokens["text"])[hidden].double()
    wanted = F.cross_entropy(logits, whole.values[hidden])
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-6)


def test_without_shares_it_is_the_plain_mask_token():
    none = {"text": Replacement(random=0.0, same=0.0)}
    totals = [language(replacement=r)(batch(), Draws(7, 2 * ROWS)).total.item() for r in ({}, none)]
    assert totals[0] == totals[1]
    bert = language(replacement={"text": Replacement()})(batch(), Draws(7, 2 * ROWS)).total.item()
    assert bert != totals[0]


def worker(rank: int, port: int, results: Any) -> None:
    with joined(rank, port):
        module = DistributedDataParallel(language(replacement={"text": Replacement(random=0.4, same=0.3)}))
        mine = {"text": {k: v[rank * ROWS : (rank + 1) * ROWS] for k, v in batch()["text"].items()}}
        total = module(mine, Draws(7, ROWS, rank * ROWS, 2 * ROWS)).total
        total.backward()
        results[rank] = total.item(), {n: p.grad.numpy() for n, p in module.module.named_parameters()}


@pytest.mark.slow
def test_two_processes_equal_one():
    found = two_processes(worker)
    single = language(replacement={"text": Replacement(random=0.4, same=0.3)})
    total = single(batch(), Draws(7, 2 * ROWS)).total
    total.backward()
    assert (found[0][0] + found[1][0]) / 2 == pytest.approx(total.item(), abs=1e-5)
    for name, p in single.named_parameters():
        for rank in range(2):
            torch.testing.assert_close(torch.from_numpy(found[rank][1][name]), p.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"replacement": {"words": Replacement()}}, "replacement names modality 'words', but tower 'text' has text"),
        ({"replacement": {"text": Replacement()}, "mode": "drop"}, "has no effect with mode: drop; it needs mode"),
        ({"replacement": {"text": Replacement()}, "mode": {"text": "drop"}}, "has no effect with mode"),
    ],
)
def test_refusals(options, line):
    net = language().model
    options = {"tower": "text", "mask": "words", "mode": "replace", **options}
    with pytest.raises(UserError, match=line):
        mae.MAE(mae.Config(**options), net)


def test_numbers_have_no_ids_to_draw_from():
    config = mae.Config(tower="signal", mask="half", mode="replace", replacement={"signal": Replacement()})
    with pytest.raises(UserError, match="replacement names modality 'signal', which has no ids"):
        mae.MAE(config, toy_world.model())
    with pytest.raises(UserError, match=r"random \+ same: found 0.6 \+ 0.5, expected at most 1"):
        Replacement(random=0.6, same=0.5)
