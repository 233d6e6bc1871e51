"""Encoders as plain tensor programs, for ONNX: which inputs a modality has, which of their axes are open, made inputs.

What is traced is the model's own code, `patchify` and the tower, so positions of any kind, causal attention and
sine-cosine places at other sizes come along. Shapes: B batch, R prefix tokens, N patches, D width, E embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...modality import Inputs
from . import images, texts
from .exportable import Branch

Made = Callable[[int, int, torch.Generator], dict[str, Tensor]]
"""(batch, size, generator) -> inputs; size 0 is a small one, 1 a larger one where there is a choice."""


Axis = str | tuple[int, str]
"""An open axis: its name, or (factor, name) for multiples."""


@dataclass
class Signature:
    """What an encoder is called with.

    axes: input -> its open axes by number, each a name, or (factor, name) for multiples; limits: name -> (least,
    greatest or None); inputs: what they hold, in words; make: inputs for a comparison; masked: whether patches may be
    missing, so that the encoder says which there are; fixed: what stays as it is, in words.
    """

    axes: Mapping[str, Mapping[int, Axis]]
    make: Made
    inputs: dict[str, str]
    limits: dict[str, tuple[int, int | None]]
    masked: bool = True
    fixed: str = ""


def signature(part: Branch) -> Signature:
    """Of a modality in `SIGNATURES`."""
    return SIGNATURES[part.type](part)


class Encoder(nn.Module):
    """Inputs in the order of the signature -> last_hidden_state (B, R + N, D), [mask (B, N) bool,] embedding (B, E).

    The embedding is projected and normalised where the model projects, else the summary.
    """

    def __init__(self, part: Branch, names: list[str], masked: bool) -> None:
        super().__init__()
        self.part = [part]  # a list: the model's other parts do not become parts of this module
        self.tower, self.projection = part.tower, part.projection
        self.names, self.masked = names, masked
        self.spectrum = Spectrum(part.modality) if _hears_mel(part) else None

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs in the order of `names` -> outputs in the order of the signature."""
        part, named = self.part[0], dict(zip(self.names, inputs, strict=True))
        if self.spectrum is not None:
            named = self.spectrum(named["waveform"], named["length"])
        encoded = self.tower({part.name: part.modality.patchify(to_ours(part, named))})
        states = torch.cat([encoded.prefix, encoded.tokens[part.name]], 1)
        if self.projection is None:
            embedding = encoded.summary(part.name)
        else:
            embedding = nn.functional.normalize(self.projection(encoded.pooled(part.name)), dim=-1)
        return (states, encoded.patches[part.name].valid, embedding) if self.masked else (states, embedding)


def to_ours(part: Branch, named: Inputs) -> Inputs:
    """The encoder's inputs as the modality takes them."""
    if part.type == "image":
        return {"pixel_values": images.as_ours(part, named["pixel_values"])}
    if part.type in ("ecg", "eeg", "series"):  # says that there may be NaN; nothing is read from it
        return {**named, "holes": named["signal"]}
    if part.type == "volume":
        return {**named, "holes": named["voxels"]}
    return named


def _hears_mel(part: Branch) -> bool:
    return part.type == "audio" and bool(part.modality.features == "mel")


