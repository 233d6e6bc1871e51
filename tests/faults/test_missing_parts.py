"""Missing is not broken, and what is broken costs itself alone: in training, in `embed`, over resumes; or its row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import runs

from mmssl.cli import main

BROKEN, SILENT = {3, 8}, {5, 6, 7}
ROWS = 24


def clip(path: Path, number: int, sound: bool) -> None:
    import av

    with av.open(str(path), "w") as file:
        pictures: Any = file.add_stream("mpeg4", rate=8)
        pictures.width = pictures.height = 16
        pictures.pix_fmt = "yuv420p"
        voice: Any = file.add_stream("aac", rate=8000) if sound else None
        if sound:
            voice.layout = "mono"
        for step in range(8):
            shade = np.random.default_rng([number, step]).integers(0, 256, (16, 16, 3)).astype(np.uint8)
            file.mux(pictures.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        file.mux(pictures.encode())
        if sound:
            tone = np.sin(np.arange(8000) / (3 + number)).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate = 8000
            for part in [*(fit := av.AudioResampler("fltp", "mono", 8000, frame_size=1024)).resample(frame)]:
                file.mux(voice.encode(part))
            for part in fit.resample(None):
                file.mux(voice.encode(part))
            file.mux(voice.encode())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 24 clips, one column for both modalities; three have no sound track, nothing is broken."""
    pytest.importorskip("av", reason="av is not installed: pip install 'mmssl[video]'")
    folder = tmp_path_factory.mktemp("clips")
    for number in range(ROWS):
        clip(folder / f"{number:02}.mp4", number, number not in SILENT)
    (folder / "list.csv").write_text("file,name\n" + "".join(f"{folder}/{n:02}.mp4,{n}\n" for n in range(ROWS)))
    return folder / "list.csv"


def recipe(path: Path, columns: dict[str, str], **train: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "data": {"path": str(path), "columns": columns},
        "modalities": {
            "video": {"size": 8, "patch": 8, "frames": 4, "tubelet": 2, "fps": 4},
            "audio": {"rate": 8000, "seconds": 0.5, "mel_bins": 16, "patch": 16},
        },
        "model": {
            "projection": 8,
            "towers": {"av": {"modalities": ["video", "audio"], "width": 16, "depth": 1, "heads": 2}},
        },
        "masks": {"half": {"type": "random", "ratio": 0.5}},
        "objectives": {"mae": {"tower": "av", "mask": "half", "decoder": {"width": 16, "depth": 1, "heads": 2}}},
        "train": {"steps": 6, "batch_size": 8, "log_every": 1, "save_every": 3, "trackers": []} | train,
        "evaluation": {"tasks": []},
    }


def embedded(model: Path, data: Path, output: Path, columns: dict[str, str], *words: str) -> dict[str, list[bool]]:
    """Modality -> which rows have an embedding."""
    import pyarrow.parquet as pq

    named = [word for name, column in columns.items() for word in ("--column", f"{name}={column}")]
    assert main(["embed", str(model), "--data", str(data), "--output", str(output), *named, *words]) == 0
    table = pq.read_table(output)
    for name in columns:
        there = [value is not None for value in table[f"{name}_embedding"].to_pylist()]
        assert there == table[f"{name}_present"].to_pylist()
    return {name: table[f"{name}_present"].to_pylist() for name in columns}


def test_clips_without_a_sound_track_train_and_embed_as_video(clips: Path, tmp_path: Path, caplog: Any) -> None:
    columns = {"video": "file", "audio": "file"}
    assert runs.cli(tmp_path, content=recipe(clips, columns)) == 0
    assert not (tmp_path / "run" / "quarantine.jsonl").exists() and "broken" not in caplog.text
    assert all(loss == loss for loss in runs.losses(tmp_path / "run").values())
    there = embedded(tmp_path / "run", clips, tmp_path / "e.parquet", columns)
    assert there == {"video": [True] * ROWS, "audio": [row not in SILENT for row in range(ROWS)]}


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rows of a picture and a caption; two pictures are cut off, one caption is missing."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rows = []
    for number in range(ROWS):
        out = io.BytesIO()
        Image.effect_noise((12, 12), 50 + number).save(out, "PNG")
        data = out.getvalue()
        rows.append(data[:80] if number in BROKEN else data)
    texts = [None if number == 5 else f"a picture of number {number}" for number in range(ROWS)]
    path = tmp_path_factory.mktemp("halves") / "rows.parquet"
    pq.write_table(pa.table({"image": rows, "text": texts}), path)
    return path


