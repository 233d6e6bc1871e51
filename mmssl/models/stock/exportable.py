"""The model that is exported, seen by formats: its towers, their options, their position tables, their outputs.

Shapes: B batch, N patches, D width, E embedding.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UserError, nearest
from ...modality import Inputs, Preprocessor
from ..building import tower_config
from ..foreign import ForeignTower, TransformersTower
from ..modeling_mmssl import MMSSLModel
from ..options import TowerConfig, pooling_parts
from ..positions import LearnedGrid
from ..processing_mmssl import MMSSLProcessor
from ..tower import Encoded, Tower
from .compatibility import obstacles
from .contract import Format


@dataclass
class Branch:
    """A tower and the one of its modalities that a stock class takes.

    In a tower of several modalities this one alone is exported: what it gives for a sample that has no other.
    """

    model: MMSSLModel
    tower_name: str
    name: str
    type: str
    preprocessor: Preprocessor

    @property
    def tower(self) -> Tower:
        """The tower that holds the modality."""
        return self.model.tower(self.tower_name)

    @property
    def modality(self) -> Any:
        """The modality's module: patches, positions, decoder."""
        return self.model.modality(self.name)

    @property
    def options(self) -> TowerConfig:
        """The tower's options."""
        assert self.model.config.towers is not None
        return tower_config(self.model.config.towers[self.tower_name])

    @property
    def foreign(self) -> bool:
        """Whether the tower wraps a pretrained model."""
        return isinstance(self.tower, ForeignTower)

    @property
    def wrapped(self) -> str:
        """The class of the model that a foreign tower wraps."""
        net: Any = self.tower.net
        return type(net["encoder"] if isinstance(net, nn.ModuleDict) else net).__name__

    @property
    def embedding_width(self) -> int:
        """Width of the embedding: the projection's, or the tower's where there is none."""
        return self.model.embedding_width(self.tower_name)

    @property
    def projection(self) -> nn.Linear | None:
        """The linear map into the shared embedding, None where there is none."""
        found = self.model.projections
        return found[self.tower_name] if self.tower_name in found else None  # type: ignore[return-value]

    def values(self) -> dict[str, dict[str, object]]:
        """All options, as `mmssl.models.stock.compatibility` asks for them."""
        options = self.options
        return {
            "tower": {f.name.removesuffix("_"): getattr(options, f.name) for f in dataclasses.fields(options)},
            "modality": {**dataclasses.asdict(self.preprocessor.config), **self.preprocessor.sizes()},
            "model": {"projection": self.model.config.projection},
        }

    def paths(self) -> dict[str, str]:
        """Where the options of `values` stand in a recipe."""
        return {"tower": f"model.towers.{self.tower_name}", "modality": f"modalities.{self.name}", "model": "model"}

    @property
    def readout(self) -> str:
        """How the embedding sums up tokens: as the projection learned to, or as the tower is read out without one."""
        options = self.options
        return options.pooling if self.projection is not None else options.readout or options.pooling

    def said_of_embedding(self, first: str, tokens: str, mean: str | None = None) -> str:
        """How mmssl's embedding is had, before the norm, from what a stock class gives: a clause for its README.

        Args:
            first: Python of the class token.
            tokens: Python of the patches' tokens.
            mean: of their mean, in words, where it is not `tokens.mean(1)`.
        """
        ways = {
            "cls": f"`{first}`",
            "mean": mean or f"`{tokens}.mean(1)`",
            "std": f"`{tokens}.std(1, correction=0)`",
            "max": f"`{tokens}.amax(1)`",
            "sum": f"`{tokens}.sum(1)`",
            "flat": f"`{tokens}.flatten(1)`",
            "last": f"`{tokens}[:, -1]`",
            "attention": "what its learned query gives",
            "raw": "the modality's raw features, which mmssl alone computes",
        }
        parts = [ways.get(p, f"the means of `{tokens}` in each cell of '{p}'") for p in pooling_parts(self.readout)]
        layers = self.options.readout_layers
        blocks = f", of each of the last {layers} blocks" if layers > 1 and self.projection is None else ""
        beside = " side by side" if len(parts) > 1 else ""
        return f"The embedding that mmssl uses (readout: {self.readout}) is {' and '.join(parts)}{beside}{blocks}"

    def type_vector(self) -> Tensor | float:
        """(D,) what a tower of several modalities adds to the tokens of this one."""
        if self.tower.types is None:
            return 0.0
        return self.tower.types.weight[list(self.tower.modalities).index(self.name)]

    def positions(self, inputs: Inputs) -> Tensor:
        """(N, D) float32 what is added to the tokens of these inputs (of one sample), `type_vector` in it."""
        with torch.no_grad():
            table = self.modality.position(self.modality.patchify(inputs).coords)[0]
            return table.float() + self.type_vector()

    def encode(self, inputs: Inputs) -> Encoded:
        """The tower's output for inputs of this modality, without gradient; floats are cast to the model's dtype."""
        dtype = next(self.tower.parameters()).dtype
        inputs = {k: v.to(dtype) if v.is_floating_point() and k == "pixel_values" else v for k, v in inputs.items()}
        with torch.no_grad():
            return self.tower({self.name: self.modality.patchify(inputs)})

    def pooled(self, encoded: Encoded) -> Tensor:
        """(B, W) float32, what a projection maps."""
        with torch.no_grad():
            return encoded.pooled(self.name)

    def summary(self, encoded: Encoded) -> Tensor:
        """(B, V) float32, what is taken of a tower without projection."""
        with torch.no_grad():
            return encoded.summary(self.name)

    def embed(self, encoded: Encoded) -> Tensor:
        """(B, E) float32, projected and normalised."""
        with torch.no_grad():
            return F.normalize(self.model.embed(self.tower_name, encoded, self.name).float(), dim=-1)

    def states(self, encoded: Encoded) -> Tensor:
        """(B, R + n, D) prefix and tokens."""
        return torch.cat([encoded.prefix, encoded.tokens[self.name]], 1)

    def changed(
        self,
        dtype: torch.dtype,
        table: Tensor | None = None,
        sizes: tuple[int, ...] = (),
        antialias: bool = False,
        to: tuple[int, ...] | None = None,
    ) -> Branch:
        """A copy in another dtype, its positions replaced by a table over the grid `sizes`, interpolated `to` another.

        What a stock class does: it holds a table, in the model's dtype, and interpolates it for inputs of other sizes.
        """
        model = copy.deepcopy(self.model)
        part = dataclasses.replace(self, model=model)
        if table is not None:
            grid = LearnedGrid(table.shape[1], sizes)
            with torch.no_grad():
                grid.table.copy_(table - self.type_vector())
            if to is not None:
                grid.resize(to, antialias=antialias)
            part.modality.position = grid
        nn.Module.to(model, dtype).eval()
        return part


