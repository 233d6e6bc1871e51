"""A tower whose trunk is anybody's `nn.Module`, found by its dotted name (`trunk: my_package.SampleCNN`).

The contract is docs/how-to/own-encoder.md. The class says by `takes` what it is given, and by `gives` what comes back:

    takes = "patches"   forward(tokens (B, n, D), patches) -> (B, n, D): tokens with positions, and what they came from
    takes = "raster"    forward(x (B, C, *S)) of the raster that patches were cut from
    gives = "patches"   a token a patch; of a raster a map (B, D, *G) with a cell a patch
    gives = "sample"    one vector of a sample: (B, D)

Shapes: B batch, n patches at hand, D width, C channels, S sizes of the raster, G of the grid of patches.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, one_line
from ..modality import Modality
from ..patches import Patches, gather
from ..provenance import by_stranger
from .options import TowerConfig, own_trunk
from .raster import laid_out, places, raster_tile, scattered
from .tower import Encoded, Tower

TAKES, GIVES = ("patches", "raster"), ("patches", "sample")


def trunk_class(trunk: str, place: str | Path | None = None) -> Any:
    """The class at a dotted name: of an installed package `mmssl_<name>`, or of a module that the user named.

    Args:
        trunk: `package.module.Class`.
        place: the model folder that names it, where one does.

    Raises:
        UserError: there is none, it is not to be trusted, or it does not say what it takes and gives.
    """
    module, _, name = trunk.rpartition(".")
    where = f"model.towers: trunk '{trunk}'"
    try:
        found = getattr(by_stranger(module, where, place or None), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{where}: {one_line(error)}") from error
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise UserError(f"{where}: found {found!r:.60}, expected a class of torch.nn.Module")
    for key, known, default in (("takes", TAKES, None), ("gives", GIVES, "patches")):
        if (said := getattr(found, key, default)) not in known:
            raise UserError(f"{where}: {key}: found {said!r:.60}, expected {' or '.join(known)}")
    return found


def embeds(options: TowerConfig, place: str | Path | None) -> bool:
    """Whether the tower of a trunk of the user's own needs the modality's embedding."""
    return not own_trunk(options.trunk) or trunk_class(options.trunk, place).takes == "patches"


class OwnTower(Tower):
    """One modality on a module of somebody else's, built as `Class(width=..., **trunk_options)`, or one that takes
    rasters as `Class(width=..., channels=..., **trunk_options)`. It sees no sample that is absent."""

    def __init__(
        self, config: TowerConfig, modalities: Mapping[str, Modality], place: str | Path | None = None
    ) -> None:
        nn.Module.__init__(self)
        self.name = config.sole(modalities)
        made = trunk_class(config.trunk, place)
        self.where = f"model.towers: modality '{self.name}': trunk '{config.trunk}'"
        self.takes, self.gives = made.takes, getattr(made, "gives", "patches")
        self.single = self.gives == "sample"
        self.drops, self.replaces = self.takes == "patches" and not self.single, not self.single
        self.width, self.depth, self.frozen = config.width, 0, config.frozen
        self.modalities = nn.ModuleDict(modalities)
        self.prefix = None
        tile = modalities[self.name].tile()
        sizes: dict[str, Any] = {"width": config.width}
        if self.takes == "raster":
            raster_tile(modalities[self.name], f"{self.where}: takes rasters", "one that takes patches")
            self.modalities.requires_grad_(False)  # their linear embedding is not used
            sizes["channels"] = tile[0]
        self.tile = tuple(side or 1 for side in tile)  # leads or electrodes, side by side, are an axis
        twice = [key for key in sizes if key in config.trunk_options]
        if twice:
            raise UserError(f"{self.where}: trunk_options: found {twice[0]}, which it is given anyway; leave it out")
        self.trunk = self._built(made, {**sizes, **config.trunk_options})
        self.make_pooling(config)

    def _built(self, made: Any, arguments: Mapping[str, Any]) -> Any:
        try:
            trunk = made(**arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.where}: cannot be built of {', '.join(arguments)}: {one_line(error)}") from error
        lost = [name or "it" for name, part in trunk.named_modules() if part._non_persistent_buffers_set]
        if lost:
            raise UserError(
                f"{self.where}: '{lost[0]}' has buffers that no saved model holds (persistent=False); expected none"
            )
        for part in trunk.modules():
            part._is_hf_initialized = True  # it has drawn its weights; transformers must not draw them anew
        return trunk

    def set_pooling(self, config: TowerConfig) -> None:
        """As `Tower.set_pooling`; of a single token there is nothing but itself."""
        for key in ("pooling", "readout"):
            if self.single and (found := getattr(config, key)) not in (None, "mean"):
                raise UserError(f"{self.where}: {key}: found {found}, but it gives one vector a sample; expected mean")
        super().set_pooling(config)

    @property
    def mixes_rows(self) -> bool:
        """Whether it has batch norms that learn."""
        norms = [part for part in self.trunk.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        return not self.frozen and any(p.requires_grad for part in norms for p in part.parameters())

    def forward(
        self, patches: Mapping[str, Patches], hidden: Mapping[str, Tensor] | None = None, layers: Sequence[int] = ()
    ) -> Encoded:
        """As `Tower.forward`; `layers` are not to be had."""
        whole = patches[self.name]
        covered = (hidden or {}).get(self.name)
        p, there = (whole, None) if whole.full else _present(whole)
        if there is not None and covered is not None:
            covered = covered[there]
        out = self._on_patches(p, covered) if self.takes == "patches" else self._on_raster(p, covered)
        if there is not None:
            out = out.new_zeros(whole.batch, *out.shape[1:]).index_copy(0, there, out)
        if self.single:
            first = whole.valid.to(torch.int8).argmax(1, keepdim=True)
            whole = whole.take(first.masked_fill(~whole.present[:, None], -1), whole.full)
        found = {self.name: self._clear([out], {self.name: whole}, [self.name])[0]}
        return Encoded(found, {self.name: whole}, out[:, :0], self.pooling, self.readout)

    def _on_patches(self, p: Patches, covered: Tensor | None) -> Tensor:
        tokens = self.modalities[self.name].embed(p, covered)  # type: ignore[operator]
        out: Tensor = self.trunk(tokens, p)
        wanted = (p.batch, self.width) if self.single else (*tokens.shape[:2], self.width)
        self._check(out, wanted)
        return out[:, None] if self.single else out

    def _on_raster(self, p: Patches, covered: Tensor | None) -> Tensor:
        assert p.grid is not None
        values = p.values.nan_to_num(0.0)
        if covered is not None:
            values = values.masked_fill(covered[..., None], 0.0)
        weight = next((w for w in self.trunk.parameters() if w.is_floating_point()), values)
        at = places(p)
        x = laid_out(scattered(values.to(weight.dtype), at, p.grid), self.tile).movedim(-1, 1)
        out: Tensor = self.trunk(x)
        self._check(out, (p.batch, self.width) if self.single else (p.batch, self.width, *p.grid))
        if self.single:
            return out[:, None]
        return gather(out.flatten(2).mT, at.clamp(max=out[0, 0].numel() - 1))

    def _check(self, out: object, wanted: tuple[int, ...]) -> None:
        if not isinstance(out, Tensor) or tuple(out.shape) != wanted:
            found = f"a tensor {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise UserError(f"{self.where}: gave {found}, expected one {wanted}")


def _present(p: Patches) -> tuple[Patches, Tensor]:
    """(the samples that are there, (b,) int64 their rows). Where none is, the first as if its first patch were there:
    every process has a graph, and it counts nowhere."""
    there = p.present.nonzero()[:, 0]
    if len(there):
        return p.rows(there), there
    first = p.rows(slice(1))
    return first.replace(valid=torch.arange(p.count, device=there.device)[None] == 0), there.new_zeros(1)
