"""Augmented views of a batch of sounds, on the batch's device, every sample with parameters of its own.

CLMR's chain on the waveform, in CLMR's order: crop, polarity, noise, gain, high- or low-pass, delay, pitch, reverb
(Spijkervet & Burgoyne 2021, "Contrastive Learning of Musical Representations"; Spijkervet/torchaudio-augmentations),
with mixing of two samples of the batch after the crop; then SpecAugment's masks on the spectrum (Park et al. 2019).
Where the input is a spectrum it is taken of the augmented waveform.

All parameters come from `mmssl.draws.Draws`. No step looks beyond a sample's own length, and padding stays zero: a
view does not depend on how the batch is padded. A step is computed for the samples that it was drawn for.

What torchaudio has of this is used where one call can do it for a batch whose samples differ (`effects.first_order`).
Its masks (`TimeMasking`, `FrequencyMasking`, `mask_along_axis_iid`) take no generator, so that draws would not follow
the sample, and one greatest width for all lengths; `functional.gain` takes one gain, `add_noise` measures both sounds
over the first one's length and makes NaN of a silent one.

Shapes: B batch, S samples, F frames, M mel bins.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.modality import Inputs
from mmssl.modality.view import check_rows

from .effects import delay, first_order, pitch_shift, reverb
from .options import View


def augment_waveform(inputs: Inputs, draws: Draws, view: View, rate: int, least: int) -> Inputs:
    """The waveforms' view, all steps but SpecAugment's.

    Args:
        inputs: "waveform" (B, S), and "length" (B,) where some are shorter.
        draws: random numbers of the B samples.
        view: what is done.
        rate: samples a second.
        least: samples that a crop keeps at least (one frame).

    Raises:
        UserError: the inputs hold a spectrum, or samples would be mixed across processes.
    """
    if "waveform" not in inputs:
        raise UserError("this view works on the waveform, but the inputs hold a spectrum")
    wave = inputs["waveform"].float()
    check_rows(draws.rows, len(wave))
    keys = {"length"} if "length" in inputs or view.crops else set()
    length = length_of(inputs)
    with torch.autocast(wave.device.type, enabled=False):
        if view.crops:
            wave, length = crop(wave, length, draws("crop"), view, rate, least)
        inside = torch.arange(wave.shape[1], device=wave.device) < length[:, None]
        if view.mix:
            wave = mix_within_batch(wave, inside, draws("mix"), view)
        wave = _chain(wave, inside, draws, view, rate)
    return {"waveform": wave} | ({"length": length} if keys else {})


def length_of(inputs: Inputs) -> Tensor:
    """(B,) samples that each sound has."""
    wave = inputs["waveform"]
    return inputs["length"] if "length" in inputs else torch.full((len(wave),), wave.shape[1], device=wave.device)


def begin_of(inputs: Inputs, draws: Draws, view: View, rate: int, least: int) -> Tensor:
    """(B,) the sample at which a view of `augment_waveform` begins; nothing after the crop moves anything."""
    length = length_of(inputs)
    if not view.crops:
        return torch.zeros_like(length)
    return stretch_of(inputs["waveform"], length, draws("crop"), view, rate, least)[0]


def _chain(wave: Tensor, inside: Tensor, draws: Draws, view: View, rate: int) -> Tensor:
    """CLMR's steps after the crop; what lies outside of the samples stays zero."""

    def drawn(name: str, bounds: list[float]) -> Tensor:
        return draws(name).uniform(low=bounds[0], high=bounds[1]).to(wave.device)

    def apply(name: str, p: float, effect: Callable[[Tensor, Tensor], Tensor]) -> None:
        """wave with `effect(sounds, rows)` in place of the drawn rows."""
        rows = draws(name, "whether").chance(p).to(wave.device).nonzero()[:, 0]
        if len(rows):
            wave[rows] = effect(wave[rows], rows) * inside[rows]

    wave = wave.clone()
    if view.polarity:
        apply("polarity", view.polarity, lambda x, rows: -x)
    if view.noise:
        level = drawn("noise", view.noise_level)[:, None] * deviation(wave, inside)

        def hiss(x: Tensor, rows: Tensor) -> Tensor:
            return x + level[rows] * draws("hiss").normal(x.shape[1]).to(x.device)[rows]

        apply("noise", view.noise, hiss)
    if view.gain:
        factor = 10 ** (drawn("gain", view.gain_db) / 20)
        apply("gain", view.gain, lambda x, rows: (x * factor[rows, None]).clamp(-1, 1))
    if view.filter:
        high = draws("which filter").chance(0.5).to(wave.device)
        hertz = torch.where(high, drawn("highpass", view.highpass_hz), drawn("lowpass", view.lowpass_hz))
        apply("filter", view.filter, lambda x, rows: first_order(x, hertz[rows], high[rows], rate))
    if view.delay:
        samples = (drawn("delay", view.delay_ms) * (rate / 1000)).long()
        apply("delay", view.delay, lambda x, rows: delay(x, samples[rows], view.delay_volume))
    if view.pitch:
        semitones, highest = drawn("pitch", view.pitch_semitones), view.pitch_semitones[1]
        apply("pitch", view.pitch, lambda x, rows: pitch_shift(x, semitones[rows], rate, highest))
    if view.reverb:
        seconds, wet = drawn("reverb", view.reverb_seconds), drawn("wet", view.reverb_wet)
        echo = draws("echo").normal(max(int(view.reverb_seconds[1] * rate), 1)).to(wave.device)
        apply("reverb", view.reverb, lambda x, rows: reverb(x, seconds[rows], wet[rows], echo[rows], rate))
    return wave


