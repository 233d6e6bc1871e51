"""Options of the EEG modality, and its `Preprocessor`: raw recordings to channels with places on the head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmssl.errors import BadSample, nearest
from mmssl.modality import Inputs
from mmssl.modality.biosignals.files import Channels, open_file
from mmssl.modality.biosignals.preparation import Sample, SignalPreprocessor, with_holes
from mmssl.modality.biosignals.recording import Array, Recording
from mmssl.modality.biosignals.windows import padded_length

from .electrodes import channel_of, from_head, is_net, is_other, others, place_of, table
from .options import Config

CHANNELS = Channels("eeg", others, from_head)


class Preprocessor(SignalPreprocessor):
    """EEG to {"signal": (B, C, T) float32, "electrodes": (B, C, 3) metres, "channel": (B, C) int64, "present" (B,),
    "holes" (B,)}, the last two left out where nothing is missing.

    Each sample has its own channels, in its own order; C is the most that one has, T the longest, in whole windows.
    What is not there is NaN. `channel` is the channel's number among those that the data had in `fit`, else -1.

    state: scale (uV), channels.
    """

    config: Config
    noun = "an EEG"
    unit = "uV"

    def open(self, path: Path) -> Recording:
        """EDF and its like by mne, WFDB records by wfdb."""
        return open_file(path, CHANNELS, lambda name: channel_of(name) is not None, usual=".edf")

    def _name(self, name: str) -> str | None:
        return channel_of(self.config.aliases.get(name, name))

    def known(self, name: str) -> tuple[str, float] | None:
        """The electrode, or the two whose difference it is."""
        found = self._name(name)
        return None if found is None else (found, 1.0)

    def unknown(self, name: str, recording: Recording) -> str | None:
        """As the recipe says, but for one that the recording gives a place, which is taken, and for an ECG, an eye
        movement and their like, which are left out."""
        placed = name in recording.places
        if is_other(name, placed or is_net(recording.names or [])):
            return None
        if placed:
            return name
        if self.config.unknown == "drop":
            return None
        if self.config.unknown == "refuse":
            raise BadSample(
                f"unknown channel '{name}'{nearest(name, table())}, and the recording does not say where it is "
                "(options aliases, unknown: keep or drop)"
            )
        return name

    def wanted(self) -> set[str] | None:
        """The channels of the recipe, and those that the reference is made of."""
        if self.config.channels is None:
            return None
        reference = self.config.reference if isinstance(self.config.reference, list) else []
        return {self._name(name) or name for name in [*self.config.channels, *reference]}

    def complete(self, signal: Array, names: list[str]) -> tuple[Array, list[str]]:
        """The signal against the asked reference; electrodes that were read for it alone are left out."""
        reference = self.config.reference
        if reference is None:
            return signal, names
        rows = list(range(len(names)))
        if isinstance(reference, list):
            of = [self._name(name) for name in reference]
            missing = [name for name, known in zip(reference, of, strict=True) if known not in names]
            if missing:
                raise BadSample(f"reference: the recording has no {', '.join(missing)} among {', '.join(names)}")
            rows = [names.index(str(name)) for name in of]
        elif len(names) < 2:
            raise BadSample(f"reference: an average of {names[0]} alone would leave nothing")
        there = ~np.isnan(signal[rows])
        mean = np.where(there, signal[rows], 0.0).sum(0) / np.maximum(there.sum(0), 1)
        signal = signal - mean
        if self.config.channels is None:
            return signal, names
        wanted = {self._name(name) or name for name in self.config.channels}
        keep = [row for row, name in enumerate(names) if name in wanted]
        if not keep:
            raise BadSample(f"none of the channels {', '.join(names)} is one that is wanted")
        return signal[keep], [names[row] for row in keep]

    def learn(self, seen: dict[str, int]) -> dict[str, Any]:
        """The channels, in the order of first sight: `channel` numbers them."""
        return {"channels": list(seen)}

    def collate(self, samples: Sequence[Sample | None]) -> Inputs:
        """What `read` returned (None = absent), padded to the most channels and the longest window."""
        numbers = {name: number for number, name in enumerate(self.fitted()["channels"])}
        longest = padded_length((s.signal.shape[1] for s in samples if s is not None), self.window)
        most = max((len(s.names) for s in samples if s is not None), default=1)
        signal = np.full((len(samples), most, longest), np.nan, dtype=np.float32)
        places = np.zeros((len(samples), most, 3), dtype=np.float32)
        channel = np.full((len(samples), most), -1, dtype=np.int64)
        for row, sample in enumerate(samples):
            if sample is not None:
                count, length = sample.signal.shape
                signal[row, :count, :length] = sample.signal
                places[row, :count] = [
                    place_of(name) or sample.places.get(name, (0.0, 0.0, 0.0)) for name in sample.names
                ]
                channel[row, :count] = [numbers.get(name, -1) for name in sample.names]
        inputs = {"signal": signal, "electrodes": places, "channel": channel}
        return with_holes({name: torch.from_numpy(array) for name, array in inputs.items()}, samples)

    def sizes(self) -> dict[str, object]:
        """What the `Modality` is built with."""
        return {
            "rate": float(self.config.rate),
            "window": self.window,
            "channels": len(self.fitted()["channels"]),
            "spectrum": self.fitted().get("spectrum"),
            "tokens": self.config.tokens,
            "places": [list(place_of(name) or (0.0, 0.0, 0.0)) for name in self.fitted()["channels"]],
        }
