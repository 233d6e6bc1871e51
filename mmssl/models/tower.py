"""`Tower`: one or more modalities on one trunk, and what it returns, `Encoded`.

Shapes: B batch, R prefix tokens, n tokens of a modality, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..modality import Modality
from ..patches import Patches
from .options import TowerConfig, mode_number
from .pooling import AttentionPool, Pooling
from .rotary import Rotary, Rotation, Unplaced, joined, unturned
from .trunk import Trunk


@dataclass
class Encoded:
    """A tower's output.

    Attributes:
        tokens: (B, n, D) per modality, zero where invalid.
        patches: what they came from.
        prefix: (B, R, D).
        pooling: how `pooled` sums up: what objectives and projections learn through.
        readout: how `summary` does: what is taken of the frozen tower.
        layers: un-normed tokens after the asked blocks: block -> modality -> (B, n, D).
        deep: (prefix, tokens) of the blocks that are read out beside the last, first to last.
    """

    tokens: dict[str, Tensor]
    patches: dict[str, Patches]
    prefix: Tensor
    pooling: Pooling
    readout: Pooling
    layers: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    deep: list[tuple[Tensor, dict[str, Tensor]]] = field(default_factory=list)

    def pooled(self, name: str | None = None) -> Tensor:
        """(B, W) float32 of one modality, or of all, by `pooling`; zeros for a sample without any valid patch."""
        return self.pooling(self.tokens, self.patches, self.prefix, [name] if name else list(self.tokens))

    def summary(self, name: str | None = None) -> Tensor:
        """(B, V) float32 of one modality, or of all, by `readout`; zeros for a sample without any valid patch."""
        names = [name] if name else list(self.tokens)
        parts = [self.readout(tokens, self.patches, prefix, names) for prefix, tokens in self.deep]
        parts.append(self.readout(self.tokens, self.patches, self.prefix, names))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def present(self, name: str | None = None) -> Tensor:
        """(B,) bool: the sample has at least one valid patch of this modality (of any)."""
        names = [name] if name else list(self.tokens)
        return torch.stack([self.patches[n].present for n in names]).any(0)


class Prefix(nn.Module):
    """Learned tokens in front: CLS, then registers."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the tokens anew: N(0, 0.02)."""
        nn.init.normal_(self.tokens, std=0.02)

    def forward(self, batch: int) -> Tensor:
        """The tokens for a batch of that size: (batch, count, D), a view."""
        return self.tokens.expand(batch, -1, -1)


def key_mask(valid: Sequence[Tensor], full: bool, prefix: int) -> Tensor | None:
    """(B, 1, 1, R + n) bool of who may be looked at, or None when everybody may. A row with nobody sees all."""
    if full:
        return None
    keys = torch.cat(list(valid), 1)
    if prefix:
        keys = torch.cat([keys.new_ones(keys.shape[0], prefix), keys], 1)
    else:
        # softmax over nothing is nan; with a prefix there is always somebody to look at
        keys = keys | ~keys.any(1, keepdim=True)
    return keys[:, None, None]


def with_relations(mask: Tensor | None, relations: Sequence[Tensor | None], counts: Sequence[int]) -> Tensor | None:
    """Additive attention bias from the key mask and each span's own (B, H, n_i, n_i) relations, None where it has none.

    counts: lengths of all spans, the prefix among them.
    """
    known = [r for r in relations if r is not None]
    if not known:
        return mask
    total = sum(counts)
    bias = known[0].new_zeros(known[0].shape[0], known[0].shape[1], total, total)
    start = 0
    for relation, count in zip(relations, counts, strict=True):
        if relation is not None:
            bias[:, :, start : start + count, start : start + count] = relation
        start += count
    return bias if mask is None else bias.masked_fill(~mask, -torch.inf)


def causal_mask(patches: Sequence[Patches], mask: Tensor | None, prefix: int) -> Tensor:
    """(B, 1, R + n, R + n) bool: the key mask, and of the patches only those whose first coordinate is no larger.

    The prefix comes first. Everybody sees itself: a row that nobody may look at would be a softmax over nothing.
    """
    order = torch.cat([p.coords[..., 0] for p in patches], 1)
    if prefix:
        # before every patch: all see the prefix, and it sees no patch
        order = torch.cat([order.new_full((order.shape[0], prefix), -torch.inf), order], 1)
    seen = (order[:, None, :] <= order[:, :, None])[:, None]
    if mask is not None:
        seen = seen & mask
    return seen | torch.eye(order.shape[1], dtype=torch.bool, device=order.device)


