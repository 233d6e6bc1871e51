"""Codes as targets: the loss against its formula, what is refused, and how the use of codes is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import world as toy_world
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.masking import Random
from mmssl.objectives import mae
from mmssl.objectives.options.codes import CodesConfig
from mmssl.objectives.parts.codes import CodeTarget, codes_use
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step
from mmssl.patches import gather

HALF = {"half": Random(ratio=0.5)}


def objective(net, codes: dict[str, Any], **options: Any) -> mae.MAE:
    config = {"tower": "signal", "mask": "half", "mode": "replace", "decoder": toy_world.HEAD, **options}
    made = mae.MAE(mae.Config(codes={"signal": CodesConfig(**codes)}, **config), net)
    toy_world.set_books(made)
    return made


def step_of(net, rows: int = 6, batches: int = 1) -> Step:
    raw = toy_world.raw(rows, seed=3)
    each = rows // batches
    parts = [toy_world.batch({n: v[i : i + each] for n, v in raw.items()}) for i in range(0, rows, each)]
    return Pretraining(net, {}, {}, HALF).step(parts if batches > 1 else parts[0], Draws(1, rows))


def cross_entropy(logits: np.ndarray, label: int) -> float:
    top = logits.max()
    return float(np.log(np.exp(logits - top).sum()) + top - logits[label])


def by_hand(work: mae.MAE, step: Step, index: torch.Tensor, cosine: bool) -> float:
    """The mean over the patches at `index` (B, n) of the cross-entropies of all books, in float64."""
    part = work.codes["signal"]
    assert isinstance(part, CodeTarget)
    encoded = step.encode("signal", mask="half", mode="replace")
    predicted = work.decoders["signal"](gather(encoded.tokens["signal"], index)).detach().double().numpy()
    values = step.patches("signal").values.nan_to_num(0.0).double().numpy()
    valid = step.patches("signal").take(index).valid
    codes = part.codes.quantiser.codes.double().numpy()
    losses = []
    for row, column in valid.nonzero().tolist():
        rest, total, start = values[row, int(index[row, column])], 0.0, 0
        for book, vectors in enumerate(codes):
            label = int(((vectors - rest) ** 2).sum(1).argmin())
            rest = rest - vectors[label]
            size = part.options.width if cosine else len(vectors)
            logits = predicted[row, column, start : start + size]
            start += size
            if cosine:
                own = part.embeddings[book].detach().double().numpy()
                own = own / np.linalg.norm(own, axis=1, keepdims=True)
                logits = own @ (logits / np.linalg.norm(logits)) / part.options.temperature
            total += cross_entropy(logits, label)
        losses.append(total)
    return float(np.mean(losses))


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("visible", [0.0, 0.7])
def test_the_loss_is_the_cross_entropy_of_all_books_at_hidden_and_at_visible_places(cosine, visible):
    net = toy_world.model()
    options = {"similarity": "cosine", "width": 6, "temperature": 0.2} if cosine else {}
    codes = {"kind": "residual", "size": 5, "books": 2, "target": "volts", "visible": visible, **options}
    work, step = objective(net, codes), step_of(net)
    split = step.split("signal", "half")
    expected = by_hand(work, step, split.hide.flatten(1), cosine)
    if visible:
        expected += visible * by_hand(work, step, split.keep, cosine)
    loss = work(step)
    assert float(loss.total.detach()) == pytest.approx(expected, abs=1e-6)
    assert set(work.counts(step)) == ({"signal", "signal.visible"} if visible else {"signal"})
    with torch.autocast("cpu", torch.bfloat16):
        assert float(work(step_of(net)).total.detach()) == pytest.approx(expected, rel=0.03)


def test_only_hidden_patches_that_exist_count_and_those_that_do_not_have_no_id():
    net = toy_world.model()
    work, step = objective(net, {"size": 5}), step_of(net)
    ids = work.codes["signal"].ids(step, "clean")
    assert torch.equal(ids[..., 0] >= 0, step.patches("signal").valid) and not step.patches("signal").valid.all()
    nobody = {n: v[:2] for n, v in toy_world.raw(6, seed=3).items()} | {"signal": [None, None]}
    empty = Pretraining(net, {}, {}, HALF).step(toy_world.batch(nobody), Draws(1, 2))
    loss = work(empty).total
    loss.backward()
    assert float(loss.detach()) == 0.0


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "unknown target": ({"target": "volt"}, {}, ("codes.signal.target", "'volt'", "'volts'")),
    "books without a kind": ({"books": 2}, {}, ("books", "2", "vector")),
    "a kind without books": ({"kind": "residual"}, {}, ("books", "1", "residual")),
    "books that do not divide": ({"kind": "product", "books": 3}, {}, ("codes.signal.books", "3", "10")),
    "tokens of nothing": ({"of": "tokens"}, {}, ("from", "tokens")),
    "a model for its own target": ({"from_": "model"}, {}, ("from_", "of: target")),
    "layer of no tower": ({"layer": 2}, {}, ("layer", "of: target")),
    "width of no cosine": ({"width": 8}, {}, ("width", "similarity: dot")),
    "visible ones that are dropped": ({"visible": 1.0}, {"mode": "drop", "decoder": toy_world.DECODER}, ("visible",)),
    "target and codes": ({}, {"target": {"signal": "volts"}}, ("target.signal", "codes.signal")),
    "no mask": ({}, {"mask": None, "view": "spoiled", "mode": "drop"}, ("codes", "mask: null")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_refused_before_anything_is_computed(case):
    codes, options, words = REFUSED[case]
    with refused(*words):
        objective(toy_world.model(), codes, **options)


def test_ids_and_strangers_are_refused(tmp_path: Path):
    net = toy_world.model()
    with refused("codes", "'table'", "tower 'signal'"):
        mae.MAE(mae.Config(tower="signal", mask="half", codes={"table": CodesConfig()}), net)


def test_use_of_codes_by_hand_over_parts():
    net = toy_world.model()
    work = objective(net, {"kind": "residual", "size": 5, "books": 2})
    whole = {name: float(value) for name, value in work.health(step_of(net)).items()}
    parts = {name: float(value) for name, value in work.health(step_of(net, batches=3)).items()}
    assert whole == pytest.approx(parts) and set(whole) == {"signal/codes_used", "signal/codes_perplexity"}
    step = step_of(net)
    ids = work.codes["signal"].ids(step)[step.patches("signal").valid].numpy()
    used, perplexities = [], []
    for book in range(2):
        share = np.bincount(ids[:, book], minlength=5) / len(ids)
        used.append((share > 0).mean())
        share = share[share > 0]
        perplexities.append(np.exp(-(share * np.log(share)).sum()) / 5)
    assert whole["signal/codes_used"] == pytest.approx(np.mean(used))
    assert whole["signal/codes_perplexity"] == pytest.approx(np.mean(perplexities), rel=1e-6)


def test_few_patches_cannot_use_many_codes_and_one_code_for_all_is_none():
    few = codes_use(torch.tensor([[0], [1], [2], [-1]]), (100,))
    assert {name: float(value) for name, value in few.items()} == pytest.approx(
        {"codes_used": 1.0, "codes_perplexity": 1.0}
    )
    dead = codes_use(torch.zeros(500, 1, dtype=torch.int64), (100,))
    assert float(dead["codes_perplexity"]) == pytest.approx(0.01)


def test_codes_and_numbers_of_the_clean_view_are_predicted_from_one_look_at_a_spoiled_one():
    """MERT: two objectives on one mask and view share the encoding; their targets are of the clean samples."""
    net, views = toy_world.model(), {"a": {"signal": {"gain": 0.9}}}
    shared = {"view": "a", "target_view": "clean"}
    units = objective(
        net, {"kind": "residual", "size": 5, "books": 2, "target": "volts", "similarity": "cosine"}, **shared
    )
    numbers = mae.MAE(
        mae.Config(
            tower="signal", mask="half", mode="replace", decoder=toy_world.HEAD, target={"signal": "volts"}, **shared
        ),
        net,
    )
    seen: list[int] = []
    net.tower("signal").register_forward_hook(lambda *_: seen.append(1))
    work = Pretraining(net, {"units": units, "numbers": numbers}, views, HALF)
    loss = work(toy_world.batch(toy_world.raw(6, seed=3)), Draws(1, 6))
    assert len(seen) == 1 and set(loss.parts) == {"units", "numbers"}
    step = Pretraining(net, {}, views, HALF).step(toy_world.batch(toy_world.raw(6, seed=3)), Draws(1, 6))
    spoiled, clean = (units.codes["signal"].ids(step, view) for view in ("a", "clean"))
    assert (spoiled != clean).any()
    hidden = step.split("signal", "half", "a").hide.flatten(1)
    encoded = step.encode("signal", "a", "half", "replace")
    predicted = units.decoders["signal"](gather(encoded.tokens["signal"], hidden))
    score = units.codes["signal"].score(predicted, gather(clean, hidden))
    expected = score[step.patches("signal", "a").take(hidden).valid].mean()
    torch.testing.assert_close(loss.parts["units"], expected.detach())
