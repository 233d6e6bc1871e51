"""Log-mel filterbank features of a padded batch, those of Kaldi and of transformers' `ASTFeatureExtractor`.

The filters and the preemphasis are torchaudio's. `torchaudio.compliance.kaldi.fbank` takes one waveform, this a batch:
in a loop that took 1.4 times as long for 8 sounds of 10 s, 4.1 times for 64 of half a second (one thread; they differ
by up to 7e-4 where a frame holds next to no energy, and tests compare them). `torchaudio.transforms.MelSpectrogram`
takes a batch, but has neither Kaldi's triangles nor a mean and preemphasis within the frame: its log energies are up to
16 off.

The tables are NumPy arrays made at the first spectrum, and no buffers: transformers would reload non-persistent buffers
as garbage, a model in half precision would round them, and one that is built on the meta device would have none.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
FLOOR = float(np.finfo(np.float32).eps)  # Kaldi's: the energy of digital silence
LOW_HZ = 20.0
PREEMPHASIS = 0.97


def mel_banks(bins: int, rate: int, fft: int) -> Array:
    """(fft // 2 + 1, bins) Kaldi's triangles, half overlapping and equally wide in mel, from 20 Hz to half the rate."""
    from torchaudio.compliance.kaldi import get_mel_banks

    # no warping of the vocal tract: a factor of 1, whose bounds do not matter; 0.0 is half the rate
    triangles, _ = get_mel_banks(bins, fft, float(rate), LOW_HZ, 0.0, 100.0, -500.0, 1.0)
    return np.pad(triangles.numpy().T, ((0, 1), (0, 0)))  # Kaldi leaves Nyquist's own bin out


class LogMel:
    """waveform (B, S) in -1..1 -> log-mel energies (B, F, bins), F = 1 + (S - window) // shift.

    window, shift: samples of a frame, and from one frame to the next. Frames never reach over the waveform's end.
    """

    def __init__(self, rate: int, bins: int, window: int, shift: int) -> None:
        self.rate, self.bins, self.window, self.shift = rate, bins, window, shift
        self.fft = 1 << (window - 1).bit_length()
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @cached_property
    def tables(self) -> tuple[Array, Array]:
        """The window (window,) and the filters (fft // 2 + 1, bins), float32."""
        turn = 2 * np.pi * np.arange(self.window) / max(self.window - 1, 1)
        return (0.5 - 0.5 * np.cos(turn)).astype(np.float32), mel_banks(self.bins, self.rate, self.fft)

    def frames(self, samples: Any) -> Any:
        """How many frames so many samples have (a number or a tensor)."""
        count = (samples - self.window) // self.shift + 1
        return count.clamp(min=0) if isinstance(count, Tensor) else max(count, 0)

    def __call__(self, waveform: Tensor) -> Tensor:
        from torchaudio.functional import preemphasis

        if waveform.shape[1] < self.window:
            return waveform.new_zeros(len(waveform), 0, self.bins, dtype=torch.float32)
        with torch.autocast(waveform.device.type, enabled=False):
            hann, banks = self._on(waveform.device)
            x = waveform.float().unfold(1, self.window, self.shift)  # (B, F, window)
            x = x - x.mean(2, keepdim=True)
            x = preemphasis(x, PREEMPHASIS)
            x[..., 0] *= 1 - PREEMPHASIS  # Kaldi's: before a frame its first sample is repeated
            power = torch.fft.rfft(x * hann, n=self.fft).abs().square()
            return (power @ banks).clamp(min=FLOOR).log()

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._tables:
            self._tables[device] = tuple(torch.from_numpy(t).to(device) for t in self.tables)  # type: ignore[assignment]
        return self._tables[device]
