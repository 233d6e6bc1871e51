"""Options of the audio modality, and of their views, without torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from mmssl.errors import UserError
from mmssl.modality.view import View as Base
from mmssl.modality.view import check_bounds
from mmssl.options import SET, Needs, needs, option, strict


@strict
@dataclass(kw_only=True)
class Config:
    """What a recipe may set for sound. The defaults are the Audio Spectrogram Transformer's (Gong et al. 2021)."""

    rate: int = option(
        16000, min=100, max=1_000_000, help="samples a second of the model's input; sound is resampled to it"
    )
    seconds: float | None = option(
        10.24, above=0, max=1_000_000, help="the longest stretch taken of a sound; null: all of it"
    )
    features: str = option("mel", choices=("mel", "waveform"), help="what patches are cut from")
    mel_bins: int = option(128, min=4, max=65_536, help="bands of the mel spectrum; at least Kaldi's four")
    window_ms: float = option(25.0, above=0, max=1_000_000, help="length of the frame that a spectrum is taken of")
    shift_ms: float = option(10.0, above=0, max=1_000_000, help="from one frame to the next")
    patch: int | list[int] | None = option(
        None, min=1, max=65_536, help="mel: [frames, mel bins], null 16 x 16; waveform: samples, null 25 ms"
    )
    stride: int | list[int] | None = option(
        None, min=1, max=65_536, help="mel: [frames, mel bins] from one patch to the next; null: the patch's own sides"
    )
    positions: str = option(
        "sincos", choices=("sincos", "learned"), help="learned: a table over the patches of `seconds`, as in AST"
    )
    source_rate: float | None = option(
        None, above=0, max=1_000_000, help="rate of arrays that do not say their own; null: they are refused"
    )
    layout: str | None = option(
        None,
        choices=("channels_first", "channels_last"),
        help="of arrays; null: by their shape, refused where it is open",
    )
    normalise: str = option(
        "data", choices=("data", "sound"), help="sound: each waveform has mean 0 and variance 1, as of wav2vec 2.0"
    )
    mean: float | None = option(
        None, min=-1_000_000, max=1_000_000, help="of the features, subtracted; null: measured on the data"
    )
    std: float | None = option(
        None, above=0, max=1_000_000, help="the features are divided by it; null: measured on the data"
    )

    def __post_init__(self) -> None:
        if self.features == "waveform":
            if isinstance(self.patch, list) and len(self.patch) != 1:
                raise UserError(f"patch: found {self.patch}, expected one number of samples for features: waveform")
        elif isinstance(self.patch, list) and len(self.patch) != 2:
            raise UserError(f"patch: found {self.patch}, expected one number, or [frames, mel bins]")
        elif isinstance(self.stride, list) and len(self.stride) != 2:
            raise UserError(f"stride: found {self.stride}, expected one number, or [frames, mel bins]")
        elif self.steps[0] > self.sides[0] or self.steps[1] > self.sides[1]:
            raise UserError(f"stride: found {list(self.steps)}, expected at most the patch, {list(self.sides)}")
        elif self.mel_bins < self.sides[1] or (self.steps[1] == self.sides[1] and self.mel_bins % self.sides[1]):
            raise UserError(f"mel_bins: found {self.mel_bins}, expected a multiple of the patch's {self.sides[1]}")
        if self.normalise == "sound":
            if self.features != "waveform":
                raise UserError("normalise: found sound, expected data with features: mel")
            if (self.mean or 0.0, self.std or 1.0) != (0.0, 1.0):
                raise UserError("mean, std: found them beside normalise: sound, which takes each sound's own")
        if self.features == "waveform" and self.stride is not None:
            raise UserError(f"stride: found {self.stride}, expected null with features: waveform")
        if self.positions == "learned" and self.seconds is None:
            raise UserError("positions: found learned, expected sincos where seconds is null: a table has an end")
        if self.window < 2 or self.shift < 1:
            raise UserError(
                f"window_ms, shift_ms: found {self.window_ms:g} and {self.shift_ms:g}, that is {self.window} and "
                f"{self.shift} samples at {self.rate} Hz, expected at least 2 and 1"
            )
        if self.seconds is not None and self.seconds * self.rate < self.least:
            raise UserError(f"seconds: found {self.seconds:g}, expected at least the {self.least} samples of one frame")

    @property
    def window(self) -> int:
        """Samples of a frame, rounded down as in Kaldi."""
        return int(self.rate * self.window_ms * 0.001)

    @property
    def shift(self) -> int:
        """Samples from one frame to the next, rounded down."""
        return int(self.rate * self.shift_ms * 0.001)

    @property
    def sides(self) -> tuple[int, int]:
        """(frames, mel bins) of a patch; (samples, 1) of the waveform's."""
        if self.patch is None:
            return (16, 16) if self.features == "mel" else (max(int(self.rate * 0.025), 1), 1)
        sides = [self.patch] if isinstance(self.patch, int) else self.patch
        return (sides[0], sides[-1]) if self.features == "mel" else (sides[0], 1)

    @property
    def steps(self) -> tuple[int, int]:
        """(frames, mel bins) from one patch to the next."""
        if self.stride is None:
            return self.sides
        steps = [self.stride] if isinstance(self.stride, int) else self.stride
        return (steps[0], steps[-1])

    @property
    def least(self) -> int:
        """The fewest samples that a sound may have."""
        return self.window if self.features == "mel" else 1


