"""Losses of matched patches against own float64 computations of the papers' formulas."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmssl.losses.dense import nce_of, pixel_consistency, propagated, vicreg_matches
from mmssl.losses.redundancy import vicreg

B, M, D = 7, 4, 5


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_vicreg_of_full_maps_is_that_of_each_rank():
    """With as many matches in every sample it is the mean over ranks of VICReg, whose covariances are summed there."""
    a, b, all_there = numbers(0, B, M, D) * 0.5, numbers(1, B, M, D), torch.ones(B, M, dtype=torch.bool)
    loss, terms = vicreg_matches(a, b, all_there, (2.0, 3.0, 0.5))
    each = [vicreg(a[:, m], b[:, m], all_there[:, m], (2.0, 3.0, 0.25))[0] for m in range(M)]
    torch.testing.assert_close(loss, torch.stack(each).mean(), rtol=0, atol=1e-12)
    assert terms.keys() == {"invariance", "variance", "covariance"}


def test_vicreg_counts_matches_only():
    a, b = numbers(0, B, M, D), numbers(1, B, M, D)
    valid = torch.tensor(
        [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 1]]
    )
    valid = valid.bool()
    spoiled = a.masked_fill(~valid[..., None], torch.nan)
    loss, _ = vicreg_matches(spoiled, b, valid, (2.0, 3.0, 0.5))
    x, y = a.numpy(), b.numpy()
    distance = np.mean([((x[i, m] - y[i, m]) ** 2).mean() for i, m in valid.nonzero().tolist()])
    spread, covariance = [], []
    for m in range(M):
        rows = valid[:, m].numpy()
        if rows.sum() < 2:  # one sample says nothing of spread
            continue
        for z in (x[rows, m], y[rows, m]):
            matrix = np.cov(z.T)
            spread.append(np.maximum(0, 1 - np.sqrt(np.diag(matrix) + 1e-4)).mean())
            covariance.append((matrix[~np.eye(D, dtype=bool)] ** 2).sum() / D)
    assert loss.item() == pytest.approx(2 * distance + 3 * np.mean(spread) + 0.5 * np.mean(covariance), abs=1e-12)
    nothing, _ = vicreg_matches(a.requires_grad_(), b, torch.zeros_like(valid))
    nothing.backward()
    assert nothing == 0 and a.grad.isfinite().all()


def test_contrast_is_cross_entropy_of_what_counts():
    positive, negatives = numbers(0, B), numbers(1, B, M)
    counted = torch.rand(B, M, generator=torch.Generator().manual_seed(2)) > 0.4
    counted[0] = False
    found = nce_of(positive, negatives, counted)
    for i in range(B):
        logits = torch.cat([positive[i : i + 1], negatives[i][counted[i]]])
        expected = F.cross_entropy(logits[None], torch.zeros(1, dtype=torch.long))
        assert found[i].item() == pytest.approx(expected.item(), abs=1e-12)
    assert found[0] == 0


def test_pixel_consistency_and_propagation_are_pixpros():
    x, y = (F.normalize(numbers(i, B, M, D), dim=-1) for i in (0, 1))
    pairs = torch.rand(B, M, M, generator=torch.Generator().manual_seed(2)) > 0.6
    pairs[1] = False
    found = pixel_consistency(x, y, pairs)
    for i in range(B):
        cosines = [float(x[i, p] @ y[i, q]) for p, q in pairs[i].nonzero().tolist()]
        assert found[i].item() == pytest.approx(-2 * np.mean(cosines) if cosines else 0.0, abs=1e-12)
    valid = torch.ones(B, M, dtype=torch.bool)
    valid[0, 2] = False
    for sharpness in (2.0, 0.5):
        out = propagated(x, y, valid, sharpness)
        for i in range(B):
            for p in range(M):
                like = [max(0.0, float(x[i, p] @ x[i, q])) + (1e-6 if sharpness < 1 else 0) for q in range(M)]
                wanted = sum(like[q] ** sharpness * y[i, q] for q in range(M) if valid[i, q])
                torch.testing.assert_close(out[i, p], wanted, rtol=0, atol=1e-12)
