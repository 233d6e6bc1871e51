"""Heads on a pooled embedding: the projector of two-view methods, and the predictor of BYOL and SimSiam.

Absent samples and other processes' samples are why the batch norm here is not torch's: it counts present rows only,
over all processes, and so gives each row what it would get in one process without the absent ones.

Shapes: n rows, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...distributed import all_sum
from ..options.heads import HeadOptions


class BatchNorm(nn.Module):
    """Batch norm over the present rows of all processes.

    It always uses the batch's statistics and keeps no running ones: heads are not used outside training, and a
    teacher's is meant to see its own batch (BYOL).
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def reset_parameters(self) -> None:
        """Back to scale 1 and shift 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (n, D), valid (n,) bool -> (n, D); the rows that are not valid are normalised like the others."""
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            weight = valid.to(values.dtype)[:, None]
            there = torch.where(valid[:, None], values, 0.0)
            sums = all_sum(torch.cat([there.sum(0), weight.sum(0)]))
            count = sums[-1].detach().clamp(min=1)
            centred = values - sums[:-1] / count
            # about the global mean, which takes a second sum: E[x^2] - E[x]^2 would cancel
            variance = all_sum((centred.square() * weight).sum(0)) / count
            return centred * torch.rsqrt(variance + self.eps) * self.weight.float() + self.bias.float()


class Head(nn.Module):
    """A perceptron: dense layers with ReLU between them and, after each hidden one, a layer norm or `BatchNorm`.

    SimCLR, Barlow Twins, VICReg, BYOL and SimSiam all have one with a batch norm; the layer norm does without the
    other rows of the batch.
    """

    def __init__(self, width: int, hidden: int, out: int, layers: int, norm: str) -> None:
        super().__init__()
        sizes = [width, *[hidden] * (layers - 1), out] if layers else [width]
        self.dense = nn.ModuleList(
            # a bias before a batch norm would be taken off again
            nn.Linear(a, b, bias=norm != "batch" or i == layers - 1)
            for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False))
        )
        kinds = {"layer": nn.LayerNorm, "batch": BatchNorm, "none": nn.Identity}
        self.norms = nn.ModuleList(kinds[norm](hidden) for _ in range(layers - 1))
        self.width = sizes[-1]

    @classmethod
    def of(cls, width: int, options: HeadOptions) -> Head:
        """The projection head that a recipe asks for, on an embedding of `width`."""
        return cls(width, options.head_hidden, options.head_width, options.head_layers, options.head_norm)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (n, width) -> (n, out); valid: (n,) bool, the rows that a batch norm counts."""
        for i, dense in enumerate(self.dense):
            x = dense(x)
            if i < len(self.norms):
                norm = self.norms[i]
                x = F.relu(norm(x, valid) if isinstance(norm, BatchNorm) else norm(x))
        return x