@strict
@dataclass(kw_only=True)
class View(Base):
    """Options of one kind of view. Steps named by a probability are left out at 0.

    CLMR's own settings: polarity 0.8, noise 0.01, gain 0.3, filter 0.8, delay 0.3, pitch 0.6, reverb 0.6.
    """

    corruptible: ClassVar[bool] = True

    crop: list[float] | None = option(None, above=0, max=1, help="lowest and highest share of the sound's own length")
    crop_seconds: float | None = option(
        None, above=0, max=1_000_000, help="length of the view; shorter sounds stay whole"
    )
    mix: float = option(0.0, min=0, max=1, help="add another sample of the batch")
    mix_db: list[float] = option(
        factory=lambda: [-20.0, -5.0], min=-200, max=200, help="its level against the sample's own"
    )
    mix_length: list[float] | None = option(
        None,
        above=0,
        max=1,
        help="how much of it, lowest and highest share of the shorter one, from anywhere to anywhere (MERT); null: all",
    )
    polarity: float = option(0.0, min=0, max=1, help="probability that the sign is turned")
    noise: float = option(0.0, min=0, max=1, help="probability of white noise")
    noise_level: list[float] = option(
        factory=lambda: [0.001, 1.0], min=0, max=1_000, help="standard deviation over the sound's"
    )
    gain: float = option(0.0, min=0, max=1, help="probability of another loudness")
    gain_db: list[float] = option(
        factory=lambda: [-20.0, -1.0], min=-200, max=200, help="its change, lowest and highest"
    )
    filter: float = option(0.0, min=0, max=1, help="high- or low-pass of the first order, one or the other")
    highpass_hz: list[float] = option(
        factory=lambda: [200.0, 1200.0],
        above=0,
        max=1_000_000,
        help="its corner where it is a high-pass, lowest and highest",
    )
    lowpass_hz: list[float] = option(
        factory=lambda: [2200.0, 4000.0],
        above=0,
        max=1_000_000,
        help="its corner where it is a low-pass, lowest and highest",
    )
    delay: float = option(0.0, min=0, max=1, help="probability of one echo")
    delay_ms: list[float] = option(
        factory=lambda: [200.0, 500.0], above=0, max=1_000_000, help="how late it comes, lowest and highest"
    )
    delay_volume: float = option(0.5, min=0, max=1, help="its size, over the sound's own")
    pitch: float = option(0.0, min=0, max=1, help="probability of another pitch, at the same pace")
    pitch_semitones: list[float] = option(
        factory=lambda: [-7.0, 7.0], min=-24, max=24, help="how far it is moved, lowest and highest"
    )
    reverb: float = option(0.0, min=0, max=1, help="probability of a room's reverberation")
    reverb_seconds: list[float] = option(
        factory=lambda: [0.1, 0.8], above=0, max=1_000_000, help="until it has fallen by 60 dB"
    )
    reverb_wet: list[float] = option(factory=lambda: [0.0, 0.5], min=0, max=1, help="share of the echo")
    time_masks: int = option(0, min=0, max=1_024, help="SpecAugment: stretches of time set to the mean")
    time_width: float = option(0.2, min=0, max=1, help="their greatest length, a share of the sound's")
    mel_masks: int = option(0, min=0, max=1_024, help="SpecAugment: ranges of mel bins set to the mean")
    mel_width: float = option(0.2, min=0, max=1, help="their greatest width, a share of all bins")

    NEEDS: ClassVar[tuple[Needs, ...]] = (needs("mix_length", mix=SET),)

    def __post_init__(self) -> None:
        check_bounds(self, *(field.name for field in fields(self) if isinstance(getattr(self, field.name), list)))

    def check(self, features: str) -> None:
        """UserError where these options work on what the modality's features are not."""
        if self.masks_spectrum and features == "waveform":
            raise UserError("time_masks, mel_masks: SpecAugment masks the spectrum, found features: waveform")

    @property
    def masks_spectrum(self) -> bool:
        """Whether any step works on the spectrum."""
        return self.time_masks > 0 or self.mel_masks > 0

    @property
    def changes_waveform(self) -> bool:
        """Whether any step works on the waveform."""
        steps = (self.mix, self.polarity, self.noise, self.gain, self.filter, self.delay, self.pitch, self.reverb)
        return self.crops or any(steps)

    @property
    def crops(self) -> bool:
        """Whether a stretch is cut out."""
        return self.crop is not None or self.crop_seconds is not None
