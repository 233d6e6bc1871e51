"""`data.path=FOLDER` for every modality: the field's own files, found by their endings, with names, labels, windows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from toys.own_files import by_mne, edf, encoded, gdf, person, tudataset, video, wav, wfdb_record
from toys.refusals import refused

from mmssl.cli import main
from mmssl.data import evaluation_batches, open_source
from mmssl.data.fingerprint import fingerprint
from mmssl.data.holding import Rule, held_rows
from mmssl.data.kinds import Files
from mmssl.data.windows import LEAST, Windows, starts_of
from mmssl.errors import BadSample, UserError
from mmssl.modality import load_modality

Log = pytest.LogCaptureFixture
RADIO = {"unknown": "keep", "source_rate": 8.0}


def opened(path: Path, windows: Windows | None = None, split: str = "train", **options: dict[str, Any]) -> Any:
    """The rows of a folder for these modalities: name -> options."""
    packages = {name: load_modality(name) for name in options}
    readers = {name: package.Preprocessor(package.Config(**options[name])) for name, package in packages.items()}
    return open_source(path, split=split, files=Files(readers, {}, windows or Windows())), readers


def read_all(source: Any, readers: Any) -> list[Any]:
    """What the batches of all rows say is broken, once the readers are fitted; every other row is read."""
    for name, reader in readers.items():
        reader.fit([row[name] for row in source if row[name] is not None])
    (loaded,) = evaluation_batches(source, readers, {}, batch_size=500)
    assert loaded.size == len(source)
    return list(loaded.bad)


# --- each modality's files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "m4a"])
def test_sounds(tmp_path: Path, ending: str) -> None:
    for i, place in enumerate("abab"):
        (tmp_path / place).mkdir(exist_ok=True)
        encoded(tmp_path / place / f"{i}.{ending}", seed=i)
    source, readers = opened(tmp_path, audio={"rate": 8000, "seconds": 1.0})
    assert source.column_names == ["audio", "label", "file"] and source["label"][:] == [0, 0, 1, 1]
    assert source["file"][:] == [f"{place}/{i}.{ending}" for place, i in ("a0", "a2", "b1", "b3")]
    assert not read_all(source, readers)


@pytest.mark.parametrize("ending", ["mp4", "mpg", "webm", "mov", "avi"])
def test_videos(tmp_path: Path, ending: str) -> None:
    for i in range(3):
        video(tmp_path / f"{i}.{ending}", seed=i)
    source, readers = opened(tmp_path, video={"frames": 4, "fps": 8, "size": 16, "patch": 8})
    assert source["file"][:] == [f"{i}.{ending}" for i in range(3)]
    assert not read_all(source, readers)


@pytest.mark.parametrize("kind", ["ecg", "eeg"])
def test_wfdb_records_in_folders(tmp_path: Path, caplog: Log, kind: str) -> None:
    for i in range(4):
        wfdb_record(tmp_path / f"p{i % 2}", f"r{i}")
    (tmp_path / "RECORDS").write_text("p0/r0\n")
    source, readers = opened(tmp_path, **{kind: {} if kind == "ecg" else {"unknown": "keep"}})
    assert source["file"][:] == ["p0/r0.hea", "p0/r2.hea", "p1/r1.hea", "p1/r3.hea"]
    assert "8 files are read, 1 are left out (1 without ending)" in caplog.text, "a record's .dat is not a foreign file"
    assert not read_all(source, readers)


@pytest.mark.parametrize("ending", ["edf", "bdf", "gdf", "fif", "vhdr", "set"])
def test_files_of_eeg(tmp_path: Path, caplog: Log, ending: str) -> None:
    for i in range(2):
        {"edf": edf, "bdf": edf, "gdf": gdf}.get(ending, by_mne)(tmp_path / "sub" / f"s{i}_raw.{ending}", seed=i)
    source, readers = opened(tmp_path, eeg={"seconds": 4.0})
    assert source["file"][:] == [f"sub/s{i}_raw.{ending}" for i in range(2)]
    assert "left out" not in caplog.text, "what a header names belongs to it"
    assert not read_all(source, readers)


def test_an_ecg_in_edf(tmp_path: Path) -> None:
    from toys.recordings import heart, write_edf

    beats = heart(100, 10)
    for i in range(2):
        rows = [(name, "mV", 100, beats, (-3.0, 3.0)) for name in ("I", "II", "V1")]
        write_edf(tmp_path / f"{i}.edf", rows, 10)
    source, readers = opened(tmp_path, ecg={})
    assert not read_all(source, readers) and readers["ecg"].state["leads"] == ["I", "II", "V1"]


@pytest.mark.parametrize("kind", ["comma", "semicolon", "blank"])
def test_one_text_file_a_person(tmp_path: Path, kind: str) -> None:
    for i in range(3):
        person(tmp_path / f"person{i}.{'txt' if kind == 'blank' else 'csv'}", kind=kind, seed=i, rows=120)
    channels = {"source_channels": ["a", "b", "c", "d"]} if kind == "blank" else {}
    source, readers = opened(tmp_path, eeg=RADIO | channels | {"rate": 8.0, "window": 1.0})
    assert len(source) == 3 and not read_all(source, readers)
    assert readers["eeg"].state["channels"] == (
        list("abcd") if kind == "blank" else [f"RSS_anchor{i}" for i in range(1, 5)]
    )
    first = readers["eeg"].open(Path(source[0]["eeg"]["path"]))
    assert (first.rate, first.count, first.length) == (8.0 if kind == "semicolon" else None, 4, 120)


def test_a_rate_that_nothing_says_is_asked_for_and_one_that_is_said_wins(tmp_path: Path, caplog: Log) -> None:
    person(tmp_path / "a" / "0.csv")
    source, readers = opened(tmp_path / "a", eeg={"unknown": "keep"})
    with refused("nothing says the sampling rate", "set source_rate"):
        readers["eeg"].fit([row["eeg"] for row in source])
    wfdb_record(tmp_path / "b", "r", rate=250)
    source, readers = opened(tmp_path / "b", ecg={"source_rate": 100.0})
    assert not read_all(source, readers)
    assert caplog.text.count("the data say that they have 250 Hz, source_rate that they have 100 Hz") == 1


def test_a_table_that_lists_files_stays_a_table(tmp_path: Path) -> None:
    edf(tmp_path / "x" / "0.edf")
    (tmp_path / "train.csv").write_text("eeg,label\nx/0.edf,3\n")
    source, _ = opened(tmp_path, eeg={})
    assert source.column_names == ["eeg", "label"] and len(source) == 1
    (tmp_path / "x" / "0.edf").unlink()
    shutil.rmtree(tmp_path / "x")
    assert opened(tmp_path, eeg={})[0].column_names == ["eeg", "label"]


# --- graphs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", ["", "MUTAG", "data/MUTAG/raw"])
def test_tudatasets(tmp_path: Path, nested: str) -> None:
    pytest.importorskip("torch_geometric")
    tudataset(tmp_path / nested)
    source, readers = opened(tmp_path, graph={})
    assert len(source) == 24 and source["label"][:4] == [1, 0, 1, 0]
    assert not read_all(source, readers)
    tudataset(tmp_path / "other", "OTHER")
    if nested:
        with refused("several data sets"):
            opened(tmp_path, graph={})


def test_graphs_in_files_of_all_kinds(tmp_path: Path) -> None:
    import networkx
    import torch

    rings = [networkx.cycle_graph(5 + i) for i in range(4)]
    for i, ring in enumerate(rings):
        for place, write, ending in (
            ("graphml", networkx.write_graphml, "graphml"),
            ("gml", networkx.write_gml, "gml"),
        ):
            (tmp_path / place / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            write(ring, tmp_path / place / "ab"[i % 2] / f"{i}.{ending}")
    import json

    (tmp_path / "json").mkdir()
    for i, ring in enumerate(rings):
        text = json.dumps(networkx.node_link_data(ring, edges="links"))
        (tmp_path / "json" / f"{i}.json").write_text(text)
    for place in ("graphml", "gml", "json"):
        source, readers = opened(tmp_path / place, graph={})
        assert len(source) == 4 and not read_all(source, readers), place
        assert ("label" in source.column_names) == (place != "json")
    edges = [torch.tensor(list(ring.edges)).T for ring in rings]
    (tmp_path / "pt").mkdir()
    many = [{"edge_index": edge, "num_nodes": 5 + i, "y": torch.tensor([i])} for i, edge in enumerate(edges)]
    torch.save(many, tmp_path / "pt" / "data.pt")
    source, readers = opened(tmp_path / "pt", graph={})
    assert source["label"][:] == [0, 1, 2, 3] and not read_all(source, readers)
    source, readers = opened(tmp_path / "pt" / "data.pt", graph={})
    assert len(source) == 4, "a plain path of a file, too"


class _Shell:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("owned"),)


def test_pt_files_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save({"edge_index": _Shell()}, tmp_path / "data.pt")
    with refused("not unpickled", "save it as"):
        opened(tmp_path, graph={})
    assert not (tmp_path / "owned").exists()


def test_torch_geometric_objects(tmp_path: Path) -> None:
    import torch

    data = pytest.importorskip("torch_geometric.data")
    graphs = [data.Data(edge_index=torch.tensor([[0, 1], [1, 0]]), x=torch.rand(2, 3), y=i) for i in range(3)]
    torch.save(graphs, tmp_path / "list.pt")
    assert opened(tmp_path, graph={})[0]["label"][:] == [0, 1, 2]


# --- what a folder says of its files -------------------------------------------------------------------------------


def test_metadata_splits_and_hidden_files(tmp_path: Path, caplog: Log) -> None:
    for split in ("train", "test"):
        for i in range(2):
            wav(tmp_path / split / f"{i}.wav", seed=i)
        (tmp_path / split / "metadata.csv").write_text("file_name,speaker\n0.wav,ann\n1.wav,bob\n")
    wav(tmp_path / "train" / ".hidden" / "9.wav")
    wav(tmp_path / "train" / "._0.wav")
    source, _ = opened(tmp_path, audio={})
    assert source["speaker"][:] == ["ann", "bob"] and source["file"][:] == ["train/0.wav", "train/1.wav"]
    assert opened(tmp_path, split="test", audio={})[0]["file"][:] == ["test/0.wav", "test/1.wav"]
    assert "2 are left out (2 hidden)" in caplog.text


def test_the_modalities_decide_what_a_mixed_folder_is(tmp_path: Path, caplog: Log) -> None:
    for i in range(3):
        wav(tmp_path / f"{i}.wav", seed=i)
        video(tmp_path / f"{i}.mp4", seed=i)
    wav(tmp_path / "alone.wav")
    only, _ = opened(tmp_path, audio={})
    assert only.column_names == ["audio", "file"] and len(only) == 4
    both, _ = opened(tmp_path, audio={}, video={})
    assert [(row["audio"] is not None, row["video"] is not None) for row in both] == [(True, True)] * 3 + [
        (True, False)
    ]
    assert "files of one stem are one row: 3 of audio + video, 1 of one alone" in caplog.text


def test_pictures_with_captions_beside_them(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(3):
        for place in ("images", "captions"):
            (tmp_path / place).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "images" / f"{i}.jpg")
        (tmp_path / "captions" / f"{i}.txt").write_text(f"picture {i}\n")
    source, _ = opened(tmp_path, image={}, text={})
    assert source["text"][:] == ["picture 0", "picture 1", "picture 2"]
    assert opened(tmp_path, image={})[0].column_names[:1] == ["image"]


@pytest.mark.parametrize(("kind", "reads"), [("audio", ".wav"), ("video", ".mp4"), ("ecg", ".hea"), ("graph", ".npz")])
def test_nothing_there_that_is_read(tmp_path: Path, kind: str, reads: str) -> None:
    for i in range(3):
        (tmp_path / f"{i}.xyz").write_text("?")
    with refused("found 3 .xyz", f"expected {kind}: ", reads):
        opened(tmp_path, **{kind: {}})


# --- windows -------------------------------------------------------------------------------------------------------


def test_long_recordings_are_windows(tmp_path: Path, caplog: Log) -> None:
    wfdb_record(tmp_path, "long", seconds=65)
    wfdb_record(tmp_path, "short", seconds=12)
    source, readers = opened(tmp_path, ecg={"seconds": 10.0})
    assert source["start"][:] == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 0.0]
    assert source["file"][:] == ["long.hea"] * 6 + ["short.hea"]
    assert "1 files, 6 windows of 10 s, and 1 that stay whole" in caplog.text
    assert not read_all(source, readers)
    one, two = (readers["ecg"].prepare(source[i]["ecg"]).signal for i in (1, 2))
    whole = load_modality("ecg")
    everything = whole.Preprocessor(whole.Config(seconds=None)).prepare(source[0]["ecg"]["path"]).signal
    assert one.shape[1] == 1000 and not np.array_equal(one, two)
    assert np.corrcoef(one[1], everything[1, 1000:2000])[0, 1] > 0.999
    assert len(opened(tmp_path, Windows(False), ecg={})[0]) == 2
    assert len(opened(tmp_path, Windows(30.0, 15.0), ecg={})[0]) == 4  # 0, 15, 30 of the long one


def test_windows_of_sounds_and_videos_hold_what_is_there(tmp_path: Path) -> None:
    from mmssl_audio.decode import read_sound

    for ending in ("wav", "mp3", "m4a"):
        path = encoded(tmp_path / f"x.{ending}", 24, seed=2)
        whole = read_sound(str(path), 8000)
        part = read_sound({"bytes": None, "path": str(path), "start": 12.0, "stop": 14.0}, 8000, 2.0)
        assert part is not None and whole is not None and len(part) == 16000
        assert np.corrcoef(part[200:], whole[96200:112000])[0, 1] > 0.99, ending
    source, _ = opened(tmp_path, audio={"rate": 8000, "seconds": 2.0})
    assert len(source) == 36 and source["start"][:12] == [2.0 * i for i in range(12)]
    video(tmp_path / "clips" / "long.mp4", 24)
    source, readers = opened(tmp_path / "clips", video={"frames": 8, "fps": 4, "size": 16, "patch": 8})
    assert source["start"][:] == [2.0 * i for i in range(12)] and not read_all(source, readers)
    early, late = (readers["video"].read(source[i]["video"])[0] for i in (0, 5))
    assert not np.array_equal(early, late)


@pytest.mark.parametrize("kind", ["csv", "parquet", "object"])
def test_tables_of_paths_are_windows_too(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, seconds in (("a", 24), ("b", 3), ("c", 30)):
        wav(tmp_path / "sounds" / f"{name}.wav", seconds)
    table = {"recording": [f"sounds/{n}.wav" for n in "abc"] + ["gone.wav"], "who": [1, 2, 3, 4]}
    path: Any = tmp_path / f"t.{kind}"
    if kind == "csv":
        path.write_text("\n".join(["recording,who", *(f"{r},{w}" for r, w in zip(*table.values(), strict=True))]))
    elif kind == "parquet":
        pq.write_table(pa.table(table), path)
    else:
        table["recording"] = [str(tmp_path / name) for name in table["recording"]]
        path = datasets.Dataset.from_dict(table)
    package = load_modality("audio")
    readers = {"audio": package.Preprocessor(package.Config(rate=8000, seconds=2.0))}
    source = open_source(path, files=Files(readers, {"audio": "recording"}, Windows()))
    assert source["who"][:] == [1] * 12 + [2] + [3] * 15 + [4]
    assert source["start"][:] == [2.0 * i for i in range(12)] + [0.0] + [2.0 * i for i in range(15)] + [0.0]
    assert len(set(source["file"][:12])) == 1 and source["file"][0].endswith("sounds/a.wav")
    one, two = (readers["audio"].read(source[i]["recording"]) for i in (1, 27))
    assert one is not None and two is not None and len(one) == len(two) == 16000
    whole = readers["audio"].read(str(tmp_path / "sounds" / "a.wav"))
    assert not np.array_equal(whole, one) and len(readers["audio"].read(source[12]["recording"])) == 16000
    with pytest.raises(BadSample):
        readers["audio"].read(source[28]["recording"])
    readers["audio"].read_from = "recording"  # a model knows its column
    assert len(open_source(path, files=Files(readers, {}, Windows()))) == len(source) == 29
    assert len(open_source(path, files=Files(readers, {}, Windows(False)))) == 4
    assert len(open_source(path, files=Files(readers, {}, Windows(10.0)))) == 2 + 1 + 3 + 1
    held = held_rows(source, Rule(group="file", share=0.5))
    parts = [set(source.select(rows)["file"]) for rows in (held, np.setdiff1d(np.arange(29), held))]
    assert not parts[0] & parts[1] and all(parts)


def test_tables_that_are_cut_already_stay_as_they_are(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 24)
    package = load_modality("audio")
    readers = {"audio": package.Preprocessor(package.Config(rate=8000, seconds=2.0))}
    for name, more in (("audio", {"start": [3.0]}), ("file", {})):
        source = datasets.Dataset.from_dict({name: [str(tmp_path / "a.wav")], **more})
        assert len(open_source(source, files=Files(readers, {"audio": name}, Windows()))) == 1


def test_where_windows_begin() -> None:
    assert starts_of([(0, 35.0)], 10, 10) == [0, 10, 20]
    assert starts_of([(0, 30.0)], 10, 5) == [0, 5, 10, 15, 20]
    assert starts_of([(0, 10.0), (25.0, 40.0)], 10, 10) == [0, 20, 30], "none of them lies in the gap alone"
    assert starts_of([(0, 5.0)], 10, 10) == []
    assert LEAST == 20, "clips of the shipped data (23.6 s, 3 s) stay one sample each"


def test_windows_of_one_file_differ_in_their_fingerprint(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 24)
    source, _ = opened(tmp_path, audio={"rate": 8000, "seconds": 2.0})
    assert fingerprint(source, ["audio"]) == fingerprint(opened(tmp_path, audio={"seconds": 2.0})[0], ["audio"])
    assert fingerprint(source, ["audio"]) != fingerprint(source.select(range(11, -1, -1)), ["audio"])


def test_windows_are_seconds(tmp_path: Path) -> None:
    from mmssl.recipe.config import DataConfig

    with pytest.raises(UserError, match="data.windows: found true, expected"):
        from mmssl.recipe.loading import load_recipe

        load_recipe("audio_mae", [f"data.path={tmp_path}", "data.windows=true"])
    assert DataConfig(path="x", windows=False).windows is False


# --- as a new user would -------------------------------------------------------------------------------------------


def test_pretrain_and_embed_by_the_path_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet as pq

    for i in range(2):
        wfdb_record(tmp_path / "data", f"r{i}", seconds=40)
    tiny = [
        "model.towers.ecg={width: 16, depth: 1, heads: 2}",
        "objectives.mae.decoder={width: 16, depth: 1, heads: 2}",
    ]
    few = ["train.steps=2", "train.batch_size=4", "evaluation.tasks=[]"]
    run, data = tmp_path / "run", tmp_path / "data"
    assert main(["pretrain", "ecg_mae", f"data.path={data}", *tiny, *few, "--output", str(run)]) == 0
    file = tmp_path / "e.parquet"
    assert main(["embed", str(run / "model"), "--data", str(data), "--output", str(file)]) == 0
    table = pq.read_table(file)
    assert table["file"].to_pylist() == ["r0.hea"] * 4 + ["r1.hea"] * 4
    assert table["start"].to_pylist() == [0.0, 10.0, 20.0, 30.0] * 2
    assert sum(table["ecg_present"].to_pylist()) == 8
