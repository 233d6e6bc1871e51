"""Videos as patches: the `Modality` that knows clips.

Shapes: B batch, T frames, C channels, H, W pixels, N patches, P numbers in a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import modality as base
from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.losses.reconstruction import normalised_patches, patch_mse, standardised
from mmssl.modality import Inputs, MaskToken
from mmssl.models.positions import IndexSinCos, SinCos
from mmssl.patches import Patches

from .augment import ClipView, augment_clips, check_view

RAW_SIDE = 16
"""Raw features: the mean frame and the mean change from frame to frame, at most so many pixels a side."""


class Modality(base.Modality):
    """Tubelets of t x p x p pixels, time by time, row by row.

    A patch's numbers are in the order (channel, frame, row, column), as in the convolution of a stock VideoMAE.
    size: (H, W) of the input that was configured; tubelet: frames of a patch; patch: its (height, width); mean, std: of
    each channel; unit_range: un-normalised values lie in 0..1; fps: frames a second of a clip, or what is usual.
    """

    targets = ("normalised", "pixels", "differences", "videomae")
    views = ClipView.names()
    corruptible = True
    local_targets = True
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
        super().__init__()
        self.size, self.tubelet, self.patch = (size[0], size[1]), tubelet, (patch[0], patch[1])
        self.channels, self.unit_range, self.fps = channels, unit_range, fps
        self.position_kind = positions
        self.mean, self.std = list(mean), list(std)  # plain lists: buffers would be rounded in half precision
        self.proj = nn.Linear(self.pred_width(), width)
        self.mask = MaskToken(width)
        self.position = self.positions(width)

    def grid_of(self, pixels: Tensor) -> tuple[int, int, int]:
        """(times, rows, columns) of patches in pixels (B, T, C, H, W); UserError when they do not divide into them."""
        frames, channels, height, width = pixels.shape[1:]
        if channels != self.channels:
            raise UserError(f"pixel_values has {channels} channels, this model has {self.channels}")
        if height % self.patch[0] or width % self.patch[1]:
            raise UserError(
                f"pixel_values is {height}x{width}, expected multiples of the patch {self.patch[0]}x{self.patch[1]}"
            )
        return (frames + self.tubelet - 1) // self.tubelet, height // self.patch[0], width // self.patch[1]

    def patchify(self, inputs: Inputs) -> Patches:
        """The last tubelet of a clip may reach over its end; frames that are not there are NaN."""
        pixels, clock = inputs["pixel_values"].float(), inputs["times"]
        times, rows, columns = self.grid_of(pixels)
        batch, frames = clock.shape
        t, (ph, pw) = self.tubelet, self.patch
        length = inputs.get("length")
        if length is not None:
            outside = torch.arange(frames, device=pixels.device) >= length[:, None]
            pixels = pixels.masked_fill(outside[:, :, None, None, None], torch.nan)
        if torch.compiler.is_exporting() or times * t > frames:  # a trace takes clips of any length
            pixels = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, times * t - frames), value=torch.nan)
        cut = pixels.reshape(batch, times, t, self.channels, rows, ph, columns, pw)
        values = cut.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4).flatten(1, 3)
        seconds = clock[:, ::t].to(torch.float32)
        row = torch.arange(rows, device=pixels.device, dtype=torch.float32)[:, None]
        column = torch.arange(columns, device=pixels.device, dtype=torch.float32)
        place = rows * columns
        axes = torch.broadcast_tensors(seconds[:, :, None, None], row, column)
        coords = torch.stack(axes, -1).flatten(1, 3)
        if length is None:
            valid = torch.ones(batch, times * place, dtype=torch.bool, device=pixels.device)
            return Patches(values, coords, valid, full=True)
        first = torch.arange(times, device=pixels.device) * t
        valid = (first < length[:, None])[:, :, None].expand(-1, -1, place).flatten(1)
        # a patch that does not exist at all holds zeros, as everywhere
        return Patches(values.masked_fill(~valid[..., None], 0.0), coords, valid)

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """values (B, N, P) to {"pixel_values": (B, T, C, H, W)}, with the times of `like`; frames not there: zero."""
        times, rows, columns = self.grid_of(like["pixel_values"])
        frames = like["pixel_values"].shape[1]
        t, (ph, pw) = self.tubelet, self.patch
        cut = values.reshape(len(values), times, rows, columns, self.channels, t, ph, pw)
        pixels = cut.permute(0, 1, 5, 4, 2, 6, 3, 7).reshape(
            len(values), times * t, self.channels, rows * ph, columns * pw
        )[:, :frames]
        if "length" in like:
            inside = torch.arange(frames, device=values.device) < like["length"][:, None]
            pixels = pixels.masked_fill(~inside[:, :, None, None, None], 0.0)
        return {**like, "pixel_values": pixels}

    def axes(self) -> tuple[float, ...]:
        return (self.fps / self.tubelet, 1.0, 1.0)

    def positions(self, width: int) -> nn.Module:
        """Sine-cosine of time (counted in tubelets of the usual frame rate), row and column; or of the number that a
        tubelet has in a clip of the configured size, as in VideoMAE."""
        if self.position_kind == "index":
            rows, columns = (side // cut for side, cut in zip(self.size, self.patch, strict=True))
            return IndexSinCos(width, (rows, columns), scale=self.fps / self.tubelet)
        return SinCos(width, 3, scale=self.axes())

    def embed(self, patches: Patches, hidden: Tensor | None = None) -> Tensor:
        """A linear map of the tubelet; elements that do not exist count as the channel's mean."""
        dtype = self.proj.weight.dtype
        tokens = self.proj(patches.values.nan_to_num(0.0).to(dtype))
        if hidden is not None:
            tokens = self.mask(tokens, hidden)
        return (tokens + self.position(patches.coords)).to(dtype)

    def pred_width(self, kind: str | None = None) -> int:
        return self.channels * self.tubelet * self.patch[0] * self.patch[1]

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, N, P), NaN where there is nothing to predict.

        "pixels": the values; "normalised": less the tubelet's mean, over its standard deviation (Feichtenhofer et al.
        2022, "Masked autoencoders as spatiotemporal learners"); "differences": each channel of the tubelet so
        normalised, and of its later frames what differs from its first (HiCMAE, Sun et al. 2024, sunlicai/HiCMAE
        `--use_frame_diff_as_target`); "videomae": each channel of the tubelet less its mean, over its standard
        deviation (Tong et al. 2022, MCG-NJU/VideoMAE), as `VideoMAEForPreTraining` has it: the unbiased deviation of
        pixels in 0..1, and 1e-6 added to the deviation, not to its square.
        """
        kind = self.kind(kind)
        values = patches.values
        if kind == "pixels":
            return values
        if kind == "normalised":
            return normalised_patches(values)
        if kind == "videomae":
            spread = values.new_tensor(self.std)[:, None]
            return standardised(values.unflatten(2, (self.channels, -1)), 1e-6 / spread).flatten(2)
        by_channel = normalised_patches(values.unflatten(2, (self.channels, -1)))
        frames = by_channel.unflatten(3, (self.tubelet, -1))
        return torch.cat([frames[..., :1, :], frames[..., 1:, :] - frames[..., :1, :]], -2).flatten(2)

    def score(self, pred: Tensor, target: Tensor, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, n) mean squared error over the elements of each patch that exist."""
        self.kind(kind)
        return patch_mse(pred, target)

    def augment(self, inputs: Inputs, draws: Draws, **spec: Any) -> Inputs:
        """One view of the batch; `spec` holds options of `mmssl_video.augment.ClipView`."""
        view = ClipView.build(spec)
        assert isinstance(view, ClipView)
        check_view(view, self.patch)
        return augment_clips(inputs, draws, view, self.mean, self.std, self.unit_range, self.tubelet)

    def raster(self, inputs: Inputs) -> tuple[Inputs, str, tuple[int, ...]]:
        """Frames, rows and columns."""
        pixels, length = inputs["pixel_values"].float(), inputs.get("length")
        if length is not None:
            outside = torch.arange(pixels.shape[1], device=pixels.device) >= length[:, None]
            pixels = pixels.masked_fill(outside[:, :, None, None, None], torch.nan)
        return inputs | {"pixel_values": pixels}, "pixel_values", (1, 3, 4)

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
