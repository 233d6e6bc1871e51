"""Contrastive, redundancy-reduction and predictor losses against own float64 computations of the papers' formulas, the
exact properties they must have, and the chunked forms against the dense ones."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmssl.losses import redundancy as r
from mmssl.losses.contrastive import dcl, dclw_weight, info_nce, info_nce_both, nt_xent, sigmoid_pairs, softmax_rows
from mmssl.losses.regularisers import brownian, whitening

N, D = 20, 12
AT = torch.arange(N)


def rows(seed: int, n: int = N, d: int = D) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def pair():
    return tuple(F.normalize(rows(i), dim=-1) for i in (0, 1))


# --------------------------------------------------------------------------------------------------------- DCL, DCLW


@pytest.mark.parametrize("own_view", [True, False])
def test_dcl_is_info_nce_plus_log_of_one_minus_the_positives_share(pair, own_view):
    a, b = pair
    keys, positive, own = (torch.cat([a, b]), AT + N, AT) if own_view else (b, AT, None)
    whole = softmax_rows(a, keys, positive, 5.0, own=own)
    share = torch.exp(-whole)  # InfoNCE is -log p+
    torch.testing.assert_close(dcl(a, keys, positive, own, 5.0), whole + torch.log1p(-share), rtol=0, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_dcl_equals_its_formula(pair, weighted):
    a, b = pair
    x, y = a.numpy(), b.numpy()
    tau, sigma = 0.2, 0.5
    total = 0.0
    own = np.array([x[i] @ y[i] for i in range(N)])
    w = 2 - N * np.exp(own / sigma) / np.exp(own / sigma).sum() if weighted else np.ones(N)
    assert abs(w.mean() - 1) < 1e-12
    for p, q in ((x, y), (y, x)):
        for i in range(N):
            negatives = [p[i] @ v[j] / tau for v in (p, q) for j in range(N) if j != i]
            total += -w[i] * own[i] / tau + math.log(sum(math.exp(s) for s in negatives))
    keys = torch.cat([a, b])
    weight = dclw_weight((a * b).sum(-1), torch.ones(N, dtype=torch.bool), sigma) if weighted else None
    forth = dcl(a, keys, AT + N, AT, 1 / tau, weight=weight)
    back = dcl(b, keys, AT, AT + N, 1 / tau, weight=weight)
    assert abs((forth.mean() + back.mean()).item() / 2 - total / (2 * N)) < 1e-9


def test_dclw_weight_has_no_gradient_and_counts_valid_pairs_only(pair):
    a, b = (x.clone().requires_grad_() for x in pair)
    valid = torch.rand(N, generator=torch.Generator().manual_seed(1)) > 0.4
    weight = dclw_weight((a * b).sum(-1), valid)
    assert not weight.requires_grad
    alone = dclw_weight((a[valid] * b[valid]).sum(-1), valid[valid])
    torch.testing.assert_close(weight[valid], alone)
    assert torch.isfinite(dclw_weight((a * b).sum(-1), torch.zeros(N, dtype=torch.bool))).all()


# ---------------------------------------------------------------------------------------------- whitening and Brownian


def test_whitening_is_of_the_singular_values_and_zero_for_white_rows():
    z = rows(0) * 0.7 + 3
    valid = torch.rand(N, generator=torch.Generator().manual_seed(3)) > 0.3
    there = z[valid].numpy()
    values = np.linalg.svd((there - there.mean(0)) / np.sqrt(len(there) - 1), compute_uv=False)
    found = whitening(z.masked_fill(~valid[:, None], torch.nan), valid)
    assert found.item() == pytest.approx(((values**2 - 1) ** 2).sum() / D, abs=1e-12)
    centred = z - z.mean(0)
    white = centred @ torch.linalg.inv(torch.linalg.cholesky(centred.T @ centred / (N - 1))).T
    assert whitening(white).item() == pytest.approx(0, abs=1e-20)
    collapsed = white.clone()
    collapsed[:, :3] = 1.0
    assert whitening(collapsed).item() == pytest.approx(3 / D, abs=1e-12)
    alone = z.requires_grad_()
    whitening(alone, AT == 0).backward()
    assert alone.grad.isfinite().all() and whitening(alone, AT == 0) == 0


def test_brownian_is_the_squared_distance_of_directions():
    z, motion = rows(0), F.normalize(rows(1), dim=-1)
    expected = (z / z.norm(dim=-1, keepdim=True) - motion).square().sum(-1)
    torch.testing.assert_close(brownian(z, motion), expected, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ chunked

CASES = ("infonce", "nt_xent", "dcl", "dclw", "sigmoid")


def one_way(kind, q, keys, scale, bias, valid, chunk):
    at, own = torch.arange(len(q)) + len(q), torch.arange(len(q))
    if kind == "infonce":
        return info_nce(q, keys, at, scale, valid, chunk)
    if kind == "nt_xent":
        return softmax_rows(q, keys, at, scale, own=own, valid=valid, chunk=chunk)
    if kind == "sigmoid":
        return sigmoid_pairs(q, keys, at, scale, bias, valid, chunk, own)
    weight = dclw_weight((q * keys[at]).sum(-1), valid[at]) if kind == "dclw" else None
    return dcl(q, keys, at, own, scale, valid, weight, chunk)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("absent", [0.0, 0.4, 1.0])
def test_chunked_equals_dense(pair, kind, dtype, absent):
    there = torch.rand(N, generator=torch.Generator().manual_seed(2)) >= absent
    grads = []
    for chunk in (None, 7):
        a, b = (x.to(dtype).clone().requires_grad_() for x in pair)
        scale, bias = (torch.tensor(v, dtype=dtype, requires_grad=True) for v in (8.0, -4.0))
        loss = one_way(kind, a, torch.cat([a, b]), scale, bias, there.repeat(2), chunk)
        weights = torch.linspace(1, 2, N, dtype=dtype)
        total = (torch.where(there, loss, 0.0) * weights).sum() / max(int(there.sum()), 1)
        grads.append((total.detach(), *torch.autograd.grad(total, (a, b, scale, bias), allow_unused=True)))
    for dense, tiled in zip(*grads, strict=True):
        if dense is None:
            assert tiled is None
        else:
            assert torch.isfinite(tiled).all()
            torch.testing.assert_close(tiled, dense, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("absent", [0.4, 1.0])
def test_a_positive_that_is_no_key_is_added_to_the_sum(pair, chunk, decoupled, absent):
    """MoCo's queue: log(exp(s+) + sum over the queue of exp(s)) - s+; decoupled, the queue's sum alone."""
    q, positive = (x.clone().requires_grad_() for x in pair)
    keys = F.normalize(rows(2, 9), dim=-1).requires_grad_()
    there = torch.rand(9, generator=torch.Generator().manual_seed(4)) >= absent
    ours = softmax_rows(q, keys, positive, 6.0, decoupled=decoupled, valid=there, chunk=chunk)
    own = 6.0 * (q * positive).sum(1)
    sums = torch.cat([6.0 * q @ keys[there].T, *([] if decoupled else [own[:, None]])], 1)
    theirs = sums.logsumexp(1) - own if there.any() else 0.0 * own
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for x, y in zip(
        *(torch.autograd.grad(v.sum(), (q, positive, keys)) for v in (ours, theirs + 0 * keys.sum())), strict=True
    ):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("absent", [0.0, 0.4, 1.0])
def test_both_ways_in_one_pass_equal_two(pair, absent):
    there = torch.rand(N, generator=torch.Generator().manual_seed(3)) >= absent
    grads = []
    for both in (False, True):
        a, b = (x.clone().requires_grad_() for x in pair)
        scale = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
        if both:
            forth, back = info_nce_both(a, b, scale, there, 6)
        else:
            forth, back = info_nce(a, b, AT, scale, there), info_nce(b, a, AT, scale, there)
        total = torch.where(there, forth + 2 * back, 0.0).sum()
        grads.append((total.detach(), *torch.autograd.grad(total, (a, b, scale))))
    for two, one in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-11)


def test_chunked_gradients_by_finite_differences(pair):
    a, b = (x[:6].clone().requires_grad_() for x in pair)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([True, False, True, True, False, True])
    at = torch.arange(6)
    assert torch.autograd.gradcheck(lambda x, y, s: info_nce_both(x, y, s, valid, 4)[0][valid], (a, b, scale))
    assert torch.autograd.gradcheck(
        lambda x, y, s, c: sigmoid_pairs(x, y, at, s, c, valid, 4)[valid], (a, b, scale, bias)
    )


def test_a_row_without_negatives_is_zero_with_a_gradient(pair):
    a = pair[0].clone().requires_grad_()
    only = AT == 3
    for chunk in (None, 4):
        loss = dcl(a, torch.cat([a, pair[1]]), AT + N, AT, 5.0, only.repeat(2), chunk=chunk)
        assert loss[3] == 0
        assert torch.equal(torch.autograd.grad(loss[only].sum(), a)[0], torch.zeros_like(a))


def test_no_matrix_of_all_pairs_is_made():
    """The largest tensor that a chunked loss makes has chunk x m elements."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                if isinstance(x, torch.Tensor):
                    self.most = max(self.most, x.numel())
            return out

    n = 256
    q, k = (F.normalize(rows(i, n), dim=-1).requires_grad_() for i in (0, 1))
    at = torch.arange(n)
    for loss in (
        lambda: info_nce_both(q, k, 10.0, None, 16)[0],
        lambda: info_nce(q, k, at, 10.0, chunk=16),
        lambda: dcl(q, k, at, None, 10.0, chunk=16),
        lambda: sigmoid_pairs(q, k, at, 10.0, -10.0, chunk=16),
    ):
        with Largest() as seen:
            loss().sum().backward()
        assert seen.most <= max(16 * n, n * D)


