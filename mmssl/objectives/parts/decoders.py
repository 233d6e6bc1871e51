"""What says something of hidden patches: the decoders of masked autoencoding, by their options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from ...models.decoder import Decoder
from ...models.message_tower import MessageDecoder, refuse_unlinked
from ...models.options import MESSAGES
from ..options.mae import DecoderConfig

if TYPE_CHECKING:
    from ...modality import Modality


class TokenHead(nn.Module):
    """BERT's prediction head: dense, GELU, norm, dense."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, out_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (..., D) -> (..., P)."""
        return self.out(self.norm(nn.functional.gelu(self.dense(tokens))))


def decoder_of(
    modality: Modality, config: DecoderConfig, in_width: int, out_width: int, where: str, crosses: bool
) -> nn.Module:
    """What predicts `out_width` numbers of a hidden patch; where: what messages begin with; crosses: see `Decoder`."""
    if not config.depth:
        return TokenHead(in_width, out_width)
    sizes = config.width, config.depth, config.heads
    if config.trunk in MESSAGES:
        refuse_unlinked(modality, where, config.trunk)
        return MessageDecoder(modality, config.trunk, in_width, out_width, *sizes)
    return Decoder(
        modality,
        in_width,
        out_width,
        *sizes,
        skips=len(config.skips),
        placed=config.skips_placed,
        crosses=crosses,
        positions=config,
        where=where,
    )
