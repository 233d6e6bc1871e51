"""Patches that bring the raw features of their sample along (`Patches.raw`), for towers that pool them."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..patches import Patches
from .inputs import Inputs


class Carrying:
    """The part of a `Modality` that puts raw features beside patches."""

    carries = False
    """True where a tower pools raw features (`pooling: raw`)."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Put `Patches.raw` behind every subclass's `patchify`."""
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("patchify")
        if own is None:
            return

        @functools.wraps(own)
        def patchify(self: Any, inputs: Inputs) -> Patches:
            patches: Patches = own(self, inputs)
            return with_raw(self, inputs, patches) if self.carries and patches.raw is None else patches

        cls.patchify = patchify  # type: ignore[attr-defined]

    @property
    def raw_width(self) -> int | None:
        """How many raw features there are, known before any input is there; None where it is not (`pooling: raw` needs
        it)."""
        return None


def with_raw(modality: Any, inputs: Inputs, patches: Patches) -> Patches:
    """The patches of these inputs with their raw features, zero where the modality is absent."""
    modality.carries = False  # raw features may be made of patches
    try:
        with torch.autocast(patches.values.device.type, enabled=False), torch.no_grad():
            raw = modality.raw_features(inputs).float()
    finally:
        modality.carries = True
    return patches.replace(raw=raw * patches.present[:, None])
