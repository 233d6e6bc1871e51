"""Several sides of one moment, such as devices worn together: the one that is most alike is the positive (ColloSSL)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...distributed import gather_rows, global_mean, rank
from ...losses.several import mean_discrepancy, weighted_negatives
from .compared import Compared
from .sides import Side

LEAST = 1e-4
"""Of a discrepancy, as in ColloSSL: it is divided by."""


def closest_loss(rows: Compared, side: Side, others: Sequence[Side], scale: Tensor) -> Tensor:
    """() of a side that asks: its key is the same sample's of the other side whose embeddings are distributed most
    alike, told from the other samples of all other sides, which weigh 1 / discrepancy, at most 1.

    ColloSSL (Jain et al. 2022, arXiv 2202.00758; akhilmathurs/collossl). There the discrepancy is that of the norms of
    raw accelerations and one unaligned window of each device is drawn; here it is that of the embeddings, without
    gradient, so that any modality may be meant, and all windows of the batch that are not aligned are told from.
    """
    query, asking = rows.asks(side)
    every, there = rows.every(side).detach(), gather_rows(asking)
    keys = [rows.every(other) for other in others]
    present = [gather_rows(rows.asks(other).present) for other in others]
    found = [mean_discrepancy(every, x.detach(), there, at) for x, at in zip(keys, present, strict=True)]
    inverse = 1 / torch.stack(found).clamp(min=LEAST)
    weights = (inverse / inverse.max().clamp(min=1)).to(query.dtype)
    near, nearby = rows.asks(others[int(inverse.argmax())])
    # a sample's own keys, one of each side, are aligned with it
    own = torch.arange(len(query), device=query.device) + rank() * len(query)
    excluded = torch.stack([own + len(there) * number for number in range(len(others))], 1)
    each = torch.cat([weight * at for weight, at in zip(weights, present, strict=True)])
    with torch.autocast(query.device.type, enabled=False):
        loss = weighted_negatives(query, near, torch.cat(keys), each, excluded, scale.to(query.device))
        return global_mean(loss, asking & nearby)
