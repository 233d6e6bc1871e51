"""What a modality can compute of a sample that nobody has to label: degrees, distances, frequencies, a heart's rate.

An objective may learn to tell it (`mmssl.objectives.pretext`). By default a modality knows nothing.

Shapes: B batch, N patches, W numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import UserError, nearest
from ..patches import Patches
from .inputs import Inputs

LEVELS = ("sample", "patch", "pair")


@dataclass(frozen=True)
class Property:
    """What is known.

    Attributes:
        level: of what: one of `LEVELS`.
        words: what it is, and in which unit.
        classes: how many; 0: it is numbers, in a unit in which they differ by about 1.
        width: W, how many numbers.
    """

    level: str
    words: str
    classes: int = 0
    width: int = 1


class Known:
    """The part of `Modality` that says what is known of its samples."""

    properties: ClassVar[dict[str, Property]] = {}
    """Name -> what `known` computes."""

    def known(self, name: str, inputs: Inputs, patches: Patches, seen: Patches) -> Tensor:
        """One of `properties` of the samples of a batch, float32.

        Args:
            name: which.
            inputs: of the view that it is known of.
            patches: all patches of `inputs`.
            seen: those that the encoder is given, as many; what they show by themselves may be left unknown.

        Returns:
            (B, W) of samples, (B, N, W) of patches, (B, N, N) of pairs, of which those above the diagonal count; W
            is 1 for a class, whose number it is. NaN where it is unknown.
        """
        raise NotImplementedError(f"{type(self).__module__} declares no properties")

    def property(self, name: str, what: str) -> Property:
        """The declaration of a property; UserError for one that the modality does not know. what: the modality."""
        if name not in self.properties:
            there = f"one of {', '.join(self.properties)}" if self.properties else "drawn: it knows none"
            raise UserError(
                f"found '{name}', which '{what}' does not know, expected {there}{nearest(name, self.properties)}"
            )
        return self.properties[name]
