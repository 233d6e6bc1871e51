"""What newcomers met beyond the first list: classes further up, tables of other programs, arrays that nobody named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys.own_files import encoded, person, wfdb_record
from toys.recordings import heart
from toys.refusals import refused

from mmssl.cli import main
from mmssl.data.kinds import Files
from mmssl.data.sources import open_source
from mmssl.data.windows import Windows
from mmssl.evaluation.rows import label_column
from mmssl.modality.lookup import load_modality


def opened(path: Any, modality: str, **options: Any) -> Any:
    package = load_modality(modality)
    readers = {modality: package.Preprocessor(package.Config(**options))}
    return open_source(path, files=Files(readers, {}, Windows()))


@pytest.mark.parametrize("ending", ["flac", "ogg", "mp3", "m4a"])
def test_classes_above_a_folder_that_all_have(ending: str, tmp_path: Path) -> None:
    for i in range(4):
        folder = tmp_path / ("speech", "music")[i % 2] / "takes"
        folder.mkdir(parents=True, exist_ok=True)
        encoded(folder / f"{i}.{ending}", seconds=0.3, seed=i)
    source = opened(tmp_path, "audio")
    assert source.features["label"].names == ["music", "speech"] and source["label"][:] == [0, 0, 1, 1]
    assert source["file"][0] == f"music/takes/1.{ending}"


def test_the_nearest_folders_that_differ_are_the_classes(tmp_path: Path) -> None:
    for number, where in enumerate(("a/x", "a/y", "b/x", "b/y")):
        (tmp_path / where).mkdir(parents=True)
        encoded(tmp_path / where / f"{number}.wav", seconds=0.3)
    assert opened(tmp_path, "audio").features["label"].names == ["x", "y"]


@pytest.mark.parametrize("place", ["book.xlsx", "."])
def test_a_table_of_another_program_is_refused_with_the_way_out(place: str, tmp_path: Path) -> None:
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04")
    with refused("pandas.read_excel('book.xlsx').to_csv('book.csv', index=False)", "found"):
        opened(tmp_path / place, "tabular")


def test_an_array_beside_its_rate_is_found(tmp_path: Path) -> None:
    """As `datasets` decodes sounds; in a column that nobody named, of 24 s, so that it is windows, too."""
    sound = np.sin(np.arange(24 * 8000) / 30).astype(np.float32)
    pq.write_table(pa.table({"take": pa.array([{"array": sound, "sampling_rate": 8000}])}), tmp_path / "s.parquet")
    assert len(opened(tmp_path / "s.parquet", "audio", rate=8000, seconds=2.0)) == 12
    leads = [heart(100, 24).tolist() for _ in range(2)]
    row = {"signal": leads, "fs": 100, "leads": ["I", "II"]}
    pq.write_table(pa.table({"take": pa.array([row]), "who": ["a"]}), tmp_path / "e.parquet")
    assert opened(tmp_path / "e.parquet", "ecg")["start"][:] == [0.0, 10.0]


def test_a_column_a_lead_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {lead: pa.array([heart(100, 24).tolist() for _ in range(12)]) for lead in ("I", "II", "V1")}
    pq.write_table(pa.table(rows | {"who": [str(i) for i in range(12)]}), tmp_path / "e.parquet")
    small = "{width: 16, depth: 1, heads: 2}"
    tiny = [f"model.towers.ecg={small}", f"objectives.mae.decoder={small}", "modalities.ecg.source_rate=100"]
    few = ["train.steps=1", "train.batch_size=4", "evaluation.tasks=[]", "--output", str(tmp_path / "run")]
    assert main(["pretrain", "ecg_mae", f"data.path={tmp_path / 'e.parquet'}", *tiny, *few]) == 0
    assert "ecg reads 3 columns: I, II, V1" in capsys.readouterr().out
    found = str(tmp_path / "e.out.parquet")
    assert main(["embed", str(tmp_path / "run"), "--data", str(tmp_path / "e.parquet"), "--output", found]) == 0
    assert pq.read_table(found)["start"].to_pylist() == [0.0, 10.0] * 12


def test_a_column_that_may_be_the_label_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,diagnosis\n1,ill\n2,ok\n")
    assert "evaluation.label=diagnosis" in label_column(open_source(tmp_path / "t.csv"), None)[1]


def test_what_a_recording_does_not_say_is_asked_for_by_its_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(12):
        person(tmp_path / f"{i}.csv", seed=i)
    assert main(["pretrain", "eeg_mae", f"data.path={tmp_path}", "--output", str(tmp_path / "run")]) == 2
    assert "nothing says the sampling rate" in (said := capsys.readouterr().err)
    assert "set source_rate in Hz (modalities.NAME.source_rate)" in said and "modalities.eeg" in said


def test_too_few_recordings_to_hold_any_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two records are twelve windows, and neither may lie on both sides."""
    for name in ("sick", "well"):
        wfdb_record(tmp_path / "data" / name, "r", seconds=60)
    tiny = [
        "model.towers.ecg={width: 16, depth: 1, heads: 2}",
        "objectives.mae.decoder={width: 16, depth: 1, heads: 2}",
    ]
    few = ["train.steps=1", "train.batch_size=4", "evaluation.tasks=[knn]", "--output", str(tmp_path / "run")]
    assert main(["pretrain", "ecg_mae", f"data.path={tmp_path / 'data'}", *tiny, *few]) == 0
    said = "none of 12 rows in 2 parts is held out (20% of the rows, by label, file kept together): they are too few"
    assert said in caplog.text
