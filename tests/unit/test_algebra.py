"""Decompositions that do not give up, where torch's do."""

from __future__ import annotations

import pytest
import torch

from mmssl.algebra import eigh, svd

NOT_CONVERGED = torch.linalg.LinAlgError("The algorithm failed to converge")


def raising(*args: object, **kwargs: object) -> None:
    raise NOT_CONVERGED


@pytest.mark.parametrize("gives_up", [False, True])
def test_values_and_vectors_make_the_matrix_also_where_torch_gives_up(
    gives_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.randn(40, 30, dtype=torch.float64)
    rows[:, 20:] = rows[:, :10]  # many eigenvalues are nearly equal: zero
    wanted = torch.linalg.svdvals(rows)
    if gives_up:
        monkeypatch.setattr(torch.linalg, "eigh", raising)
        monkeypatch.setattr(torch.linalg, "svd", raising)
    value, vector = eigh(rows.T @ rows)
    torch.testing.assert_close(vector * value @ vector.T, rows.T @ rows)
    torch.testing.assert_close(value.flip(0)[:20], wanted[:20].square())
    left, value, right = svd(rows)
    torch.testing.assert_close(left * value @ right, rows)
    torch.testing.assert_close(value, wanted)
    assert left.shape == (40, 30) and right.shape == (30, 30) and left.dtype == torch.float64


def test_what_is_not_finite_is_refused() -> None:
    for found in (eigh, svd):
        with pytest.raises((torch.linalg.LinAlgError, ValueError)):
            found(torch.full((4, 4), float("nan"), dtype=torch.float64))
