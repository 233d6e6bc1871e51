"""Many tokens to one vector. Shapes: B batch, n tokens, D width, R prefix tokens, H heads, S cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import UserError
from .dispatch import attention
from .options import CELLS, RAW, TowerConfig, pooling_parts
from .trunk import MLP

if TYPE_CHECKING:
    from ..modality import Modality
    from ..patches import Patches


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean of x (B, n, D) over valid (B, n), float32; zeros where nothing is valid."""
    weight = valid.to(torch.float32)[..., None]
    return (x.float() * weight).sum(1) / weight.sum(1).clamp(min=1)


def masked_std(x: Tensor, valid: Tensor) -> Tensor:
    """Standard deviation (of the population) of x (B, n, D) over valid (B, n), float32; zeros where nothing is valid.

    Its gradient is finite where all tokens are equal.
    """
    weight = valid.to(torch.float32)[..., None]
    apart = (x.float() - masked_mean(x, valid)[:, None]) * weight
    return (apart.square().sum(1) / weight.sum(1).clamp(min=1)).clamp(min=1e-12).sqrt() * valid.any(1, keepdim=True)


def masked_max(x: Tensor, valid: Tensor) -> Tensor:
    """Greatest value of x (B, n, D) over valid (B, n), float32; zeros where nothing is valid."""
    most = x.float().masked_fill(~valid[..., None], -torch.inf).amax(1)
    return most.masked_fill(~valid.any(1, keepdim=True), 0.0)


def last_token(x: Tensor, valid: Tensor, order: Tensor) -> Tensor:
    """(B, D) float32 the valid token of x (B, n, D) with the greatest order (B, n), wherever in the row it lies."""
    last = order.masked_fill(~valid, -torch.inf).argmax(1)[:, None, None].expand(-1, 1, x.shape[2])
    return x.gather(1, last)[:, 0].float() * valid.any(1, keepdim=True)


def cell_means(x: Tensor, valid: Tensor, cell: Tensor, cells: int) -> Tensor:
    """(B, S * D) float32: mean of x (B, n, D) over the valid tokens of each cell (B, n) int64; an empty one is zero."""
    member = (cell[..., None] == torch.arange(cells, device=cell.device)) & valid[..., None]
    weight = member.to(torch.float32)
    means = weight.transpose(1, 2) @ x.float() / weight.sum(1).clamp(min=1)[..., None]
    return means.flatten(1)


WIDEST = 4096
"""Numbers of a vector that a default readout has at most: a linear probe of it must still be quick."""


def usual_readout(options: TowerConfig, modality: Modality) -> str:
    """How a tower is read out whose options do not say: the first of the modality's own ways that is not too wide;
    or as it pools, where that is not the mean."""
    if options.pooling != "mean":
        return options.pooling
    width = options.width * options.readout_layers
    for how in modality.readouts:
        offered = all(modality.cells(part) for part in pooling_parts(how) if part in CELLS)
        if offered and Pooling(how, {"": modality}).times() * width <= WIDEST:
            return how
    return "mean"


