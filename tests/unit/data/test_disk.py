"""Decoded samples on disk: bit for bit what is decoded, never more than is allowed, whoever else reads and writes."""

from __future__ import annotations

import os
import pickle
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
from toys import forking
from toys.refusals import refused

from mmssl.boundary import only_below
from mmssl.data import open_source
from mmssl.data.disk import Disk, OnDisk
from mmssl.data.loading import training_batches
from mmssl.data.memory import Watched
from mmssl.errors import BadSample
from mmssl.modality import load_modality

AUDIO = load_modality("audio")
MANY = """
import sys, numpy as np
from mmssl.data.disk import Disk
disk, number = Disk(sys.argv[1], 200_000), int(sys.argv[2])
for i in range(200):
    key = f"{i % 40:040x}"
    found = disk.get(key)
    expected = np.full(2000, i % 40, np.float32)
    assert found is None or (found[0] == expected).all()
    disk.put(key, [expected])
assert not disk.failed
"""


def preprocessor(**more: Any) -> Any:
    return AUDIO.Preprocessor(AUDIO.Config(**{"rate": 8000, "seconds": 0.5, "mean": 0.0, "std": 1.0, **more}))


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 3000).astype(np.float32), 11_025)
    return path


def counted(disk: Disk, monkeypatch: pytest.MonkeyPatch, **more: Any) -> tuple[OnDisk, list[object]]:
    """What reads by way of the disk, and what it decoded."""
    reader, calls = preprocessor(**more), []
    own = type(reader).read

    def read(self: Any, raw: object, choice: int = 0) -> Any:
        calls.append(raw)
        return own(self, raw, choice)

    monkeypatch.setattr(type(reader), "read", read)
    return OnDisk(reader, disk), calls


def total(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.glob("*/*"))


def test_a_file_is_decoded_once_and_anew_where_anything_of_it_changed(sound, tmp_path, monkeypatch):
    disk = Disk(tmp_path / "cache", 10**6)
    reader, calls = counted(disk, monkeypatch)
    expected = preprocessor().read(sound)
    calls.clear()
    raws = [sound, str(sound), {"bytes": None, "path": str(sound)}, {"bytes": sound.read_bytes(), "path": "a.wav"}]
    raws += [{"bytes": memoryview(sound.read_bytes()), "path": "b.wav"}]
    for raw in raws:
        for _ in range(2):
            found = reader.read(raw)
            assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes()
            found[:] = 0  # is the reader's own
    assert len(calls) == 3  # of the path written otherwise, and of the same bytes elsewhere, nothing
    part = {"bytes": None, "path": str(sound), "start": 0.1, "stop": 0.15}
    assert reader.read(part).tobytes() == reader.read(part).tobytes() == preprocessor().read(part).tobytes()
    assert len(reader.read(part)) < len(expected) / 5 and len(calls) == 5
    os.utime(sound, ns=(1, 1))
    reader.read(sound)
    assert len(calls) == 6
    other, _ = counted(disk, monkeypatch, rate=4000)
    assert len(other.read(sound)) != len(expected)
    assert len(Disk(tmp_path / "cache", 10**6).get(next(keys(disk)))) == 1
    assert pickle.loads(pickle.dumps(reader)).read(sound).tobytes() == expected.tobytes()


def keys(disk: Disk) -> Any:
    return (path.parent.name + path.name for path in disk.folder.glob("*/*"))


def test_what_is_drawn_or_broken_or_no_file_is_not_kept(sound, tmp_path, monkeypatch):
    reader, calls = counted(Disk(tmp_path / "cache", 10**6), monkeypatch, seconds=0.1)
    starts = {reader.read(sound, Watched(choice << 8)).tobytes() for choice in range(5)}
    assert len(starts) == len(calls) == 5
    with pytest.raises(BadSample):
        reader.read({"bytes": b"no sound", "path": None})
    reader.read({"array": np.zeros(4000, np.float32), "sampling_rate": 8000})
    assert reader.read(None) is None and not list((tmp_path / "cache").glob("*/*"))


