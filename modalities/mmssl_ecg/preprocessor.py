"""Options of the ECG modality, and its `Preprocessor`: raw recordings to leads in standard order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from mmssl.errors import BadSample, UserError, nearest
from mmssl.modality import Inputs
from mmssl.modality.biosignals.files import Channels, open_file
from mmssl.modality.biosignals.preparation import Sample, SignalPreprocessor, with_holes
from mmssl.modality.biosignals.recording import Array, Recording
from mmssl.modality.biosignals.windows import padded_length

from .beats import beats_a_minute
from .leads import DERIVED, LEADS, TWELVE, in_standard_order, lead_of
from .options import Config

JUDGED = 16
"""Recordings whose beats are counted before the rate that an option gave them is judged."""
LEAST = 4
"""Where a fit sees fewer, so many will do."""


class Preprocessor(SignalPreprocessor):
    """ECG to {"signal": (B, L, T) float32, "present" (B,), "holes" (B,)}, the last two left out where nothing is
    missing. Leads are in standard order, NaN where a recording lacks one; T is the longest, in whole windows.

    state: scale (mV), leads.
    """

    config: Config
    noun = "an ECG"
    channel = "lead"
    unit = "mV"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._beats: list[float] | None = []  # None: judged

    def fit(self, samples: Iterable[object]) -> Self:
        """As the base; UserError also when the heart beats as no heart does, so that `source_rate` is wrong."""
        super().fit(samples)
        self._judge(LEAST)
        return self

    def check_rate(self, signal: Array, rate: float) -> None:
        """Count the beats of the first recordings; UserError when half of them beat as no heart does.

        Of one recording the count can be wrong, of many hardly.
        """
        if self._beats is None:
            return
        beats = beats_a_minute(signal, rate)
        if beats is not None:
            self._beats.append(beats)
        self._judge(JUDGED)

    def _judge(self, least: int) -> None:
        if self._beats is None or len(self._beats) < least:
            return
        middle, (slowest, fastest) = float(np.median(self._beats)), self.config.beats
        self._beats = None
        if not slowest <= middle <= fastest:
            raise UserError(
                f"source_rate: at {self.config.source_rate:g} Hz the hearts of the data, which do not say their rate, "
                f"would beat {middle:.0f} times a minute, expected {slowest:g} .. {fastest:g} (options source_rate, "
                "beats)"
            )

    def doubts(self, signal: Array, rate: float) -> list[str]:
        """A heart that beats faster than any does: the rate is wrong, whoever says it. Of 500 records of PTB-XL none
        does, of the same at five times their rate 466.

        Nothing is said of a slow one: where beats differ in length, several are counted as one (in 21 of the 500).
        """
        found, fastest = beats_a_minute(signal, rate), self.config.beats[1]
        if found is None or found <= fastest:
            return []
        return [f"a heart that beats more than {fastest:g} times a minute: is the rate right? ({found:.0f})"]

    def open(self, path: Path) -> Recording:
        """WFDB records by wfdb, EDF and its like by mne."""
        # what is refused where it is no lead has to be seen for that
        drop = self.config.unknown == "drop"
        channels = Channels("ecg", lambda names: [n for n in names if drop and self.known(n) is None])
        return open_file(path, channels, lambda name: self.known(name) is not None, self.config.checksums)

    def default_names(self, count: int) -> list[str]:
        """Of 12 rows without names: the standard order; of as many as `leads` has: those."""
        if self.config.leads is not None and count == len(self.config.leads):
            return list(self.config.leads)
        return list(TWELVE) if count == len(TWELVE) else super().default_names(count)

    def known(self, name: str) -> tuple[str, float] | None:
        """The lead, and -1 for one that is turned over."""
        return lead_of(self.config.aliases.get(name, name))

    def unknown(self, name: str, recording: Recording) -> str | None:
        """Left out, or refused, as the recipe says."""
        if self.config.unknown == "drop":
            return None
        raise BadSample(f"unknown lead '{name}'{nearest(name, LEADS)} (options aliases, unknown: drop)")

    def wanted(self) -> set[str] | None:
        """The leads of the recipe; all where some are derived: those that only serve others go when leads are put in
        order."""
        return None if self.config.derive else self.config.wanted

    def complete(self, signal: Array, names: list[str]) -> tuple[Array, list[str]]:
        """With `derive`, the limb leads that are missing, of I and II."""
        if not self.config.derive or not {"I", "II"} <= set(names):
            return signal, names
        one, two = signal[names.index("I")], signal[names.index("II")]
        more = [lead for lead in DERIVED if lead not in names]
        rows = [a * one + b * two for a, b in (DERIVED[lead] for lead in more)]
        return np.concatenate([signal, np.stack(rows)]) if rows else signal, names + more

    def learn(self, seen: dict[str, int]) -> dict[str, Any]:
        """The leads of the recipe, or those of the data, in standard order."""
        return {"leads": in_standard_order(list(self.config.wanted or seen))}

    def read(self, raw: object, choice: int = 0) -> Sample | None:
        """As the base; BadSample when none of the recording's leads is one of the model's."""
        sample = super().read(raw, choice)
        if sample is not None:
            known = self.fitted()["leads"]
            rows = [row for row, name in zip(sample.signal, sample.names, strict=True) if name in known]
            if all(np.isnan(row).all() for row in rows):
                raise BadSample(f"the model has leads {', '.join(known)}, the recording {', '.join(sample.names)}")
        return sample

    def collate(self, samples: Sequence[Sample | None]) -> Inputs:
        """What `read` returned (None = absent) to leads in standard order."""
        leads = {name: row for row, name in enumerate(self.fitted()["leads"])}
        longest = padded_length((s.signal.shape[1] for s in samples if s is not None), self.window)
        signal = np.full((len(samples), len(leads), longest), np.nan, dtype=np.float32)
        for row, sample in zip(signal, samples, strict=True):
            if sample is not None:
                for values, name in zip(sample.signal, sample.names, strict=True):
                    if name in leads:
                        row[leads[name], : len(values)] = values
        return with_holes({"signal": torch.from_numpy(signal)}, samples)

    def sizes(self) -> dict[str, object]:
        """What the `Modality` is built with."""
        return {
            "leads": list(self.fitted()["leads"]),
            "rate": float(self.config.rate),
            "window": self.window,
            "patch": self.config.patch,
            "spectrum": self.fitted().get("spectrum"),
            "tokens": self.config.tokens,
        }