@dataclass(frozen=True)
class Pooling:
    """How tokens become one vector: the parts of `how` side by side (see `TowerConfig.pooling`).

    Attributes:
        how: names joined by "+", or "attention".
        modalities: those of the tower; they say which cells their patches lie in.
        learned: the learned query of "attention", (B, n, D) and valid (B, n) -> (B, D).
    """

    how: str
    modalities: Mapping[str, Modality]
    learned: Callable[[Tensor, Tensor], Tensor] | None = None

    def check(self, where: str, classes: bool) -> None:
        """UserError where the tower's modalities have no such cells, or it has no class token.

        Args:
            where: the option's place, for the message.
            classes: the tower has a class token.
        """
        for part in pooling_parts(self.how):
            if part == "cls" and not classes:
                raise UserError(f"{where}: found {self.how}, but the tower has no class token; expected prefix: 1")
            if part in CELLS or part == RAW:
                if len(self.modalities) > 1:
                    raise UserError(
                        f"{where}: found {self.how}, expected {part} in towers of one modality only, "
                        f"this one has {', '.join(self.modalities)}"
                    )
                if part == RAW:
                    self._check_raw(where)
                    continue
                lacking = [name for name, modality in self.modalities.items() if not modality.cells(part)]
                if lacking:
                    offered = [kind for kind in CELLS if self.modalities[lacking[0]].cells(kind)]
                    raise UserError(
                        f"{where}: found {self.how}, but patches of modality '{lacking[0]}' lie in no cells of "
                        f"'{part}'; expected {', '.join(offered) if offered else 'mean, std, max, sum or last'}"
                    )

    def _check_raw(self, where: str) -> None:
        """UserError where a modality does not say how many raw features it has."""
        for name, modality in self.modalities.items():
            if modality.raw_width is None:
                raise UserError(
                    f"{where}: found {self.how}, but modality '{name}' does not say how many raw features it has "
                    "(raw_width); expected a pooling without raw"
                )

    @property
    def raw(self) -> bool:
        """Whether raw features are a part of it."""
        return RAW in pooling_parts(self.how)

    def times(self) -> int:
        """How many times as wide as a token the vector is, but for raw features."""
        cells = next(iter(self.modalities.values())).cells
        return sum(cells(part) if part in CELLS else 1 for part in pooling_parts(self.how) if part != RAW)

    def wide(self, width: int) -> int:
        """How many numbers the vector has, of tokens of that width."""
        return width * self.times() + ((next(iter(self.modalities.values())).raw_width or 0) if self.raw else 0)

    def __call__(
        self, tokens: Mapping[str, Tensor], patches: Mapping[str, Patches], prefix: Tensor, names: Sequence[str]
    ) -> Tensor:
        """(B, wide(D)) float32 of the tokens (B, n, D) of these modalities; zeros where no patch is valid.

        Args:
            tokens: modality -> (B, n, D).
            patches: modality -> what they came from.
            prefix: (B, R, D).
            names: of the modalities that are summed up.
        """
        valid = torch.cat([patches[n].valid for n in names], 1)
        if self.how == "cls":
            return prefix[:, 0].float() * valid.any(1, keepdim=True)
        x = torch.cat([tokens[n] for n in names], 1)
        if self.learned is not None:
            return self.learned(x, valid).float() * valid.any(1, keepdim=True)
        out = []
        for part in pooling_parts(self.how):
            if part == "cls":
                out.append(prefix[:, 0].float() * valid.any(1, keepdim=True))
            elif part == "last":
                out.append(last_token(x, valid, torch.cat([patches[n].coords[..., 0] for n in names], 1)))
            elif part in CELLS:
                modality = self.modalities[names[0]]
                out.append(cell_means(x, valid, modality.cell(part, patches[names[0]]), modality.cells(part)))
            elif part == RAW:
                out.append(self._raw(patches[names[0]], names[0]))
            elif part == "sum":
                out.append((x.float() * valid[..., None]).sum(1))
            else:
                out.append({"mean": masked_mean, "std": masked_std, "max": masked_max}[part](x, valid))
        return out[0] if len(out) == 1 else torch.cat(out, 1)

    def _raw(self, patches: Patches, name: str) -> Tensor:
        """(B, F) of whole inputs."""
        if patches.raw is None:
            raise UserError(
                f"model.towers: found pooling {self.how} of modality '{name}', some patches of which are left out by a "
                "mask: its raw features would tell of those; expected a pooling without raw, or no mask"
            )
        return patches.raw


class AttentionPool(nn.Module):
    """One learned query asks all tokens; then a norm and a perceptron with a skip connection.

    The head of SigLIP's image encoder (Zhai et al. 2023; big_vision's `MAPHead`), after multi-head attention pooling
    (Lee et al. 2019, "Set Transformer").
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, norm_eps: float, activation: str) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(width))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = MLP(width, int(width * mlp_ratio), activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the query anew: N(0, 0.02)."""
        nn.init.normal_(self.query, std=0.02)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """tokens (B, n, D), valid (B, n) -> (B, D). A row without valid tokens attends to all; clear it afterwards."""
        batch, n, width = tokens.shape
        w, b = self.qkv.weight, self.qkv.bias
        tokens = tokens.to(w.dtype)
        # a third of the fused product for the one query, the rest for the tokens
        q = nn.functional.linear(self.query.to(w.dtype), w[:width], b[:width]).view(1, 1, self.heads, -1)
        kv = nn.functional.linear(tokens, w[width:], b[width:]).view(batch, n, 2, self.heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        # softmax over nothing is nan
        keys = valid | ~valid.any(1, keepdim=True)
        out = attention(q.transpose(1, 2).expand(batch, -1, -1, -1), k, v, keys[:, None, None])
        x = self.proj(out.transpose(1, 2).flatten(1))
        return x + self.mlp(self.norm(x))
