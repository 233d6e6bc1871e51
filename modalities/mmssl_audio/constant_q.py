"""Constant-Q spectra around given times: bins of a 48th of an octave, as of notes, the lower the longer (Brown 1991).

Those that MERT predicts (Li et al. 2023, arXiv 2306.00107; nnAudio's CQT with 336 bins from 32.7 Hz, 48 an octave, Hann
windows of L1 norm 1, magnitudes times the root of the window's length). Bins at and above half the rate are left out.

Shapes: B batch, S samples, n times, K bins.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
LOWEST, PER_OCTAVE, OCTAVES = 32.70, 48, 7
AT_A_TIME = 1 << 22
"""Samples of windows that are in memory at once: 16 MiB."""


class ConstantQ:
    """waveform (B, S), times (B, n) in seconds -> magnitudes (B, n, K) float32. Around the sound is silence."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        frequencies = LOWEST * 2 ** (np.arange(OCTAVES * PER_OCTAVE) / PER_OCTAVE)
        self.frequencies: Array = frequencies[frequencies < rate / 2]
        self._tables: dict[torch.device, list[Tensor]] = {}

    @cached_property
    def lengths(self) -> Array:
        """(K,) samples of each bin's window: as many periods in all of them."""
        return np.ceil(self.rate / self.frequencies / (2 ** (1 / PER_OCTAVE) - 1)).astype(int)

    @cached_property
    def tables(self) -> list[Array]:
        """Of each octave (its longest window, 2 * bins) float32: cosines, then sines, in the middle of it."""
        out = []
        for first in range(0, len(self.frequencies), PER_OCTAVE):
            bins = slice(first, first + PER_OCTAVE)
            longest = int(self.lengths[bins].max())
            parts = np.zeros((2, longest, len(self.frequencies[bins])))
            for column, (frequency, length) in enumerate(zip(self.frequencies[bins], self.lengths[bins], strict=True)):
                place = np.arange(length) - length // 2
                window = np.hanning(length + 1)[:length]  # periodic
                window *= math.sqrt(length) / window.sum()
                start = longest // 2 - length // 2
                turn = 2 * np.pi * frequency / self.rate * place
                parts[:, start : start + length, column] = window * np.cos(turn), window * np.sin(turn)
            out.append(np.concatenate(list(parts), 1).astype(np.float32))
        return out

    def __call__(self, waveform: Tensor, times: Tensor) -> Tensor:
        with torch.autocast(waveform.device.type, enabled=False):
            middle = (times * self.rate).round().long().clamp(min=0, max=waveform.shape[1])
            found = [self._octave(waveform.float(), middle, table) for table in self._on(waveform.device)]
            return torch.cat(found, 2)

    def _octave(self, waveform: Tensor, middle: Tensor, table: Tensor) -> Tensor:
        longest = len(table)
        padded = torch.nn.functional.pad(waveform, (longest // 2, longest))
        windows = padded.unfold(1, longest, 1)  # the one that begins at s has its middle at sample s of the waveform
        row = torch.arange(len(waveform), device=waveform.device)[:, None].expand_as(middle).flatten()
        rows = max(AT_A_TIME // longest, 1)
        chunks = zip(row.split(rows), middle.flatten().split(rows), strict=True)
        parts = [windows[r, m] @ table for r, m in chunks]
        cosine, sine = torch.cat(parts).chunk(2, 1) if parts else table.new_zeros(2, 0, table.shape[1] // 2)
        return torch.hypot(cosine, sine).view(*middle.shape, cosine.shape[1])

    def _on(self, device: torch.device) -> list[Tensor]:
        if device not in self._tables:
            self._tables[device] = [torch.from_numpy(table).to(device) for table in self.tables]
        return self._tables[device]
