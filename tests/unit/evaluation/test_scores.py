"""Scores against scikit-learn and by hand: neighbours, probes, ranks, retrieval, ridge maps, intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from toys.refusals import refused

from mmssl.errors import UserError
from mmssl.evaluation.baselines import ALPHAS, Ridge, Space, _margin, _principal, hashed, majority, wilson
from mmssl.evaluation.knn import knn_predict, knn_votes
from mmssl.evaluation.rank import rankme
from mmssl.evaluation.retrieval import (
    chance_cdf,
    chance_median_rank,
    chance_recall,
    median_rank,
    recall_at,
    retrieval_ranks,
)
from mmssl.evaluation.zero_shot import class_vectors, prompts, zero_shot_predict


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:900]
    return x[order[:600]], y[order[:600]], x[order[600:]], y[order[600:]]


@pytest.mark.parametrize("k", [1, 5, 20, 5000])
def test_knn_equals_scikit_learn_with_custom_weights(k: int) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    x, y, x_test, _ = digits()
    judge = KNeighborsClassifier(min(k, len(x)), metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    judge.fit(x.double().numpy(), y.numpy())
    votes = knn_votes(x, y, x_test, classes=10, k=k, chunk=37)
    shares = votes / votes.sum(1, keepdim=True)
    torch.testing.assert_close(shares.double(), torch.tensor(judge.predict_proba(x_test.double())), atol=1e-4, rtol=0)
    predicted = knn_predict(x, y, x_test, classes=10, k=k)
    assert (predicted.numpy() == judge.predict(x_test.double())).mean() > 0.996


def test_knn_refuses_what_does_not_fit() -> None:
    x, y = torch.randn(6, 3), torch.arange(6)
    with pytest.raises(ValueError, match="labels must be in"):
        knn_votes(x, y, x, classes=5)
    with refused("wide", error=ValueError):
        knn_votes(x, y, x[:, :2], classes=6)
    with pytest.raises(ValueError, match="one label"):
        knn_votes(x, y[:3], x, classes=6)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rankme_of_orthonormal_data_is_its_rank(rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    q, _ = torch.linalg.qr(torch.randn(50, rank, generator=generator, dtype=torch.float64))
    basis, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))
    z = q @ basis[:rank]
    assert rankme(z) == pytest.approx(rank, rel=1e-4)
    rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))
    assert rankme(137 * z @ rotation) == pytest.approx(rankme(z), rel=1e-9)


def test_rankme_equals_the_entropy_of_the_singular_values() -> None:
    from scipy.stats import entropy

    z = torch.randn(40, 12, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, 12)
    sigma = np.linalg.svd(z.double().numpy(), compute_uv=False)
    assert rankme(z) == pytest.approx(math.exp(entropy(sigma)), rel=1e-4)
    assert rankme(torch.zeros(4, 3)) == 0.0
    with refused("finite", error=ValueError):
        rankme(torch.full((4, 3), torch.nan))


def brute_force_ranks(q: np.ndarray, c: np.ndarray, relevant: Sequence[Sequence[int]]) -> list[float]:
    out = []
    for i, right in enumerate(relevant):
        cosine = [float(q[i] @ c[j] / np.linalg.norm(q[i]) / np.linalg.norm(c[j])) for j in range(len(c))]
        best = max(cosine[j] for j in right)
        wrong = [cosine[j] for j in range(len(c)) if j not in right]
        out.append(1 + sum(w > best + 1e-6 for w in wrong) + 0.5 * sum(abs(w - best) <= 1e-6 for w in wrong))
    return out


def test_retrieval_equals_brute_force_also_with_several_right_answers_and_ties() -> None:
    rng = np.random.default_rng(0)
    q, c = rng.normal(size=(60, 5)).astype(np.float32), rng.normal(size=(40, 5)).astype(np.float32)
    c[7] = 3 * c[11]  # a tie by cosine
    relevant = [sorted(rng.choice(40, size=rng.integers(1, 4), replace=False).tolist()) for _ in range(60)]
    relevant[0], q[0] = [7], c[7]
    ranks = retrieval_ranks(torch.tensor(q), torch.tensor(c), relevant, chunk=13)
    expected = brute_force_ranks(q.astype(np.float64), c.astype(np.float64), relevant)
    np.testing.assert_allclose(ranks, expected)
    assert ranks[0] == 1.5
    assert recall_at(ranks, 5) == pytest.approx(np.mean([r <= 5 for r in expected]))
    assert median_rank(ranks) == np.median(expected)


def test_a_collapsed_encoder_gets_the_rank_of_chance() -> None:
    same = torch.ones(30, 4)
    ranks = retrieval_ranks(same, same, [[i] for i in range(30)])
    assert (ranks == 15.5).all()
    assert recall_at(ranks, 10) == 0.0


def test_chance_of_retrieval_is_what_random_orders_get() -> None:
    rng = np.random.default_rng(1)
    counts = [1, 1, 3, 8]
    ranks = np.array([[np.flatnonzero(rng.permutation(20) < r)[0] + 1 for r in counts] for _ in range(20000)])
    for k in (1, 5, 10, 20):
        assert chance_recall(counts, 20, k) == pytest.approx((ranks <= k).mean(), abs=0.01)
    assert chance_cdf([1], 4, 4).tolist() == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert chance_cdf([2], 3, 5).tolist() == pytest.approx([2 / 3, 1, 1, 1, 1])
    assert chance_median_rank(counts, 20) == pytest.approx(np.median(ranks), abs=1)


def test_zero_shot_prompts_and_class_vectors() -> None:
    assert prompts(["cat", "{dog}"], ["{}", "a {} here"]) == ["cat", "a cat here", "{dog}", "a {dog} here"]
    with pytest.raises(UserError, match="evaluation.templates: 'a photo' has no '{}'"):
        prompts(["cat"], ["a photo"])
    embedded = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)[:, None]
    vectors = class_vectors(embedded, 2)
    expected = [normalize(normalize(embedded[2 * c : 2 * c + 2], dim=1).mean(0), dim=0) for c in range(3)]
    torch.testing.assert_close(vectors, torch.stack(expected))
    samples = torch.randn(11, 5, generator=torch.Generator().manual_seed(1))
    cosine = normalize(samples, dim=1) @ vectors.T
    assert torch.equal(zero_shot_predict(samples, vectors * 3, chunk=4), cosine.argmax(1))


def test_ridge_equals_scikit_learn_and_its_leave_one_out_choice_is_exact() -> None:
    from sklearn.linear_model import Ridge as Judge

    generator = torch.Generator().manual_seed(0)
    for n, width in ((80, 12), (15, 40)):
        x = torch.randn(n, width, generator=generator)
        y = x @ torch.randn(width, 6, generator=generator) + 2 * torch.randn(n, 6, generator=generator)
        ours = Ridge.fit(x, y)
        judge = Judge(alpha=ours.alpha).fit(x.double().numpy(), y.double().numpy())
        torch.testing.assert_close(
            ours.predict(x).double(), torch.tensor(judge.predict(x.double().numpy())), atol=1e-5, rtol=1e-5
        )
        # the choice: refit without each row for every penalty
        spectrum, _ = _principal(x.double() - x.double().mean(0))
        scores = []
        for alpha in ALPHAS:
            fitted = []
            for i in range(n):
                rest = [j for j in range(n) if j != i]
                model = Judge(alpha=alpha * float(spectrum.mean())).fit(x[rest].double(), y[rest].double())
                fitted.append(model.predict(x[i : i + 1].double())[0])
            scores.append(_margin(torch.tensor(np.array(fitted)) - y.double().mean(0), y.double() - y.double().mean(0)))
        best = max(i for i, score in enumerate(scores) if score >= max(scores) - 1e-9)
        assert ours.alpha == pytest.approx(ALPHAS[best] * float(spectrum.mean()))


def test_ridge_on_features_that_say_nothing_predicts_the_mean() -> None:
    y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    for width in (2, 50):
        predicted = Ridge.fit(torch.ones(20, width), y).predict(torch.ones(2, width))
        torch.testing.assert_close(predicted, y.mean(0).expand(2, 3))
    with refused("at least 3", error=ValueError):
        Ridge.fit(torch.ones(2, 2), y[:2])


def test_tf_idf_space_equals_scikit_learn() -> None:
    from sklearn.feature_extraction.text import TfidfTransformer

    counts = torch.poisson(torch.full((30, 9), 0.5), generator=torch.Generator().manual_seed(0))
    expected = TfidfTransformer(smooth_idf=True).fit(counts.numpy()).transform(counts.numpy()).toarray()
    ours = Space.fit(counts, counts=True).transform(counts)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float32))
    numbers = Space.fit(counts, counts=False).transform(counts)
    torch.testing.assert_close(numbers, normalize(counts - counts.mean(0), dim=1))


def test_hashing_keeps_inner_products() -> None:
    x = torch.zeros(20, 60000)
    generator = torch.Generator().manual_seed(0)
    for row in x:
        row[torch.randint(60000, (40,), generator=generator)] = 1
    small = hashed(x, 4096)
    assert small.shape == (20, 4096)
    torch.testing.assert_close(small @ small.T, x @ x.T, atol=8, rtol=0)
    assert torch.equal(hashed(x[:5], 4096), small[:5]), "a row's hash must not depend on its batch"
    assert hashed(x, 60000) is x


def test_wilson_and_majority() -> None:
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert wilson(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-3)
    labels = torch.tensor([0, 1, 1, 2])
    assert wilson(1.0, 7)[1] == 1.0
    assert majority(labels) == 0.5 and majority(labels, 2) == 0.25
