"""Videos as patches: the `Modality` that knows clips.

Shapes: B batch, T frames, C channels, H, W pixels, N patches, P numbers in a patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.draws import Draws
from mmssl.losses.reconstruction import destandardised, normalised_patches, standardised
from mmssl.modality import Inputs, Preprocessor
from mmssl.modality.pixels.boxes import box_of, box_places
from mmssl.modality.pixels.patching import PixelModality, grid_coords, natural
from mmssl.modality.places import Places
from mmssl.modality.shown import Frames, Shown, flags, rows
from mmssl.models.positions import IndexSinCos, SinCos
from mmssl.patches import Patches, gather, places_of

from .augment import augment_clips, beyond_length, check_view, frames_of
from .options import ClipView

RAW_SIDE = 16
"""Raw features: the mean frame and the mean change from frame to frame, at most so many pixels a side."""


class Modality(PixelModality):
    """Tubelets of t x p x p pixels, time by time, row by row.

    A patch's numbers are in the order (channel, frame, row, column), as in the convolution of a stock VideoMAE.
    """

    targets = ("normalised", "pixels", "differences", "videomae")
    views, crossing = ClipView.names(), ClipView.crossing
    coordinates = ("time [s]", "row [patches]", "column [patches]")

    def __init__(
        self,
        width: int,
        size: Sequence[int],
        tubelet: int,
        patch: Sequence[int],
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        unit_range: bool = True,
        fps: float = 8.0,
        positions: str = "sincos",
    ) -> None:
        """Make the parameters.

        Args:
            width: D.
            size: (H, W) of the input that was configured.
            tubelet: frames of a patch.
            patch: (height, width) of a patch.
            channels: C.
            mean: of each channel, which the preprocessor subtracted.
            std: of each channel, which the preprocessor divided by.
            unit_range: un-normalised values lie in 0..1, which some augmentations need.
            fps: frames a second of a clip, or what is usual.
            positions: "sincos" of time, row and column, or of the tubelet's "index" in the clip.
        """
        super().__init__(size, patch, channels, mean, std, unit_range, positions)
        self.tubelet, self.fps = tubelet, fps
        self.make_tokens(width)

    @property
    def numbers(self) -> int:
        """P = C * frames * height * width of a tubelet."""
        return self.channels * self.tubelet * self.patch[0] * self.patch[1]

    def grid_of(self, pixels: Tensor) -> tuple[int, int, int]:
        """(times, rows, columns) of patches in pixels (B, T, C, H, W); UserError when they do not divide into them."""
        rows, columns = self.rows_and_columns(*pixels.shape[2:])
        return (pixels.shape[1] + self.tubelet - 1) // self.tubelet, rows, columns

    def patchify(self, inputs: Inputs) -> Patches:
        """The last tubelet of a clip may reach over its end; frames that are not there are NaN."""
        pixels, clock = inputs["pixel_values"].float(), inputs["times"]
        times, rows, columns = self.grid_of(pixels)
        batch, frames = clock.shape
        t, (ph, pw) = self.tubelet, self.patch
        length = inputs.get("length")
        pixels = beyond_length(pixels, length, torch.nan)
        if torch.compiler.is_exporting() or times * t > frames:  # a trace takes clips of any length
            pixels = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, times * t - frames), value=torch.nan)
        cut = pixels.reshape(batch, times, t, self.channels, rows, ph, columns, pw)
        values = cut.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4).flatten(1, 3)
        seconds = clock[:, ::t].to(torch.float32)
        place = rows * columns
        axes = torch.broadcast_tensors(seconds[:, :, None, None], *grid_coords(rows, columns, pixels.device))
        coords = torch.stack(axes, -1).flatten(1, 3)
        grid = times, rows, columns
        where = places_of(*grid, device=pixels.device).expand(batch, -1, -1)
        if length is None:
            valid = torch.ones(batch, times * place, dtype=torch.bool, device=pixels.device)
            return Patches(values, coords, valid, full=True, grid=grid, place=where)
        first = torch.arange(times, device=pixels.device) * t
        valid = (first < length[:, None])[:, :, None].expand(-1, -1, place).flatten(1)
        # a patch that does not exist at all holds zeros, as everywhere
        return Patches(values.masked_fill(~valid[..., None], 0.0), coords, valid, grid=grid, place=where)

    def tile(self) -> tuple[int, ...]:
        """(channels, frames, rows, columns)."""
        return (self.channels, self.tubelet, *self.patch)

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """values (B, N, P) to {"pixel_values": (B, T, C, H, W)}, with the times of `like`; frames not there: zero."""
        times, rows, columns = self.grid_of(like["pixel_values"])
        frames = like["pixel_values"].shape[1]
        t, (ph, pw) = self.tubelet, self.patch
        cut = values.reshape(len(values), times, rows, columns, self.channels, t, ph, pw)
        pixels = cut.permute(0, 1, 5, 4, 2, 6, 3, 7).reshape(
            len(values), times * t, self.channels, rows * ph, columns * pw
        )[:, :frames]
        return {**like, "pixel_values": beyond_length(pixels, like.get("length"), 0.0)}

    def axes(self) -> tuple[float, ...]:
        """Time is counted in tubelets of the usual frame rate, rows and columns in patches."""
        return (self.fps / self.tubelet, 1.0, 1.0)

    def cells(self, kind: str) -> int:
        """Halves of time, rows and columns; or every place, averaged over time."""
        return math.prod(self.configured_grid) if kind == "axis" else super().cells(kind)

    def cell(self, kind: str, patches: Patches) -> Tensor:
        """By row and column, and for "grid" by time."""
        return self.placed(patches.coords[..., 1:]) if kind == "axis" else super().cell(kind, patches)

    def positions(self, width: int) -> nn.Module:
        """Sine-cosine of time (counted in tubelets of the usual frame rate), row and column; or of the number that a
        tubelet has in a clip of the configured size, as in VideoMAE."""
        if self.position_kind == "index":
            return IndexSinCos(width, self.configured_grid, scale=self.fps / self.tubelet)
        return SinCos(width, 3, scale=self.axes())

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, N, P), NaN where there is nothing to predict.

        "pixels": the values. "normalised": less the tubelet's mean, over its standard deviation (Feichtenhofer et al.
        2022, "Masked autoencoders as spatiotemporal learners"). "differences": each channel of the tubelet so
        normalised, and of its later frames what differs from its first (HiCMAE, Sun et al. 2024, sunlicai/HiCMAE
        `--use_frame_diff_as_target`). "videomae": each channel of the tubelet less its mean, over its standard
        deviation (Tong et al. 2022, MCG-NJU/VideoMAE), as `VideoMAEForPreTraining` has it.
        """
        kind = self.kind(kind)
        values = patches.values
        if kind in ("pixels", "normalised"):
            return super().target(inputs, patches, kind)
        if kind == "videomae":
            # there 1e-6 is added to the deviation, not to its square, and that of pixels in 0..1, not of these
            spread = values.new_tensor(self.std)[:, None]
            return standardised(values.unflatten(2, (self.channels, -1)), 1e-6 / spread).flatten(2)
        by_channel = normalised_patches(values.unflatten(2, (self.channels, -1)))
        frames = by_channel.unflatten(3, (self.tubelet, -1))
        return torch.cat([frames[..., :1, :], frames[..., 1:, :] - frames[..., :1, :]], -2).flatten(2)

    def guess(self, pred: Tensor, patches: Patches, kind: str | None = None) -> Tensor | None:
        """As the base; "videomae" by each channel's own mean and deviation."""
        if self.kind(kind) != "videomae":
            return super().guess(pred, patches, kind)
        spread = pred.new_tensor(self.std)[:, None]
        values = patches.values.unflatten(2, (self.channels, -1))
        return destandardised(pred.unflatten(2, (self.channels, -1)), values, 1e-6 / spread).flatten(2)

    def show(self, inputs: Inputs, reader: Preprocessor, hidden: Inputs | None = None) -> list[Shown | None]:
        """The frames that are there."""
        pixels = natural(inputs["pixel_values"], self.mean, self.std, self.unit_range)
        length = inputs.get("length")
        many = [pixels.shape[1]] * len(pixels) if length is None else length.tolist()
        found: list[Shown | None] = []
        for row, (there, frames) in enumerate(rows(inputs | {"pixel_values": pixels}, "pixel_values")):
            mask, count = flags(hidden, "pixel_values", row), int(many[row])
            part = None if mask is None else mask.any(1)[:count]
            found.append(Frames(frames[:count], part) if there and count else None)
        return found

    def augment(self, inputs: Inputs, draws: Draws, **spec: object) -> Inputs:
        """One view of the batch.

        Args:
            inputs: clips, their times, and "length" where some are shorter.
            draws: random numbers of the B samples.
            spec: options of `mmssl_video.augment.ClipView`.

        Raises:
            UserError: an option is wrong, or what comes out does not divide into patches.
        """
        view = ClipView.build(spec)
        check_view(view, self.patch)
        return augment_clips(inputs, draws, view, self.mean, self.std, self.unit_range, self.tubelet)

    def places(self, inputs: Inputs, patches: Patches, draws: Draws, **spec: object) -> Places:
        """Times of the clip, in tubelets of the usual frame rate; rows and columns, in patches."""
        view, device = ClipView.build(spec), patches.coords.device
        size = inputs["pixel_values"].shape[-2], inputs["pixel_values"].shape[-1]
        middle, reach = box_places(patches.coords[..., 1:], box_of(view, draws, size, device), self.patch)
        clock, inside = inputs["times"].float(), None
        if view.retimes:
            _, shown, inside = frames_of(inputs, draws("time"), view, self.tubelet)
            clock = gather(clock, shown)
        elif "length" in inputs:
            inside = torch.arange(clock.shape[1], device=device) < inputs["length"][:, None]
        first, last = self._spans(clock, inside)
        each = patches.count // first.shape[1]  # rows and columns of a time
        half = 0.5 / self.tubelet  # of a frame
        time = ((first + last) / 2 + half).repeat_interleave(each, 1)[..., None]
        long = (last - first + 2 * half).repeat_interleave(each, 1)[..., None]
        return Places(torch.cat([time, middle], -1), torch.cat([long, reach], -1))

    def _spans(self, clock: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor]:
        """When the earliest and the latest frame of each tubelet begins, (B, times) in tubelets."""
        missing = -clock.shape[1] % self.tubelet
        clock = F.pad(clock, (0, missing), value=torch.nan)
        if inside is not None:
            clock = clock.masked_fill(~F.pad(inside, (0, missing)), torch.nan)
        clock = clock.unflatten(1, (-1, self.tubelet)) * (self.fps / self.tubelet)
        first, last = clock.nan_to_num(torch.inf).amin(-1), clock.nan_to_num(-torch.inf).amax(-1)
        there = first <= last
        return torch.where(there, first, 0.0), torch.where(there, last, 0.0)

    def raster(self, inputs: Inputs) -> tuple[Inputs, str, tuple[int, ...]]:
        """Frames, rows and columns."""
        pixels = beyond_length(inputs["pixel_values"].float(), inputs.get("length"), torch.nan)
        return inputs | {"pixel_values": pixels}, "pixel_values", (1, 3, 4)

    @property
    def raw_width(self) -> int:
        """F of `raw_features`."""
        return 2 * self.channels * math.prod(min(side, RAW_SIDE) for side in self.size)

    def raw_features(self, inputs: Inputs) -> Tensor:
        """(B, 2 * C * h * w): the mean frame, and the mean absolute change from frame to frame; absent rows: zero."""
        pixels = inputs["pixel_values"].float().nan_to_num(0.0)
        batch, frames = pixels.shape[:2]
        height, width = (min(side, RAW_SIDE) for side in pixels.shape[-2:])
        length = inputs.get("length")
        if length is None:
            length = torch.full((batch,), frames, device=pixels.device)
        place = torch.arange(frames, device=pixels.device)
        inside = (place < length[:, None]).float()[:, :, None, None, None]
        mean = (pixels * inside).sum(1) / inside.sum(1).clamp(min=1)
        change = (pixels[:, 1:] - pixels[:, :-1]).abs() * inside[:, 1:]
        change = change.sum(1) / inside[:, 1:].sum(1).clamp(min=1)
        both = torch.cat([mean, change], 1)
        return F.adaptive_avg_pool2d(both, (height, width)).flatten(1)