def test_nt_xent_is_nt_xent_in_chunks(pair):
    a, b = pair
    keys = torch.cat([a, b])
    torch.testing.assert_close(nt_xent(a, keys, AT + N, AT, 0.1, chunk=3), nt_xent(a, keys, AT + N, AT, 0.1))


# ------------------------------------------------------------------------------------- Barlow Twins, Mixed Barlow Twins

ALL = torch.ones(N, dtype=torch.bool)


def columns(z):
    z = z.numpy()
    return (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)


def test_barlow_equals_its_formula():
    za, zb = rows(0), rows(1) + 0.5 * rows(0)
    c = columns(za).T @ columns(zb) / N
    expected = sum((1 - c[i, i]) ** 2 for i in range(D))
    expected += 0.005 * sum(c[i, j] ** 2 for i in range(D) for j in range(D) if i != j)
    assert abs(r.barlow_twins(za, zb, ALL).item() - expected) < 1e-9


def test_barlow_is_zero_for_identical_whitened_views():
    z = rows(0)
    z = z - z.mean(0)
    white = torch.linalg.qr(z)[0] * math.sqrt(N) * 1e3  # large, so that eps plays no part
    assert r.barlow_twins(white, white, ALL).item() < 1e-9
    assert r.barlow_twins(white, rows(1), ALL).item() > 1


