"""Whatever a broken sample is, a modality says so in one line (or finds it absent): no other error reaches the user.

Each modality's own tests say which reason belongs to which fault; here every one gets everything, by listing: values of
the wrong kind, the files of the other modalities, and its own files cut off or with bytes changed.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import samples as samples_of

from mmssl.errors import BadSample, UserError
from mmssl.modality import Preprocessor, load_modality

NAMES = list(samples_of.MADE)

WRONG: dict[str, Any] = {
    "number": 5,
    "float": 1.5,
    "nan": math.nan,
    "truth": True,
    "object": object(),
    "type": int,
    "no bytes": b"",
    "bytes": b"this is something else entirely " * 40,
    "zeros": bytes(5000),
    "no file": "gone/x.bin",
    "letter": "a",
    "blank": "  ",
    "nul": "a\0b",
    "empty": [],
    "nested": [[1, 2], [3]],
    "text in a list": ["a", 1, None],
    "dict": {},
    "other dict": {"foo": 1},
    "none in it": {"bytes": None, "path": None},
    "tuple": (1, 2, 3, 4),
    "str array": np.array(["a", "b"]),
    "object array": np.array([None, {}], dtype=object),
    "no rows": np.zeros((0, 3)),
    "complex": np.ones((4, 8), dtype=complex),
    "many axes": np.zeros((2, 2, 2, 2, 2)),
    "scalar": np.array(3.0),
    "all nan": np.full((12, 1000), np.nan),
    "infinite": np.full((12, 1000), np.inf),
    "flat": np.zeros((12, 1000)),
    "dates": np.array(["2024-01-01"], dtype="datetime64[D]"),
    "huge": np.full((12, 1000), 1e300),
    "tensor": torch.full((3, 4), math.nan),
    "sparse": torch.eye(3).to_sparse(),
}


@pytest.fixture(scope="module", params=NAMES)
def reader(request: pytest.FixtureRequest) -> tuple[str, Preprocessor]:
    package = load_modality(request.param)
    preprocessor = package.Preprocessor(package.Config(**samples_of.TINY[request.param]))
    return request.param, preprocessor.fit(samples_of.made(request.param))


def outcome(preprocessor: Preprocessor, raw: Any) -> str:
    """What became of one raw value; fails for anything that the data pipeline does not expect."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = preprocessor.read(raw)
            if value is not None:
                preprocessor.collate([value, None])
    except (BadSample, UserError) as error:
        assert str(error) and "\n" not in str(error), str(error)
        return "refused"
    return "absent" if value is None else "read"


@pytest.mark.parametrize("kind", list(WRONG))
def test_values_of_the_wrong_kind(reader: tuple[str, Preprocessor], kind: str) -> None:
    found = outcome(reader[1], WRONG[kind])
    if kind in ("object", "type", "bytes", "zeros", "other dict", "complex", "many axes", "infinite", "str array"):
        assert found == "refused", f"{reader[0]} took {kind}: {found}"


def test_samples_of_other_modalities(reader: tuple[str, Preprocessor]) -> None:
    name, preprocessor = reader
    for other in NAMES:
        for raw in samples_of.made(other):
            outcome(preprocessor, raw)


def test_real_files_of_other_modalities_and_damaged_ones(
    reader: tuple[str, Preprocessor], shared_data: Path, tmp_path: Path
) -> None:
    name, preprocessor = reader
    contents = {
        "png": samples_of.real("image", shared_data)[0][0]["bytes"],
        "wav": samples_of.real("audio", shared_data)[0][0]["bytes"],
        "mp4": Path(samples_of.real("video", shared_data)[0][0]).read_bytes(),
        "npz": (shared_data / "mutag" / "mutag.npz").read_bytes(),
        "parquet": (shared_data / "ptbxl_500" / "validation.parquet").read_bytes()[:100_000],
        "csv": (shared_data / "letter_recognition" / "letter.csv").read_bytes()[:5000],
    }
    own = {"image": "png", "audio": "wav", "video": "mp4", "graph": "npz"}.get(name)
    for ending, content in contents.items():
        path = tmp_path / f"x.{ending}"
        path.write_bytes(content)
        taken = [outcome(preprocessor, raw) for raw in (content, str(path), {"bytes": content, "path": str(path)})]
        if ending != own and (ending, name) not in (("mp4", "audio"), ("png", "video")):
            assert name in ("text", "tabular") or "read" not in taken, f"{name} read a .{ending}"
    if own is None:
        return
    rng = np.random.default_rng(0)
    whole = contents[own]
    path = tmp_path / f"y.{own}"
    for size in (1, 7, 30, len(whole) // 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert outcome(preprocessor, str(path)) in (("refused", "read") if size == len(whole) - 1 else ("refused",))
    for _ in range(60):
        changed = np.frombuffer(whole, np.uint8).copy()
        at = rng.integers(0, min(len(changed), 2000), 4)
        changed[at] = rng.integers(0, 256, 4)
        path.write_bytes(changed.tobytes())
        outcome(preprocessor, str(path))


@pytest.mark.parametrize("name", ["eeg", "ecg"])
def test_damaged_signal_files(name: str, tmp_path: Path) -> None:
    mne, wfdb = pytest.importorskip("mne"), pytest.importorskip("wfdb")
    rng = np.random.default_rng(1)
    signal = rng.normal(0, 30, (2, 640))
    package = load_modality(name)
    if name == "eeg":
        info = mne.create_info(["Cz", "O1"], 64.0, "eeg")
        mne.io.RawArray(signal * 1e-6, info, verbose="ERROR").save(tmp_path / "x_raw.fif", verbose="ERROR")
        path, files = tmp_path / "x_raw.fif", [tmp_path / "x_raw.fif"]
    else:
        wfdb.wrsamp(
            "r",
            fs=64,
            units=["mV"] * 2,
            sig_name=["I", "II"],
            p_signal=signal.T / 100,
            fmt=["16"] * 2,
            write_dir=str(tmp_path),
        )
        path, files = tmp_path / "r.hea", [tmp_path / "r.hea", tmp_path / "r.dat"]
    preprocessor = package.Preprocessor(package.Config(**samples_of.TINY[name])).fit([str(path)])
    assert outcome(preprocessor, str(path)) == "read"
    for file in files:
        whole = file.read_bytes()
        for size in (0, 1, 20, len(whole) // 2):
            file.write_bytes(whole[:size])
            assert outcome(preprocessor, str(path)) == "refused", f"{file.name} of {size} bytes"
        for _ in range(40):
            changed = np.frombuffer(whole, np.uint8).copy()
            changed[rng.integers(0, len(changed), 3)] = rng.integers(0, 256, 3)
            file.write_bytes(changed.tobytes())
            outcome(preprocessor, str(path))
        file.write_bytes(whole)
