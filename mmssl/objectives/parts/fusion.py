"""`Fusion`: the tokens of several towers look at one another (the cross-modal fusion encoder of HiCMAE).

Shapes: B batch, R prefix tokens, n tokens of a tower, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...models.tower import Encoded, key_mask
from ...models.trunk import Block, CrossAttention


class Fusion(nn.Module):
    """`depth` layers, in each of which every tower's tokens attend to those of all others as they were before the
    layer, and then to their own kind in a transformer block (Sun et al. 2024, arXiv 2401.05698).

    All towers have one width. A sample's tokens do not look at a tower whose modalities it lacks; one that has a single
    tower's modalities goes through that tower's own blocks alone.
    """

    def __init__(self, towers: Sequence[str], width: int, depth: int, heads: int, norm_eps: float = 1e-6) -> None:
        super().__init__()
        self.depth = depth
        self.looks = nn.ModuleDict(
            {t: nn.ModuleList(CrossAttention(width, heads, width, norm_eps) for _ in range(depth)) for t in towers}
        )
        self.blocks = nn.ModuleDict(
            {t: nn.ModuleList(Block(width, heads, norm_eps=norm_eps) for _ in range(depth)) for t in towers}
        )
        self.norms = nn.ModuleDict({t: nn.LayerNorm(width, eps=norm_eps) for t in towers})

    def forward(self, encoded: Mapping[str, Encoded]) -> dict[str, Encoded]:
        """tower -> its output, prefix and tokens replaced by fused ones; earlier layers stay the tower's own."""
        valid = {t: torch.cat([p.valid for p in e.patches.values()], 1) for t, e in encoded.items()}
        full = {t: all(p.full for p in e.patches.values()) for t, e in encoded.items()}
        first = {t: e.prefix.shape[1] for t, e in encoded.items()}
        own = {t: key_mask([valid[t]], full[t], first[t]) for t in encoded}
        streams = {t: torch.cat([e.prefix, *e.tokens.values()], 1) for t, e in encoded.items()}
        for layer in range(self.depth):
            before, streams = streams, {}
            for t in encoded:
                others = [o for o in encoded if o != t]
                seen = torch.cat([before[o][:, first[o] :] for o in others], 1)
                x = self._look(t, layer, before[t], seen, [valid[o] for o in others], all(full[o] for o in others))
                streams[t] = self.blocks[t][layer](x, own[t])  # type: ignore[index]
        return {t: self._fused(e, self.norms[t](streams[t]), first[t]) for t, e in encoded.items()}

    def _look(self, tower: str, layer: int, x: Tensor, others: Tensor, valid: Sequence[Tensor], full: bool) -> Tensor:
        """x (B, R + n, D) after it has looked at the others (B, m, D), unchanged where a sample has none of them."""
        looked: Tensor = self.looks[tower][layer](x, others, key_mask(valid, full, 0))  # type: ignore[index]
        if full:
            return looked
        return torch.where(torch.cat(list(valid), 1).any(1)[:, None, None], looked, x)

    @staticmethod
    def _fused(encoded: Encoded, x: Tensor, prefix: int) -> Encoded:
        parts = x.split([prefix, *(tokens.shape[1] for tokens in encoded.tokens.values())], 1)
        tokens = {
            name: part if encoded.patches[name].full else part * encoded.patches[name].valid[..., None]
            for name, part in zip(encoded.tokens, parts[1:], strict=True)
        }
        return replace(encoded, prefix=parts[0], tokens=tokens)
