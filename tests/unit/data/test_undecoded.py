"""Sounds, pictures and videos by way of `datasets`' own builders: as they are stored, without torchcodec."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from mmssl.data.sources import open_source

README = "---\nconfigs:\n- config_name: default\n  data_files: {}\n---\n"
RNG = np.random.default_rng(0)


def wav(number: int) -> bytes:
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed: pip install 'mmssl[audio]'")
    out = io.BytesIO()
    soundfile.write(out, np.full(800, number / 100, np.float32), 8000, "FLOAT", format="WAV")
    return out.getvalue()


def readme(folder: Path) -> str:
    (folder / "data").mkdir()
    (folder / "README.md").write_text(README.format("data/*"))
    for i in range(3):
        (folder / "data" / f"{i}.wav").write_bytes(wav(i))
    return str(folder)


def metadata(folder: Path) -> str:
    readme(folder)
    (folder / "data" / "metadata.csv").write_text("file_name,text\n0.wav,a\n1.wav,b\n2.wav,c\n")
    return str(folder)


def zipped(folder: Path) -> str:
    (folder / "README.md").write_text(README.format("a.zip"))
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for i in range(3):
            archive.writestr(f"{i}.wav", wav(i))
    return str(folder)


def shards(folder: Path, ending: str = "wav", content: Callable[[int], bytes] = wav) -> str:
    with tarfile.open(folder / "train.tar", "w") as archive:
        for i in range(3):
            info = tarfile.TarInfo(f"{i}.{ending}")
            info.size = len(content(i))
            archive.addfile(info, io.BytesIO(content(i)))
    return str(folder / "train.tar")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("make", [readme, metadata, zipped, shards])
def test_sounds_of_datasets_own_builders(
    make: Callable[[Path], str], streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mmssl_audio = pytest.importorskip("mmssl_audio")
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    column = "wav" if make is shards else "audio"
    source = open_source(make(tmp_path), columns={"audio": column}, streaming=streaming)
    from mmssl.data.loading import evaluation_batches

    config = mmssl_audio.Config(rate=8000, features="waveform", patch=10, mean=0.0, std=1.0)
    (loaded,) = evaluation_batches(source, {"audio": mmssl_audio.Preprocessor(config)}, {"audio": column}, batch_size=8)
    assert not loaded.bad
    assert sorted(round(float(wave[0]) * 100) for wave in loaded.batch["audio"]["waveform"]) == [0, 1, 2]


def test_rows_of_a_dataset_in_memory_need_no_torchcodec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)

    def rows():  # type: ignore[no-untyped-def]
        yield {"audio": {"bytes": wav(3), "path": None}}
        yield {"audio": {"array": np.full(800, 0.03, np.float32), "sampling_rate": 8000}}

    features = datasets.Features(audio=datasets.Audio())
    source = open_source(datasets.IterableDataset.from_generator(rows, features=features), columns={"audio": "audio"})
    from mmssl_audio.decode import read_sound

    waves = [read_sound(row["audio"], 8000) for row in source]
    np.testing.assert_array_equal(waves[0], waves[1])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_of_the_working_directory_does_not_stand_in_for_what_an_archive_holds(
    streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def png(number: int) -> bytes:
        out = io.BytesIO()
        Image.new("L", (8, 8), number).save(out, "PNG")
        return out.getvalue()

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "0.png").write_bytes(png(200))
    path = shards(tmp_path, "png", png)
    monkeypatch.chdir(tmp_path / "here")
    source = open_source(path, columns={"image": "png"}, streaming=streaming)
    assert [Image.open(io.BytesIO(row["png"]["bytes"])).getpixel((0, 0)) for row in source] == [0, 1, 2]
