"""Self-distillation losses against own float64 computations from the papers' formulas, and their exact properties."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmssl.losses.distillation import centred_softmax, gram_mse, koleo, sinkhorn, soft_cross_entropy

N, K, D = 20, 12, 16


def cosines(seed: int, rows: int = N) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    x, w = torch.randn(rows, D, generator=g), torch.randn(K, D, generator=g)
    return F.normalize(x, dim=-1) @ F.normalize(w, dim=-1).T


def softmax64(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_dino_loss_equals_its_formula():
    student, teacher, centre = cosines(0), cosines(1), 0.1 * cosines(2).mean(0)
    ours = soft_cross_entropy(student, centred_softmax(teacher, centre, 0.04), 0.1)
    p = softmax64((teacher.double().numpy() - centre.double().numpy()) / 0.04)
    q = softmax64(student.double().numpy() / 0.1)
    np.testing.assert_allclose(ours.numpy(), -(p * np.log(q)).sum(1), rtol=0, atol=5e-6)  # logits of 25 in float32
    exact = soft_cross_entropy(student.double(), centred_softmax(teacher.double(), centre.double(), 0.04), 0.1)
    np.testing.assert_allclose(exact.numpy(), -(p * np.log(q)).sum(1), rtol=0, atol=1e-6)


def test_dino_loss_is_least_where_both_are_equal():
    logits = cosines(0).requires_grad_()
    target = F.softmax(logits.detach() / 0.1, dim=-1)
    least = soft_cross_entropy(logits, target, 0.1)
    entropy = -(target * target.log()).sum(1)
    torch.testing.assert_close(least, entropy, rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(least.sum(), logits)
    assert gradient.abs().max() < 1e-5
    for seed in range(5):
        other = logits.detach() + 0.05 * cosines(seed + 10)
        assert (soft_cross_entropy(other, target, 0.1) > least).all()


def sinkhorn_by_hand(logits: np.ndarray, temperature: float, iterations: int) -> np.ndarray:
    """SwAV's algorithm 1, prototypes in rows, as the paper writes it."""
    q = np.exp(logits.T / temperature)
    q /= q.sum()
    k, b = q.shape
    for _ in range(iterations):
        for i in range(k):
            q[i] = q[i] / q[i].sum() / k
        for j in range(b):
            q[:, j] = q[:, j] / q[:, j].sum() / b
    return (q * b).T


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_sinkhorn_equals_its_algorithm(iterations):
    logits = cosines(3)
    ours = sinkhorn(logits, 0.05, iterations=iterations)
    np.testing.assert_allclose(ours, sinkhorn_by_hand(logits.double().numpy(), 0.05, iterations), rtol=0, atol=1e-6)
    exact = sinkhorn(logits.double(), 0.05, iterations=iterations)
    np.testing.assert_allclose(exact, sinkhorn_by_hand(logits.double().numpy(), 0.05, iterations), rtol=0, atol=1e-9)


def test_sinkhorn_rows_and_columns_sum_right():
    valid = torch.arange(N) % 4 > 0
    q = sinkhorn(cosines(4), 0.05, valid, iterations=100)
    torch.testing.assert_close(q.sum(1), valid.float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(q.sum(0), torch.full((K,), valid.sum() / K), rtol=1e-3, atol=1e-3)
    three = sinkhorn(cosines(4), 0.05, valid)
    torch.testing.assert_close(three.sum(1), valid.float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(three[valid], sinkhorn(cosines(4)[valid], 0.05), rtol=0, atol=1e-6)


def test_sinkhorn_is_finite_at_the_edges():
    assert torch.isfinite(sinkhorn(torch.eye(4) * 2 - 1, 0.01)).all()
    assert (sinkhorn(cosines(0), 0.05, torch.zeros(N, dtype=torch.bool)) == 0).all()


def test_koleo_known_values():
    """Points of a regular polygon: every nearest neighbour is 2 sin(pi / n) away."""
    angle = torch.arange(8) * (2 * torch.pi / 8)
    x = torch.stack([angle.cos(), angle.sin()], 1).double()
    at = torch.arange(8)
    expected = torch.full((8,), -np.log(2 * np.sin(np.pi / 8)), dtype=torch.float64)
    torch.testing.assert_close(koleo(x, x, at), expected, rtol=0, atol=1e-6)
    every_other = koleo(x, x, at, at % 2 == 0)[::2]
    square = torch.full((4,), -0.5 * np.log(2.0), dtype=torch.float64)
    torch.testing.assert_close(every_other, square, rtol=0, atol=1e-6)
    assert koleo(x[:1], x[:1], at[:1]) == 0  # alone


def test_koleo_equals_its_formula_and_spreads():
    x = F.normalize(torch.randn(N, D, generator=torch.Generator().manual_seed(0)), dim=-1).requires_grad_()
    ours = koleo(x, x, torch.arange(N))
    y = x.detach().double().numpy()
    distance = np.linalg.norm(y[:, None] - y[None], axis=2) + 1e9 * np.eye(N)
    np.testing.assert_allclose(ours.detach().numpy(), -np.log(distance.min(1)), rtol=0, atol=1e-6)
    ours.mean().backward()
    moved = F.normalize(x.detach() - 0.1 * x.grad, dim=-1)
    assert koleo(moved, moved, torch.arange(N)).mean() < ours.mean()


def rotation(seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(D, D, generator=g, dtype=torch.float64))[0]


@pytest.mark.parametrize("clamp", ["none", "teacher", "both"])
def test_gram_loss_is_zero_for_any_rotation_of_the_teacher(clamp):
    teacher = torch.randn(3, 9, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = torch.randn(3, 9, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for seed in range(3):
        assert gram_mse(teacher @ rotation(seed), teacher, clamp=clamp).max() < 1e-12
        turned = gram_mse(other @ rotation(seed), teacher, clamp=clamp)
        torch.testing.assert_close(turned, gram_mse(other, teacher, clamp=clamp), rtol=0, atol=1e-12)
    assert gram_mse(other, teacher, clamp=clamp).min() > 0.01


@pytest.mark.parametrize("clamp", ["none", "teacher", "both"])
def test_gram_loss_equals_its_formula(clamp):
    g = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(3, 9, D, generator=g), torch.randn(3, 9, 2 * D, generator=g)
    valid = torch.rand(3, 9, generator=g) > 0.3
    ours = gram_mse(student, teacher, valid, clamp)
    for b in range(3):
        a, c = (x[b][valid[b]].double().numpy() for x in (student, teacher))
        a, c = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, c))
        s, t = a @ a.T, c @ c.T
        if clamp == "both":
            s, t = np.maximum(s, 0), np.maximum(t, 0)
        elif clamp == "teacher":
            s, t = np.where((s < 0) & (t < 0), 0, s), np.maximum(t, 0)
        assert abs(ours[b].item() - ((s - t) ** 2).mean()) < 1e-6
    torch.testing.assert_close(gram_mse(student, teacher), gram_mse(student, teacher, torch.ones_like(valid)))
