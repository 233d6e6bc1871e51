"""Codes that `mae` learns in the run that predicts them: their losses by the formulas, dead codes, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys import world as toy_world
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.masking import Random
from mmssl.objectives import mae
from mmssl.objectives.options.codes import CodeDecoderConfig, CodesConfig, LearningOptions
from mmssl.objectives.parts.codes import CodeTarget
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step
from mmssl.patches import gather


def objective(net, learn: dict[str, Any], **codes: Any) -> mae.MAE:
    options = LearningOptions(**{"width": 4, "decoder": toy_world.CODE_DECODER, **learn})
    config = CodesConfig(learn=options, **({"target": "volts", "size": 5} | codes))
    work = mae.MAE(
        mae.Config(tower="signal", mask="half", mode="replace", decoder=toy_world.HEAD, codes={"signal": config}), net
    )
    toy_world.set_books(work)
    return work


def step_of(net, rows: int = 6, absent: bool = False) -> Step:
    raw = toy_world.raw(rows, seed=3)
    if absent:
        raw["signal"] = [None] * rows
    return Pretraining(net, {}, {}, {"half": Random(ratio=0.5)}).step(toy_world.batch(raw), Draws(1, rows))


def part_of(work: mae.MAE) -> CodeTarget:
    part = work.codes["signal"]
    assert isinstance(part, CodeTarget)
    return part


def coded(work: mae.MAE, step: Step) -> np.ndarray:
    """(n, W) what comes to the books, of the patches that exist, in float64."""
    part = part_of(work)
    inward, valid = part.codes.inward, step.patches("signal").valid
    assert isinstance(inward, torch.nn.Linear)
    x = step.target("signal", kind="volts").nan_to_num(0.0)[valid].double().numpy()
    return x @ inward.weight.detach().double().numpy().T + inward.bias.detach().double().numpy()


@pytest.mark.parametrize(("kind", "books"), [("vector", 1), ("residual", 2), ("product", 2)])
def test_beside_the_cross_entropy_stand_the_three_terms_of_vq_vae(kind, books):
    net = toy_world.model()
    learn = {"learned_by": "gradient", "commitment": 0.3, "decoder": CodeDecoderConfig(width=8, depth=0)}
    work, step = objective(net, learn, kind=kind, books=books), step_of(net)
    loss, part = work.train()(step), part_of(work)
    x, codes = coded(work, step), part.codes.quantiser.codes.detach().double().numpy()
    rest, said, pull = x, [], 0.0
    for book, vectors in enumerate(codes):
        given = rest if kind != "product" else np.split(x, books, 1)[book]
        chosen = vectors[((given[:, None] - vectors) ** 2).sum(2).argmin(1)]
        pull += ((given - chosen) ** 2).mean()
        said.append(chosen)
        rest = given - chosen
    values = np.concatenate(said, 1) if kind == "product" else sum(said)
    weights = [p.detach().double().numpy() for p in part.decoder.parameters()]
    wanted = step.target("signal", kind="volts")[step.patches("signal").valid].double().numpy()
    made = (values @ weights[0].T + weights[1]) @ weights[2].T + weights[3]
    terms = {
        "signal.reconstruction": np.nanmean((made - wanted) ** 2, axis=1).mean(),
        "signal.commitment": ((x - values) ** 2).mean(),
        "signal.books": pull,
    }
    assert {name: float(value) for name, value in loss.parts.items()} == pytest.approx(terms, abs=1e-6)
    hide = step.split("signal", "half").hide.flatten(1)
    encoded = step.encode("signal", mask="half", mode="replace")
    predicted = work.decoders["signal"](gather(encoded.tokens["signal"], hide)).detach().double()
    ids = part.ids(step)
    entropy = [
        -sum(
            torch.log_softmax(logits[row, at], 0)[ids[row, hide[row, at], book]]
            for book, logits in enumerate(predicted.split(5, -1))
        )
        for row, at in step.patches("signal").take(hide).valid.nonzero().tolist()
    ]
    added = (
        float(torch.stack(entropy).mean()) + terms["signal.reconstruction"] + pull + 0.3 * terms["signal.commitment"]
    )
    assert float(loss.total.detach()) == pytest.approx(added, abs=2e-6)


def test_predicting_the_codes_trains_the_encoder_alone_and_the_other_terms_the_codes_alone():
    net = toy_world.model()
    work, step = objective(net, {"learned_by": "gradient"}), step_of(net)
    part = part_of(work)
    part.learn(step, "clean")[0].backward()
    alone = {n: p.grad.clone() for n, p in part.named_parameters()}
    assert set(alone) == {"codes.inward.weight", "codes.inward.bias", "codes.quantiser.codes"} | {
        f"decoder.{n}" for n, _ in part.decoder.named_parameters()
    }
    assert all(bool(grad.abs().sum() > 0) for grad in alone.values())
    assert all(p.grad is None for p in [*net.parameters(), *work.decoders.parameters()])
    part.zero_grad()
    work(step_of(net)).total.backward()
    for name, p in part.named_parameters():
        torch.testing.assert_close(p.grad, alone[name])
    assert net.tower("signal").modalities["signal"].proj.weight.grad.abs().sum() > 0


def test_a_trained_code_that_nothing_comes_to_is_revived_after_the_step_and_the_others_stay():
    net = toy_world.model()
    work, step = objective(net, {"learned_by": "gradient", "decay": 0.5, "revive": 0.6}), step_of(net)
    books = part_of(work).books()
    with torch.no_grad():
        books.codes[0, 1:] = 1e3
    before = books.codes.detach().clone()
    work.train()(step)
    assert torch.equal(books.codes, before)
    work.after_step(net, 0.5)
    assert isinstance(books.codes, torch.nn.Parameter) and torch.equal(books.codes[0, 0], before[0, 0])
    x = coded(work, step)
    for code in books.codes[0, 1:].detach().double().numpy():
        assert np.abs(x - code).sum(1).min() < 1e-5
    once = books.codes.detach().clone()
    work.train()(step_of(net))
    work.discard()
    work.after_step(net, 1.0)
    assert torch.equal(books.codes, once)


def test_books_may_follow_averages_and_numbers_be_rounded():
    net = toy_world.model()
    work = objective(net, {"decay": 0.5, "revive": 0.0})
    books = part_of(work).books()
    assert set(work.train()(step_of(net)).parts) == {"signal.reconstruction", "signal.commitment"}
    before = books.codes.clone()
    work.after_step(net, 0.5)
    assert not torch.equal(books.codes, before) and not isinstance(books.codes, torch.nn.Parameter)
    scalar = objective(net, {"levels": [4, 3], "width": 32}, kind="scalar", size=256)
    loss = scalar.train()(step_of(net))
    assert scalar.unfitted == 0 and float(loss.parts["signal.commitment"]) == 0.0
    loss.total.backward()
    scalar.after_step(net, 0.5)
    assert part_of(scalar).codes.inward.weight.grad.abs().sum() > 0, "straight through the rounding"
    assert int(part_of(scalar).ids(step_of(net)).max()) < 12 and part_of(scalar).width == 12


def test_tokens_of_a_finished_model_are_made_again_by_their_mean_squared_error(monkeypatch):
    net, finished = toy_world.model(), toy_world.model(seed=1)
    monkeypatch.setattr("mmssl.objectives.parts.codes.open_model", lambda name: (finished, None))
    work = objective(net, {"learned_by": "gradient"}, of="tokens", from_="finished", target=None)
    part, step = part_of(work), step_of(net)
    assert not any(p.requires_grad for p in finished.parameters())
    tokens = part.features(step)
    loss = work.train()(step)
    found = part.codes.quantiser(part.codes.inward(tokens).flatten(0, 1))
    made = part.decoder(found.values.unflatten(0, tokens.shape[:2]), step.patches("signal"))
    error = (made - tokens).double().square().mean(-1)[step.patches("signal").valid].mean()
    assert float(loss.parts["signal.reconstruction"]) == pytest.approx(float(error.detach()), abs=1e-6)
    assert len(finished.codes) == 0 and work.keeps() == {}
    (origin, _) = work.makers()["signal"]
    assert origin is finished and list(finished.codes) == ["signal"]


def test_samples_without_the_modality_learn_nothing():
    net = toy_world.model()
    work = objective(net, {"learned_by": "gradient"})
    before = part_of(work).books().codes.detach().clone()
    loss = work.train()(step_of(net, rows=2, absent=True))
    loss.total.backward()
    work.after_step(net, 0.5)
    assert float(loss.total.detach()) == 0.0 and torch.equal(part_of(work).books().codes, before)


def test_it_works_in_half_precision_with_the_same_codes():
    net = toy_world.model()
    work = objective(net, {"learned_by": "gradient"})
    alone = work(step_of(net))
    with torch.autocast("cpu", torch.bfloat16):
        half = work(step_of(net))
    assert float(half.total.detach()) == pytest.approx(float(alone.total.detach()), rel=0.03)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "codes of another model": (
        {},
        {"of": "codes", "from_": "model", "target": None, "size": 256},
        ("learn", "of: codes"),
    ),
    "no levels": ({"width": 32}, {"kind": "scalar", "size": 256}, ("levels", "[]")),
    "levels of books": ({"levels": [3, 3]}, {}, ("learn.levels", "kind: vector")),
    "books of levels": (
        {"levels": [3], "revive": 0.5, "width": 32},
        {"kind": "scalar", "size": 256},
        ("revive", "scalar"),
    ),
    "size of levels": ({"levels": [3], "width": 32}, {"kind": "scalar"}, ("size", "scalar")),
    "parts that do not divide": ({}, {"kind": "product", "books": 3}, ("books", "3", "width = 4")),
    "averages of nothing": (
        {"learned_by": "gradient", "revive": 0.0, "decay": 0.5},
        {},
        ("decay", "averages, or revive"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_refused(case):
    learn, codes, words = REFUSED[case]
    with refused(*words):
        objective(toy_world.model(), learn, **codes)


def test_numbers_are_rounded_of_learned_codes_alone():
    with refused("kind", "scalar", "learn"):
        CodesConfig(kind="scalar")
