"""Every loss against the field's own implementation and an own float64 computation from the paper's formula."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmssl.losses.contrastive import info_nce, info_nce_both, nt_xent, sigmoid_pairs
from mmssl.losses.reconstruction import normalised_patches, patch_cross_entropy, patch_mse

N, D = 24, 16


@pytest.fixture
def pair():
    g = torch.Generator().manual_seed(0)
    return tuple(F.normalize(torch.randn(N, D, generator=g), dim=-1) for _ in range(2))


@pytest.mark.parametrize("chunk", [None, 3])
def test_smoothed_labels_are_those_of_cross_entropy(pair, chunk):
    a, b = (x.clone().requires_grad_() for x in pair)
    valid, at, scale = torch.arange(N) != 1, torch.arange(N), torch.tensor(5.0)
    there = at[valid]
    logits = scale * a[there] @ b[there].T
    places = torch.arange(len(there))
    forth, back = (F.cross_entropy(x, places, label_smoothing=0.2) for x in (logits, logits.T))
    both = info_nce_both(a, b, scale, valid, 3, 0.2)
    for ours, theirs in (
        (info_nce(a, b, at, scale, valid, chunk, 0.2)[there].mean(), forth),
        (info_nce(b, a, at, scale, valid, chunk, 0.2)[there].mean(), back),
        (both[0][there].mean(), forth),
        (both[1][there].mean(), back),
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        for x, y in zip(*(torch.autograd.grad(v, (a, b), retain_graph=True) for v in (ours, theirs)), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


def test_info_nce_equals_clip_loss(pair):
    from open_clip.loss import ClipLoss

    a, b = (x.clone().requires_grad_() for x in pair)
    scale = torch.tensor(14.3)
    at = torch.arange(N)
    ours = (info_nce(a, b, at, scale).mean() + info_nce(b, a, at, scale).mean()) / 2
    grads = torch.autograd.grad(ours, (a, b))
    theirs = ClipLoss()(a, b, scale)
    for x, y in zip(grads, torch.autograd.grad(theirs, (a, b)), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    x, y = (v.numpy().astype(np.float64) for v in pair)
    logits = 14.3 * x @ y.T
    forth = np.mean([np.log(np.exp(logits[i]).sum()) - logits[i, i] for i in range(N)])
    back = np.mean([np.log(np.exp(logits[:, i]).sum()) - logits[i, i] for i in range(N)])
    assert abs(ours.item() - (forth + back) / 2) < 1e-6


def test_sigmoid_equals_siglip_loss(pair):
    from open_clip.loss import SigLipLoss

    a, b = pair
    scale, bias = torch.tensor(10.0), torch.tensor(-10.0)
    ours = sigmoid_pairs(a, b, torch.arange(N), scale, bias).mean()
    torch.testing.assert_close(ours, SigLipLoss()(a, b, scale, bias), rtol=0, atol=1e-6)
    x, y = (v.numpy().astype(np.float64) for v in pair)
    z = (2 * np.eye(N) - 1) * (10.0 * x @ y.T - 10.0)
    assert abs(ours.item() - np.log1p(np.exp(-z)).sum() / N) < 1e-6


def test_nt_xent_equals_its_formula(pair):
    a, b = pair
    keys = torch.cat([a, b])
    at = torch.arange(N)
    ours = (nt_xent(a, keys, at + N, at, 0.2).mean() + nt_xent(b, keys, at, at + N, 0.2).mean()) / 2
    z = keys.numpy().astype(np.float64)
    s = z @ z.T / 0.2
    total = 0.0
    for i in range(2 * N):
        others = [j for j in range(2 * N) if j != i]
        total += -s[i, (i + N) % (2 * N)] + math.log(sum(math.exp(s[i, j]) for j in others))
    assert abs(ours.item() - total / (2 * N)) < 1e-6


@pytest.mark.parametrize("loss", ["infonce", "sigmoid", "nt_xent"])
def test_absent_rows_are_nobodys_negative(pair, loss):
    a, b = pair
    valid = torch.rand(N, generator=torch.Generator().manual_seed(1)) > 0.3
    at, few = torch.arange(N), torch.arange(int(valid.sum()))
    if loss == "infonce":
        ours, alone = info_nce(a, b, at, 9.0, valid), info_nce(a[valid], b[valid], few, 9.0)
    elif loss == "sigmoid":
        ours, alone = sigmoid_pairs(a, b, at, 9.0, -3.0, valid), sigmoid_pairs(a[valid], b[valid], few, 9.0, -3.0)
    else:
        ours = nt_xent(a, torch.cat([a, b]), at + N, at, 0.1, valid.repeat(2))
        alone = nt_xent(a[valid], torch.cat([a[valid], b[valid]]), few + len(few), few, 0.1)
    torch.testing.assert_close(ours[valid], alone, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(ours).all()


def test_reconstruction_with_missing_elements():
    g = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 3, 8, generator=g), torch.randn(2, 3, 8, generator=g)
    torch.testing.assert_close(patch_mse(pred, target), (pred - target).square().mean(-1))
    holed = target.clone()
    holed[0, 0, 4:] = torch.nan
    torch.testing.assert_close(patch_mse(pred, holed)[0, 0], (pred - target)[0, 0, :4].square().mean())
    expected = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    torch.testing.assert_close(normalised_patches(target), expected)
    torch.testing.assert_close(normalised_patches(holed)[0, 0, :4], normalised_patches(target[:1, :1, :4])[0, 0])
    logits, ids = torch.randn(2, 3, 5, generator=g), torch.tensor([[0, 1, 2], [3, 4, 0]])
    by_hand = logits.logsumexp(-1) - logits.gather(-1, ids[..., None])[..., 0]
    torch.testing.assert_close(patch_cross_entropy(logits, ids), by_hand)
