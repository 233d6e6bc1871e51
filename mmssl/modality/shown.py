"""What people can look at of a sample, and of what was predicted of it: the part of `Modality` that reports ask.

A modality says what there is to be seen as plain numbers and words; who draws it is elsewhere. By default there is
nothing. Shapes: B batch, N patches, n patches at hand, P numbers in a patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..patches import Patches
from .inputs import Inputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .contract import Preprocessor

    Floats = NDArray[np.float32]
    Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Frames:
    """Pixels.

    Attributes:
        pixels: (T, H, W, C) in 0..1; one frame of a picture; NaN where there is nothing.
        hidden: (T, H, W), which of them a mask hid; None: nothing was hidden.
    """

    pixels: Floats
    hidden: Flags | None = None


@dataclass(frozen=True)
class Curves:
    """Channels over time.

    Attributes:
        values: (C, T), NaN where nothing was measured.
        names: of the C channels.
        step: seconds from one value to the next.
        hidden: (C, T).
    """

    values: Floats
    names: list[str]
    step: float
    hidden: Flags | None = None


@dataclass(frozen=True)
class Spectrum:
    """Strength over time and frequency.

    Attributes:
        values: (F, M): F times of M bins, the low ones first; NaN where there is nothing.
        step: seconds from one time to the next.
        hidden: (F, M).
    """

    values: Floats
    step: float
    hidden: Flags | None = None


@dataclass(frozen=True)
class Words:
    """Tokens of a text, in their order. hidden: of each, whether it was."""

    tokens: list[str]
    hidden: list[bool] | None = None


@dataclass(frozen=True)
class Cells:
    """A row of a table: columns and what stands in them. hidden: of each, whether it was."""

    names: list[str]
    values: list[str]
    hidden: list[bool] | None = None


@dataclass(frozen=True)
class Nodes:
    """A graph.

    Attributes:
        kinds: (n,) which feature of each node is the largest.
        edges: (m, 2) pairs of nodes.
        hidden: (n,).
    """

    kinds: NDArray[np.int64]
    edges: NDArray[np.int64]
    hidden: Flags | None = None


Shown = Frames | Curves | Spectrum | Words | Cells | Nodes


class Visible:
    """The part of `Modality` that says what there is to be seen."""

    def show(self, inputs: Inputs, reader: Preprocessor, hidden: Inputs | None = None) -> list[Shown | None]:
        """What to look at of each sample.

        Args:
            inputs: of any view, or what `unpatchify` made.
            reader: the fitted preprocessor, which knows the words behind ids and codes.
            hidden: bool tensors under the keys and in the shapes of `inputs`: what a mask hid.

        Returns:
            One a sample, None where it lacks this modality; empty where the modality has nothing to be looked at.
        """
        return []

    def guess(self, pred: Tensor, patches: Patches, kind: str | None = None) -> Tensor | None:
        """What a prediction says that a patch's values are, as `Patches.values` has them.

        Args:
            pred: (B, n, pred_width), as `score` takes it.
            patches: those n patches, whose own mean and deviation are taken where the target is without them.
            kind: one of `targets`; None: the first.

        Returns:
            (B, n, P), or (B, n) ids; None where this kind of target does not tell the values.
        """
        return None


def rows(inputs: Inputs, key: str) -> list[tuple[bool, Any]]:
    """(whether the sample is there, its values under `key` as numpy has them) of every sample."""
    values = inputs[key].detach().cpu()
    there = [True] * len(values) if "present" not in inputs else inputs["present"].bool().tolist()
    return list(zip(there, values.float().numpy() if values.is_floating_point() else values.numpy(), strict=True))


def flags(hidden: Inputs | None, key: str, row: int) -> Any:
    """What a mask hid of one sample, as numpy has it; None where nothing is said."""
    return None if hidden is None or key not in hidden else hidden[key][row].detach().cpu().numpy()
