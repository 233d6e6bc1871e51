"""A tower taken from a pretrained encoder of raw sound: wav2vec 2.0, HuBERT, WavLM, data2vec and their kin.

Baevski et al. 2020 (arXiv 2006.11477), Hsu et al. 2021 (2106.07447), Chen et al. 2021 (2110.13900). Their convolutions
make a token of every `hop` samples, from a stretch a little longer than that (400 samples every 320, say). A patch is
one such hop, so that patches hold the sound as it is; the last ones of a sound, where no whole stretch begins, have no
token.

A sound's tokens are those that the stock class gives for it by itself. In a batch of sounds of unequal length that asks
for a mask, which only models with `feat_extract_norm: layer` were trained with: the norm of the others ("group") runs
over time, padding included. So theirs go through the model together with those of the same length alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from ..modality import Modality
from ..patches import Patches
from .foreign import ForeignTower, TransformersTower, check_inputs, untrained
from .options import TowerConfig
from .tower import Encoded

INPUT = "input_values"
MASKED = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
"""Types of models in which a mask hides padding from everything behind the convolutions."""
DRAWS = {"apply_spec_augment": False, "layerdrop": 0.0}
"""What they draw by themselves while they train, from generators that no seed of a run reaches: left out."""


def takes_waves(config: object) -> bool:
    """Whether a configuration of transformers is that of an encoder of raw sound."""
    said = config if isinstance(config, Mapping) else vars(config)
    return bool(said.get("conv_stride")) and bool(said.get("conv_kernel"))


def hop_of(config: Any) -> int:
    """Samples from one token to the next."""
    return math.prod(config.conv_stride)


class WaveTower(TransformersTower):
    """An encoder of raw sound. No patch can be hidden from it, or left out."""

    def __init__(self, options: TowerConfig, modalities: Mapping[str, Modality], config: Mapping[str, object]) -> None:
        net = nn.ModuleDict({"encoder": untrained(config)})
        encoder: Any = net["encoder"]
        check_inputs(encoder, INPUT)
        ForeignTower.__init__(self, options, modalities, net, encoder.config.hidden_size)
        self.pools = self.replaces = False
        self.hop = hop_of(encoder.config)
        self.reach = 1  # samples of a token's stretch
        for kernel, stride in reversed([*zip(encoder.config.conv_kernel, encoder.config.conv_stride, strict=True)]):
            self.reach = (self.reach - 1) * stride + kernel
        by_layer = getattr(encoder.config, "feat_extract_norm", "") == "layer"
        clean = not getattr(encoder.config, "conv_pos_batch_norm", False)  # it would see padding
        self.masks = by_layer and clean and encoder.config.model_type in MASKED
        self._check(encoder)
        self.usual = {key: getattr(encoder.config, key) for key in DRAWS if hasattr(encoder.config, key)}
        for key in self.usual:
            setattr(encoder.config, key, DRAWS[key])

    def _check(self, encoder: Any) -> None:
        modality: Any = self.modalities[self.name]
        where, cls = f"modalities.{self.name}", type(encoder).__name__
        if getattr(modality, "features", None) != "waveform":
            raise UserError(f"{where}.features: expected waveform, which is what the {cls} of this tower takes")
        if tuple(modality.patch) != (self.hop, 1) or tuple(modality.stride) != (self.hop, 1):
            raise UserError(f"{where}.patch: found {modality.patch[0]}, but the {cls} takes {self.hop} samples")
        if getattr(encoder.config, "add_adapter", False):
            raise UserError(
                f"model.towers: from a {cls} with add_adapter, which shortens its output; expected one without"
            )

    @property
    def classes(self) -> bool:
        """False: such a model has no class token."""
        return False

    def tokens_in(self, samples: int) -> int:
        """How many tokens the model makes of a sound; one of a sound that is shorter than a stretch."""
        return max((samples - self.reach) // self.hop, 0) + 1 if samples else 0

    def waves(self, patches: Patches) -> tuple[Tensor, list[int]]:
        """(sounds (B, S) as the model takes them, zero-padded; samples of each, 0 = absent)."""
        there = ~patches.values.isnan() & patches.valid[..., None]
        return patches.values.nan_to_num(0.0).flatten(1), there.sum((1, 2)).tolist()

    def forward(
        self, patches: Mapping[str, Patches], hidden: Mapping[str, Tensor] | None = None, layers: Sequence[int] = ()
    ) -> Encoded:
        """As `ForeignTower.forward`; of the patches those stay that have a token."""
        p = patches[self.name]
        if (hidden or {}).get(self.name) is not None:
            raise UserError(f"model.towers: a {type(self.net['encoder']).__name__} takes whole sounds: no mask fits it")  # type: ignore[index]
        waves, lengths = self.waves(p)
        counts = [self.tokens_in(samples) for samples in lengths]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            tokens = self.heard(waves, lengths, max([1, *counts]))
        kept = tokens.shape[1]
        valid = torch.arange(kept, device=tokens.device) < torch.tensor(counts, device=tokens.device)[:, None]
        seen = Patches(p.values[:, :kept], p.coords[:, :kept], valid, full=min(counts, default=0) == kept, raw=p.raw)
        prefix = tokens[:, :0]
        return Encoded({self.name: tokens}, {self.name: seen}, prefix, self.pooling, self.readout)

    def heard(self, waves: Tensor, lengths: Sequence[int], count: int) -> Tensor:
        """(B, n, D) tokens of sounds (B, S) of so many samples each, zero where there is none; n: `count`."""
        encoder: Any = self.net["encoder"]  # type: ignore[index]
        dtype = encoder.dtype
        sizes = [max(samples, self.reach) if samples else 0 for samples in lengths]
        waves = F.pad(waves, (0, max([self.reach, *sizes]) - waves.shape[1])).to(dtype)
        present = [row for row, size in enumerate(sizes) if size]
        groups = [present] if self.masks else [[r for r in present if sizes[r] == s] for s in sorted({*sizes} - {0})]
        out, order = [waves.new_zeros(len(sizes) - len(present), count, self.width)], []
        for rows in groups:
            longest = max((sizes[row] for row in rows), default=0)
            if not longest:
                continue
            inputs = {INPUT: waves[rows, :longest]}
            own = torch.tensor([sizes[row] for row in rows], device=waves.device)
            if (own < longest).any():
                inputs["attention_mask"] = (torch.arange(longest, device=waves.device) < own[:, None]).long()
            states = encoder(**inputs).last_hidden_state
            whole = torch.tensor([self.tokens_in(sizes[row]) for row in rows], device=waves.device)
            if states.shape[1] != int(whole.max()):
                raise UserError(
                    f"model.towers: the pretrained tower gives {states.shape[1]} tokens for {longest} samples, "
                    f"expected {int(whole.max())}, one every {self.hop}"
                )
            # what the model makes of padding is for nobody
            states = states * (torch.arange(states.shape[1], device=waves.device) < whole[:, None])[..., None]
            out.append(F.pad(states, (0, 0, 0, count - states.shape[1])))
            order += rows
        order = [row for row, size in enumerate(sizes) if not size] + order
        return torch.cat(out)[torch.tensor(order, device=waves.device).argsort()]
