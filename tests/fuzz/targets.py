"""The formats: a right file of each, how it is damaged, and who reads it."""

from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from toys import runs, tuned

from mmssl.data.explained import stream_rows
from mmssl.data.loading import evaluation_batches
from mmssl.data.sources import open_source
from mmssl.hub.record import read_record
from mmssl.models.opening import open_model
from mmssl.options import plainyaml
from mmssl.recipe.loading import load_recipe

from .mutations import damaged, damaged_json, damaged_png, damaged_safetensors, damaged_text, damaged_tree
from .target import Damage, Target, by_bytes, by_path, preprocessor

# ------------------------------------------------------------------------------------------------------------ pictures


def _picture(kind: str, alpha: bool = False, **options: Any) -> bytes:
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 20, 4 if alpha else 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def _array(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def pictures() -> dict[str, Target]:
    read = by_bytes("image")
    made = {
        "jpeg": _picture("JPEG"),
        "webp": _picture("WEBP"),
        "tiff": _picture("TIFF", compression="tiff_lzw"),
        "gif": _picture("GIF"),
    }
    found = {name: Target({f"x.{name}": data}, damaged, read, 6) for name, data in made.items()}
    png = {"x.png": _picture("PNG", alpha=True)}
    array = _array(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    return {"png": Target(png, damaged_png, read, 6), **found, "npy": Target({"x.npy": array}, damaged, read, 6)}


# ---------------------------------------------------------------------------------------------------- sounds and videos


def _sound(kind: str, subtype: str | None = None) -> bytes:
    import soundfile

    t = np.arange(4000) / 8000
    out = io.BytesIO()
    soundfile.write(out, np.sin(2 * np.pi * 440 * t) * 0.3, 8000, format=kind, subtype=subtype)
    return out.getvalue()


def _film(kind: str, video: str | None, audio: str | None) -> bytes:
    import av

    out, rng = io.BytesIO(), np.random.default_rng(0)
    with av.open(out, "w", format=kind) as container:
        if video is not None:
            stream: Any = container.add_stream(video, rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for _ in range(8):
                frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        if audio is not None:
            sound: Any = container.add_stream(audio, rate=48_000)
            samples = (rng.normal(0, 0.1, (1, 9600))).astype(np.float32)
            frame_ = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame_.rate = 48_000
            for part in av.AudioResampler(format=sound.format, layout="mono", rate=48_000).resample(frame_):
                container.mux(sound.encode(part))
            container.mux(sound.encode())
    return out.getvalue()


def sounds_and_videos() -> dict[str, Target]:
    sound, video = by_bytes("audio"), by_bytes("video")
    made = {
        "wav": _sound("WAV"),
        "flac": _sound("FLAC"),
        "mp3": _sound("MP3"),
        "ogg": _sound("OGG", "VORBIS"),
        "m4a": _film("mp4", None, "aac"),
    }
    found = {name: Target({f"x.{name}": data}, damaged, sound, 6) for name, data in made.items()}
    found["mp4"] = Target({"x.mp4": _film("mp4", "mpeg4", None)}, damaged, video, 5)
    found["webm"] = Target({"x.webm": _film("webm", "libvpx", None)}, damaged, video, 5)
    return found


# ------------------------------------------------------------------------------------------------------------- signals


def _wfdb() -> dict[str, bytes]:
    import wfdb

    t = np.arange(500) / 100
    signal = np.stack([np.sin(2 * np.pi * f * t) * 0.3 for f in (1.2, 2.3)], 1)
    with tempfile.TemporaryDirectory() as folder:
        wfdb.wrsamp("x", 100, ["mV"] * 2, ["I", "II"], signal, fmt=["16"] * 2, write_dir=folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _edf(rate: int = 64, seconds: int = 4) -> bytes:
    names = ["Fz", "Cz"]

    def field(value: object, width: int) -> bytes:
        return str(value).ljust(width)[:width].encode()

    head = field(0, 8) + field("X X X X", 80) + field("Startdate 01-JAN-2020 X X X", 80) + field("01.01.20", 8)
    head += field("00.00.00", 8) + field(256 * 3, 8) + field("", 44) + field(seconds, 8) + field(1, 8) + field(2, 4)
    columns = ((names, 16), ([""] * 2, 80), (["uV"] * 2, 8), ([-200] * 2, 8), ([200] * 2, 8), ([-32768] * 2, 8))
    columns += (([32767] * 2, 8), ([""] * 2, 80), ([rate] * 2, 8), ([""] * 2, 32))
    head += b"".join(field(value, width) for values, width in columns for value in values)
    wave = np.random.default_rng(0).integers(-9000, 9000, 2 * rate * seconds).astype("<i2")
    return head + wave.tobytes()


def _recordings() -> tuple[bytes, dict[str, bytes], dict[str, bytes]]:
    """A FIF file, the three files of BrainVision, and an EEGLAB set."""
    import mne
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    names, rate = ["Fz", "Cz", "Pz"], 64.0
    signal = rng.normal(0, 3e-5, (3, 256))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with mne.utils.use_log_level("ERROR"):
            raw = mne.io.RawArray(signal, mne.create_info(names, rate, "eeg"))
            raw.save(folder / "x_raw.fif")
        fif = (folder / "x_raw.fif").read_bytes()
        chanlocs = np.array(
            [(n, 0.1 * i, 0.2, 0.3) for i, n in enumerate(names)], dtype=[("labels", "O")] + [(a, "O") for a in "XYZ"]
        )
        eeg = {"data": signal * 1e6, "srate": rate, "nbchan": 3, "trials": 1, "pnts": 256, "xmin": 0.0}
        eeg |= {
            "xmax": 4.0,
            "chanlocs": chanlocs,
            "event": [],
            "epoch": [],
            "icawinv": [],
            "icaweights": [],
            "icasphere": [],
        }
        savemat(folder / "x.set", {"EEG": eeg}, appendmat=False)
        eeglab = {"x.set": (folder / "x.set").read_bytes()}
    header = (
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\nDataFile=x.eeg\n"
        "MarkerFile=x.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\nNumberOfChannels=3\nSamplingInterval=15625\n\n"
        "[Binary Infos]\nBinaryFormat=IEEE_FLOAT_32\n\n[Channel Infos]\nCh1=Fz,,1,uV\nCh2=Cz,,1,uV\nCh3=Pz,,1,uV\n"
    )
    markers = (
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nDataFile=x.eeg\n\n[Marker Infos]\n"
    )
    markers += "Mk1=New Segment,,1,1,0,20200101000000000000\n"
    brain = {"x.vhdr": header.encode(), "x.vmrk": markers.encode(), "x.eeg": (signal.T * 1e6).astype("<f4").tobytes()}
    return fif, brain, eeglab


def signals() -> dict[str, Target]:
    fif, brain, eeglab = _recordings()

    def text_or_bytes(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return damaged_text(data.decode("latin-1"), rng).encode("latin-1", "replace")
        return damaged(data, rng)

    return {
        "wfdb": Target(_wfdb(), text_or_bytes, by_path("ecg", "x.hea"), 4),
        "edf": Target({"x.edf": _edf()}, text_or_bytes, by_path("eeg"), 4),
        "fif": Target({"x_raw.fif": fif}, damaged, by_path("eeg"), 4),
        "brainvision": Target(brain, text_or_bytes, by_path("eeg", "x.vhdr"), 4),
        "eeglab .set": Target(eeglab, damaged, by_path("eeg"), 4),
    }


# --------------------------------------------------------------------------------------------------- graphs and tables


def _graph() -> dict[str, Any]:
    return {"edge_index": [[0, 1, 2, 3], [1, 2, 3, 0]], "x": [[1.0, 0.0, 2.0]] * 4, "num_nodes": 4}


def _npz() -> bytes:
    out = io.BytesIO()
    arrays = {"graph_id": np.array([0, 0, 0, 1]), "y": np.array([0, 1])}
    np.savez(out, **{key: np.asarray(value) for key, value in _graph().items()}, **arrays)
    return out.getvalue()


def _graphml() -> bytes:
    import networkx

    graph = networkx.cycle_graph(4)
    for node in graph:
        graph.nodes[node].update(a=1.0, b=0.0, c=2.0)
    out = io.BytesIO()
    networkx.write_graphml(graph, out)
    return out.getvalue()


def _read_npz(folder: Path, name: str) -> object:
    import mmssl_graph

    rows = mmssl_graph.open_rows(str(folder / name), "all")
    p = preprocessor("graph")
    return p.collate([p.read(rows[0]["graph"]), None])


def _read_graph(folder: Path, name: str) -> object:
    try:
        raw = json.loads((folder / name).read_bytes())
    except (ValueError, RecursionError):
        return None  # who reads the data says that
    p = preprocessor("graph")
    return p.collate([p.read(raw), None])


def _table(kind: str) -> bytes:
    import pyarrow as pa
    from pyarrow import csv, parquet

    table = pa.table(
        {
            "colour": ["red", "blue"] * 6,
            "size": [float(i) for i in range(12)],
            "old": [True, False] * 6,
            "day": ["2024-01-11", "2024-02-11"] * 6,
        }
    )
    out = io.BytesIO()
    if kind == "parquet":  # of texts in a dictionary, and texts by what they share
        delta = {"day": "DELTA_BYTE_ARRAY"}
        parquet.write_table(table, out, use_dictionary=["colour"], column_encoding=delta)
    elif kind == "arrow":
        table = table.set_column(0, "colour", table["colour"].dictionary_encode()).combine_chunks()
        with pa.ipc.new_stream(out, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
            stream.write_table(table)
    elif kind == "tar":
        with tarfile.open(fileobj=out, mode="w") as archive:
            for number, row in enumerate(table.to_pylist()):
                for name, value in row.items():
                    content = str(value).encode()
                    info = tarfile.TarInfo(f"{number}.{name}.txt")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    elif kind == "csv":
        csv.write_csv(table, out)
    else:
        out.write("".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode())
    return out.getvalue()


def _read_table(folder: Path, name: str) -> object:
    source = open_source(str(folder / name), streaming=True)
    p = preprocessor("tabular")
    columns = {"tabular": ["colour", "size", "old", "day"]}
    batches = evaluation_batches(source, {"tabular": p}, columns, batch_size=6)
    return [loaded.size for loaded in batches]


def _read_archive(folder: Path, name: str) -> object:
    return [len(row) for row in stream_rows(open_source(str(folder / name), streaming=True))]


def graphs_and_tables() -> dict[str, Target]:
    return {
        "graph npz": Target({"x.npz": _npz()}, damaged, _read_npz, 4),
        "graph json": Target({"x.json": json.dumps(_graph()).encode()}, damaged_json, _read_graph, 6),
        "graphml": Target({"x.graphml": _graphml()}, damaged, _read_npz, 1),
        "csv": Target({"x.csv": _table("csv")}, damaged, _read_table, 2),
        "parquet": Target({"x.parquet": _table("parquet")}, damaged, _read_table, 2),
        "arrow": Target({"x.arrow": _table("arrow")}, damaged, _read_table, 2),
        "tar": Target({"x.tar": _table("tar")}, damaged, _read_archive, 2),
        "jsonl": Target({"x.jsonl": _table("jsonl")}, damaged, _read_table, 2),
    }


# -------------------------------------------------------------------------------------------------------------- models


@cache
def _folders() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of a model, and those of an adapter beside its base."""
    from mmssl.models.adapter_files import base_of, write_adapter
    from mmssl.models.adapters import add_adapter
    from mmssl.models.options import AdapterConfig
    from mmssl.models.saving import load_model

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = tuned.image_base(root / "base")
        model, processor = load_model(folder)
        (root / "tuned").mkdir()
        base = base_of(model, str(folder))
        write_adapter(
            add_adapter(model, AdapterConfig(r=2), ["image"]), base, processor, root / "tuned", root / "tuned"
        )
        record = {"version": 1, "recipe": runs.recipe(), "data": {"rows": 64, "hashed": 64, "sha256": "0" * 64}}
        score = {"value": 0.5, "interval": [0.4, 0.6]}
        record |= {"weights_sha256": "0", "scores": {"knn": score}, "versions": {"torch": "2"}, "device": "cpu"}
        (folder / "reproduction.json").write_text(json.dumps(record))
        base_files, tuned_files = (
            {path.name: path.read_bytes() for path in (root / part).iterdir()} for part in ("base", "tuned")
        )
        return base_files, tuned_files


def _read_model(folder: Path, _: str) -> object:
    return open_model(folder)


def _read_record(folder: Path, _: str) -> object:
    return load_recipe(read_record(folder)["recipe"], own=False)


@cache
def _base() -> str:
    """The base of the adapter, which is not damaged itself."""
    folder = Path(tempfile.mkdtemp(prefix="mmssl-fuzz-base-"))
    for name, data in _folders()[0].items():
        (folder / name).write_bytes(data)
    return str(folder)


def _read_adapter(folder: Path, _: str) -> object:
    return open_model(folder, _base())


def _read_recipe(folder: Path, name: str) -> object:
    return load_recipe(folder / name)


def _damaged_recipe(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return damaged_text(data.decode(), rng).encode("utf-8", "surrogatepass")
    try:
        return plainyaml.dump(damaged_tree(plainyaml.parse(data.decode(), "x"), rng)).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):
        return b"[" * 5000


def models() -> dict[str, Target]:
    model, adapter = _folders()
    recipe = {"x.yaml": plainyaml.dump(runs.image_text()).encode()}
    read: dict[str, tuple[dict[str, bytes], Damage, Callable[[Path, str], object], int]] = {
        "config.json": (model, damaged_json, _read_model, 3),
        "processor_config.json": (model, damaged_json, _read_model, 3),
        "model.safetensors": (model, damaged_safetensors, _read_model, 3),
        "reproduction.json": (model, damaged_json, _read_record, 6),
        "adapter_config.json": (adapter, damaged_json, _read_adapter, 2),
        "mmssl_adapter.json": (adapter, damaged_json, _read_adapter, 2),
    }
    found = {
        name: Target(files, damage, reader, share, (name,)) for name, (files, damage, reader, share) in read.items()
    }
    return {**found, "recipe.yaml": Target(recipe, _damaged_recipe, _read_recipe, 8)}


@cache
def targets() -> dict[str, Target]:
    """Every format."""
    return {**pictures(), **sounds_and_videos(), **signals(), **graphs_and_tables(), **models()}


def write_variant(target: Target, folder: Path, seed: int) -> str:
    """Put variant number `seed` into an empty folder; the name of the file that is damaged."""
    rng = random.Random(seed)
    name = rng.choice(target.damaged or tuple(target.files))
    for other, data in target.files.items():
        (folder / other).write_bytes(target.damage(data, rng) if other == name else data)
    return name


def cleared(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
