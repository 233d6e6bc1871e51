"""The `Preprocessor` of volumes: raw values to named channels on one grid of voxels, normalised.

Order of what is done: a value is read, its channels are told by name, values beyond `intensity` are set to it, it is
brought to the grid, and each channel to mean 0 and spread 1. Shapes: B batch, C channels, D, H, W voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mmssl import modality as base
from mmssl.errors import BadSample, UserError, nearest
from mmssl.modality import Inputs, with_present
from mmssl.modality.channels import own_names, taken
from mmssl.modality.looked import Looked
from mmssl.modality.pixels.moments import Moments
from mmssl.modality.raw import check_npy
from mmssl.modality.table import Column, Table

from .options import Config, three
from .reading import ARRAY, CHANNELS, FILES, SLICES, SPACING, Volume, read_volume
from .resample import resampled, steps_of

ENOUGH = 200
"""Volumes that statistics are measured on, at most."""
AXES = ("slices", "rows", "columns")
"""Of a volume, in the order in which its voxels lie."""
LEAST_SIDE = 4
"""Of an array that is taken for a volume by its looks."""
PATCHES = ((12, 2), (24, 4))
"""Volumes of at most so many voxels along their longest side -> the patch for them; larger ones have the recipe's."""


@dataclass
class Sample:
    """What `read` returns: voxels (C, D, H, W) float32, NaN where there is none, and the names of the C channels."""

    voxels: NDArray[np.float32]
    names: list[str]