class Spectrum(nn.Module):
    """A padded waveform to the normalised log-mel spectrum, as `mmssl_audio.mel.LogMel` has it, by matrix products.

    Taking off a frame's mean, preemphasis, window and Fourier transform are linear, so they are one matrix; in float64,
    because the mean of a frame may be far larger than what is left. ONNX has no complex numbers.
    """

    def __init__(self, modality: Any) -> None:
        super().__init__()
        mel = modality.log_mel
        self.window, self.shift, self.mean, self.std = mel.window, mel.shift, modality.mean, modality.std
        eye = torch.eye(mel.window, dtype=torch.float64)
        frame = eye - eye.mean(1, keepdim=True)
        frame = torch.cat([frame[:, :1] * (1 - PREEMPHASIS), frame[:, 1:] - PREEMPHASIS * frame[:, :-1]], 1)
        hann, banks = mel._on(torch.device("cpu"))
        fourier = torch.fft.rfft(frame * hann.double(), n=mel.fft)
        self.fourier = nn.Buffer(torch.cat([fourier.real, fourier.imag], 1))  # (window, 2 bins)
        self.banks = nn.Buffer(banks.double())

    def forward(self, waveform: Tensor, length: Tensor) -> Inputs:
        """(B, S), (B,) int64 -> {"mel": (B, F, M), "frames": (B,)}."""
        count = (waveform.shape[1] - self.window) // self.shift + 1
        place = torch.arange(count)[:, None] * self.shift + torch.arange(self.window)
        real, imaginary = (waveform[:, place].double() @ self.fourier).chunk(2, -1)
        power = (real.square() + imaginary.square()) @ self.banks
        mel = (power.clamp(min=FLOOR).log().float() - self.mean) / self.std
        frames = torch.where(length < self.window, 0, (length - self.window) // self.shift + 1)
        return {"mel": mel, "frames": frames}


PREEMPHASIS = 0.97
FLOOR = 1.1920928955078125e-07
"""As in `mmssl_audio.mel`, which this package must not import; the proof would show a difference."""


# -------------------------------------------------------------------------------------------------------- signatures


def _image(part: Branch) -> Signature:
    (height, width), (ph, pw) = part.modality.size, part.modality.patch
    bound = part.modality.position_kind == "learned" and part.options.positions == "additive"
    axes: dict[int, Axis] = {0: "batch"} if bound else {0: "batch", 2: (ph, "rows"), 3: (pw, "columns")}

    def make(batch: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        more = (0, 0) if bound or not size else (ph, 3 * pw)
        shape = (batch, images.stock_channels(part), height + more[0], width + more[1])
        return {"pixel_values": torch.randn(shape, generator=generator)}

    fixed = f"pictures of {height} x {width}, for which its table of positions was made" if bound else ""
    return Signature(
        {"pixel_values": axes},
        make,
        {"pixel_values": "(B, C, H, W) normalised"},
        {"rows": (2, None), "columns": (2, None)},
        masked=False,
        fixed=fixed,
    )


def _text(part: Branch) -> Signature:
    most = int(part.modality.max_length)

    def make(batch: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        several = texts.sentences(part, range(1, 3 + batch) if size else [1] * batch)[-batch:]
        return texts.inputs_of(part, several)

    axes = {0: "batch", 1: "tokens"}
    learned = part.modality.position_kind == "learned"
    return Signature(
        {"input_ids": axes, "attention_mask": axes},
        make,
        {"input_ids": "(B, L) int64", "attention_mask": "(B, L) int64, 1 where there is a token"},
        {"tokens": (2, most if learned else None)},
    )


def _audio(part: Branch) -> Signature:
    modality = part.modality
    mel = _hears_mel(part)
    least = modality.log_mel.window + (modality.patch[0] - 1) * modality.log_mel.shift if mel else modality.patch[0]
    seconds = part.preprocessor.config.seconds
    most = round(seconds * modality.rate) if modality.position_kind == "learned" else None
    usual = most or round((seconds or 2.0) * modality.rate)

    def make(batch: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        count = max(min(usual, 4 * least) if size else least + (usual - least) // 8, least)
        length = torch.tensor([count - i * (count // (batch + 1)) for i in range(batch)])
        wave = torch.randn(batch, count, generator=generator) * 0.1
        return {"waveform": wave.masked_fill(torch.arange(count) >= length[:, None], 0.0), "length": length}

    return Signature(
        {"waveform": {0: "batch", 1: "samples"}, "length": {0: "batch"}},
        make,
        {
            "waveform": f"(B, S) float32 in -1..1 at {modality.rate} Hz, zero behind its end, S at least {least}",
            "length": "(B,) int64, samples of each",
        },
        {"samples": (least, most)},
    )


def _signal(part: Branch) -> Signature:
    window = int(part.modality.window)
    eeg = part.type == "eeg"
    axes: dict[str, dict[int, Axis]] = {"signal": {0: "batch", 2: (window, "windows")}}
    words = {
        "signal": f"(B, {'channels' if eeg else len(part.modality.names)}, T) prepared as in training, T a "
        f"multiple of {window}, NaN where nothing was measured"
    }
    if eeg:
        axes["signal"][1] = "channels"
        axes["electrodes"] = {0: "batch", 1: "channels"}
        words["electrodes"] = "(B, channels, 3) places in metres"

    def make(batch: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows, count = (4 if size else 3) if eeg else len(part.modality.names), 7 if size else 4
        signal = torch.randn(batch, rows, count * window, generator=generator)
        signal[0, 0, : window + 1] = math.nan
        signal[-1, :, -window:] = math.nan
        places = torch.nn.functional.normalize(torch.randn(batch, rows, 3, generator=generator), dim=-1) * 0.09
        return {"signal": signal, "electrodes": places} if eeg else {"signal": signal}

    return Signature(axes, make, words, {"windows": (2, None), "channels": (2, None)})


def _tabular(part: Branch) -> Signature:
    columns = part.modality.columns

    def make(batch: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        cells = torch.randn(batch, columns.count, columns.elements, generator=generator)
        codes = (torch.rand(batch, columns.count, generator=generator) * (columns.categories + 1)).floor()
        cells = torch.where(columns.is_category[None, :, None], codes[..., None], cells)
        return {"cells": cells.masked_fill(torch.rand(cells.shape[:2], generator=generator)[..., None] < 0.2, math.nan)}

    words = f"(B, {columns.count}, {columns.elements}) scaled numbers and codes of categories, NaN where empty"
    return Signature({"cells": {0: "batch"}}, make, {"cells": words}, {})


def _video(part: Branch) -> Signature:
    modality = part.modality
    bound = modality.position_kind == "index"  # numbers of tubelets depend on the size of the grid
    (height, width), (ph, pw) = modality.size, modality.patch
    frames = int(part.preprocessor.config.frames)
    pixels: dict[int, Axis] = {0: "batch", 1: "frames"}
    if not bound:
        pixels |= {3: (ph, "rows"), 4: (pw, "columns")}

    def make(batch: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        count, more = frames + 3 * size, 0 if bound else size
        shape = (batch, count, modality.channels, height + more * ph, width + more * pw)
        times = (torch.arange(count) / modality.fps).expand(batch, -1).contiguous()
        length = torch.tensor([max(count - i, 1) for i in range(batch)])
        return {"pixel_values": torch.randn(shape, generator=generator), "times": times, "length": length}

    return Signature(
        {"pixel_values": pixels, "times": {0: "batch", 1: "frames"}, "length": {0: "batch"}},
        make,
        {"pixel_values": "(B, T, C, H, W) normalised", "times": "(B, T) seconds", "length": "(B,) int64, in frames"},
        {"frames": (2, None), "rows": (2, None), "columns": (2, None)},
        fixed=f"frames of {height} x {width}" if bound else "",
    )


def _volume(part: Branch) -> Signature:
    modality = part.modality
    names, channels = ("slices", "rows", "columns"), len(modality.names)
    # an axis of one patch is one for ever: a trace takes 1 for a constant
    free = [side > cut for side, cut in zip(modality.size, modality.patch, strict=True)]
    axes: dict[int, Axis] = {0: "batch"}
    axes |= {n + 2: (modality.patch[n], names[n]) for n in range(3) if free[n]}

    def make(batch: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        shape = [modality.size[n] + size * free[n] * modality.patch[n] for n in range(3)]
        voxels = torch.randn(batch, channels, *shape, generator=generator)
        for row in range(1, batch):
            voxels[row, :, :, :row] = torch.nan
            voxels[row, row % channels, :, -1] = torch.nan
        return {"voxels": voxels}

    fixed = " and ".join(f"{modality.size[n]} {names[n]}" for n in range(3) if not free[n])
    return Signature(
        {"voxels": axes},
        make,
        {"voxels": "(B, C, slices, rows, columns) normalised, NaN where there is nothing"},
        {names[n]: (2, None) for n in range(3) if free[n]},
        fixed=f"volumes of {fixed}" if fixed else "",
    )


def _graph(part: Branch) -> Signature:
    modality = part.modality
    width = modality.laplacian + modality.walk

    def make(batch: int, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        count = 9 if size else 6
        nodes = torch.arange(count) < torch.tensor([max(count - 2 * i, 1) for i in range(batch)])[:, None]
        links = (torch.rand(batch, count, count, generator=generator) < 0.3).float() * (1 - torch.eye(count))
        links = links * (nodes[:, :, None] & nodes[:, None])
        return {
            "x": torch.randn(batch, count, modality.features, generator=generator) * nodes[..., None],
            "links": links,
            "nodes": nodes,
            "centre": torch.tensor([0] + [-1] * (batch - 1)),
            "encodings": torch.randn(batch, count, width, generator=generator) * nodes[..., None],
        }

    one, two = {0: "batch", 1: "nodes"}, {0: "batch", 1: "nodes", 2: "nodes"}
    words = {
        "x": f"(B, N, {modality.features}) features",
        "links": "(B, N, N) weights of edges",
        "nodes": "(B, N) bool",
        "centre": "(B,) int64, -1 for none",
        "encodings": f"(B, N, {width}) as mmssl's processor computes them",
    }
    return Signature(
        {"x": one, "links": two, "nodes": one, "centre": {0: "batch"}, "encodings": one},
        make,
        words,
        {"nodes": (2, None)},
    )


SIGNATURES: dict[str, Callable[[Branch], Signature]] = {
    "image": _image,
    "text": _text,
    "audio": _audio,
    "video": _video,
    "ecg": _signal,
    "series": _signal,
    "eeg": _signal,
    "tabular": _tabular,
    "graph": _graph,
    "volume": _volume,
}
