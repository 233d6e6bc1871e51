"""Topics of samples by their codes: as scikit-learn finds them, and as something to be classified."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import world as toy_world
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.masking import Random
from mmssl.objectives import mae
from mmssl.objectives.options.codes import CodesConfig
from mmssl.objectives.parts.codes import CodeTarget
from mmssl.objectives.parts.topics import Topics, bags_of
from mmssl.objectives.pretraining import Pretraining

HALF = {"half": Random(ratio=0.5)}


def bags(rows: int = 40) -> torch.Tensor:
    """Samples of three topics: codes 0 to 3, 4 to 7, 8 to 11."""
    rng = np.random.default_rng(0)
    out = np.zeros((rows, 12), np.float32)
    for row in range(rows):
        codes = rng.choice(12, 30, p=np.repeat([0.05 / 4, 0.9 / 4, 0.05 / 4], 4)[(np.arange(12) + 4 * (row % 3)) % 12])
        out[row] = np.bincount(codes, minlength=12)
    return torch.from_numpy(out)


def test_topics_are_those_of_scikit_learn():
    from sklearn.decomposition import LatentDirichletAllocation

    x = bags()
    topics = Topics(3, 12)
    topics.fit(x, 5, "")
    stock = LatentDirichletAllocation(3, random_state=5, learning_method="batch", max_iter=20)
    stock.fit(x.numpy())
    stock.mean_change_tol = 0.0  # as many steps as ours
    expected = stock.transform(x.numpy().astype(np.float64))
    np.testing.assert_allclose(topics.shares(x), expected, atol=1e-6)
    # what they were made of is found again
    found = topics.shares(x).argmax(1)
    assert len({(int(t), row % 3) for row, t in enumerate(found)}) == 3
    # a sample's topic does not depend on the others of its batch, nor on padding
    ids = torch.tensor([[0, 1, 1, 3, -1], [9, 9, 8, -1, -1]])
    assert torch.equal(topics.of(ids), torch.cat([topics.of(ids[:1, :4]), topics.of(ids[1:, :3])]))
    assert torch.equal(bags_of(ids, 12)[0, :4], torch.tensor([1.0, 2.0, 0.0, 1.0]))


def test_fewer_samples_than_topics_are_refused():
    with refused("topics", "50", "39"):
        Topics(50, 12).fit(torch.cat([bags(39), torch.zeros(5, 12)]), 0, "objective mae: codes.audio.")


@pytest.mark.parametrize("mode", ["drop", "replace"])
def test_the_loss_is_the_cross_entropy_with_the_topic_of_each_sample_that_is_there(mode):
    net = toy_world.model()
    decoder = toy_world.DECODER if mode == "drop" else toy_world.HEAD
    codes = CodesConfig(size=5, topics=3, topic_weight=0.3)
    config = mae.Config(tower="signal", mask="half", mode=mode, decoder=decoder, codes={"signal": codes})
    work = mae.MAE(config, net)
    toy_world.set_books(work)
    part = work.codes["signal"]
    assert isinstance(part, CodeTarget) and part.topics is not None
    words = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    part.topics.words.copy_(words**6)
    step = Pretraining(net, {}, {}, HALF).step(toy_world.batch(toy_world.raw(8, seed=3)), Draws(1, 8))
    loss = float(work(step).total.detach())
    there = step.patches("signal").present
    assert not there.all() and set(work.counts(step)) == {"signal", "signal.topic"}
    topic = part.topics.of(part.ids(step)[..., 0])[there]
    assert len(topic.unique()) > 1
    pooled = step.encode("signal", mask="half", mode=mode).pooled("signal")[there]
    logits = (pooled.double() @ part.topic_head.weight.double().T + part.topic_head.bias.double()).detach().numpy()
    top = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    said = -top[np.arange(len(topic)), topic.numpy()].mean()
    part.topics = None
    without = float(work(step).total.detach())
    assert loss == pytest.approx(without + 0.3 * said, abs=1e-6)


def test_topics_are_fitted_behind_the_books():
    net = toy_world.model()
    codes = CodesConfig(size=5, topics=2, samples=16)
    work = mae.MAE(mae.Config(tower="signal", mask="half", decoder=toy_world.DECODER, codes={"signal": codes}), net)
    pretraining = Pretraining(net, {"mae": work}, {}, HALF)
    raw = toy_world.raw(16, seed=3)
    steps = [pretraining.step(toy_world.batch({n: v[i : i + 8] for n, v in raw.items()}), Draws(i, 8)) for i in (0, 8)]
    work.fit(lambda: steps, seed=1)
    part = work.codes["signal"]
    assert isinstance(part, CodeTarget) and set(work.fitted()) == {"signal", "signal-topics"}
    expected = Topics(2, 5)
    expected.fit(torch.cat([bags_of(part.ids(step)[..., 0], 5) for step in steps]), 1, "")
    assert part.topics is not None and torch.equal(part.topics.words, expected.words)
    with refused("samples", "of: codes"):
        idle = {"signal": CodesConfig(of="codes", from_="model", samples=3)}
        mae.MAE(mae.Config(tower="signal", mask="half", codes=idle), net)