def test_so_many_variants_of_a_row_are_drawn_and_kept(sound, tmp_path, monkeypatch):
    source = open_source(datasets.Dataset.from_dict({"audio": [str(sound)] * 4}))

    def epochs(variants: int | None, where: str) -> list[Any]:
        disk = Disk(tmp_path / where, 10**6, variants)
        readers = {"audio": preprocessor(seconds=0.1)}
        words = {"seed": 3, "batch_size": 4, "memory": 1e-3}  # which must not take one variant for all
        batches = training_batches(source, readers, {"audio": "audio"}, disk=disk, **words)
        order = [(batch.rows.argsort(), batch.batch["audio"]["waveform"]) for batch in islice(batches, 12)]
        return [waves[at] for at, waves in order]

    seen = torch.stack(epochs(2, "cache"))  # (12 epochs, 4 rows, samples)
    assert [len(seen[:, row].unique(dim=0)) for row in range(4)] == [2] * 4
    assert len(seen.flatten(0, 1).unique(dim=0)) == len(list((tmp_path / "cache").glob("*/*"))) == 8
    assert len(torch.stack(epochs(None, "any")).flatten(0, 1).unique(dim=0)) > 40
    monkeypatch.setattr(AUDIO.Preprocessor, "read", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(torch.stack(epochs(2, "cache")), seen)


def test_a_row_from_elsewhere_reads_no_file_of_this_machine_that_another_run_has_decoded(sound, tmp_path):
    reader = OnDisk(preprocessor(), Disk(tmp_path / "cache", 10**6))
    reader.read(sound)
    with only_below((tmp_path / "elsewhere",)), pytest.raises(BadSample, match="may not name"):
        reader.read(sound)


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "strange", "header"])
def test_a_damaged_file_is_decoded_anew_and_said(how, sound, tmp_path, caplog):
    disk = Disk(tmp_path / "cache", 10**6)
    reader = OnDisk(preprocessor(), disk)
    expected = reader.read(sound).tobytes()
    (path,) = disk.folder.glob("*/*")
    data = path.read_bytes()
    path.write_bytes(
        {
            "cut": data[:-7],
            "flipped": data[:-1] + bytes([data[-1] ^ 1]),
            "empty": b"",
            "strange": b"something else",
            "header": data.replace(b"crc32", b"crc33"),
        }[how]
    )
    assert reader.read(sound).tobytes() == expected
    assert [r for r in caplog.records if "decoded anew" in r.getMessage()]
    assert path.read_bytes() == data


def test_the_folder_never_outgrows_its_bound_and_what_was_read_last_stays(tmp_path):
    disk = Disk(tmp_path / "cache", 100_000)
    for i in range(100):
        disk.put(f"{i:040x}", [np.full(1000, i, np.int16), np.zeros((0, 3))])
        os.utime(disk.place(f"{i:040x}"), ns=(i, i))
        disk.get(f"{0:040x}")
        assert total(disk.folder) <= 100_000
    assert disk.get(f"{0:040x}") is not None and disk.get(f"{1:040x}") is None
    there = [i for i in range(100) if disk.place(f"{i:040x}").exists()]
    assert there[1:] == list(range(100 - len(there) + 1, 100)) and len(there) > 35
    found = disk.get(f"{99:040x}")
    assert found is not None and found[0].tolist() == [99] * 1000 and found[1].shape == (0, 3)
    Disk(tmp_path / "cache", 20_000).put("f" * 40, [np.zeros(10)])  # a smaller bound holds from the first write on
    assert total(disk.folder) <= 20_000


def test_several_processes_share_a_folder(tmp_path):
    started = [forking.start(["-c", MANY, str(tmp_path), str(n)], level="mmssl") for n in range(3)]
    done = [one.wait() for one in started]
    assert [one.returncode for one in done] == [0, 0, 0], [one.stderr for one in done]
    assert 100_000 < total(tmp_path) <= 200_000
    assert not list(tmp_path.glob("*/.*"))


def test_what_a_killed_process_left_behind_goes_first(tmp_path):
    disk = Disk(tmp_path, 10_000)
    (tmp_path / "ab").mkdir()
    left = tmp_path / "ab" / ".cd.1.partial"
    left.write_bytes(bytes(9_000))
    os.utime(left, ns=(1, 1))
    disk.put("e" * 40, [np.zeros(100)])
    assert not left.exists() and disk.get("e" * 40) is not None


def test_a_full_disk_is_said_once_and_costs_no_sample(sound, tmp_path, monkeypatch, caplog):
    reader, calls = counted(Disk(tmp_path / "cache", 10**6), monkeypatch)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmssl.data.disk._write", full)
    assert len({reader.read(sound).tobytes() for _ in range(3)}) == 1 and len(calls) == 3
    assert len([r for r in caplog.records if "nothing more is kept" in r.getMessage()]) == 1
    assert not list((tmp_path / "cache").glob("*/*"))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with refused("data.cache.path", "cannot be written to"):
        Disk(tmp_path / "file" / "cache", 1)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_are_the_same_from_disk(workers, shared_data, tmp_path, monkeypatch):
    source = open_source(str(shared_data / "fsdd" / "test.parquet"), limit=8)
    readers = {"audio": preprocessor(seconds=2.0)}

    def batches(disk: Disk | None) -> list[Any]:
        words = {"seed": 3, "batch_size": 4, "workers": workers, "disk": disk}
        return list(islice(training_batches(source, readers, {"audio": "audio"}, **words), 4))

    plain, disk = batches(None), Disk(tmp_path, 10**8)
    first = batches(disk)
    assert len(list(keys(disk))) == 8
    if not workers:
        monkeypatch.setattr(type(readers["audio"]), "read", lambda *_: pytest.fail("decoded again"))
    for found in (first, batches(disk)):
        for a, b in zip(plain, found, strict=True):
            assert a.rows.equal(b.rows) and a.bad == b.bad == []
            for key, value in a.batch["audio"].items():
                torch.testing.assert_close(b.batch["audio"][key], value, rtol=0, atol=0)
