"""The same long recordings as files in a folder and as arrays or bytes in a table: the same windows and numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys.own_files import encoded, video, wav, wfdb_record

from mmssl.cli import main
from mmssl.data.fingerprint import fingerprint, glance
from mmssl.data.kinds import Files
from mmssl.data.loading import Reader, evaluation_batches, read_rows
from mmssl.data.sources import open_source
from mmssl.data.windows import Windows
from mmssl.modality.lookup import load_modality

LEADS = ["I", "II", "V1"]
SECONDS = (42, 12, 31, 23, 25)
"""Of five recordings: 4, 1, 3, 2 and 2 windows of 10 s."""
STARTS = [float(10 * k) for count in (4, 1, 3, 2, 2) for k in range(count)]
NAMES = [f"r{i}.hea" for i, count in enumerate((4, 1, 3, 2, 2)) for _ in range(count)]


def signals(folder: Path) -> list[np.ndarray]:
    """What wfdb reads of the records: (C, T) mV each."""
    import wfdb

    return [wfdb.rdrecord(str(folder / f"r{i}")).p_signal.T for i in range(len(SECONDS))]


def struct(folder: Path) -> dict[str, Any]:
    rows = [{"array": s.tolist(), "sampling_rate": 100, "channels": LEADS} for s in signals(folder)]
    return {"ecg": pa.array(rows)}


def columns(folder: Path) -> dict[str, Any]:
    """Lists (T, C) beside the rate, which is read with them."""
    return {"signal": pa.array([s.T.tolist() for s in signals(folder)]), "fs": pa.array([100.0] * len(SECONDS))}


def leads(folder: Path) -> dict[str, Any]:
    """An array a lead."""
    return {name: pa.array([s[i].tolist() for s in signals(folder)]) for i, name in enumerate(LEADS)}


KINDS: dict[str, tuple[Callable[[Path], dict[str, Any]], list[str]]] = {
    "struct": (struct, []),
    "columns": (columns, ["columns.ecg=[signal,fs]"]),
    "leads": (leads, [f"columns.ecg=[{','.join(LEADS)}]"]),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a folder of records, a model of them)."""
    home = tmp_path_factory.mktemp("windows")
    for i, seconds in enumerate(SECONDS):
        wfdb_record(home / "data", f"r{i}", seconds, leads=LEADS)
    tiny = "{width: 16, depth: 1, heads: 2}"
    words = [f"model.towers.ecg={tiny}", f"objectives.mae.decoder={tiny}", "train.steps=2", "train.batch_size=4"]
    words += [f"modalities.ecg.source_channels=[{','.join(LEADS)}]", "modalities.ecg.source_rate=100"]
    command = ["pretrain", "ecg_mae", f"data.path={home / 'data'}", *words, "evaluation.tasks=[]"]
    assert main([*command, "--output", str(home / "run")]) == 0
    return home / "data", home / "run" / "model"


def table(kind: str, data: Path, out: Path) -> Path:
    rows = KINDS[kind][0](data) | {"old": pa.array([0, 1, 0, 1, 0])}
    pq.write_table(pa.table(rows), out / f"{kind}.parquet")
    return out / f"{kind}.parquet"


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings(kind: str, trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = trained
    path = table(kind, data, tmp_path)
    for source, name, words in ((data, "files", []), (path, "table", KINDS[kind][1])):
        command = ["embed", str(model), "--data", str(source), "--output", str(tmp_path / f"{name}.parquet"), *words]
        assert main(command) == 0
    files, rows = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("files", "table"))
    assert files["start"].to_pylist() == rows["start"].to_pylist() == STARTS
    assert files["file"].to_pylist() == NAMES
    assert rows["source_row"].to_pylist() == [int(name[1]) for name in NAMES], "the number of the table's row"
    assert files["ecg_embedding"].equals(rows["ecg_embedding"]) and rows["ecg_present"].to_pylist() == [True] * 12


def opened(path: Any, reader: Any, windows: Windows | None = None) -> Any:
    return open_source(path, files=Files({"ecg": reader}, {}, windows or Windows()))


