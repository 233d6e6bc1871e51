"""`PrototypeHead`: the projection of DINO and iBOT, a perceptron that ends in similarities to learned prototypes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Prototypes(nn.Module):
    """What rows (..., D), brought to length 1, have in common with K prototypes: (..., K).

    Of length 1, too (DINO, iBOT, DINOv2): cosines, a weight-normalised linear map whose norms stay at 1. Or of the
    length that they learn (`unit=False`, DINOv3): a plain linear map without bias, small at the start.
    given: nothing trains them, whoever has them sets them. They are a buffer then, which every process holds whole.
    """

    weight: Tensor

    def __init__(self, width: int, count: int, unit: bool = True, given: bool = False) -> None:
        super().__init__()
        self.unit = unit
        if given:
            self.register_buffer("weight", torch.zeros(count, width))
        else:
            self.weight = nn.Parameter(torch.zeros(count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the prototypes anew: of length 1 in the mean, or with DINOv3's deviation of 0.02."""
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5 if self.unit else 0.02)

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """float32, whatever the precision around: the temperatures that follow multiply rounding by 10 to 25."""
        weight = self.weight.detach() if frozen else self.weight
        with torch.autocast(x.device.type, enabled=False):
            weight = weight.float()
            return F.linear(F.normalize(x.float(), dim=-1), F.normalize(weight, dim=-1) if self.unit else weight)


class PrototypeHead(nn.Module):
    """`layers` linear maps with GELU between, down to a narrow bottleneck, then `Prototypes` (Caron et al. 2021)."""

    def __init__(self, width: int, hidden: int, bottleneck: int, count: int, layers: int, unit: bool = True) -> None:
        super().__init__()
        sizes = [width, *[hidden] * (layers - 1), bottleneck]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        self.prototypes = Prototypes(bottleneck, count, unit)

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """x (..., width) -> (..., K) similarities; frozen: no gradient for the prototypes."""
        for number, layer in enumerate(self.layers):
            x = layer(F.gelu(x) if number else x)
        return self.prototypes(x, frozen)
