"""Losses with several positives: formulas by loops in float64, chunks, and a list-wise loss by roots of matrices."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmssl.losses.contrastive import softmax_rows
from mmssl.losses.several import (
    WIDTHS,
    gaussian_wasserstein,
    listwise,
    mean_discrepancy,
    nearest,
    several,
    several_rows,
)

N, M, D = 7, 11, 5


def drawn(seed: int = 0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    q, k = (F.normalize(torch.randn(n, D, generator=g, dtype=torch.float64), dim=-1) for n in (N, M))
    kind = torch.randint(4, (N, M), generator=g)
    weights = torch.where(kind == 0, torch.rand(N, M, generator=g, dtype=torch.float64) + 0.1, 0.0)
    negatives = kind >= 2
    weights[0], negatives[1] = 0.0, False  # a query without any positive, one without negatives
    weights[1, 0] = 1.0
    return q, k, weights, negatives


def by_hand(s, w, negative, form, decoupled):
    positives = [j for j in range(len(s)) if w[j] > 0]
    below = [j for j in range(len(s)) if negative[j]]
    among = below if decoupled else below + positives
    if not positives or not among:
        return 0.0
    total, weight = sum(math.exp(s[j]) for j in among), sum(w[j] for j in positives)
    if form == "inside":
        return math.log(total) - math.log(sum(w[j] * math.exp(s[j]) for j in positives))
    if form == "each" and not decoupled:
        each = [math.exp(s[j]) + sum(math.exp(s[k]) for k in below) for j in positives]
        return sum(w[j] * (math.log(e) - s[j]) for j, e in zip(positives, each, strict=True)) / weight
    return sum(w[j] * (math.log(total) - s[j]) for j in positives) / weight


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("form", ["outside", "inside", "each"])
def test_several_positives_are_their_formulas(form, decoupled, chunk):
    q, k, weights, negatives = (x.requires_grad_(x.is_floating_point() and x.shape[1] == D) for x in drawn())
    scale = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)

    def relate(at):
        return weights[at], negatives[at], torch.zeros_like(negatives[at])

    loss, count = several_rows(q, k, scale, relate, form=form, decoupled=decoupled, chunk=chunk)
    s = (6.0 * q @ k.T).detach().numpy()
    expected = [by_hand(*row, form, decoupled) for row in zip(s, weights.numpy(), negatives.numpy(), strict=True)]
    np.testing.assert_allclose(loss.detach().numpy(), expected, atol=1e-9)
    assert count.tolist() == (weights > 0).sum(1).tolist() and count[0] == 0
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss.sum(), (q, k, scale)))


@pytest.mark.parametrize("form", ["outside", "inside", "each"])
def test_a_single_positive_is_info_nce(form):
    q, k, _, _ = drawn()
    at = torch.arange(N)
    weights = F.one_hot(at, M).double()
    ours = several(5.0 * q @ k.T, weights, weights == 0, form)[0]
    torch.testing.assert_close(ours, softmax_rows(q, k, at, 5.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk", [None, 3])
def test_one_more_positive_that_is_no_key(chunk):
    q, k, weights, negatives = drawn()
    apart, weight = F.normalize(torch.randn(N, D, dtype=torch.float64), dim=-1), torch.linspace(0.5, 2, N).double()

    def relate(at):
        return weights[at], negatives[at], torch.zeros_like(negatives[at])

    ours, count = several_rows(q, k, 3.0, relate, apart=(apart, weight), chunk=chunk)
    s = 3.0 * torch.cat([(q * apart).sum(1, keepdim=True), q @ k.T], 1)
    more = torch.cat([weight[:, None], weights], 1), torch.cat([torch.zeros(N, 1).bool(), negatives], 1)
    theirs = [by_hand(*row, "outside", False) for row in zip(s.numpy(), *(x.numpy() for x in more), strict=True)]
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-9)
    assert count.tolist() == ((weights > 0).sum(1) + 1).tolist()


def test_only_the_nearest_are_compared_and_ones_own():
    q, k, weights, negatives = drawn()
    mine = torch.zeros_like(negatives)
    mine[:, 4], weights[:, 4], negatives[:, 4] = True, 1.0, False

    def relate(at):
        return weights[at], negatives[at], mine[at]

    ours, count = several_rows(q, k, 4.0, relate, neighbours=3, form="inside")
    for i in range(N):
        s = (4.0 * q[i] @ k.T).numpy()
        others = [j for j in range(M) if j != 4 and (weights[i, j] > 0 or negatives[i, j])]
        near = [4, *sorted(others, key=lambda j: -s[j])[:3]]
        expected = by_hand(s[near], weights[i, near].numpy(), negatives[i, near].numpy(), "inside", False)
        assert ours[i].item() == pytest.approx(expected, abs=1e-9)
        assert int(count[i]) == int((weights[i, near] > 0).sum())
    few = torch.zeros(1, 4).bool()
    few[0, 2] = True
    assert nearest(torch.arange(4.0)[None], few, 3).tolist() == few.tolist()  # of what is there alone


def test_look_is_0_where_the_nearest_agree_and_the_class_does_not():
    """LOOK lets a class have several modes: far members of it cost nothing."""
    logits = torch.tensor([[9.0, 8.0, -9.0, 1.0]])
    same, other = torch.tensor([[1.0, 1.0, 1.0, 0.0]]), torch.tensor([[False, False, False, True]])

    def relate(at):
        return same[at], other[at], torch.zeros(1, 4).bool()

    loss, _ = several_rows(logits, torch.eye(4), 1.0, relate, neighbours=2, form="inside")
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert several(logits, same, other, "outside")[0] > 1


# ------------------------------------------------------------------------------------------------------------ lists


def root_of(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values.clip(0)) @ vectors.T


def wasserstein_by_hand(x, y):
    """With roots of the covariances: |mean - mean'|^2 + tr(C + C' - 2 (C^1/2 C' C^1/2)^1/2)."""
    a, b = np.cov(x.T), np.cov(y.T)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root_of(root_of(a) @ b @ root_of(a)))


