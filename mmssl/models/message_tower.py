"""A tower whose nodes pass messages along the edges of their graph (`trunk: gin`, `gcn`, `gat`), and a decoder alike.

Shapes: B batch, n nodes at hand, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..modality import Modality
from ..patches import Patches
from .messages import MessageTrunk
from .options import TowerConfig
from .tower import Encoded, Prefix, Tower


def refuse_unlinked(modality: Modality, where: str, trunk: str) -> None:
    """UserError where a modality's patches have no edges that messages could go along."""
    if not modality.has_links:
        raise UserError(
            f"{where}: found trunk: {trunk}, but its patches have no edges to pass messages along; expected trunk: "
            "transformer"
        )


class MessageTower(Tower):
    """One modality whose patches have links. What is masked by dropping sends nothing, a mask token sends itself.

    No token stands in front: there is no class token to pool by.
    """

    def __init__(self, config: TowerConfig, modalities: Mapping[str, Modality]) -> None:
        nn.Module.__init__(self)
        self.name = config.sole(modalities)
        refuse_unlinked(modalities[self.name], f"model.towers: modality '{self.name}'", config.trunk)
        self.width, self.depth, self.frozen = config.width, config.depth, config.frozen
        self.modalities = nn.ModuleDict(modalities)
        self.prefix = None
        self.trunk = MessageTrunk(  # type: ignore[assignment]
            config.trunk,
            config.width,
            config.depth,
            config.heads,
            config.mlp_ratio,
            config.norm_eps,
            config.activation,
            config.layer_scale,
            config.dropout,
            config.drop_path,
        )
        if not config.final_norm:
            self.trunk.norm = nn.Identity()  # type: ignore[assignment]
        self.make_pooling(config)

    def forward(
        self, patches: Mapping[str, Patches], hidden: Mapping[str, Tensor] | None = None, layers: Sequence[int] = ()
    ) -> Encoded:
        """As `Tower.forward`."""
        p = patches[self.name]
        assert p.links is not None
        tokens = self.modalities[self.name].embed(p, (hidden or {}).get(self.name))  # type: ignore[operator]
        deep = range(self.depth - self.readout_layers + 1, self.depth)
        x, kept = self.trunk(tokens, p.links, [*layers, *deep])
        clear = {block: self._clear([y], {self.name: p}, [self.name])[0] for block, y in kept.items()}
        prefix = x[:, :0]
        read = []
        for block in deep:
            y = self.trunk.norm(kept[block]) if self.readout_norm else kept[block]
            read.append((prefix, {self.name: self._clear([y], {self.name: p}, [self.name])[0]}))
        found = {self.name: self._clear([x], {self.name: p}, [self.name])[0]}
        layered = {block: {self.name: clear[block]} for block in kept if block in layers}
        return Encoded(found, {self.name: p}, prefix, self.pooling, self.readout, layered, read)


class MessageDecoder(nn.Module):
    """Predicts something for hidden nodes by messages from the nodes around them: GraphMAE's decoder.

    Nodes that were hidden come in with this module's own mask token, whatever the encoder made of them (re-masking, Hou
    et al. 2022, section 3.2), so that what is predicted of them has to be in the code of their neighbours.

    Args:
        modality: of the nodes.
        trunk: "gin", "gcn" or "gat".
        in_width: of the tower's tokens.
        out_width: of a prediction.
        width: of the trunk.
        depth: its blocks.
        heads: of each block.
    """

    def __init__(
        self, modality: Modality, trunk: str, in_width: int, out_width: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.project = nn.Linear(in_width, width)
        self.mask = Prefix(1, width)
        self.positions = modality.positions(width)
        self.trunk = MessageTrunk(trunk, width, depth, heads)
        self.head = nn.Linear(width, out_width)

    def forward(self, tokens: Tensor, visible: Patches, queries: Patches, together: Patches) -> Tensor:
        """(B, m, out_width) of the queries.

        Args:
            tokens: (B, k, D) of the visible patches.
            visible: (B, k) patches.
            queries: (B, m) patches.
            together: (B, k + m) both, with the links between them.
        """
        assert together.links is not None
        seen = self.project(tokens) + self.positions(visible.coords)
        x = torch.cat([seen, (self.mask.tokens + self.positions(queries.coords)).to(seen.dtype)], 1)
        return self.head(self.trunk(x, together.links)[0][:, visible.count :])
