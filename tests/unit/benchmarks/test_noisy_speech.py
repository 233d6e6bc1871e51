"""benchmarks.noisy_speech: the noise of a row is its own, as loud as it says, and of its own split."""

from __future__ import annotations

import io

import numpy as np
import pytest

from benchmarks import noisy_speech

soundfile = pytest.importorskip("soundfile")


def recorded(number: int, speaker: str) -> dict[str, object]:
    out = io.BytesIO()
    soundfile.write(out, 0.3 * np.sin(np.arange(2000) * (0.1 + 0.01 * number)), 8000, "PCM_16", format="WAV")
    return {
        "id": f"{number}_{speaker}",
        "audio": {"bytes": out.getvalue(), "path": None},
        "label": number,
        "speaker": speaker,
    }


TABLE = [recorded(number, speaker) for speaker in "ab" for number in range(6)]


def test_rows_keep_all_but_the_sound_and_are_the_same_each_time() -> None:
    made = noisy_speech.rows(TABLE)
    assert made == noisy_speech.rows(TABLE)
    assert [(row["id"], row["label"]) for row in made] == [(row["id"], row["label"]) for row in TABLE]
    assert {row["noise"] for row in made} == set(noisy_speech.NOISES)
    assert all(
        0 <= row["decibels"] <= 10 and row["audio"] != old["audio"] for row, old in zip(made, TABLE, strict=True)
    )


def test_noise_is_as_far_below_the_voice_as_is_said() -> None:
    rng = np.random.default_rng(0)
    wave = 0.1 * np.sin(np.arange(4000) * 0.2)
    for kind in ("white", "pink"):
        added = noisy_speech.noisy(wave, noisy_speech.coloured(4000, kind, rng), 6.0) - wave
        assert 10 * np.log10(np.mean(wave**2) / np.mean(added**2)) == pytest.approx(6.0)


def test_pink_noise_is_lower_and_babble_is_of_others() -> None:
    rng = np.random.default_rng(0)
    power = np.abs(np.fft.rfft(noisy_speech.coloured(8192, "pink", rng))) ** 2
    assert power[1:200].mean() > 5 * power[2000:].mean()
    one = noisy_speech.babble(3000, [np.full(10, 2.0)] * 4, rng)
    assert np.allclose(one, 4.0)
