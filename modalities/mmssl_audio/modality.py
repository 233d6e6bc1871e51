"""Sound as patches: the `Modality` that knows waveforms and spectra.

Shapes: B batch, S samples, F frames, M mel bins, N patches, P numbers in a patch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.modality import Inputs, Preprocessor
from mmssl.modality.linear import LinearPatches
from mmssl.modality.places import Places, by_coords
from mmssl.modality.shown import Curves, Shown, Spectrum, flags, rows
from mmssl.models.positions import LearnedGrid, SinCos
from mmssl.patches import Patches, places_of

from .augment import augment_waveform, begin_of, mask_spectrum
from .constant_q import ConstantQ
from .mel import LogMel
from .options import View

RAW_TIMES, RAW_BANDS = 24, 16
"""Raw features: a log spectrogram of so many times, over the sound's own length, and bands."""
OWN_EPS = 1e-7
AST_MEAN, AST_STD = -4.2677393, 4.5689974


def own_scale(inputs: Inputs) -> Tensor:
    """(B, S) waveforms of mean 0 and variance 1 each, as transformers' `Wav2Vec2FeatureExtractor` makes them; what lies
    behind the end of a sound is 0."""
    wave, length = inputs["waveform"].float(), inputs.get("length")
    if length is None:
        return (wave - wave.mean(1, keepdim=True)) / (wave.var(1, correction=0, keepdim=True) + OWN_EPS).sqrt()
    there = torch.arange(wave.shape[1], device=wave.device) < length[:, None]
    count = length[:, None].clamp(min=1)
    centred = (wave - (wave * there).sum(1, keepdim=True) / count) * there
    return centred / (centred.square().sum(1, keepdim=True) / count + OWN_EPS).sqrt()