def deviation(wave: Tensor, inside: Tensor) -> Tensor:
    """(B, 1) standard deviation of each sound over its own length; 0 for silence."""
    count = inside.sum(1, keepdim=True)
    centred = (wave - (wave * inside).sum(1, keepdim=True) / count.clamp(min=1)) * inside
    return (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()


def crop(wave: Tensor, length: Tensor, draws: Draws, view: View, rate: int, least: int) -> tuple[Tensor, Tensor]:
    """A random stretch of each sound, (B, s) and its lengths (B,)."""
    start, kept, width = stretch_of(wave, length, draws, view, rate, least)
    place = torch.arange(width, device=wave.device)
    index = (start[:, None] + place).clamp(max=wave.shape[1] - 1)
    return wave.gather(1, index) * (place < kept[:, None]), kept


def stretch_of(
    wave: Tensor, length: Tensor, draws: Draws, view: View, rate: int, least: int
) -> tuple[Tensor, Tensor, int]:
    """(where the stretch begins (B,), how long it is (B,), the longest), in samples."""
    share, where = (x.to(wave.device) for x in draws.uniform(2).unbind(1))
    kept = length
    width = wave.shape[1]
    if view.crop is not None:
        low, high = view.crop
        kept = ((low + (high - low) * share) * length).round().long()
    if view.crop_seconds is not None:
        most = max(round(view.crop_seconds * rate), least)
        kept, width = kept.clamp(max=most), min(width, most)
    kept = torch.minimum(kept.clamp(min=least), length)
    return (where * (length - kept + 1)).long(), kept, width


def mix_within_batch(wave: Tensor, inside: Tensor, draws: Draws, view: View) -> Tensor:
    """Every chosen sound with another one of the batch under it, or a stretch of that somewhere under it (MERT, Li et
    al. 2023, section 3.3); its own length stays. Levels are of the powers of both, of a stretch of its own."""
    if draws.total not in (None, draws.rows):
        raise UserError(
            "mix: samples are mixed within a batch that one process holds, found a batch spread over several; leave "
            "mix out, or train with one process"
        )
    other = draws.permutation().to(wave.device)
    partner, there = wave[other], inside[other]
    if view.mix_length is not None:
        partner, there = _stretch(partner, there.sum(1), inside.sum(1), draws("stretch"), view.mix_length)
    own, its = _power(wave, inside), _power(partner, there)
    level = 10 ** (draws("db").uniform(low=view.mix_db[0], high=view.mix_db[1]).to(wave.device) / 20)
    factor = level[:, None] * (own / its.clamp(min=1e-20)).sqrt() * (its > 1e-20)
    chosen = draws("whether").chance(view.mix).to(wave.device)[:, None]
    return torch.where(chosen & inside, wave + factor * partner, wave)


def _stretch(wave: Tensor, has: Tensor, room: Tensor, draws: Draws, share: list[float]) -> tuple[Tensor, Tensor]:
    """A stretch of each sound (B, S) that has so many samples, moved to anywhere in as many as there is room for, zero
    around it; and where it lies (B, S)."""
    long, first, to = draws.uniform(3).to(wave.device).unbind(1)
    count = ((share[0] + (share[1] - share[0]) * long) * torch.minimum(has, room)).round().long()
    begin, place = ((at * (free - count + 1)).long() for at, free in ((first, has), (to, room)))
    after = torch.arange(wave.shape[1], device=wave.device) - place[:, None]
    lies = (after >= 0) & (after < count[:, None])
    return wave.gather(1, (after + begin[:, None]).clamp(0, wave.shape[1] - 1)) * lies, lies


def _power(wave: Tensor, inside: Tensor) -> Tensor:
    return wave.square().sum(1, keepdim=True) / inside.sum(1, keepdim=True).clamp(min=1)


def mask_spectrum(mel: Tensor, frames: Tensor | None, draws: Draws, view: View) -> Inputs:
    """SpecAugment's time and mel masks on a normalised spectrum (B, F, M): set to 0, the mean of the data."""
    batch, steps, bins = mel.shape
    length = torch.full((batch,), steps, device=mel.device) if frames is None else frames
    hidden = torch.zeros(batch, steps, bins, dtype=torch.bool, device=mel.device)
    for number in range(view.time_masks):
        hidden |= _range(draws("time", number), length, view.time_width, steps, mel.device)[:, :, None]
    every = torch.full_like(length, bins)
    for number in range(view.mel_masks):
        hidden |= _range(draws("mel", number), every, view.mel_width, bins, mel.device)[:, None]
    out = {"mel": mel.masked_fill(hidden, 0.0)}
    return out if frames is None else out | {"frames": frames}


def _range(draws: Draws, length: Tensor, share: float, count: int, device: torch.device) -> Tensor:
    """(B, count) bool: a stretch of 0 .. share of each length, anywhere in it."""
    how_long, where = (x.to(device) for x in draws.uniform(2).unbind(1))
    width = (how_long * (share * length + 1)).long()
    start = (where * (length - width + 1)).long()
    place = torch.arange(count, device=device)
    return (place >= start[:, None]) & (place < (start + width)[:, None])
