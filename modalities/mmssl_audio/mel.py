"""Log-mel filterbank features of a padded batch, those of Kaldi and of transformers' `ASTFeatureExtractor`.

`torchaudio.compliance.kaldi.fbank` takes one waveform at a time; this computes the same for a batch, on its device
(tests compare the two). The tables are NumPy arrays and no buffers: transformers would reload non-persistent buffers
as garbage, and a model in half precision would round them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOOR = float(np.finfo(np.float32).eps)  # Kaldi's: the energy of digital silence
LOW_HZ = 20.0
PREEMPHASIS = 0.97


def mel_of(hertz: Any) -> Any:
    """The mel scale of Kaldi and HTK."""
    return 1127.0 * np.log1p(np.asarray(hertz, dtype=np.float64) / 700.0)


def mel_banks(bins: int, rate: int, fft: int) -> np.ndarray[Any, Any]:
    """(fft // 2 + 1, bins) triangles, equally wide and half overlapping in mel, from 20 Hz to half the rate."""
    low, high = mel_of(LOW_HZ), mel_of(rate / 2)
    step = (high - low) / (bins + 1)
    left = low + np.arange(bins) * step
    mel = mel_of(np.arange(fft // 2) * (rate / fft))[:, None]
    weights = np.maximum(0.0, np.minimum((mel - left) / step, (left + 2 * step - mel) / step))
    return np.concatenate([weights, np.zeros((1, bins))]).astype(np.float32)  # Kaldi leaves Nyquist's own bin out


class LogMel:
    """waveform (B, S) in -1..1 -> log-mel energies (B, F, bins), F = 1 + (S - window) // shift.

    window, shift: samples of a frame, and from one frame to the next. Frames never reach over the waveform's end.
    """

    def __init__(self, rate: int, bins: int, window: int, shift: int) -> None:
        self.rate, self.bins, self.window, self.shift = rate, bins, window, shift
        self.fft = 1 << (window - 1).bit_length()
        self._banks = mel_banks(bins, rate, self.fft)
        self._hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / max(window - 1, 1))).astype(np.float32)
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def frames(self, samples: Any) -> Any:
        """How many frames so many samples have (a number or a tensor)."""
        count = (samples - self.window) // self.shift + 1
        return count.clamp(min=0) if isinstance(count, Tensor) else max(count, 0)

    def __call__(self, waveform: Tensor) -> Tensor:
        if waveform.shape[1] < self.window:
            return waveform.new_zeros(len(waveform), 0, self.bins, dtype=torch.float32)
        with torch.autocast(waveform.device.type, enabled=False):
            hann, banks = self._on(waveform.device)
            x = waveform.float().unfold(1, self.window, self.shift)  # (B, F, window)
            x = x - x.mean(2, keepdim=True)
            x = torch.cat([x[..., :1] * (1 - PREEMPHASIS), x[..., 1:] - PREEMPHASIS * x[..., :-1]], 2)
            power = torch.fft.rfft(x * hann, n=self.fft).abs().square()
            return (power @ banks).clamp(min=FLOOR).log()

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._tables:
            self._tables[device] = tuple(torch.from_numpy(t).to(device) for t in (self._hann, self._banks))  # type: ignore[assignment]
        return self._tables[device]