class Modality(LinearPatches):
    """Log-mel patches, time by time, in each the low bins first; or frames of the waveform.

    A mel patch's numbers are in the order (mel bin, frame), as in the convolution of a stock Audio Spectrogram
    Transformer.
    """

    targets = (*LinearPatches.targets, "cqt")
    views = View.names()
    readouts = ("axis+std", "grid+std", "mean+std")
    corruptible = View.corruptible
    coordinates = ("time [s]", "mel bin")

    def __init__(
        self,
        width: int,
        rate: int,
        features: str,
        mel_bins: int,
        window: int,
        shift: int,
        patch: Sequence[int],
        mean: float,
        std: float,
        stride: Sequence[int] | None = None,
        positions: str = "sincos",
        seconds: float | None = None,
        normalise: str = "data",
    ) -> None:
        """Make the parameters.

        Args:
            width: D.
            rate: samples a second.
            features: what patches are cut from: "mel" or "waveform".
            mel_bins: M.
            window: samples of a frame.
            shift: samples from one frame to the next.
            patch: (frames, mel bins), or (samples, 1) of the waveform's.
            mean: of the features, subtracted.
            std: of the features, divided by.
            stride: from one patch to the next; None: the patch's own sides. Smaller ones overlap, and share numbers.
            positions: "sincos", or "learned": a table over the patches of `seconds`.
            seconds: the longest sound, for learned positions.
            normalise: "sound": each waveform by its own mean and deviation, before `mean` and `std`.
        """
        super().__init__()
        self.rate, self.features, self.mel_bins = rate, features, mel_bins
        self.patch, self.mean, self.std = (patch[0], patch[1]), mean, std
        self.stride = self.patch if stride is None else (stride[0], stride[1])
        self.log_mel, self.constant_q = LogMel(rate, mel_bins, window, shift), ConstantQ(rate)
        self.position_kind, self.seconds, self.normalise = positions, seconds, normalise
        self.make_tokens(width)

    @property
    def numbers(self) -> int:
        """P = frames * mel bins of a patch."""
        return self.patch[0] * self.patch[1]

    # ------------------------------------------------------------------------------------------------------- patches

    def spectrum(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """(normalised log-mel (B, F, M), frames that exist (B,) or None where all do)."""
        if "mel" in inputs:
            return inputs["mel"], inputs.get("frames")
        length = inputs.get("length")
        mel = (self.log_mel(inputs["waveform"]) - self.mean) / self.std
        return mel, None if length is None else self.log_mel.frames(length)

    def grid(self, steps: int) -> tuple[int, int]:
        """(times, bands) of patches in so many frames, or samples. The last of patches that do not overlap may reach
        over the end; of those that do, the frames behind the last whole one are left out, as a convolution does."""
        (across, along), (right, up) = self.patch, self.stride
        times = (steps + across - 1) // across if right == across else (steps - across) // right + 1
        bins = self.mel_bins if self.features == "mel" else 1
        return max(times, 1), (bins - along) // up + 1

    def patchify(self, inputs: Inputs) -> Patches:
        """The last patch of a sound may reach over its end; what is not there is NaN. Times count from the start."""
        if self.features == "waveform":
            wave = own_scale(inputs) if self.normalise == "sound" else inputs["waveform"].float()
            x = ((wave - self.mean) / self.std)[..., None]
            there, step = inputs.get("length"), 1 / self.rate
        else:
            x, there = self.spectrum(inputs)
            step = self.log_mel.shift / self.rate
        batch, steps, bins = x.shape
        (across, along), (right, up) = self.patch, self.stride
        times, bands = self.grid(steps)
        whole = (times - 1) * right + across
        if there is not None:
            outside = torch.arange(steps, device=x.device) >= there[:, None]
            x = x.masked_fill(outside[..., None], torch.nan)
        x = F.pad(x, (0, 0, 0, max(whole - steps, 0)), value=torch.nan)[:, :whole]
        # (B, times, bands, across, along)
        values = x.unfold(1, across, right).unfold(2, along, up).transpose(3, 4).flatten(3).flatten(1, 2)
        first = torch.arange(times, device=x.device)
        seconds = (first * (right * step)).to(torch.float32)
        coords = seconds[:, None]
        if self.features == "mel":
            bin_ = (torch.arange(bands, device=x.device) * up).to(torch.float32)
            coords = torch.stack(torch.broadcast_tensors(coords, bin_), -1).flatten(0, 1)
        coords = coords.expand(batch, -1, -1)
        grid: tuple[int, ...] = (bands, times)
        place = places_of(times, bands, device=x.device).flip(1)  # bands before times, as within a patch
        if self.features == "waveform":
            grid, place = grid[1:], place[:, 1:]
        place = place.expand(batch, -1, -1)
        if there is None and steps:
            valid = torch.ones(batch, times * bands, dtype=torch.bool, device=x.device)
            return Patches(values, coords, valid, full=True, grid=grid, place=place)
        count = x.new_zeros(batch) if there is None else there
        valid = first * right < count[:, None]
        if right < across:  # nothing reaches over the end but the first of a sound that is shorter than a patch
            valid &= (first * right + across <= count[:, None]) | (first == 0)
        # a patch that does not exist at all holds zeros, as everywhere
        valid = valid.repeat_interleave(bands, 1)
        return Patches(values.masked_fill(~valid[..., None], 0.0), coords, valid, grid=grid, place=place)

    def tile(self) -> tuple[int, ...]:
        """(1, mel bins, frames), or (1, samples); nothing of patches that overlap."""
        if self.stride != self.patch:
            return ()
        return (1, *reversed(self.patch)) if self.features == "mel" else (1, self.patch[0])

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """values (B, N, P) to the features of `like`: {"waveform"}, or {"mel": normalised (B, F, M)}, from which no
        waveform can be had back but which `patchify` takes as well. What does not exist is zero."""
        across, along = self.patch
        bands = self.grid(0)[1]
        batch, count = values.shape[:2]
        x = values.reshape(batch, count // bands, bands, along, across).permute(0, 1, 4, 2, 3)
        x = x.reshape(batch, -1, bands * along) if self.stride == self.patch else self._overlapped(x)
        if self.features == "waveform":
            wave = (x[..., 0] * self.std + self.mean)[:, : like["waveform"].shape[1]]
            length = like.get("length")
            if length is not None:
                wave = wave.masked_fill(torch.arange(wave.shape[1], device=wave.device) >= length[:, None], 0.0)
            return {**like, "waveform": wave}
        steps = like["mel"].shape[1] if "mel" in like else self.log_mel.frames(like["waveform"].shape[1])
        frames = like.get("frames")
        if frames is None and "length" in like:
            frames = self.log_mel.frames(like["length"])
        x = F.pad(x[:, :steps], (0, self.mel_bins - x.shape[2], 0, max(steps - x.shape[1], 0)))
        out = {"mel": x.nan_to_num(0.0)}
        return out if frames is None else out | {"frames": frames}

    def _overlapped(self, x: Tensor) -> Tensor:
        """x (B, times, across, bands, along) -> (B, F, M), the mean of all patches that hold an element."""
        batch, times, across, bands, along = x.shape
        size = ((times - 1) * self.stride[0] + across, (bands - 1) * self.stride[1] + along)
        columns = x.nan_to_num(0.0).permute(0, 2, 4, 1, 3).reshape(batch, across * along, times * bands)
        total = F.fold(columns, size, (across, along), stride=self.stride)
        return (total / F.fold(torch.ones_like(columns), size, (across, along), stride=self.stride))[:, 0]

    # ------------------------------------------------------------------------------------------------------- targets

    def pred_width(self, kind: str | None = None) -> int:
        """P, or the bins of a constant-Q spectrum."""
        return len(self.constant_q.frequencies) if self.kind(kind) == "cqt" else self.numbers

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, n, P) the numbers of each patch; "cqt": (B, n, K) the constant-Q spectrum around its middle (MERT, Li et
        al. 2023), of the waveform, whatever patches are cut from. UserError where a view has left none."""
        if self.kind(kind) != "cqt":
            return super().target(inputs, patches, kind)
        if "waveform" not in inputs:
            raise UserError("target cqt: found a view that masks the spectrum, expected one of the waveform (clean)")
        wave, length = inputs["waveform"], inputs.get("length")
        if length is not None:
            wave = wave.masked_fill(torch.arange(wave.shape[1], device=wave.device) >= length[:, None], 0.0)
        across = self.patch[0]
        samples = across if self.features == "waveform" else (across - 1) * self.log_mel.shift + self.log_mel.window
        return self.constant_q(wave, patches.coords[..., 0] + samples / 2 / self.rate)

    # --------------------------------------------------------------------------------------------------------- model

    def axes(self) -> tuple[float, ...]:
        """Time, and mel bins where there are any, are counted in patches."""
        right, up = self.stride
        if self.features == "waveform":
            return (self.rate / right,)
        return (self.rate / (self.log_mel.shift * right), 1 / up)

    def cells(self, kind: str) -> int:
        """Halves of time and of the mel bins; or every band of mel bins, averaged over time."""
        return self.grid(0)[1] if kind == "axis" and self.features == "mel" else super().cells(kind)

    def cell(self, kind: str, patches: Patches) -> Tensor:
        """By time and mel bin."""
        if kind == "axis":
            return (patches.coords[..., 1] / self.stride[1]).round().long()
        return super().cell(kind, patches)

    def positions(self, width: int) -> nn.Module:
        """Sine-cosine of time and mel bin, counted in patches; or a table over them."""
        if self.position_kind == "learned":
            assert self.seconds is not None
            samples = round(self.seconds * self.rate)
            sizes = self.grid(samples if self.features == "waveform" else self.log_mel.frames(samples))
            return LearnedGrid(width, sizes[: len(self.axes())], scale=self.axes())
        return SinCos(width, len(self.axes()), scale=self.axes())

    def augment(self, inputs: Inputs, draws: Draws, **spec: object) -> Inputs:
        """One view of the batch.

        Args:
            inputs: waveforms; a spectrum where the view does nothing but mask it.
            draws: random numbers of the B samples.
            spec: options of `mmssl_audio.options.View`.

        Raises:
            UserError: an option is wrong, or works on what these inputs are not.
        """
        view = View.build(spec)
        view.check(self.features)
        if view.changes_waveform:
            inputs = augment_waveform(inputs, draws, view, self.rate, self.log_mel.window)
        if view.masks_spectrum:
            mel, frames = self.spectrum(inputs)
            inputs = mask_spectrum(mel, frames, draws, view)
        return inputs

    def places(self, inputs: Inputs, patches: Patches, draws: Draws, **spec: object) -> Places:
        """By time in patches of the whole sound, and by mel bin."""
        view, found = View.build(spec), by_coords(patches, self.axes())
        if not view.crops:
            return found
        begin = begin_of(inputs, draws, view, self.rate, self.log_mel.window)
        return found.shifted(0, begin * (self.axes()[0] / self.rate))

    def raster(self, inputs: Inputs) -> tuple[Inputs, str, tuple[int, ...]]:
        """Time and mel bins of the normalised spectrum."""
        if self.features != "mel":
            raise UserError("corrupt: boxes lie in the spectrum, found features: waveform")
        mel, frames = self.spectrum(inputs)
        if frames is None:
            return {"mel": mel}, "mel", (1, 2)
        outside = torch.arange(mel.shape[1], device=mel.device) >= frames[:, None]
        return {"mel": mel.masked_fill(outside[..., None], torch.nan), "frames": frames}, "mel", (1, 2)

    @property
    def raw_width(self) -> int:
        """F of `raw_features`."""
        return RAW_TIMES * min(self.mel_bins, RAW_BANDS)

    def raw_features(self, inputs: Inputs) -> Tensor:
        """(B, 24 * 16) log spectrogram of 24 times, over each sound's own length, and 16 bands; absent rows: zero."""
        if self.features == "mel":
            mel, frames = self.spectrum(inputs)
        else:
            mel = (self.log_mel(inputs["waveform"]) - AST_MEAN) / AST_STD
            frames = self.log_mel.frames(inputs["length"]) if "length" in inputs else None
        batch, steps = mel.shape[:2]
        if frames is None:
            frames = torch.full((batch,), steps, device=mel.device)
        small = F.adaptive_avg_pool1d(mel, min(self.mel_bins, RAW_BANDS))
        edge = torch.arange(RAW_TIMES + 1, device=mel.device) * (frames[:, None] / RAW_TIMES)
        place = torch.arange(steps, device=mel.device)
        overlap = torch.minimum(edge[:, 1:, None], place + 1) - torch.maximum(edge[:, :-1, None], place)
        weights = overlap.clamp(min=0)
        weights = weights / weights.sum(2, keepdim=True).clamp(min=1e-9)
        return (weights @ small).flatten(1)

    def show(self, inputs: Inputs, reader: Preprocessor, hidden: Inputs | None = None) -> list[Shown | None]:
        """The normalised log-mel spectrum, or the waveform where patches are cut from that, as long as each is."""
        if self.features == "waveform":
            long, key, step = inputs.get("length"), "waveform", 1 / self.rate
        else:
            mel, long = self.spectrum(inputs)
            inputs, key, step = inputs | {"mel": mel}, "mel", self.log_mel.shift / self.rate
        found: list[Shown | None] = []
        for row, (there, values) in enumerate(rows(inputs, key)):
            count = len(values) if long is None else int(long[row])
            mask = flags(hidden, key, row)
            if not there or not count:
                found.append(None)
            elif key == "mel":
                found.append(Spectrum(values[:count], step, None if mask is None else mask[:count]))
            else:
                found.append(Curves(values[None, :count], [""], step, None if mask is None else mask[None, :count]))
        return found
