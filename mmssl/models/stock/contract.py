"""What a stock format is: one `Format` a file of `mmssl.models.stock.formats`, which holds it under the name `FORMAT`.

It says what the class asks of a recipe, how our tower is written as it, and, where one can be started from it, how it
is read. Stock classes are imported within these functions: nothing is loaded to list formats or to check a recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .needs import Need

if TYPE_CHECKING:
    from .exportable import Branch, Exportable
    from .job import Job
    from .transfer import BlockNames

Options = dict[str, dict[str, Any]]
"""{"tower": options of `TowerConfig`, "modality": options of the modality} that a checkpoint has."""


def _nothing(exportable: Exportable) -> list[str]:
    return []


@dataclass(frozen=True)
class Reader:
    """How a tower of ours is started from a checkpoint of the format (`model.towers.X.from`).

    Attributes:
        reads: whether it is one, from its configuration as a mapping.
        read: the checkpoint's architecture and preprocessing, from its configuration (of timm: its folder).
        load: fill the tower of a branch with the weights of the checkpoint at a path or id.
        pair: it is one half of a pair: converted only where `convert: true` asks for it, without the projection.
        free: options of the modality that may differ from the checkpoint's: positions are interpolated.
        preprocessing: options of the modality from the file of the checkpoint's processor, where mmssl's own reading
            of picture processors does not do.
    """

    reads: Callable[[Mapping[str, object]], bool]
    read: Callable[[Any], Options]
    load: Callable[[Branch, str], None]
    pair: bool = False
    free: Sequence[str] = ("size",)
    preprocessing: Callable[[dict[str, Any]], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Format:
    """One stock class, or a pair of them.

    Attributes:
        title: the class that others load, e.g. "transformers.ViTModel".
        needs: modality type -> what the recipe's options must be.
        write: write the folder through the public class, and say how to prove it.
        required: modality types of which the model must have a tower; empty: at least one of those in `needs`.
        wrapped: whether it takes towers that wrap a pretrained model.
        check: further obstacles, a clause each.
        adapted: modality type -> what the parts of a block may be called, where an adapter can be written for it.
        projections: modality type -> the stock module that holds our projection.
        projects: whether it has a place for our projection, which must then be a linear map.
        reader: how it is read; None where towers cannot be started from it.
    """

    title: str
    needs: Mapping[str, tuple[Need, ...]]
    write: Callable[[Exportable, Path], Job]
    required: Sequence[str] = ()
    wrapped: bool = False
    check: Callable[[Exportable], list[str]] = _nothing
    adapted: Mapping[str, Sequence[BlockNames]] | None = None
    projections: Mapping[str, str] = field(default_factory=dict)
    projects: bool = False
    reader: Reader | None = None

    def reads(self, kind: str) -> bool:
        """Whether it reads towers of that type of modality at all; of pairs that is the image half."""
        return self.reader is not None and kind in (("image",) if self.reader.pair else self.needs)