def test_windows_of_a_row_share_their_side_and_their_label(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = trained
    path = table("struct", data, tmp_path)
    given = ["--data", str(path), "test_share=0.4"]
    assert main(["evaluate", str(model), *given, "--task", "knn", "label=old"]) == 0
    tune = ["--label", "old", "train.steps=1", "--output", str(tmp_path / "ft")]
    assert main(["finetune", str(model), *given, *tune]) == 0
    assert capsys.readouterr().out.count("source_row kept together") >= 2
    report = json.loads((tmp_path / "ft" / "evaluation.json").read_text())
    assert "source_row kept together" in json.dumps(report)


def test_the_same_by_every_way_in(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """A file, an object in memory, worker processes, a fit, a fingerprint; `windows` and `stride` as of files."""
    data, _ = trained
    package = load_modality("ecg")
    reader = package.Preprocessor(package.Config())
    path = table("struct", data, tmp_path)
    source = opened(path, reader)
    held = opened(datasets.Dataset(pq.read_table(path)), reader)
    assert source["start"][:] == held["start"][:] == STARTS and source["old"][:4] == [0] * 4
    assert fingerprint(source, ["ecg"]) == fingerprint(held, ["ecg"]) and glance(source, ["ecg"]) == glance(
        held, ["ecg"]
    )
    assert fingerprint(source, ["ecg"]) != fingerprint(source.select(range(11, -1, -1)), ["ecg"])
    reader.fit([row["ecg"] for row in read_rows(source, ["ecg"], 8)])
    one = [b.batch["ecg"]["signal"] for b in evaluation_batches(source, {"ecg": reader}, {}, batch_size=5)]
    two = [b.batch["ecg"]["signal"] for b in evaluation_batches(held, {"ecg": reader}, {}, batch_size=5, workers=1)]
    assert len(one) == 3 and all(a.equal(b) for a, b in zip(one, two, strict=True))
    assert len(opened(path, reader, Windows(False))) == 5
    theirs = datasets.Dataset(pq.read_table(path)).with_transform(lambda batch: batch)
    assert len(opened(theirs, reader)) == 5, "a transform of the user's makes the rows"
    assert len(opened(path, reader, Windows(15.0, 5.0))) == len(opened(data, reader, Windows(15.0, 5.0)))


def test_an_array_is_not_copied_for_its_windows(tmp_path: Path) -> None:
    """Of ten minutes at 1 kHz a window takes what it needs, and the table holds each recording once."""
    package = load_modality("ecg")
    reader = package.Preprocessor(package.Config(source_rate=1000.0, source_channels=LEADS))
    long = np.random.default_rng(0).normal(size=(3, 600_000))
    rows = pa.table({"ecg": pa.array([long.tolist()]), "ppg": pa.array([long[0].tolist()]), "who": ["a"]})
    source = opened(datasets.Dataset(rows), reader)
    assert len(source) == 60 and source.data.nbytes < 100_000 < long.nbytes
    batch = Reader(source, {"ecg": reader}, {"ecg": "ecg"}, None)
    piece = batch.rows([(0, 7, None)])[0]["ecg"]
    assert not piece["array"].flags.owndata and piece["start"] == 70.0 and piece["array"].shape == long.shape
    window = reader.prepare(piece)
    alone = reader.prepare({"signal": long[:, 68_000:82_000], "start": 2.0, "stop": 12.0})
    np.testing.assert_allclose(window.signal, alone.signal, atol=1e-9)
    assert source[3]["ppg"].shape == (600_000,) and source["who"][:] == ["a"] * 60


@pytest.mark.parametrize("how", ["array", "wav", "mp3", "bytes"])
def test_sounds(how: str, tmp_path: Path) -> None:
    """`{array, sampling_rate}` as `datasets` decodes them, and files that lie in the table, with and without names."""
    import soundfile

    ending = how if how == "mp3" else "wav"
    (encoded if how == "mp3" else wav)(tmp_path / "sounds" / f"a.{ending}", 24)
    wav(tmp_path / "sounds" / "b.wav", 3, seed=1)
    package = load_modality("audio")
    reader = package.Preprocessor(package.Config(rate=8000, seconds=2.0))
    files = sorted((tmp_path / "sounds").iterdir())
    if how == "array":
        read = [soundfile.read(path, dtype="float32") for path in files]
        column = pa.array([{"array": wave, "sampling_rate": rate} for wave, rate in read])
    elif how == "bytes":
        column = pa.array([path.read_bytes() for path in files])
    else:
        column = pa.array([{"bytes": path.read_bytes(), "path": path.name} for path in files])
    pq.write_table(pa.table({"audio": column, "label": [1, 0]}), tmp_path / "t.parquet")
    given = Files({"audio": reader}, {}, Windows())
    one, two = open_source(tmp_path / "sounds", files=given), open_source(tmp_path / "t.parquet", files=given)
    assert one["start"][:] == two["start"][:] == [2.0 * i for i in range(12)] + [0.0]
    assert two["label"][:] == [1] * 12 + [0]
    told = "source_row" if how in ("array", "bytes") else "file"
    assert two[told][:] == ([0] * 12 + [1] if told == "source_row" else one["file"][:])
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(reader.read(a["audio"]), reader.read(b["audio"]))


def test_bytes_are_not_copied_either(tmp_path: Path) -> None:
    """Rows that a fit looks at hold the table's own memory, not a copy of each whole file."""
    wav(tmp_path / "a.wav", 24)
    held = pa.table({"audio": pa.array([{"bytes": (tmp_path / "a.wav").read_bytes(), "path": None}])})
    package = load_modality("audio")
    reader = package.Preprocessor(package.Config(rate=8000, seconds=2.0))
    source = open_source(datasets.Dataset(held), files=Files({"audio": reader}, {}, Windows()))
    rows = read_rows(source, ["audio"], 12)
    assert len(rows) == 12 and all(isinstance(row["audio"]["bytes"], memoryview) for row in rows)
    assert source["source_row"][:] == [0] * 12
    assert fingerprint(source, ["audio"]) != fingerprint(source.select([0]), ["audio"])
    assert glance(source, ["audio"]) == glance(source.select(range(12)), ["audio"])


def test_videos_that_lie_in_a_table(tmp_path: Path) -> None:
    clip = video(tmp_path / "clips" / "a.mp4", 24)
    held = pa.array([{"bytes": clip.read_bytes(), "path": "a.mp4"}])
    pq.write_table(pa.table({"video": held}), tmp_path / "t.parquet")
    package = load_modality("video")
    reader = package.Preprocessor(
        package.Config(frames=8, fps=4, size=16, patch=8, channels=3, mean=[0.5] * 3, std=[0.5] * 3)
    )
    given = Files({"video": reader}, {}, Windows())
    one, two = (open_source(tmp_path / path, files=given) for path in ("clips", "t.parquet"))
    assert one["start"][:] == two["start"][:] and one["file"][:] == two["file"][:] == ["a.mp4"] * 12
    for row in (0, 7, 11):
        for a, b in zip(reader.read(one[row]["video"]), reader.read(two[row]["video"]), strict=True):
            np.testing.assert_array_equal(a, b)
