"""Views that are cut out of a sample as it was recorded, while its row is read.

A crop of a large photograph is sharp only where it is taken before the picture is made small. So the reader takes what
a view shows of a sample, in the size that the model is given; colour and noise follow in the step. Which part it is
depends on (seed, epoch, row, view), so that any number of processes and workers, and a run that goes on, cut the same.

`Preprocessor.cutter` says which views a modality cuts; `mmssl.data.cuts` draws, and puts what was cut into the batch
beside the modality's own inputs, under `cut_of`. `Modality.augment` and `places` take that in place of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from ..draws import Draws
from .inputs import Inputs

Decoded = TypeVar("Decoded")
"""What one raw value becomes, of which views are cut."""


def cut_of(column: str, view: str) -> str:
    """The name in a batch of what a view shows of an input; no name of a recipe has a blank."""
    return f"{column} in {view}"


def variant_name(view: str, changes: Mapping[str, Any]) -> str:
    """The name of a view with some of its options changed, which has the draws of `drawn_as`."""
    return f"{view} {sorted(changes.items())}"


def drawn_as(view: str) -> str:
    """The view of the recipe whose draws a view has: itself, or what it is a variant of."""
    return view.partition(" ")[0]


class Cutter(Generic[Decoded]):
    """What `Preprocessor.cutter` gives: reads samples, and cuts views out of them.

    Attributes:
        views: the names of those that it cuts.
        whole: the sample is wanted as `Preprocessor.read` gives it, too; else it may be read more coarsely.
    """

    views: tuple[str, ...] = ()
    whole = True

    def read(self, raw: object, choice: int = 0) -> Decoded | None:
        """One raw value to what views are cut out of; nothing is drawn but by `choice`. As `Preprocessor.read` else."""
        raise NotImplementedError

    def cut(self, samples: Sequence[Decoded | None], view: str, draws: Sequence[Draws]) -> Inputs:
        """What a view shows of samples that were read (None: absent).

        Args:
            samples: B of them.
            view: one of `views`.
            draws: of each sample, a row.
        """
        raise NotImplementedError

    def collate(self, samples: Sequence[Decoded | None]) -> Inputs:
        """What `Preprocessor.collate` makes of samples as its `read` gives them, of those that were read here."""
        raise NotImplementedError
