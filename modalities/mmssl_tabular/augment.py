"""Views of table rows: cells from other rows (SCARF), correlated feature masking, dropped cells, noise.

Shapes: B rows of this process, G of the global batch, N columns, P elements of a cell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl.distributed import gather_rows
from mmssl.draws import Draws
from mmssl.modality import Inputs

from .options import View


def augment(inputs: Inputs, draws: Draws, view: View, numeric: Tensor, related: Tensor) -> Inputs:
    """One view of the rows.

    Args:
        inputs: "cells" (B, N, P); "shown" (B, N) bool where a view hid some before.
        draws: random numbers of the B samples.
        view: what is done.
        numeric: (N,) bool, columns of numbers.
        related: (N, N - 1) as `schema.related`.
    """
    cells, draws = inputs["cells"], draws.for_all() if view.alike else draws
    count = cells.shape[1]
    if view.noise_std:
        noise = draws("noise").normal(count).to(cells) * view.noise_std
        cells = cells.clone()
        cells[..., 0] += noise * numeric  # a missing cell stays NaN
    if view.resample:
        cells = resampled(inputs | {"cells": cells}, draws("resample"), view.resample)
    shown = inputs.get("shown")
    if view.correlated is not None:
        masked = correlated(draws.shared("correlated"), related)
        keep = ~masked if view.correlated == "seed" else masked
        shown = keep if shown is None else shown & keep
    if view.drop:
        keep = ~_share_of(draws("drop"), count, view.drop)
        shown = keep if shown is None else shown & keep
    out = inputs | {"cells": cells}
    return out if shown is None else out | {"shown": shown}


def _share_of(draws: Draws, count: int, share: float) -> Tensor:
    """(B, N) bool: exactly `int(share * N)` columns of each row, a random subset of its own."""
    rank = draws.uniform(count).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return rank < int(share * count + 1e-6)


def resampled(inputs: Inputs, draws: Draws, share: float) -> Tensor:
    """Cells (B, N, P) of which a random `share` is replaced by those of other rows, each from a row of its own.

    SCARF (Bahri et al. 2022, arXiv 2106.15147): corrupted features come from the column's empirical marginal. Here
    that is the column's cells in the global batch, so missing cells and categories are as frequent as in the data.
    Rows are drawn by their number in the global batch: two processes draw what one would.

    Args:
        inputs: "cells" (B, N, P), and "present" (B,) where rows are absent: they give and take nothing.
        draws: random numbers of the B samples.
        share: of the N cells of each row.
    """
    cells = inputs["cells"]
    batch, count, _ = cells.shape
    present = inputs.get("present")
    present = torch.ones(batch, dtype=torch.bool, device=cells.device) if present is None else present
    # gathered as numbers, because not every backend gathers bool
    pool = gather_rows(cells)[gather_rows(present.to(torch.uint8)).bool()]
    if not len(pool):
        return cells
    row = (draws("row").bits(count).to(cells.device) * len(pool)) >> 32
    other = pool[row, torch.arange(count, device=cells.device)]
    swap = _share_of(draws("cell"), count, share).to(cells.device) & present[:, None]
    return torch.where(swap[..., None], other, cells)


def correlated(draws: Draws, related: Tensor) -> Tensor:
    """(B, N) bool: a random column of each row and the int(N / 2) that it tells most of; never all of them.

    Correlated feature masking (Yao et al. 2021, "Self-supervised Learning for Large-scale Item Recommendations",
    arXiv 2007.12865, section 3.3): the second view gets the complement, so that neither can copy what the other says.
    There the seed is drawn anew for each batch: all rows are `alike`.
    """
    count = len(related)
    if count < 2:
        return torch.zeros(draws.rows, count, dtype=torch.bool, device=related.device)
    seed = draws.integers(count).to(related.device)
    members = torch.cat([seed[:, None], related[seed][:, : min(count // 2, count - 2)]], 1)
    return torch.zeros(draws.rows, count, dtype=torch.bool, device=related.device).scatter_(1, members, True)