def content(path: Path, **data: Any) -> dict[str, Any]:
    out = runs.image_text()
    out["data"] = {"path": str(path), "max_bad": 0.3} | data
    out["train"] |= {"batch_size": 8, "steps": 6, "log_every": 1, "save_every": 3}
    return out


@pytest.mark.parametrize("broken", ["part", "row"])
def test_a_broken_part_costs_itself_or_its_row(halves: Path, tmp_path: Path, broken: str) -> None:
    assert runs.cli(tmp_path, content=content(halves, broken=broken)) == 0
    listed = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert {(row["index"], row["modality"], row["column"]) for row in listed} == {(n, "image", "image") for n in BROKEN}
    columns = {"image": "image", "text": "text"}
    words = [] if broken == "part" else ["broken=row"]
    there = embedded(tmp_path / "run", halves, tmp_path / "e.parquet", columns, *words)
    assert there["image"] == [row not in BROKEN for row in range(ROWS)]
    lost = {5} if broken == "part" else {5, *BROKEN}
    assert there["text"] == [row not in lost for row in range(ROWS)]


def test_batches_do_not_depend_on_how_they_are_read(halves: Path) -> None:
    """Workers, processes, a later start: broken parts are absent in the same places, and nothing else moves."""
    import torch

    from mmssl.data import open_source, training_batches
    from mmssl.modality import load_modality

    source = open_source(halves)
    image, text = load_modality("image"), load_modality("text")
    pre = {
        "image": image.Preprocessor(image.Config(size=8, patch=4)),
        "text": text.Preprocessor(text.Config(vocab_size=300)),
    }
    pre["image"].fit([row["image"] for row in source][:3])
    pre["text"].fit([row["text"] for row in source if row["text"]])

    def batches(count: int, **more: Any) -> list[Any]:
        stream = training_batches(source, pre, {}, seed=3, batch_size=8, **more)
        return [next(stream) for _ in range(count)]

    straight = batches(6)
    assert {bad.index for loaded in straight for bad in loaded.bad} == BROKEN
    lost = {int(row) for loaded in straight for row in loaded.rows[~there(loaded, "text")]}
    assert lost == {5}, "the captions of broken pictures are there"
    for other, same in ((batches(6, workers=1), straight), (batches(3, start_batch=3), straight[3:])):
        for ours, theirs in zip(other, same, strict=True):
            assert torch.equal(ours.rows, theirs.rows) and ours.bad == theirs.bad and ours.missing == theirs.missing
            for name, inputs in theirs.batch.items():
                assert all(torch.equal(ours.batch[name][key], value) for key, value in inputs.items())
    ranks = [batches(6, rank=rank, world=2) for rank in (0, 1)]
    for first, second, whole in zip(*ranks, straight, strict=True):
        assert torch.equal(torch.cat([first.rows, second.rows]), whole.rows)
        for name in pre:
            assert torch.equal(torch.cat([there(first, name), there(second, name)]), there(whole, name))
    dropped = batches(6, broken="row")
    assert {int(row) for loaded in dropped for row in loaded.rows[~there(loaded, "text")]} == {5, *BROKEN}


def there(loaded: Any, name: str) -> Any:
    import torch

    inputs = loaded.batch[name]
    return inputs.get("present", torch.ones(len(loaded.rows), dtype=torch.bool))


def test_max_bad_counts_samples_and_not_parts() -> None:
    from mmssl.data import Bad, Quarantine
    from mmssl.errors import UserError

    ledger = Quarantine(None, max_bad=0.1)
    ledger.record([Bad(n, part, part, "cut off") for n in range(5) for part in ("image", "text")], 50)
    assert ledger.bad == 5
    with pytest.raises(UserError, match="6 of 51 samples"):
        ledger.record([Bad(50, "image", "image", "cut off")], 1)
