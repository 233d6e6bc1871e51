"""Decompositions that do not give up.

Divide and conquer (LAPACK's syevd and gesdd, which torch calls) now and then does not converge where many values are
nearly equal, as of views of rare words. Another way then finds the same. What is not finite is refused by both, with
torch.linalg.LinAlgError or ValueError.
"""

from __future__ import annotations

import torch
from torch import Tensor


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (n,), rising, and eigenvectors (n, n) of a symmetric matrix (n, n)."""
    try:
        value, vector = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:
        import scipy.linalg

        found = scipy.linalg.eigh(matrix.cpu().numpy(), driver="evr")
        value, vector = (torch.from_numpy(part).to(matrix) for part in found)
    return value, vector


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left vectors (m, r), singular values (r,), falling, right vectors (r, n) of a matrix (m, n); r = min(m, n)."""
    try:
        left, value, right = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:
        import scipy.linalg

        found = scipy.linalg.svd(matrix.cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
        left, value, right = (torch.from_numpy(part).to(matrix) for part in found)
    return left, value, right
