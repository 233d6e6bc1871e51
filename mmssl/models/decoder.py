"""`Decoder`: the narrow counterpart of a tower, which says something of patches that the tower did not see.

Shapes: B batch, R prefix tokens, n tokens of a modality, D width of the tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..modality import Modality
from ..patches import Patches
from .options import DecoderPositions
from .rotary import Rotary, Rotation, Unplaced, joined, repeated, unturned
from .tower import Prefix, key_mask, with_relations
from .trunk import CrossAttention, Trunk

ADDED = DecoderPositions()


@dataclass(frozen=True)
class Beside:
    """What a decoder attends to beside its own tokens: those of another view, encoded whole by the same tower.

    Attributes:
        tokens: (B, n, D).
        patches: what they came from.
    """

    tokens: Tensor
    patches: Patches


class Decoder(nn.Module):
    """Predicts something for query patches from a tower's tokens: MAE's decoder, JEPA's predictor.

    The encoded tokens (projected) and one mask token for each query, every one with this module's own position, attend
    to each other in a narrow trunk. Attention does not know order, so nothing is scattered back into place; and the
    last block is computed for the queries only.

    Args:
        modality: of the queries and of the visible patches.
        in_width: of the tower's tokens.
        out_width: of a prediction.
        width: of the narrow trunk.
        depth: its blocks.
        heads: of each block.
        norm_eps: of its norms.
        mlp_ratio: of its perceptrons.
        others: further modalities whose encoded tokens are seen, each with positions (and relations) of its own.
        skips: earlier blocks of the tower that the last blocks attend to (HiCMAE).
        placed: those are projected as the tokens are and get their positions, before they are attended to.
        crosses: every block attends to the tokens of another view, too, between its attention and its perceptron
            (CroCo, Weinzaepfel et al. 2022, arXiv 2210.10716; naver/croco, `models/blocks.py`); they are projected as
            the visible ones are, and get their positions.
        positions: whether positions are added, or turn queries and keys (CroCo v2, arXiv 2211.10408).
        where: what messages begin with.
    """

    def __init__(
        self,
        modality: Modality,
        in_width: int,
        out_width: int,
        width: int,
        depth: int,
        heads: int,
        norm_eps: float = 1e-6,
        mlp_ratio: float = 4.0,
        others: Mapping[str, Modality] | None = None,
        skips: int = 0,
        placed: bool = False,
        crosses: bool = False,
        positions: DecoderPositions = ADDED,
        where: str = "decoder",
    ) -> None:
        super().__init__()
        self.placed = placed
        self.project = nn.Linear(in_width, width)
        self.mask = Prefix(1, width)
        others = others or {}
        turns = None if positions.positions == "additive" else _turning(positions, width // heads, where)
        self.rotary = None if turns is None else turns(modality)
        self.other_rotary = nn.ModuleDict({} if turns is None else {name: turns(m) for name, m in others.items()})

        def placing(of: Modality) -> nn.Module:
            return of.positions(width) if turns is None else Unplaced()

        self.positions = placing(modality)
        self.relations = modality.relations(heads)
        self.other_positions = nn.ModuleDict({name: placing(m) for name, m in others.items()})
        relations = {name: m.relations(heads) for name, m in others.items()}
        self.other_relations = nn.ModuleDict({name: r for name, r in relations.items() if r is not None})
        self.trunk = Trunk(width, depth, heads, mlp_ratio, norm_eps)
        self.skips = nn.ModuleList(
            CrossAttention(width, heads, width if placed else in_width, norm_eps) for _ in range(skips)
        )
        self.crosses = nn.ModuleList(CrossAttention(width, heads, width, norm_eps) for _ in range(depth * crosses))
        self.head = nn.Linear(width, out_width)

    def forward(
        self,
        prefix: Tensor,
        tokens: Tensor,
        visible: Patches,
        queries: Patches,
        together: Patches | None = None,
        others: Mapping[str, tuple[Tensor, Patches]] | None = None,
        layers: Sequence[Tensor] = (),
        beside: Beside | None = None,
    ) -> Tensor:
        """What the module says of the queries: (B * M, m, out_width).

        Args:
            prefix: (B, R, D).
            tokens: (B, k, D) of the `visible` patches.
            visible: (B, k) patches.
            queries: (B * M, m) patches: M sets of queries a sample, sample by sample, that do not see one another.
            together: visible and query patches in one, with the links between them; needed where the modality has
                links, because there a position alone does not tell two patches apart.
            others: name -> (tokens (B, n, D), their patches), of the further modalities.
            layers: tokens (B, k, D) of the visible patches after earlier blocks of the tower, one for each of `skips`,
                first to last: the decoder's last block attends to the first of them beforehand, the one before to the
                second.
            beside: what `crosses` attend to; samples that have nothing there get nothing from it.

        Raises:
            ValueError: the modality has links, and `together` is not there.
        """
        others = others or {}
        spans = [prefix, *(t for t, _ in others.values()), tokens]
        sets = queries.batch // max(len(tokens), 1)
        counts = [span.shape[1] for span in spans]
        seen = self.project(torch.cat(spans, 1)).split(counts, 1)
        placed = [self.other_positions[name](p.coords) for name, (_, p) in others.items()]
        placed.append(self.positions(visible.coords))
        parts = [part + place for part, place in zip(seen[1:], placed, strict=True)]
        # under autocast the projections are in half precision, the positions added to them are not
        context = torch.cat([seen[0].to(parts[0].dtype), *parts] if counts[0] else parts, 1)
        # queries last: the final block is then computed from there on only
        x = torch.cat([_repeated(context, sets), self.mask.tokens + self.positions(queries.coords)], 1)
        patches = [*(p for _, p in others.values()), visible]
        full = queries.full and all(p.full for p in patches)
        bias = key_mask([*(_repeated(p.valid, sets) for p in patches), queries.valid], full, counts[0])
        relations: list[Tensor | None] = [None, *self._other_relations(others, sets)]
        if self.relations is not None:
            if together is None:
                raise ValueError("this modality has links: pass `together`")
            bias = with_relations(bias, [*relations, self.relations(together)], [*counts[:-1], together.count])
        elif self.other_relations:
            bias = with_relations(bias, [*relations, None, None], [*counts, queries.count])
        before = {}
        for place, (skip, layer) in enumerate(zip(self.skips, layers, strict=True)):
            there = key_mask([_repeated(visible.valid, sets)], visible.full, 0)
            layer = self.project(layer) + placed[-1] if self.placed else layer
            before[self.trunk.depth - place] = partial(skip, other=_repeated(layer, sets), bias=there)
        rotation = self._rotation(prefix, visible, queries, others, sets)
        more = {"rotation": rotation, "between": self._between(beside, sets, rotation)}
        return self.head(self.trunk(x, bias, first_query=context.shape[1], before=before, **more)[0])

    def _rotation(
        self,
        prefix: Tensor,
        visible: Patches,
        queries: Patches,
        others: Mapping[str, tuple[Tensor, Patches]],
        sets: int,
    ) -> Rotation | None:
        """Of all tokens as they stand in the trunk; None where positions are added."""
        if self.rotary is None:
            return None
        seen = [*(self.other_rotary[name](p) for name, (_, p) in others.items()), self.rotary(visible)]
        every = [repeated(turned, sets) for turned in (unturned(seen[0], prefix.shape[1]), *seen)]
        return joined([*every, self.rotary(queries)])

    def _between(
        self, beside: Beside | None, sets: int, rotation: Rotation | None
    ) -> Sequence[Callable[[Tensor], Tensor]]:
        """What each block does to its tokens behind its attention."""
        if not self.crosses:
            return ()
        if beside is None:
            raise ValueError("this decoder attends to another view: pass `beside`")
        patches = beside.patches
        tokens = self.project(beside.tokens) + self.positions(patches.coords)
        own = None if self.rotary is None or rotation is None else (rotation, repeated(self.rotary(patches), sets))
        more = {
            "other": _repeated(tokens, sets),
            "bias": key_mask([_repeated(patches.valid, sets)], patches.full, 0),
            "turned": own,
            "present": None if patches.full else _repeated(patches.present, sets),
        }
        return [partial(cross, **more) for cross in self.crosses]

    def _other_relations(self, others: Mapping[str, tuple[Tensor, Patches]], sets: int) -> list[Tensor | None]:
        return [
            _repeated(self.other_relations[name](p), sets) if name in self.other_relations else None
            for name, (_, p) in others.items()
        ]


def _turning(positions: DecoderPositions, head: int, where: str) -> Callable[[Modality], Rotary]:
    """Modality -> what turns heads of so many channels by its coordinates; UserError where these are no places."""

    def of(modality: Modality) -> Rotary:
        if not modality.axes():
            raise UserError(
                f"{where}: found positions: {positions.positions}, but its modality has no coordinates that rotary "
                "positions can turn by; expected positions: additive"
            )
        return Rotary(head, modality.axes(), positions.positions, positions.rotary_base, where)

    return of


def _repeated(x: Tensor, sets: int) -> Tensor:
    """Each row of x (B, ...) `sets` times in a row: (B * sets, ...)."""
    return x if sets == 1 else x.repeat_interleave(sets, 0)
