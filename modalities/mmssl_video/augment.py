"""Augmented views of a batch of clips: which frames, then crop and colour, the same for all frames of a clip.

The space is `mmssl.modality.pixels.augment`'s; time comes first: a stretch of the clip, at a drawn pace, its frames
jittered.
All parameters come from `mmssl.draws.Draws`. Shapes: B batch, T frames of the clip, n of the view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.modality import Inputs
from mmssl.modality.pixels.augment import augment
from mmssl.modality.pixels.options import pair
from mmssl.patches import gather

from .options import ClipView


def augment_clips(
    inputs: Inputs, draws: Draws, view: ClipView, mean: list[float], std: list[float], unit_range: bool, tubelet: int
) -> Inputs:
    """One view of the batch; padding frames stay zero.

    Args:
        inputs: clips (B, T, C, H, W), their times (B, T), and "length" (B,) where some are shorter.
        draws: random numbers of the B samples.
        view: what is done.
        mean: of each channel, which was subtracted.
        std: of each channel, which was divided by.
        unit_range: before normalisation values lie in 0..1.
        tubelet: frames of a patch, of which the result has whole ones.
    """
    if view.retimes:
        inputs = retime(inputs, (draws.for_all() if view.alike else draws)("time"), view, tubelet)
    if view.changes_pixels:
        clips = inputs["pixel_values"].transpose(1, 2)  # (B, C, T, H, W)
        clips = augment(clips, draws, view, mean, std, unit_range).transpose(1, 2)
        clips = beyond_length(clips, inputs.get("length"), 0.0)
        inputs = inputs | {"pixel_values": clips}
    return inputs


def beyond_length(clips: Tensor, length: Tensor | None, value: float) -> Tensor:
    """clips (B, T, C, H, W) with `value` in the frames behind each one's length (B,); None: all have T frames."""
    if length is None:
        return clips
    outside = torch.arange(clips.shape[1], device=clips.device) >= length[:, None]
    return clips.masked_fill(outside[:, :, None, None, None], value)


def retime(inputs: Inputs, draws: Draws, view: ClipView, tubelet: int) -> Inputs:
    """A stretch of `view.frames` frames of each clip, every so many, in whole tubelets. Times count from its start.

    A clip too short for the pace drawn is taken at the fastest that fits; one shorter than the view gives all it has.

    Args:
        inputs: clips (B, T, C, H, W), their times (B, T) in seconds, and "length" (B,) where some are shorter.
        draws: random numbers of the B samples.
        view: frames, stride, time_jitter and reverse of it.
        tubelet: frames of a patch.
    """
    pixels, times = inputs["pixel_values"], inputs["times"]
    forward, index, inside = frames_of(inputs, draws, view, tubelet)
    seconds = gather(times, forward)  # of a clip that runs backwards, too, time goes on
    out = {
        "pixel_values": gather(pixels, index) * inside[:, :, None, None, None],
        "times": ((seconds - seconds[:, :1]) * inside).to(times.dtype),
    }
    # kept in full, where the clips are full and as long as the view, is known without looking
    whole = min(view.frames or times.shape[1], times.shape[1]) == index.shape[1]
    if "length" not in inputs and whole and view.stride[0] == 1 == view.stride[1]:
        return out
    return out | {"length": inside.sum(1)}


def frames_of(inputs: Inputs, draws: Draws, view: ClipView, tubelet: int) -> tuple[Tensor, Tensor, Tensor]:
    """(the clip's frames that the view has, in their order, as they are shown, and whether there is one): (B, n) each,
    of what `retime` is given."""
    times = inputs["times"]
    batch, total = times.shape
    device = times.device
    wanted = min(view.frames or total, total)
    count = -(-wanted // tubelet) * tubelet
    length = inputs["length"] if "length" in inputs else torch.full((batch,), total, device=device)
    low, high = view.stride
    stride = low + draws("stride").integers(high - low + 1).to(device)
    stride = torch.minimum(stride, ((length - 1) // max(wanted - 1, 1)).clamp(min=1))
    kept = torch.minimum((length + stride - 1) // stride, torch.full_like(length, wanted))
    span = (kept - 1).clamp(min=0) * stride + 1
    start = (draws("start").uniform().to(device) * (length - span + 1).clamp(min=1)).long()
    place = torch.arange(count, device=device)
    index = start[:, None] + place * stride[:, None]
    if view.time_jitter:
        shift = draws("jitter").integers(2 * view.time_jitter + 1, count).to(device) - view.time_jitter
        index = (index + shift).minimum((length - 1)[:, None]).clamp(min=0)
        index = index.masked_fill(place >= kept[:, None], total).sort(1).values
    inside = place < kept[:, None]
    index = index.masked_fill(~inside, 0)
    if not view.reverse:
        return index, index, inside
    backwards = draws("reverse").chance(view.reverse).to(device)[:, None] & inside
    turned = index.gather(1, (kept[:, None] - 1 - place).clamp(min=0))
    return index, torch.where(backwards, turned, index), inside


def check_view(view: ClipView, patch: tuple[int, int]) -> None:
    """UserError for a view that does not divide into patches."""
    if view.crop_size is None:
        return
    height, width = pair(view.crop_size)
    if height % patch[0] or width % patch[1]:
        raise UserError(f"crop_size: found {view.crop_size}, expected multiples of the patch {patch[0]}x{patch[1]}")
