"""CKA, risk and coverage, MRR, nDCG and Spearman against computations of their own in float64, and known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from mmssl.evaluation.retrieval import chance_ranking, ranking, retrieval_ranks
from mmssl.evaluation.scoring import spearman
from mmssl.evaluation.selective import RiskCoverage
from mmssl.evaluation.similarity import cka_interval, debiased_cka


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hsic_by_loops(k: np.ndarray, m: np.ndarray) -> float:
    """The unbiased estimator as the mean over quadruples of different rows (Song et al. 2012, equation 4)."""
    n, total, count = len(k), 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
                        count += 1
    return total / count


def test_cka_is_the_mean_over_quadruples_of_rows() -> None:
    x, y = draws(7, 3) + 5, draws(7, 3) @ draws(3, 4, seed=2) + draws(7, 4, seed=1)
    k, m = (part.numpy() @ part.numpy().T for part in (x - x.mean(0), y - y.mean(0)))
    expected = hsic_by_loops(k, m) / math.sqrt(hsic_by_loops(k, k) * hsic_by_loops(m, m))
    assert debiased_cka(x, y) == pytest.approx(expected, abs=1e-9)
    assert debiased_cka(1e4 * x, 1e-3 * y + 7) == pytest.approx(expected, abs=1e-6)


def test_cka_of_what_is_alike_and_of_what_is_not() -> None:
    x = draws(200, 16)
    turned = x @ torch.linalg.qr(draws(16, 16, seed=3))[0] * 3 - 2
    assert debiased_cka(x, turned) == pytest.approx(1.0, abs=1e-9)
    wide = draws(200, 400, seed=4)
    assert abs(debiased_cka(x, wide)) < 0.1, "the plain estimator has 0.6 here"
    plain = torch.linalg.norm((x - x.mean(0)).T @ (wide - wide.mean(0))) ** 2
    own = [torch.linalg.norm((z - z.mean(0)).T @ (z - z.mean(0))) for z in (x, wide)]
    assert float(plain / own[0] / own[1]) > 0.2
    low, high = cka_interval(x, x + draws(200, 16, seed=5))
    assert low < debiased_cka(x, x + draws(200, 16, seed=5)) < high and high - low < 0.2
    assert math.isnan(debiased_cka(x, torch.ones(200, 3)))
    for wrong in (x[:3], x[:50], torch.full((200, 2), torch.nan)):
        with pytest.raises(ValueError, match="CKA"):
            debiased_cka(x, wrong)


def test_risk_and_coverage_by_hand() -> None:
    confidence, correct = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, True, False])
    curve = RiskCoverage.of(confidence, correct)
    assert curve.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert curve.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert [curve.at(share) for share in (0.01, 0.5, 0.75, 1.0)] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    shuffled = torch.tensor([2, 0, 3, 1])
    assert RiskCoverage.of(confidence[shuffled], correct[shuffled]).risk.tolist() == curve.risk.tolist()
    with pytest.raises(ValueError, match="one confidence"):
        RiskCoverage.of(confidence, correct[:2])


def test_equal_confidences_have_no_order() -> None:
    correct = torch.tensor([True, True, False, False])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        curve = RiskCoverage.of(torch.full((4,), 0.5), correct[order])
        assert curve.risk.tolist() == pytest.approx([0.5] * 4), "one that is sure at random has the share of errors"
    assert 0.07 * 100 > 7 and RiskCoverage.of(torch.arange(100.0), torch.arange(100) > 92).at(0.07) == 0


def test_reciprocal_ranks_and_gains_equal_scikit_learn() -> None:
    queries, candidates = draws(6, 5), draws(9, 5, seed=1)
    relevant = [[0], [1, 4], [2, 3, 8], [5], [0, 1, 2, 3, 4, 5], [7]]
    found = ranking(queries, candidates, relevant, chunk=4)
    unit = [part / part.norm(dim=1, keepdim=True) for part in (queries, candidates)]
    cosine, truth = (unit[0] @ unit[1].T).numpy(), np.zeros((6, 9))
    for row, right in enumerate(relevant):
        truth[row, right] = 1
    assert found.gain.mean() == pytest.approx(ndcg_score(truth, cosine), abs=1e-9)
    best = [1 + min(list(np.argsort(-cosine[i])).index(c) for c in right) for i, right in enumerate(relevant)]
    assert found.reciprocal.tolist() == pytest.approx([1 / rank for rank in best])


def test_a_collapsed_encoder_gains_no_more_than_the_middle_rank() -> None:
    same = torch.ones(5, 4)
    relevant = [[i] for i in range(5)]
    found = ranking(same, same, relevant)
    assert found.gain.tolist() == pytest.approx([1 / math.log2(1 + 3)] * 5)
    assert found.reciprocal.tolist() == pytest.approx((1 / retrieval_ranks(same, same, relevant)).tolist())


def test_chance_is_the_mean_over_random_orders() -> None:
    rng, counts = np.random.default_rng(0), [1, 3]
    reciprocal, gain = [], []
    for _ in range(4000):
        for count in counts:
            places = np.sort(rng.permutation(7)[:count]) + 1
            reciprocal.append(1 / places[0])
            best = (1 / np.log2(np.arange(2, count + 2))).sum()
            gain.append((1 / np.log2(1 + places)).sum() / best)
    assert chance_ranking(counts, 7) == pytest.approx((np.mean(reciprocal), np.mean(gain)), abs=0.01)


def test_spearman_equals_scipy_and_is_the_mean_over_targets() -> None:
    truth = np.round(draws(40, 2).numpy(), 1)
    predicted = truth**3 + draws(40, 2, seed=1).numpy()
    expected = [spearmanr(predicted[:, c], truth[:, c]).statistic for c in range(2)]
    assert spearman(predicted, truth) == pytest.approx(float(np.mean(expected)), abs=1e-12)
    assert spearman(np.exp(truth), truth) == pytest.approx(1.0)
    assert math.isnan(spearman(np.ones((40, 1)), truth[:, :1]))
