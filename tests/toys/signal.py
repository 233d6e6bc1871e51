"""A toy 12-lead signal: lead x window patches; leads may be missing, lengths differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmssl.draws import Draws
from mmssl.losses.reconstruction import normalised_patches, patch_mse
from mmssl.modality import Inputs, MaskToken
from mmssl.modality import Modality as Base
from mmssl.modality import Preprocessor as BasePreprocessor
from mmssl.modality.places import Places, by_coords
from mmssl.models.positions import SinCos
from mmssl.options import option, strict
from mmssl.patches import Patches


@strict
@dataclass(kw_only=True)
class Config:
    leads: int = option(12, min=1)
    window: int = option(10, min=1)
    rate: float = option(100.0, above=0)


class Preprocessor(BasePreprocessor):
    config: Config

    def read(self, raw: Any, choice: int = 0) -> np.ndarray:
        return np.asarray(raw, np.float32)  # (leads, time), NaN rows = missing leads

    def collate(self, samples: Sequence[Any]) -> Inputs:
        longest = max([s.shape[1] for s in samples if s is not None] or [self.config.window])
        longest = -(-longest // self.config.window) * self.config.window
        out = torch.full((len(samples), self.config.leads, longest), torch.nan)
        for i, s in enumerate(samples):
            if s is not None:
                out[i, :, : s.shape[1]] = torch.from_numpy(s)
        return {"signal": out}

    def sizes(self) -> dict[str, Any]:
        return {"leads": self.config.leads, "window": self.config.window, "rate": self.config.rate}


class Modality(Base):
    targets = ("normalised", "volts")
    views = ("gain", "shift")
    corruptible = True
    coordinates = ("time [s]", "lead")

    def __init__(self, width: int, leads: int, window: int, rate: float) -> None:
        super().__init__()
        self.leads, self.window, self.rate = leads, window, rate
        self.proj = nn.Linear(window, width)
        self.mask = MaskToken(width)
        self.position = self.positions(width)

    def patchify(self, inputs: Inputs) -> Patches:
        signal = inputs["signal"]
        b, leads, t = signal.shape
        values = signal.reshape(b, leads, t // self.window, self.window)
        n = values.shape[2]
        seconds = torch.arange(n, device=signal.device) * (self.window / self.rate)
        lead = torch.arange(leads, device=signal.device, dtype=torch.float32)
        coords = torch.stack([seconds.expand(leads, n), lead[:, None].expand(leads, n)], -1).reshape(1, -1, 2)
        values = values.reshape(b, leads * n, self.window)
        return Patches(values, coords.expand(b, -1, -1).contiguous(), ~values.isnan().all(-1))

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        return {"signal": values.reshape(like["signal"].shape)}

    def positions(self, width: int) -> nn.Module:
        return SinCos(width, 2, scale=(self.rate / self.window, 1.0))

    def embed(self, patches: Patches, hidden: Tensor | None = None) -> Tensor:
        x = self.proj(patches.values.nan_to_num(0.0))
        if hidden is not None:
            x = self.mask(x, hidden)
        return x + self.position(patches.coords)

    def pred_width(self, kind: str | None = None) -> int:
        return self.window

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        return normalised_patches(patches.values) if self.kind(kind) == "normalised" else patches.values

    def score(self, pred: Tensor, target: Tensor, patches: Patches, kind: str | None = None) -> Tensor:
        return patch_mse(pred, target)

    def augment(self, inputs: Inputs, draws: Draws, gain: float = 0.2, shift: int = 0) -> Inputs:
        """shift: up to so many windows of the beginning are cut off."""
        factor = 1 + gain * (2 * draws.uniform(self.leads) - 1)
        signal = inputs["signal"] * factor[..., None]
        if shift:
            signal = nn.functional.pad(signal, (0, shift * self.window), value=torch.nan)
            start = self._start(draws, shift)[:, None, None] * self.window
            at = start + torch.arange(inputs["signal"].shape[2])
            signal = signal.gather(2, at.expand(-1, self.leads, -1))
        return {"signal": signal}

    def _start(self, draws: Draws, shift: int) -> Tensor:
        return draws("shift").integers(shift + 1)

    def places(self, inputs: Inputs, patches: Patches, draws: Draws, gain: float = 0.2, shift: int = 0) -> Places:
        found = by_coords(patches, (self.rate / self.window, 1.0))
        return found.shifted(0, self._start(draws, shift)) if shift else found

    def raster(self, inputs: Inputs) -> tuple[Inputs, str, tuple[int, ...]]:
        return inputs, "signal", (2,)

    def raw_features(self, inputs: Inputs) -> Tensor:
        return inputs["signal"].nan_to_num(0.0).flatten(1)