@pytest.mark.parametrize("rows", [4, 30])
def test_the_distance_of_two_normal_distributions(rows):
    """Also with fewer rows than columns, where covariances have no inverse; 0 for the same, gradients are finite."""
    g = torch.Generator().manual_seed(1)
    x, y = (torch.randn(rows, 6, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ours = gaussian_wasserstein(x, y)
    assert ours.item() == pytest.approx(wasserstein_by_hand(x.detach().numpy(), y.detach().numpy()), abs=1e-6)
    assert gaussian_wasserstein(x, x.detach()).item() == pytest.approx(0.0, abs=1e-9)
    gradient = torch.autograd.grad(gaussian_wasserstein(x, x.detach()) + ours, x)[0]
    assert torch.isfinite(gradient).all()
    shifted = gaussian_wasserstein(x, x.detach() + 2.0)
    assert shifted.item() == pytest.approx(4.0 * 6, abs=1e-9)
    assert torch.autograd.gradcheck(lambda z: gaussian_wasserstein(z, y.detach()), x)


def test_a_list_is_the_distance_of_softmaxes_of_what_is_there():
    g = torch.Generator().manual_seed(2)
    logits, grades = torch.randn(6, 6, generator=g) * 3, torch.randint(4, (6, 6), generator=g).float()
    there = torch.tensor([True, True, False, True, True, True])
    ours = listwise(logits, grades, there[:, None] & there[None])
    x, y = (part[there][:, there].double().softmax(1).numpy() for part in (logits, grades))
    assert ours.item() == pytest.approx(wasserstein_by_hand(x, y), abs=1e-6)
    logits.requires_grad_()
    nothing = listwise(logits, grades, torch.zeros(6, 6).bool())
    nothing.backward()
    assert nothing.item() == 0 and (logits.grad == 0).all()


def test_the_discrepancy_is_the_means_of_kernels_of_the_rows_that_are_there():
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(5, 3, generator=g), torch.randn(4, 3, generator=g)
    there, here = torch.tensor([True, True, False, True, True]), torch.tensor([True, False, True, True])

    def kernel(a, b):
        return np.mean([[sum(math.exp(-((p - q) ** 2).sum() / 2 / w) for w in WIDTHS) for q in b] for p in a])

    a, b = x[there].double().numpy(), y[here].double().numpy()
    ours = mean_discrepancy(x, y, there, here)
    assert ours.item() == pytest.approx(kernel(a, a) + kernel(b, b) - 2 * kernel(a, b), abs=1e-9)
    assert mean_discrepancy(x, x, there, there).item() == pytest.approx(0.0, abs=1e-9)
    assert mean_discrepancy(x, y, there, torch.zeros(4).bool()) == torch.inf
