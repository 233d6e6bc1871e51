"""Quantisers, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmssl.models.quantisers import Codebooks, FiniteScalar, make_quantiser, perplexity, use_of

KINDS = {
    "vector": {"kind": "vector", "size": 7, "books": 1},
    "residual": {"kind": "residual", "size": 7, "books": 3},
    "product": {"kind": "product", "size": 7, "books": 2},
    "scalar": {"kind": "scalar", "levels": [8, 5, 4]},
}


def made(kind: str, width: int = 6, seed: int = 0) -> Codebooks:
    quantiser = make_quantiser(KINDS[kind], width)
    assert isinstance(quantiser, Codebooks)
    quantiser.codes.copy_(torch.randn(quantiser.codes.shape, generator=torch.Generator().manual_seed(seed)))
    return quantiser


def by_hand(kind: str, codes: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ids (n, C), values (n, F)) one by one, in float64."""
    ids, values = [], []
    for row in x.astype(np.float64):
        rest, mine, said = row.copy(), [], []
        for book, vectors in enumerate(codes.astype(np.float64)):
            given = np.split(row, len(codes))[book] if kind == "product" else rest
            mine.append(int(((vectors - given) ** 2).sum(1).argmin()))
            said.append(vectors[mine[-1]])
            if kind == "residual":
                rest = rest - said[-1]
        ids.append(mine)
        values.append(np.concatenate(said) if kind == "product" else np.sum(said, 0))
    return np.array(ids), np.array(values)


