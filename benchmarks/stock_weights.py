"""Copies stock ViT, ViT-MAE and VideoMAE weights into our towers and decoders, for parity tests and fair benchmarks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmssl.models.decoder import Decoder
from mmssl.models.stock import transfer
from mmssl.models.stock.formats.videomae import BLOCK
from mmssl.models.tower import Tower
from mmssl.models.trunk import Block


@torch.no_grad()
def copy_linear(ours: nn.Linear, *theirs: nn.Linear) -> None:
    """One or several stock linear maps (stacked) into one of ours."""
    ours.weight.copy_(torch.cat([t.weight.reshape(t.weight.shape[0], -1) for t in theirs]))
    if ours.bias is not None:
        ours.bias.copy_(torch.cat([t.bias for t in theirs]))


@torch.no_grad()
def copy_norm(ours: nn.LayerNorm, theirs: nn.LayerNorm) -> None:
    ours.weight.copy_(theirs.weight)
    ours.bias.copy_(theirs.bias)
    ours.eps = theirs.eps


def copy_block(ours: Block, layer: Any) -> None:
    """A transformers 5 `ViTLayer` / `ViTMAELayer`."""
    a = layer.attention
    copy_linear(ours.attention.qkv, a.q_proj, a.k_proj, a.v_proj)
    copy_linear(ours.attention.proj, a.o_proj)
    copy_linear(ours.mlp.fc1, layer.mlp.fc1)
    copy_linear(ours.mlp.fc2, layer.mlp.fc2)
    copy_norm(ours.norm1, layer.layernorm_before)
    copy_norm(ours.norm2, layer.layernorm_after)


@torch.no_grad()
def copy_vit(tower: Tower, name: str, vit: Any) -> None:
    """A `ViTModel`, `ViTMAEModel` or (without prefix token) `IJepaModel` into a tower with one image modality."""
    embeddings = vit.embeddings
    modality: Any = tower.modalities[name]
    copy_linear(modality.proj, embeddings.patch_embeddings.projection)
    table = embeddings.position_embeddings[0]
    if tower.prefix is not None:
        tower.prefix.tokens.copy_(embeddings.cls_token[0] + table[:1])
        table = table[1:]
    if hasattr(modality.position, "table"):
        modality.position.table.copy_(table)
    for ours, theirs in zip(tower.trunk.blocks, vit.layers, strict=True):
        copy_block(ours, theirs)  # type: ignore[arg-type]
    copy_norm(tower.trunk.norm, vit.layernorm)


@torch.no_grad()
def copy_mae_decoder(decoder: Decoder, stock: Any, channels: int, patch: int) -> None:
    """A `ViTMAEDecoder`; its predictions are (row, column, channel), ours (channel, row, column)."""
    copy_linear(decoder.project, stock.decoder_embed)
    decoder.mask.tokens.copy_(stock.mask_token[0])
    for ours, theirs in zip(decoder.trunk.blocks, stock.decoder_layers, strict=True):
        copy_block(ours, theirs)  # type: ignore[arg-type]
    copy_norm(decoder.trunk.norm, stock.decoder_norm)
    width = stock.decoder_pred.in_features
    weight = stock.decoder_pred.weight.view(patch, patch, channels, width).permute(2, 0, 1, 3)
    decoder.head.weight.copy_(weight.reshape(-1, width))
    decoder.head.bias.copy_(stock.decoder_pred.bias.view(patch, patch, channels).permute(2, 0, 1).flatten())


@torch.no_grad()
def copy_videomae(tower: Tower, name: str, decoder: Decoder, stock: Any) -> None:
    """A `VideoMAEForPreTraining`; it predicts (frame, row, column, channel), we (channel, frame, row, column)."""
    modality: Any = tower.modalities[name]
    transfer.linear(modality.proj, [stock.videomae.embeddings.patch_embeddings.projection], False)
    transfer.blocks(tower.trunk.blocks, stock.videomae.encoder.layer, BLOCK, False)
    decoder.project.weight.copy_(stock.encoder_to_decoder.weight)
    decoder.project.bias.zero_()
    decoder.mask.tokens.copy_(stock.mask_token[0])
    transfer.blocks(decoder.trunk.blocks, stock.decoder.decoder_layers, BLOCK, False)
    for block in decoder.trunk.blocks:
        block.norm1.eps = block.norm2.eps = stock.config.layer_norm_eps  # type: ignore[union-attr]
    copy_norm(decoder.trunk.norm, stock.decoder.norm)
    channels, frames, (patch, _) = modality.channels, modality.tubelet, modality.patch
    head = stock.decoder.head
    weight = head.weight.view(frames, patch, patch, channels, head.in_features).permute(3, 0, 1, 2, 4)
    decoder.head.weight.copy_(weight.reshape(-1, head.in_features))
    decoder.head.bias.copy_(head.bias.view(frames, patch, patch, channels).permute(3, 0, 1, 2).flatten())