@pytest.mark.parametrize("loss", ["barlow", "mixed", "vicreg"])
def test_absent_rows_play_no_part(loss):
    valid = torch.rand(N, generator=torch.Generator().manual_seed(5)) > 0.3
    za, zb, zm = rows(0), rows(1), rows(2)
    za[~valid] = torch.nan
    order = valid.nonzero()[:, 0]
    partner = AT.clone()
    partner[order] = order.roll(1)
    few = torch.arange(len(order)).roll(1)

    def value(a, b, m, v, p):
        if loss == "barlow":
            return r.barlow_twins(a, b, v)
        if loss == "vicreg":
            return r.vicreg(a, b, v)[0]
        return r.mixed_barlow_twins((a, b, b[p], m), 0.3, v)[0]

    a = za.clone().requires_grad_()
    ours = value(a, zb, zm, valid, partner)
    alone = value(za[valid], zb[valid], zm[valid], valid[valid], few)
    torch.testing.assert_close(ours, alone)
    ours.backward()
    assert torch.isfinite(a.grad).all()
    for count in (0, 1):
        none = value(rows(0).requires_grad_(), zb, zm, AT < count, AT)
        assert none.item() == 0 and none.requires_grad


def test_mixed_barlow_equals_its_formula():
    za, zb, zm = rows(0), rows(1), rows(2)
    partner, share, lam, reg = torch.randperm(N), 0.3, 0.005, 4.0
    a, b, m = (columns(z) for z in (za, zb, zm))
    other = b[partner.numpy()]
    term = 0.0
    for v in (a, b):
        term += (((m.T @ v) / N - (share * a.T @ v + (1 - share) * other.T @ v) / N) ** 2).sum()
    expected = r.barlow_twins(za, zb, ALL).item() + reg * lam * term
    loss, found = r.mixed_barlow_twins((za, zb, zb[partner], zm), share, ALL, lam, reg)
    assert abs(found.item() - term) < 1e-9 and abs(loss.item() - expected) < 1e-9


