"""The subset scorecard: embeddings of subsets, towers of several modalities, probe and retrieval over all subsets."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from toys import world as toy_world

from mmssl.evaluation.embedding import Collector, Embedded, encode_together
from mmssl.evaluation.rows import Numbers
from mmssl.evaluation.subsets import Scorecard, joint_groups, mean_embedding, subsets_of
from mmssl.evaluation.tasks import Features


def test_subsets_of():
    assert subsets_of(["a", "b", "c"]) == [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]


def test_mean_embedding_is_of_the_present_ones():
    a, b = torch.randn(3, 4), 5 * torch.randn(3, 4)
    there = [torch.tensor([True, True, False]), torch.tensor([True, False, False])]
    found = mean_embedding([a, b], there)
    torch.testing.assert_close(found[0], normalize(normalize(a[0], dim=0) + normalize(b[0], dim=0), dim=0))
    torch.testing.assert_close(found[1], normalize(a[1], dim=0))
    assert torch.equal(found[2], torch.zeros(4))


def test_a_tower_of_several_modalities_is_given_the_subset_together():
    joint, apart = toy_world.model(joint=True).eval(), toy_world.model().eval()
    assert joint_groups(joint, ("table", "graph")) == [("table", "graph")]
    assert joint_groups(apart, ("table", "graph")) == [("table",), ("graph",)]
    batch = toy_world.batch(toy_world.raw(5, absent=0.0))
    collector = Collector({"model": joint}, None, [("signal", "graph")])
    with torch.no_grad():
        collector.add(batch)
        together = encode_together(joint, batch, ("signal", "graph"))
        whole = joint.encode_batch({n: batch[n] for n in ("signal", "graph")}).pooler_output
    found = collector.result().joint["model"]["signal+graph"]
    torch.testing.assert_close(found, together)
    torch.testing.assert_close(found, whole.float(), rtol=0, atol=1e-6)


class Apart:
    """A model of one tower a modality."""

    def __init__(self, names):
        self.towers = dict.fromkeys(names)

    def tower_of(self, name):
        return name


def planted(n, seed, names, absent=0.0):
    """Embeddings that know the class and, less noisily the more modalities are averaged, the sample itself."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=g)
    truth = torch.randn(n, 8, generator=g) + 3 * torch.eye(8)[y]
    e = Embedded()
    for name in names:
        e.present[name] = torch.rand(n, generator=g) >= absent
        e.raw[name] = torch.randn(n, 6, generator=g)
        seen = {"model": truth + 1.2 * torch.randn(n, 8, generator=g), "untrained": torch.randn(n, 8, generator=g)}
        for encoder, z in seen.items():
            e.embeddings.setdefault(encoder, {})[name] = normalize(z, dim=1) * e.present[name][:, None]
    return e, y


@pytest.fixture
def card():
    names = ["a", "b", "c"]
    (train, y_train), (test, y_test) = planted(200, 0, names), planted(150, 1, names, absent=0.2)
    return Scorecard(Features(test, train, frozenset(), y_test, y_train), Apart(names), 10), test


def test_the_scorecard_covers_every_subset(card):
    found, skipped = card[0].run()
    assert not skipped
    assert {k for k in found if k.endswith("/accuracy")} == {
        f"{s}/accuracy" for s in ("a", "b", "c", "a+b", "a+c", "b+c", "a+b+c")
    }
    asked = {k.partition("/")[0] for k in found if "->" in k}
    assert asked == {"a->b", "a->c", "b->a", "b->c", "c->a", "c->b", "a+b->c", "a+c->b", "b+c->a"}
    for name, metric in found.items():
        assert metric["model"] is not None and metric["untrained"] is not None and metric["raw"] is not None, name
    count = int((card[1].present["a"] & card[1].present["b"]).sum())
    assert found["a+b/accuracy"]["n"] == count
    assert found["a->b/R@10"]["n"] == count and found["a->b/R@10"]["chance"] == pytest.approx(10 / count)


def test_more_modalities_know_more_and_the_untrained_one_nothing(card):
    found, _ = card[0].run()
    one, two = found["a->c/R@1"], found["a+b->c/R@1"]
    assert two["model"] > one["model"] > 3 * one["chance"]
    assert found["a+b+c/accuracy"]["model"] > 0.9 > 0.6 > found["a+b+c/accuracy"]["untrained"]
    assert abs(found["a->b/same class"]["chance"] - 1 / 3) < 0.05 < found["a->b/same class"]["model"] - 1 / 3


def test_amounts_are_judged_by_r2_of_the_same_neighbours(card):
    from sklearn.metrics import r2_score
    from sklearn.neighbors import KNeighborsRegressor

    planted_card, test = card
    features, g = planted_card.features, torch.Generator().manual_seed(3)
    known = {}
    for of in ("train", "test"):
        y = getattr(features, f"y_{of}").double() * 100 + torch.rand(len(getattr(features, f"y_{of}")), generator=g)
        y[::7] = torch.nan
        known[of] = y
    numbers = Numbers("price", known["test"], known["train"])
    amounts = Scorecard(Features(test, features.train, frozenset(), numbers=numbers), Apart(["a", "b", "c"]), 10)
    found, skipped = amounts.run()
    assert not skipped and not any(name.endswith(("/accuracy", "/same class")) for name in found)
    one, all_three = found["a/R2"], found["a+b+c/R2"]
    assert all_three["model"] > one["model"] > 0.3 > one["untrained"] and all_three["chance"] <= 0
    low, high = one["interval"]["model"]
    assert low < one["model"] < high
    use, against = (
        rows.present["a"] & y.isfinite()
        for rows, y in zip((features.train, test), (known["train"], known["test"]), strict=True)
    )
    judge = KNeighborsRegressor(10, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    judge.fit(features.train.embeddings["model"]["a"][use], known["train"][use])
    expected = r2_score(known["test"][against], judge.predict(test.embeddings["model"]["a"][against]))
    assert one["model"] == pytest.approx(expected, abs=1e-5) and one["n"] == int(against.sum())
    numbers.train[:] = 3.0
    assert "two values" in amounts.run()[1]["a+b"]


def test_widths_that_differ_are_left_out_with_the_reason(card):
    card[1].embeddings["model"]["b"] = torch.randn(150, 5)
    found, skipped = card[0].run()
    assert not found and "set model.projection" in skipped["embeddings"]