@dataclass
class Exportable:
    """A loaded model and its processor.

    scratch: a folder for test inputs; origin: what the model is called; card: the text of its README.md; tower: the
    one tower that is asked for.
    """

    model: MMSSLModel
    processor: MMSSLProcessor
    scratch: Path
    origin: str = "mmssl model"
    card: str = ""
    tower: str | None = None

    def parts(self, type_: str) -> list[Branch]:
        """All parts of that type of modality, only those of the tower that was asked for."""
        found = []
        for name, kind in self.processor.types.items():
            tower = self.model.tower_of(name)
            if kind == type_ and self.tower in (None, tower):
                found.append(Branch(self.model, tower, name, kind, self.processor.preprocessors[name]))
        return found

    def part(self, type_: str) -> Branch:
        """The one part of that type; UserError when there is none, or several."""
        found = self.parts(type_)
        if not found:
            raise UserError(f"the model has no {type_}, but {', '.join(self.processor.types)}")
        if len(found) > 1:
            names = ", ".join(p.tower_name for p in found)
            raise UserError(f"the model has several towers of {type_}: {names}; name one with --tower")
        return found[0]

    def check_tower(self) -> None:
        """UserError when the tower that was asked for is none of the model's."""
        towers = list(self.model.towers)
        if self.tower is not None and self.tower not in towers:
            raise UserError(
                f"--tower: found '{self.tower}', expected one of {', '.join(towers)}{nearest(self.tower, towers)}"
            )


def refuse(source: Exportable, name: str, chosen: Format) -> None:
    """UserError with every option that stands in the way, in one line."""
    here = [t for t in chosen.needs if source.parts(t)]
    missing = [t for t in chosen.required if t not in here]
    found: list[str] = []
    if missing or not here:
        wanted = " and ".join(chosen.required) or " or ".join(chosen.needs)
        found.append(f"it takes a tower of {wanted}, the model has {', '.join(source.processor.types)}")
    for kind in here:
        part = source.part(kind)
        if part.foreign:
            found += _foreign(part, chosen)
        else:
            found += obstacles(part.values(), chosen.needs[kind], part.paths())
    hidden = source.model.config.projection_hidden
    if hidden is not None and chosen.projects:
        found.append(f"model.projection_hidden: found {hidden}, expected null: its projection is a linear map")
    if source.model.config.projection_standard and chosen.projects:
        found.append("model.projection_standard: found true, expected false: nothing stands before its projection")
    if not found:
        found += chosen.check(source)
    if found:
        raise UserError(f"format {name} cannot express {source.origin}: " + "; ".join(found))


def _foreign(part: Branch, chosen: Format) -> list[str]:
    if chosen.wrapped:
        return []
    stock = isinstance(part.tower, TransformersTower)
    whole = f"; format stock writes it as the {part.wrapped} that it is" if stock else ""
    return [
        f"model.towers.{part.tower_name}.from: it wraps a {part.wrapped}, expected a tower of mmssl's own, "
        f"trained from the start or converted (convert: true, where the checkpoint's format can be read){whole}"
    ]