def test_mixed_barlows_term_is_zero_for_a_linear_encoder():
    """Exactly so for embeddings that are standardised already; through the standardisation, where the mixture keeps the
    scale of what is mixed (one view mixed with itself)."""
    za, zb, partner = r.standardise(rows(0), ALL), r.standardise(rows(1), ALL), torch.randperm(N)
    m = 0.3 * za + 0.7 * zb[partner]
    assert r.mixed_barlow_term(za, zb, zb[partner], m, 0.3, ALL).item() < 1e-20
    weight, x = rows(7, 9, D), rows(8, N, 9)
    mixed = 0.3 * x + 0.7 * x
    _, term = r.mixed_barlow_twins((x @ weight, x @ weight, x @ weight, mixed @ weight), 0.3, ALL)
    assert term.item() < 1e-18
    curved = torch.tanh(3 * mixed @ weight)
    assert r.mixed_barlow_twins((x @ weight, x @ weight, x @ weight, curved), 0.3, ALL)[1].item() > 1e-3


# ----------------------------------------------------------------------------------------------- VICReg, BYOL, SimSiam


def test_vicreg_terms_equal_their_formulas():
    za, zb = rows(0) * 0.3, rows(1) * 0.6
    total, terms = r.vicreg(za, zb, ALL)
    x, y = za.numpy(), zb.numpy()
    invariance = ((x - y) ** 2).mean()
    variance, covariance = 0.0, 0.0
    for z in (x, y):
        variance += np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean() / 2
        c = np.cov(z.T)
        covariance += (c**2).sum() / D - (np.diag(c) ** 2).sum() / D
    for name, value in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
        assert abs(terms[name].item() - value) < 1e-9, name
    assert abs(total.item() - (25 * invariance + 25 * variance + covariance)) < 1e-8


def test_vicreg_is_zero_for_identical_decorrelated_views_of_unit_spread():
    z = rows(0)
    z = torch.linalg.qr(z - z.mean(0))[0] * math.sqrt(N - 1)
    assert r.vicreg(z, z, ALL)[0].item() < 1e-9


def test_byol_and_simsiam():
    p, z = rows(0).requires_grad_(), rows(1).requires_grad_()
    x, y = p.detach().numpy(), z.detach().numpy()
    for i in range(N):
        distance = ((x[i] / np.linalg.norm(x[i]) - y[i] / np.linalg.norm(y[i])) ** 2).sum()
        assert abs(r.byol(p, z)[i].item() - distance) < 1e-9
        assert abs(r.simsiam(p, z)[i].item() - (distance / 2 - 1)) < 1e-9
    (r.byol(p, z).sum() + r.simsiam(p, z).sum()).backward()
    assert z.grad is None and p.grad is not None


# ---------------------------------------------------------------------------------------------------------- DirectPred


@pytest.mark.parametrize("relative", [True, False])
def test_direct_predictor_is_symmetric_and_its_papers_formula(relative):
    f = rows(0)
    correlation = f.T @ f / N
    w = r.direct_predictor(correlation, 0.1, relative)
    assert torch.equal(w, w.T)
    values, vectors = np.linalg.eigh(correlation.numpy())
    if relative:
        values = values / values.max()
    expected = sum(
        (math.sqrt(max(s, 0)) + 0.1 * values.max()) * np.outer(u, u) for s, u in zip(values, vectors.T, strict=True)
    )
    assert np.abs(w.numpy() - expected).max() < 1e-9
    turn = torch.linalg.qr(rows(3, D))[0]  # rotated inputs have the rotated predictor
    turned = r.direct_predictor(turn.T @ correlation @ turn, 0.1, relative)
    torch.testing.assert_close(turned, turn.T @ w @ turn, rtol=0, atol=1e-9)
    assert torch.equal(r.direct_predictor(torch.zeros(3, 3)), torch.eye(3))