@pytest.mark.parametrize("kind", ["vector", "residual", "product"])
def test_the_nearest_codes_and_what_they_say(kind, monkeypatch):
    monkeypatch.setattr("mmssl.models.quantisers.AT_A_TIME", 40)  # 5 rows at a time
    quantiser, x = made(kind), torch.randn(33, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = quantiser(x)
    ids, values = by_hand(kind, quantiser.codes.numpy(), x.detach().numpy())
    assert (found.ids.numpy() == ids).all() and quantiser.sizes == (7,) * ids.shape[1]
    np.testing.assert_allclose(found.values.detach().numpy(), values, atol=1e-6)
    np.testing.assert_allclose(found.distance.detach(), ((x.detach().numpy() - values) ** 2).mean(1), atol=1e-6)
    weights = torch.randn(33, 6)
    (found.values * weights).sum().backward()
    assert torch.equal(x.grad, weights), "the gradient goes straight through"
    x.grad = None
    quantiser(x).distance.sum().backward()
    np.testing.assert_allclose(x.grad, 2 / 6 * (x.detach().numpy() - values), atol=1e-6)


def test_finite_scalar_against_its_formula():
    """Mentzer et al. 2023, appendix A.1, one number at a time in float64."""
    levels = [8, 5, 4]
    quantiser = make_quantiser(KINDS["scalar"], 3)
    assert isinstance(quantiser, FiniteScalar) and quantiser.sizes == (160,)
    x = (3 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0))).requires_grad_()
    found = quantiser(x)
    z, whole = x.detach().double().numpy(), []
    slopes = np.empty_like(z)
    for column, count in enumerate(levels):
        half, offset = (count - 1) * 1.001 / 2, 0.5 if count % 2 == 0 else 0.0
        tanh = np.tanh(z[:, column] + np.arctanh(offset / half))
        whole.append(np.round(tanh * half - offset))
        slopes[:, column] = (1 - tanh**2) * half / (count // 2)
    values = np.stack([w / (count // 2) for w, count in zip(whole, levels, strict=True)], 1)
    np.testing.assert_allclose(found.values.detach(), values, atol=1e-6)
    ids = sum(
        (w + count // 2) * int(np.prod(levels[:i])) for i, (w, count) in enumerate(zip(whole, levels, strict=True))
    )
    assert (found.ids[:, 0].numpy() == ids).all()
    assert set(found.ids[:, 0].tolist()) <= set(range(160)) and len(found.ids.unique()) > 60
    np.testing.assert_allclose(quantiser.values(found.ids), values, atol=1e-6)
    found.values.sum().backward()
    np.testing.assert_allclose(x.grad, slopes, atol=1e-6)
    assert not found.distance.any()


@pytest.mark.parametrize("kind", ["vector", "residual", "product"])
def test_codes_follow_the_means_of_what_comes_to_them(kind):
    quantiser, x = made(kind), torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    before = quantiser.codes.clone().double().numpy()
    given = x.double().numpy()
    counts, sums = quantiser.statistics(x)
    # two parts add up to the whole, as those of several processes must
    parts = [quantiser.statistics(part) for part in (x[:20], x[20:])]
    torch.testing.assert_close(parts[0][0] + parts[1][0], counts)
    torch.testing.assert_close(parts[0][1] + parts[1][1], sums)
    quantiser.follow(counts, sums, decay=0.0)
    rest = given.copy()
    for book, vectors in enumerate(before):
        part = np.split(given, len(before), 1)[book] if kind == "product" else rest
        ids = np.array([((vectors - row) ** 2).sum(1).argmin() for row in part])
        for code, vector in enumerate(vectors):
            mine = part[ids == code]
            wanted = mine.mean(0) if len(mine) else vector
            np.testing.assert_allclose(quantiser.codes[book, code], wanted, atol=1e-6)
            assert counts[book, code] == len(mine)
        rest = part - vectors[ids]


def test_averages_decay():
    quantiser = made("vector")
    counts, sums = torch.ones(1, 7), torch.ones(1, 7, 6)
    quantiser.follow(counts, sums, 0.5)
    quantiser.follow(3 * counts, 9 * sums, 0.5)
    torch.testing.assert_close(quantiser.counts, torch.full((1, 7), 0.25 + 1.5))
    torch.testing.assert_close(quantiser.codes, torch.full((1, 7, 6), (0.25 + 4.5) / 1.75))


def test_dead_codes_are_set_to_inputs_in_their_order():
    quantiser, x = made("residual"), torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    quantiser.counts.fill_(5.0)
    quantiser.counts[0, [1, 4]] = 0.1
    quantiser.counts[2] = 0.0  # more than there are inputs
    before = quantiser.codes.clone()
    _, inputs = quantiser.coded(x)
    quantiser.revive(x, least=0.5)
    changed = before.clone()
    changed[0, [1, 4]], changed[2, :3] = x[:2], inputs[2]
    assert torch.equal(quantiser.codes, changed)
    assert quantiser.counts[0, 1] == 0.5 and quantiser.counts[1, 0] == 5.0 and quantiser.counts[2, 3] == 0.0
    quantiser.revive(x[:0], least=0.5)
    assert torch.equal(quantiser.codes, changed)


@pytest.mark.parametrize("kind", ["vector", "residual", "product"])
def test_k_means_finds_what_is_there_and_the_same_for_the_same_seed(kind):
    rng = np.random.default_rng(0)
    centres = np.array([[5, 0, 0, 0, 0, 0], [0, 0, 0, 0, 5, 0], [0, -5, 0, 0, 0, 5]], np.float32)
    x = (centres[rng.integers(3, size=600)] + 0.01 * rng.normal(size=(600, 6))).astype(np.float32)
    found = []
    for _ in range(2):
        quantiser = make_quantiser({**KINDS[kind], "size": 3}, 6)
        quantiser.fit(x, seed=3)
        found.append(quantiser)
    assert torch.equal(found[0].codes, found[1].codes)
    error = (found[0].values(found[0].ids(torch.from_numpy(x))) - torch.from_numpy(x)).square().mean()
    assert error < 2e-4
    assert (found[0].counts > 0.5).all(), "every code is used, so that none is revived at once"
    assert abs(float(found[0].counts[0].mean()) - 1) < 1e-6


def test_use_and_perplexity():
    ids = torch.tensor([[0, 1], [0, 1], [3, 0], [0, 1]])
    counts = use_of(ids, (4, 2))
    assert counts.tolist() == [[3, 0, 0, 1], [1, 3, 0, 0]]
    share = np.array([0.75, 0.25])
    expected = np.exp(-(share * np.log(share)).sum())
    np.testing.assert_allclose(perplexity(counts), [expected, expected], rtol=1e-6)
    assert perplexity(torch.ones(5)) == pytest.approx(5) and perplexity(torch.tensor([0.0, 9.0])) == 1


def test_bfloat16_weights_and_autocast_give_the_ids_of_float32():
    quantiser, x = made("residual"), torch.randn(20, 6)
    with torch.autocast("cpu", torch.bfloat16):
        inside = quantiser(x)
    assert torch.equal(inside.ids, quantiser.ids(x)) and inside.values.dtype == torch.float32
    half = made("residual").bfloat16()
    assert half(x).values.dtype == torch.float32