class Preprocessor(base.Preprocessor[Sample]):
    """Volumes to {"voxels": (B, C, D, H, W) float32, "present" (B,), "holes" (B,)}, the last two left out where nothing
    is missing. Channels are in the model's order, NaN where a sample lacks one, and where its volume does not reach.

    state: channels; mean and std of each.
    """

    noun = "a volume"
    reads = FILES
    reads_else = (".npy",)
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.size = three(config.size)

    def fits(self, column: Column) -> bool:
        """Files of the kind, or with their slices, and arrays of three axes, by themselves or with their spacing."""
        if column.values and all(isinstance(v, Mapping) and {"path", SLICES} <= v.keys() for v in column.values):
            return True
        if column.texts is not None:
            return all(text.lower().endswith(FILES) for text in column.texts)
        shape = column.within(ARRAY, (*SPACING, *CHANNELS)).shape
        return len(shape) in (3, 4) and sorted(shape)[-3] >= LEAST_SIDE

    def default_columns(self, table: Table) -> str | list[str] | None:
        """As the base; of several columns that hold a volume each all: they are its channels."""
        found = [column.name for column in table.free() if self.fits(column)]
        return found if len(found) > 1 else super().default_columns(table)

    def holds(self, path: Path) -> bool:
        """An array of three axes or four."""
        with path.open("rb") as file:
            shape = check_npy(file)
        return len(shape) in (3, 4) and sorted(shape)[-3] >= LEAST_SIDE

    # ----------------------------------------------------------------------------------------------------- one sample

    def prepare(self, raw: object) -> Sample | None:
        """One raw value to its channels on the grid, not normalised yet; None when it is null.

        Raises:
            BadSample: it cannot be read, has a channel that the model has not, or values that are no numbers.
        """
        volume = read_volume(raw, self.config.layout)
        if volume is None:
            return None
        rows, names = self._named(volume)
        array = torch.from_numpy(np.ascontiguousarray(volume.array[rows], dtype=np.float32))
        if bool(array.isinf().any()):
            raise BadSample("the volume holds infinite values")
        if self.config.intensity is not None:
            array = array.clamp(*self.config.intensity)
        spacing = volume.spacing
        if self.config.spacing is not None and spacing is None:
            raise BadSample(
                "nothing says how many mm lie between its voxels: give spacing with the volume, or leave "
                "modalities.NAME.spacing out"
            )
        shape = tuple(array.shape[1:])
        steps = steps_of(shape, spacing, self.size, self.config.step, self.config.resize)
        voxels = resampled(array, self.size, steps)
        if bool(voxels.isnan().all()):
            raise BadSample("no voxel with a value in the volume")
        return Sample(voxels.numpy(), names)

    def _named(self, volume: Volume) -> tuple[list[int], list[str]]:
        """(rows of the channels that are taken, their names here)."""
        known, count = self.state.get("channels") or self.config.channels, len(volume.array)
        names = volume.names or self.config.source_channels or own_names(known, count)
        if len(names) != count:
            raise BadSample(f"found {count} channels, expected {len(names)}: {', '.join(names)} (source_channels)")
        return taken(names, known, "volume", self.config.unknown == "drop")

    def read(self, raw: object, choice: int = 0) -> Sample | None:
        """One raw value to normalised channels on the grid; None when it is null. choice: of no use here."""
        sample = self.prepare(raw)
        return None if sample is None else self._normalised(sample)

    def look(self, raw: object) -> Looked | None:
        """Voxels along each axis, mm from one to the next where something says so, and the channels as recorded."""
        volume = read_volume(raw, self.config.layout)
        if volume is None:
            return None
        rows, names = self._named(volume)
        sizes = {axis: float(count) for axis, count in zip(AXES, volume.array.shape[1:], strict=True)}
        if volume.spacing is not None:
            sizes |= {f"mm between {axis}": float(f"{mm:.4g}") for axis, mm in zip(AXES, volume.spacing, strict=True)}
        sizes["channels"] = float(len(volume.array))
        return Looked(sizes, {name: np.asarray(volume.array[row]) for name, row in zip(names, rows, strict=True)})

    def variants(self, raw: object) -> int:
        """1: a value is read alike each time."""
        return 1

    def _normalised(self, sample: Sample) -> Sample:
        voxels = sample.voxels
        if self.config.normalise == "data":
            state = self.fitted()
            places = [state["channels"].index(name) for name in sample.names]
            mean, std = (np.array(state[key], np.float32)[places, None, None, None] for key in ("mean", "std"))
            voxels = (voxels - mean) / std
        elif self.config.normalise == "volume":
            voxels = np.stack([_by_itself(channel) for channel in voxels])
        if self.config.clip is not None:
            voxels = np.clip(voxels, -self.config.clip, self.config.clip)
        return Sample(voxels.astype(np.float32, copy=False), sample.names)

    def collate(self, samples: Sequence[Sample | None]) -> Inputs:
        """What `read` returned (None = absent), in the model's channels."""
        places = {name: row for row, name in enumerate(self.fitted()["channels"])}
        voxels = np.full((len(samples), len(places), *self.size), np.nan, dtype=np.float32)
        for row, sample in zip(voxels, samples, strict=True):
            if sample is not None:
                row[[places[name] for name in sample.names]] = sample.voxels
        inputs: Inputs = {"voxels": torch.from_numpy(voxels)}
        holes = inputs["voxels"].isnan().flatten(1).any(1)
        inputs = with_present(inputs, samples)
        return inputs | {"holes": holes} if bool(holes.any()) else inputs

    # -------------------------------------------------------------------------------------------------- many samples

    def fit(self, samples: Iterable[object]) -> Self:
        """Learn which channels the data have, and mean and standard deviation of each over voxels on the grid.

        Raises:
            UserError: no sample can be read, or a channel that is asked for is in none.
        """
        moments: dict[str, Moments] = {}
        for number, sample in enumerate(self.readable(samples, self.prepare), 1):
            for name, channel in zip(sample.names, sample.voxels, strict=True):
                moments.setdefault(name, Moments(1)).add(channel[..., None])
            if number >= ENOUGH:
                break
        channels = list(self.config.channels or moments)
        missing = [name for name in channels if name not in moments]
        if missing:
            raise UserError(f"channels: '{missing[0]}' is in none of the volumes{nearest(missing[0], list(moments))}")
        self.state = {
            "channels": channels,
            "mean": [float(moments[name].mean[0]) for name in channels],
            "std": [float(moments[name].std()[0]) for name in channels],
        }
        return self

    def suggest(self, samples: Iterable[object]) -> tuple[dict[str, Any], str]:
        """`size` and `patch` of volumes that are smaller than the recipe's: enlarged, they would cost more and say no
        more."""
        size, patch = self.config.size, self.config.patch
        if self.config.spacing is not None or not isinstance(size, int) or not isinstance(patch, int):
            return {}, ""
        volumes = self.readable(samples, lambda raw: read_volume(raw, self.config.layout))
        longest = sorted(_longest(volume) for volume in volumes)
        if not longest or longest[len(longest) // 2] >= size:
            return {}, ""
        side = longest[len(longest) // 2]
        cut = min(next((cut for most, cut in PATCHES if side <= most), patch), patch)
        found = {"size": max(-(-side // cut), 2) * cut, "patch": cut}
        return (
            ({}, "") if found["size"] >= size else (found, f"these volumes have {side} voxels along their longest side")
        )

    def sizes(self) -> dict[str, Any]:
        """What the `Modality` is built with."""
        return {
            "size": list(self.size),
            "patch": list(three(self.config.patch)),
            "channels": list(self.fitted()["channels"]),
        }


def _longest(volume: Volume) -> int:
    """Voxels along the longest side, were all as short as the shortest."""
    shape = volume.array.shape[1:]
    if volume.spacing is None:
        return max(shape)
    return round(max(n * mm for n, mm in zip(shape, volume.spacing, strict=True)) / min(volume.spacing))


def _by_itself(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Less the mean, over the deviation, of the voxels above the least value: in most scans all around the body has it.
    A channel that is the same throughout becomes 0."""
    least = np.nanmin(channel) if not np.isnan(channel).all() else np.nan
    inside = channel[channel > least].astype(np.float64)
    if not len(inside):
        return channel * 0
    spread = inside.std()
    level = inside.mean()
    out: NDArray[np.float32] = ((channel - level) / (spread if spread > 1e-6 * abs(level) else 1.0)).astype(np.float32)
    return out
