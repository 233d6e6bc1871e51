"""A tokenizer: its loss by its formula, how its books follow the data, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys import world as toy_world
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.objectives import tokenizer
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step
from mmssl.training.optimizer import no_decay_names

SIZES = {"size": 5, "width": 4, "decoder": toy_world.CODE_DECODER}


def made(net, **options: Any) -> tokenizer.Tokenizer:
    work = tokenizer.Tokenizer(tokenizer.Config(**{"tower": "signal", "target": "volts", **SIZES, **options}), net)
    toy_world.set_books(work)
    return work


def step_of(net, rows: int = 6) -> Step:
    return Pretraining(net, {}).step(toy_world.batch(toy_world.raw(rows, seed=3)), Draws(1, rows))


def tokens_of(work: tokenizer.Tokenizer, step: Step) -> np.ndarray:
    """(n, F) what is coded, of the patches that exist, in float64."""
    x = work.part.codes.inward(step.encode("signal").tokens["signal"]).detach()
    return x[step.patches("signal").valid].double().numpy()


def test_the_loss_is_that_of_what_is_made_of_the_codes_and_the_commitment():
    net = toy_world.model()
    linear = tokenizer.CodeDecoderConfig(width=8, depth=0)
    work, step = made(net, commitment=0.3, decoder=linear), step_of(net)
    loss = work(step)
    x, codes = tokens_of(work, step), work.part.codes.quantiser.codes[0].double().numpy()
    nearest = codes[((x[:, None] - codes) ** 2).sum(2).argmin(1)]
    weights = [p.detach().double().numpy() for p in work.part.decoder.parameters()]
    made_again = (nearest @ weights[0].T + weights[1]) @ weights[2].T + weights[3]
    wanted = step.patches("signal").values[step.patches("signal").valid].double().numpy()
    error = np.nanmean((made_again - wanted) ** 2, axis=1).mean()
    distance = ((x - nearest) ** 2).mean()
    assert float(loss.parts["reconstruction"]) == pytest.approx(error, abs=1e-6)
    assert float(loss.parts["commitment"]) == pytest.approx(distance, abs=1e-6)
    assert float(loss.total.detach()) == pytest.approx(error + 0.3 * distance, abs=1e-6)
    loss.total.backward()
    assert all(p.grad.abs().sum() > 0 for p in [*work.part.decoder.parameters(), work.part.codes.inward.weight])
    assert net.tower("signal").modalities["signal"].proj.weight.grad.abs().sum() > 0, "straight through the codes"


@pytest.mark.parametrize(("kind", "books"), [("vector", 1), ("residual", 2), ("product", 2)])
def test_books_that_are_trained_are_pulled_to_what_they_code(kind, books):
    net = toy_world.model()
    work, step = made(net, learned_by="gradient", commitment=0.3, kind=kind, books=books), step_of(net)
    quantiser, plain = work.part.codes.quantiser, made(net, commitment=0.3, kind=kind, books=books)
    plain.load_state_dict(work.state_dict())  # a parameter is saved under the name of the buffer
    loss = work.train()(step)
    loss.total.backward()
    x, codes = tokens_of(work, step), quantiser.codes.detach().double().numpy()
    rest, pull, wanted = x, 0.0, np.zeros_like(codes)
    for book in range(books):
        given = rest if kind != "product" else x[:, book * codes.shape[2] : (book + 1) * codes.shape[2]]
        ids = ((given[:, None] - codes[book]) ** 2).sum(2).argmin(1)
        away = given - codes[book][ids]
        pull += (away**2).mean()
        np.add.at(wanted[book], ids, -2 * away / away.size)
        rest = away
    assert float(loss.parts["books"]) == pytest.approx(pull, abs=1e-6)
    assert loss.total.item() == pytest.approx(plain(step).total.item() + pull, abs=1e-6)
    np.testing.assert_allclose(quantiser.codes.grad.numpy(), wanted, atol=1e-6)
    before = quantiser.codes.detach().clone()
    work.after_step(net, 0.5)
    assert torch.equal(quantiser.codes, before) and "part.codes.quantiser.codes" in no_decay_names(work)


def test_books_move_after_the_step_alone_and_to_the_averages_of_what_came():
    net = toy_world.model()
    work, step = made(net, decay=0.6, revive=0.0), step_of(net)
    quantiser = work.part.codes.quantiser
    before, sums = quantiser.codes.double().numpy(), quantiser.sums.double().numpy()
    work.train()(step)
    assert np.array_equal(quantiser.codes.double().numpy(), before)
    x = tokens_of(work, step)
    ids = ((x[:, None] - before[0]) ** 2).sum(2).argmin(1)
    work.after_step(net, 0.5)
    for code in range(5):
        share = 5 / len(x)
        count = 0.6 * 1.0 + 0.4 * share * (ids == code).sum()
        total = 0.6 * sums[0, code] + 0.4 * share * x[ids == code].sum(0)
        np.testing.assert_allclose(quantiser.codes[0, code], total / count, atol=1e-6)
    once = quantiser.codes.clone()
    work.after_step(net, 0.5)  # nothing came
    work.eval()(step_of(net))
    work.after_step(net, 0.5)
    work.train()(step_of(net))
    work.discard()
    work.after_step(net, 0.5)
    assert torch.equal(quantiser.codes, once)


def test_a_code_that_nothing_comes_to_becomes_a_token_of_the_batch():
    net = toy_world.model()
    work, step = made(net, decay=0.5, revive=0.6), step_of(net)
    quantiser = work.part.codes.quantiser
    quantiser.codes[0, 1:] = 1e3
    quantiser.sums.copy_(quantiser.codes)
    work.train()(step)
    x = tokens_of(work, step).astype(np.float32)
    work.after_step(net, 0.5)
    for code in range(1, 5):
        assert np.abs(x - quantiser.codes[0, code].numpy()).sum(1).min() < 1e-5
    assert len(quantiser.codes[0].unique(dim=0)) == 5
    used = work.health(step_of(net))["signal/codes_used"]
    assert float(used) > 0.6


def test_a_batch_without_the_modality_moves_nothing():
    net = toy_world.model()
    work = made(net)
    nobody = {n: v[:2] for n, v in toy_world.raw(6, seed=3).items()} | {"signal": [None, None]}
    step = Pretraining(net, {}).step(toy_world.batch(nobody), Draws(1, 2))
    loss = work.train()(step).total
    loss.backward()
    before = work.part.codes.quantiser.codes.clone()
    work.after_step(net, 0.5)
    assert float(loss.detach()) == 0.0 and torch.equal(work.part.codes.quantiser.codes, before)


def test_a_finite_scalar_tokenizer_needs_no_data_first_and_no_commitment():
    net = toy_world.model()
    work = made(net, kind="scalar", levels=[4, 3], size=256, width=32)
    assert work.unfitted == 0 and work.fitted() == {}
    loss = work.train()(step_of(net))
    assert float(loss.parts["commitment"]) == 0.0
    work.after_step(net, 0.5)
    assert int(work.part.ids(step_of(net)).max()) < 12


SCALAR = {"kind": "scalar", "size": 256, "width": 32}
REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown target": ({"target": "volt"}, ("target", "'volt'", "'volts'")),
    "no levels": (SCALAR, ("levels", "[]")),
    "levels of no scalar": ({"levels": [3, 3]}, ("levels", "kind: vector")),
    "decay of no books": (
        {"kind": "scalar", "levels": [3], "size": 256, "width": 32, "decay": 0.5},
        ("decay", "scalar"),
    ),
    "parts that do not divide": ({"kind": "product", "books": 3}, ("books", "3", "4")),
    "heads": ({"decoder": {"width": 9, "heads": 2}}, ("heads", "2", "9")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_refused(case):
    options, words = REFUSED[case]
    with refused(*words):
        if isinstance(options.get("decoder"), dict):
            tokenizer.CodeDecoderConfig(**options["decoder"])
        made(toy_world.model(), **options)


def test_a_tower_of_several_modalities_is_refused():
    with refused("tower 'all'", "table, signal, graph", "single"):
        tokenizer.Tokenizer(tokenizer.Config(tower="all"), toy_world.model(joint=True))
