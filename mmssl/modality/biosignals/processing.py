"""Filters and resampling of (C, T) float64 signals with gaps (NaN), by scipy, all of zero phase.

A gap is bridged by a straight line while a filter runs over it, and is a gap again afterwards.
"""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ...errors import BadSample
from .recording import Array

FINEST = 1000  # largest numerator and denominator of a ratio of rates: wrong by 1e-6 at most
NOTCH_QUALITY = 30.0  # centre frequency over width
ORDER = 4
ENOUGH = 1000  # samples of a channel that its typical amplitude is estimated from


def bridged(signal: Array) -> tuple[Array, NDArray[np.bool_] | None]:
    """The signal with straight lines over its gaps, and where they are; a channel without any sample is 0."""
    hole = np.isnan(signal)
    if not hole.any():
        return signal, None
    signal = signal.copy()
    time = np.arange(signal.shape[1])
    for row, gap in zip(signal, hole, strict=True):
        if gap.all():
            row[:] = 0.0
        elif gap.any():
            row[gap] = np.interp(time[gap], time[~gap], row[~gap])
    return signal, hole


def filtered(signal: Array, rate: float, highpass: float | None, lowpass: float | None, notch: float | None) -> Array:
    """Butterworth high- and low-pass and a notch (Hz), forwards and backwards; a gap stays a gap.

    What lies beyond half the rate is not in the signal, so that nothing is done to take it out.

    Args:
        signal: (C, T).
        rate: samples a second.
        highpass: Hz; None: none.
        lowpass: Hz; None: none.
        notch: mains frequency to take out, Hz; None: none.
    """
    nyquist = rate / 2
    low = lowpass if lowpass is not None and lowpass < nyquist else None
    stop = notch if notch is not None and notch < nyquist else None
    high = highpass if highpass is not None and highpass < nyquist else None
    if low is high is stop is None:
        return signal
    signal, hole = bridged(signal)
    signal = _both_ways(_sections(rate, high, low, stop), signal)
    if hole is not None:
        signal[hole] = np.nan
    return signal


@functools.lru_cache(maxsize=64)
def _sections(rate: float, high: float | None, low: float | None, stop: float | None) -> Array:
    """All filters as one cascade of second-order sections."""
    from scipy import signal as dsp

    found = []
    if high is not None:
        found.append(dsp.butter(ORDER, high, "highpass", fs=rate, output="sos"))
    if low is not None:
        found.append(dsp.butter(ORDER, low, "lowpass", fs=rate, output="sos"))
    if stop is not None:
        found.append(dsp.tf2sos(*dsp.iirnotch(stop, NOTCH_QUALITY, fs=rate)))
    return np.concatenate(found)


def _both_ways(sections: Array, signal: Array) -> Array:
    from scipy import signal as dsp

    # scipy's own default wants at least this much signal; a short one is padded by what there is
    pad = min(3 * (2 * len(sections) + 1) * 10, signal.shape[1] - 1)
    out: Array = dsp.sosfiltfilt(sections, signal, axis=1, padlen=pad)
    return out


def resampled(signal: Array, rate: float, to: float) -> Array:
    """The signal at `to` samples a second instead of `rate`: polyphase filtering, antialiased.

    Args:
        signal: (C, T).
        rate: samples a second that it has.
        to: samples a second that it gets.

    Returns:
        (C, ceil(T * to / rate)), the first sample at the same time; one that falls into a gap is NaN.

    Raises:
        BadSample: the ratio of the rates is none of two numbers up to 1000.
    """
    ratio = Fraction(to / rate).limit_denominator(FINEST)
    if not ratio or abs(to / rate / float(ratio) - 1) > 1e-4:
        raise BadSample(f"a rate of {rate:g} Hz cannot be resampled to {to:g} Hz")
    if ratio == 1:
        return signal
    from scipy import signal as dsp

    signal, hole = bridged(signal)
    up, down = ratio.numerator, ratio.denominator
    padding = {"padtype": "line"} if signal.shape[1] > 1 else {}
    out: Array = dsp.resample_poly(signal, up, down, axis=1, window=_antialias(max(up, down)), **padding)
    if hole is not None:
        nearest = np.minimum((np.arange(out.shape[1]) * (down / up)).round().astype(np.int64), hole.shape[1] - 1)
        out[hole[:, nearest]] = np.nan
    return out


@functools.lru_cache(maxsize=64)
def _antialias(factor: int) -> Array:
    """The filter that `resample_poly` would design anew at every call."""
    from scipy import signal as dsp

    taps: Array = dsp.firwin(20 * factor + 1, 1 / factor, window=("kaiser", 5.0))
    return taps


def centred(signal: Array) -> Array:
    """Each channel less its mean over what was measured."""
    there = ~np.isnan(signal)
    mean = np.where(there, signal, 0.0).sum(1, keepdims=True) / np.maximum(there.sum(1, keepdims=True), 1)
    out: Array = signal - mean
    return out


def flat(signal: Array) -> NDArray[np.bool_]:
    """(C,) bool: channels that do not vary at all, or hold no sample."""
    # min and max over NaN-filled rows: fill from both sides instead of warning about empty ones
    high = np.where(np.isnan(signal), -np.inf, signal).max(1)
    low = np.where(np.isnan(signal), np.inf, signal).min(1)
    out: NDArray[np.bool_] = ~(high - low > 1e-9 * np.maximum(np.abs(high), np.abs(low)))
    return out


def rms(signal: Array) -> Array:
    """(C,) root mean square about the channel's mean; 0 for a channel without samples."""
    there = ~np.isnan(signal)
    count = np.maximum(there.sum(1), 1)
    values = np.where(there, signal, 0.0)
    mean = values.sum(1) / count
    out: Array = np.sqrt(np.maximum((values**2).sum(1) / count - mean**2, 0.0))
    return out


def typical(signal: Array) -> float:
    """A robust amplitude: the median over channels of 1.48 times the median distance from the median."""
    signal = signal[:, :: max(signal.shape[1] // ENOUGH, 1)]
    there = ~np.isnan(signal)
    if there.all():  # many times faster than row by row
        spread = 1.4826 * np.median(np.abs(signal - np.median(signal, 1, keepdims=True)), 1)
        sizes = np.where(spread > 0, spread, signal.std(1))
    else:
        rows = [row[keep] for row, keep in zip(signal, there, strict=True) if keep.any()]
        sizes = np.array([1.4826 * np.median(np.abs(row - np.median(row))) or row.std() for row in rows])
    # the deviation where most samples are equal, as in a coarsely sampled signal
    return float(np.median(sizes)) if len(sizes) else 0.0