def rotary_of(config: TowerConfig, modalities: Mapping[str, Modality]) -> nn.ModuleDict:
    """`Rotary` of each modality, which then adds no positions of its own; empty where positions are added."""
    found = nn.ModuleDict()
    if config.positions == "additive":
        return found
    for name, modality in modalities.items():
        axes = modality.axes()
        if not axes or not hasattr(modality, "position"):
            raise UserError(
                f"model.towers: found positions: {config.positions}, but modality '{name}' has no "
                f"coordinates that rotary positions can turn by; expected positions: additive"
            )
        if config.positions == "dinov3" and not modality.bounded:
            raise UserError(
                f"model.towers: found positions: dinov3, but the patches of modality '{name}' do not say how far the "
                f"input reaches, which their places are measured by; expected positions: rotary or additive"
            )
        found[name] = Rotary(config.width // config.heads, axes, config.positions, config.rotary_base)
        modality.position = Unplaced()
    return found


class Tower(nn.Module):
    """Modalities on one trunk. Patches never seen are never embedded."""

    drops = True
    """False for a foreign model that must see all its patches."""
    replaces = True
    """False for a foreign model whose input cannot be replaced by a mask token."""
    single = False
    mode_names: Sequence[str] = ()
    mode = 0
    """True where one token stands for all of a sample."""

    def __init__(self, config: TowerConfig, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        self.width, self.depth, self.frozen = config.width, config.depth, config.frozen
        self.modalities = nn.ModuleDict(modalities)
        self.rotary = rotary_of(config, modalities)
        self.prefix = Prefix(config.prefix, config.width) if config.prefix else None
        if config.modes:
            self.modes, self.mode_names = Prefix(len(config.modes), config.width), list(config.modes)
            self.mode = mode_number(config.modes, config.mode)
        self.types = nn.Embedding(len(modalities), config.width) if len(modalities) > 1 else None
        relations = {name: m.relations(config.heads) for name, m in modalities.items()}
        self.relations = nn.ModuleDict({name: r for name, r in relations.items() if r is not None})
        self.trunk = Trunk(
            config.width,
            config.depth,
            config.heads,
            config.mlp_ratio,
            config.norm_eps,
            config.qkv_bias,
            config.activation,
            config.layer_scale,
            config.dropout,
            config.drop_path,
        )
        if not config.final_norm:
            self.trunk.norm = nn.Identity()  # type: ignore[assignment]
        self.causal = config.causal
        self.embed_norm = nn.LayerNorm(config.width, eps=config.norm_eps) if config.embed_norm else None
        self.make_pooling(config)

    def make_pooling(self, config: TowerConfig) -> None:
        """The last parameters of a tower, where it learns how to sum its tokens up, and the ways to do so."""
        sizes = config.width, config.heads, config.mlp_ratio, config.norm_eps, config.activation
        self.pool = AttentionPool(*sizes) if config.pooling == "attention" else None
        self.set_pooling(config)

    def set_pooling(self, config: TowerConfig) -> None:
        """How tokens are summed up, once all parameters are there. UserError where they cannot be in that way."""
        modalities: Any = dict(self.modalities.items())
        # what is read out is what was learned through, where a tower asks for nothing else
        readout = config.readout or config.pooling
        if readout == "attention" != config.pooling:
            raise UserError(
                f"model.towers: readout: found attention, but pooling: {config.pooling} leaves the query untrained; "
                "expected pooling: attention"
            )
        self.pooling, self.readout = (
            Pooling(how, modalities, self.pool if how == "attention" else None) for how in (config.pooling, readout)
        )
        self.readout_layers, self.readout_norm = config.readout_layers, config.readout_norm
        for where, chosen in (("pooling", self.pooling), ("readout", self.readout)):
            chosen.check(f"model.towers: {where}", self.classes)
        for modality in modalities.values():
            modality.carries = self.pooling.raw or self.readout.raw
        if self.readout_layers > 1 and self.readout.raw:
            raise UserError(
                f"model.towers: readout_layers: found {self.readout_layers} with readout {self.readout.how}: raw "
                "features are of no layer; expected 1"
            )
        if self.readout_layers > max(self.depth, 1):
            raise UserError(
                f"model.towers: readout_layers: found {self.readout_layers}, expected at most the tower's "
                f"{self.depth} blocks"
            )

    @property
    def pooled_width(self) -> int:
        """W of `Encoded.pooled`."""
        return self.pooling.wide(self.width)

    @property
    def summary_width(self) -> int:
        """V of `Encoded.summary`."""
        return self.readout.wide(self.width) * self.readout_layers

    def train(self, mode: bool = True) -> Tower:
        """A frozen tower stays in eval mode: its dropout and statistics are part of what it learned."""
        return super().train(mode and not self.frozen)

    @property
    def mixes_rows(self) -> bool:
        """Whether what one row gets in training depends on the others (batch norm): parts of a batch differ from it."""
        return False

    @property
    def prefix_count(self) -> int:
        """How many learned tokens stand in front of the patches' own: CLS, registers, and that of a mode."""
        return (0 if self.prefix is None else len(self.prefix.tokens)) + bool(self.mode_names)

    @property
    def classes(self) -> bool:
        """Whether there is a class token in front."""
        return self.prefix is not None

    def forward(
        self, patches: Mapping[str, Patches], hidden: Mapping[str, Tensor] | None = None, layers: Sequence[int] = ()
    ) -> Encoded:
        """Encode the patches of (some of) its modalities.

        Args:
            patches: modality -> patches (B, n).
            hidden: modality -> (B, n) bool: where a mask token stands in for the content.
            layers: blocks whose un-normed output is kept as well (1 = after the first).
        """
        names = [name for name in self.modalities if name in patches]
        parts, spans, counts = [], [], []
        for name in names:
            tokens = self.modalities[name].embed(patches[name], (hidden or {}).get(name))  # type: ignore[operator]
            if self.types is not None:
                # its number among all modalities of the tower, whichever of them came this time
                tokens = tokens + self.types.weight[list(self.modalities).index(name)]
            parts.append(tokens)
            counts.append(tokens.shape[1])
            spans.append(self.relations[name](patches[name]) if name in self.relations else None)
        r = self.prefix_count
        if self.mode_names:
            parts.insert(0, self._mode([patches[name] for name in names]).to(parts[0].dtype))
        if self.prefix is not None:
            parts.insert(0, self.prefix(parts[0].shape[0]).to(parts[0].dtype))
        x = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        full = all(patches[name].full for name in names)
        mask = key_mask([patches[name].valid for name in names], full, r)
        if self.causal:
            mask = causal_mask([patches[name] for name in names], mask, r)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        bias = with_relations(mask, [None, *spans], [r, *counts])
        deep = range(self.depth - self.readout_layers + 1, self.depth)
        x, kept = self.trunk(x, bias, [*layers, *deep], rotation=self._rotation(patches, names))
        prefix, *tokens_of = x.split([r, *counts], 1)
        layered = {
            n: dict(zip(names, self._clear(y.split([r, *counts], 1)[1:], patches, names), strict=True))
            for n, y in kept.items()
            if n in layers
        }
        tokens = dict(zip(names, self._clear(tokens_of, patches, names), strict=True))
        read = []
        for block in deep:
            y = self.trunk.norm(kept[block]) if self.readout_norm else kept[block]
            first, *rest = y.split([r, *counts], 1)
            read.append((first, dict(zip(names, self._clear(rest, patches, names), strict=True))))
        of = {name: patches[name] for name in names}
        return Encoded(tokens, of, prefix, self.pooling, self.readout, layered, read)

    def _mode(self, patches: Sequence[Patches]) -> Tensor:
        """(B, 1, D) the token of the mode that each sample is read in."""
        tokens: Tensor = self.modes.tokens
        number = next((p.mode for p in patches if p.mode is not None), None)
        at_rest = tokens[self.mode : self.mode + 1].expand(patches[0].batch, 1, -1)
        return at_rest if number is None else tokens[number][:, None]

    def normed(self, tokens: Tensor) -> Tensor:
        """Tokens (..., D) after one of its blocks behind its last norm, as the last block's are given out."""
        return self.trunk.norm(tokens)

    def _rotation(self, patches: Mapping[str, Patches], names: Sequence[str]) -> Rotation | None:
        """Of all tokens, the prefix in front unturned; None without rotary positions."""
        if not self.rotary:
            return None
        found = [self.rotary[name](patches[name]) for name in names]
        return joined([unturned(found[0], self.prefix_count), *found])

    @staticmethod
    def _clear(parts: Sequence[Tensor], patches: Mapping[str, Patches], names: Sequence[str]) -> list[Tensor]:
        return [
            part if patches[name].full else part * patches[name].valid[..., None]
            for name, part in zip(names, parts, strict=True)
        ]
