"""The attentive probe: a small classifier that learns which patch tokens to look at, on a frozen encoder.

One learned query attends over the tokens (multi-head cross-attention), and a linear map classifies what it gathers. A
linear probe judges one summary of the tokens; where that summary throws away what is in a few of them, this one
finds it. Bardes et al. 2024 (V-JEPA, arXiv 2404.08471, section 4 and appendix; facebookresearch/jepa,
`src/models/attentive_pooler.py`) judge by it; theirs has an MLP and a residual behind the attention, ours, as El-Nouby
et al. 2024 (AIM, arXiv 2401.08541), has neither, and the tokens are standardised feature by feature beforehand, as the
linear probe's are, so that an encoder's scale does not count.

Learning rate and weight decay are chosen as the linear probe's C is: on a fifth of the training rows, by accuracy; of
equal scores the more regularised wins. Then it is fitted on all of them.

Shapes: n rows, N patches, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.splits import Groups, hold_out, strata, without
from .linear import HELD_OUT

DECAYS, RATES = (3.0, 0.1), (3e-4, 1e-3, 3e-3)
"""Weight decays and learning rates that are tried, the more regularised first."""
EPOCHS, FEWEST, MOST = 40, 200, 1500
"""Passes over the rows, within these numbers of steps."""
BATCH = 64
HEADS = 8
"""Of the attention, or the most that divide D."""


class AttentiveProbe(nn.Module):
    """Tokens (n, N, D), nan where a row has no such patch, to logits (n, C)."""

    shift: Tensor
    deviation: Tensor

    def __init__(self, shift: Tensor, deviation: Tensor, classes: int) -> None:
        """A probe of random weights. shift, deviation: (D,) of the training rows' tokens."""
        super().__init__()
        width = len(shift)
        self.register_buffer("shift", shift)
        self.register_buffer("deviation", deviation)
        self.query = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.attention = nn.MultiheadAttention(width, math.gcd(width, HEADS), batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits."""
        gone = tokens.isnan().any(-1)
        x = torch.where(gone[..., None], 0.0, (tokens - self.shift) / self.deviation)
        query = self.query.expand(len(x), -1, -1)
        gathered, _ = self.attention(query, x, x, key_padding_mask=gone, need_weights=False)
        out: Tensor = self.head(self.norm(gathered[:, 0]))
        return out


def fit_attentive(
    tokens: Tensor,
    y: Tensor,
    classes: int,
    *,
    groups: Groups | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> AttentiveProbe:
    """The attentive probe of frozen tokens.

    Args:
        tokens: (n, N, D) of the training rows, nan where a row has no such patch; each row has one.
        y: (n,) class numbers.
        classes: how many there are.
        groups: a name a row; rows of one name are held out together.
        seed: of the held-out fifth, the weights and the order of the rows.
        device: where it is fitted.

    Raises:
        ValueError: there are fewer than two classes.
    """
    if len(y.unique()) < 2:
        raise ValueError("an attentive probe needs training rows of at least two classes")
    fitting = _Fitting(tokens, y, classes, seed, torch.device(device))
    held = hold_out(strata("classification", y.numpy(), classes), HELD_OUT, groups, seed)
    tried = list(product(DECAYS, RATES))
    best = tried[len(tried) // 2]
    if len(held):
        rest, out = torch.from_numpy(without(len(y), held)), torch.from_numpy(held)
        scores = [fitting.scored(rest, out, *pair) for pair in tried]
        best = tried[scores.index(max(scores))]
    return fitting.fit(torch.arange(len(y)), *best)


@torch.inference_mode()
def attentive_logits(probe: AttentiveProbe, tokens: Tensor) -> Tensor:
    """(n, C) logits on the CPU of tokens (n, N, D), of which only so many rows are worked on at a time."""
    device = probe.query.device
    return torch.cat([probe(part.to(device)).cpu() for part in tokens.split(4 * BATCH)])


class _Fitting:
    def __init__(self, tokens: Tensor, y: Tensor, classes: int, seed: int, device: torch.device) -> None:
        self.tokens, self.y, self.classes, self.seed, self.device = tokens, y, classes, seed, device

    def scored(self, rows: Tensor, held: Tensor, decay: float, rate: float) -> float:
        """Accuracy on `held` of what is fitted on `rows`."""
        probe = self.fit(rows, decay, rate)
        return float((attentive_logits(probe, self.tokens[held]).argmax(1) == self.y[held]).double().mean())

    def fit(self, rows: Tensor, decay: float, rate: float) -> AttentiveProbe:
        """AdamW under a cosine to zero; the same numbers whatever ran before."""
        shift, deviation = _moments(self.tokens, rows)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            probe = AttentiveProbe(shift, deviation, self.classes).to(self.device)
        per_epoch = -(-len(rows) // BATCH)
        steps = min(max(EPOCHS * per_epoch, FEWEST), MOST)
        groups = _decayed(probe, decay)
        optimizer = torch.optim.AdamW(groups, lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if not len(order):
                order = rows[torch.randperm(len(rows), generator=generator)]
            taken, order = order[:BATCH], order[BATCH:]
            logits = probe(self.tokens[taken].to(self.device))
            F.cross_entropy(logits, self.y[taken].to(self.device)).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        return probe.eval()


def _decayed(probe: nn.Module, decay: float) -> Sequence[dict[str, object]]:
    """Matrices are decayed, biases, norms and the query are not."""
    matrices = [p for p in probe.parameters() if p.dim() == 2]
    others = [p for p in probe.parameters() if p.dim() != 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _moments(tokens: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, deviation) (D,) of the patches that these rows have, in float64 and back; 1 where nothing varies."""
    total = squares = torch.zeros(tokens.shape[-1], dtype=torch.float64)
    count = 0
    for part in rows.split(4 * BATCH):  # a copy in float64 of all would be twice what is there
        x = tokens[part].flatten(0, 1)
        x = x[~x.isnan().any(-1)].double()
        total, squares, count = total + x.sum(0), squares + x.square().sum(0), count + len(x)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    deviation = torch.where(deviation > 1e-6 * mean.abs().clamp(min=1e-6), deviation, 1.0)
    return mean.float(), deviation.float()
