"""Questions and answers, against the model's own embeddings; and what cannot be answered."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from toys import shown
from toys.refusals import refused

from mmssl.api import embed
from mmssl.boundary import regular_file
from mmssl.demonstrating.engine import Engine, open_engine
from mmssl.demonstrating.options import DemoConfig
from mmssl.errors import BadSample
from mmssl.models.saving import load_model


def config(saved: Path, **options: object) -> DemoConfig:
    return DemoConfig(path=str(saved.parent / "rows"), columns=shown.COLUMNS, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def units(engine: Engine) -> dict[str, np.ndarray]:
    """Modality -> the rows' embeddings by `model.encode`, in float64; a row that lacks it is nan."""
    held, out = shown.rows(), {}
    for name, column in shown.COLUMNS.items():
        values = [row[column] if isinstance(column, str) else {c: row[c] for c in column} for row in held]
        there = [n for n, value in enumerate(values) if value is not None]
        found = np.full((len(values), 8), np.nan)
        inputs = engine.readers[name]([values[n] for n in there])
        with torch.no_grad():
            found[there] = engine.model.encode_batch({name: inputs}, alone=True).embeddings[name].double().numpy()
        out[name] = found
    return out


@pytest.mark.parametrize("name", list(shown.COLUMNS))
@pytest.mark.parametrize("target", list(shown.COLUMNS))
def test_a_row_finds_what_lies_nearest(engine: Engine, units: dict[str, np.ndarray], name: str, target: str) -> None:
    cosines = units[target] @ units[name][3]
    cosines[np.isnan(cosines)] = -np.inf
    if name == target:
        cosines[3] = -np.inf
    sample = engine.row(name, 3)
    hits = engine.search(sample, target, 5)
    best = np.argsort(-cosines, kind="stable")[:5]
    assert [hit.cosine for hit in hits] == pytest.approx(cosines[best].tolist(), abs=1e-5)
    assert [cosines[hit.row] for hit in hits] == pytest.approx(cosines[best].tolist(), abs=1e-5)
    everything = engine.search(sample, target, 100)
    assert len(everything) == shown.COUNT - (target == "audio") - (name == target)
    assert shown.LACKS not in [hit.row for hit in everything] or target != "audio"


def test_what_is_given_is_read_as_the_row_that_it_is_a_copy_of(engine: Engine, tmp_path: Path) -> None:
    """A picture, a sound, words and cells out of the rows, given as somebody gives them."""
    row = shown.rows()[4]
    (tmp_path / "upload.png").write_bytes(row["image"]["bytes"])
    (tmp_path / "upload.wav").write_bytes(row["sound"]["bytes"])
    given = {
        "image": engine.files("image", [tmp_path / "upload.png"]),
        "audio": engine.files("audio", [tmp_path / "upload.wav"]),
        "text": engine.words("text", row["text"][0]),
        "tabular": engine.cells_of("tabular", f"job: {row['job']}\nage: {row['age']}"),
    }
    for name, sample in given.items():
        own = engine.index.vector(name, 4)
        assert own is not None and torch.allclose(sample.vector, own, atol=1e-5), name
        assert sample.modality == name and sample.shown is not None and sample.row is None
        assert engine.search(sample, name, 1)[0].cosine == pytest.approx(1, abs=1e-5)
    assert given["audio"].sound.startswith("data:audio/wav;base64,") and given["image"].sound == ""


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("image", "a.png", b"these are words", "image"),
        ("image", "a.png", b"", ""),
        ("image", "a.wav", shown.sound(300), ""),
        ("audio", "a.wav", b"RIFF\x00\x00", ""),
        ("audio", "a.txt", b"words", ""),
    ],
)
def test_a_wrong_file_is_a_sentence(
    engine: Engine, tmp_path: Path, name: str, file: str, content: bytes, said: str
) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(BadSample) as error:
        engine.files(name, [tmp_path / file])
    sentence = str(error.value)
    assert sentence and said in sentence and "\n" not in sentence and "mmssl-demo-" not in sentence


def test_a_file_may_name_none_but_those_that_came_with_it(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a header of signals could."""
    (tmp_path / "secret").write_text("s")
    (tmp_path / "a.png").write_text("")
    monkeypatch.setattr(engine, "given", lambda name, raw: regular_file(tmp_path / "secret"))
    with pytest.raises(BadSample, match="is a place on this machine"):
        engine.files("image", [tmp_path / "a.png"])
    monkeypatch.setattr(engine, "given", lambda name, raw: regular_file(raw["path"]))
    engine.files("image", [tmp_path / "a.png"])


def test_a_wrong_row_is_a_sentence(engine: Engine) -> None:
    for row in (-1, shown.COUNT, 2.5, None, "3"):
        with pytest.raises(BadSample, match="expected the number of a row, 0 to 15"):
            engine.row("image", row)
    with pytest.raises(BadSample, match="row 5 has no audio"):
        engine.row("audio", shown.LACKS)
    with pytest.raises(BadSample, match="expected a number"):
        engine.cells_of("tabular", "age: old")
    with pytest.raises(BadSample, match="empty"):
        engine.cells_of("tabular", "age:\njob:")


def test_words_are_compared_as_the_evaluation_does(engine: Engine, units: dict[str, np.ndarray]) -> None:
    templates, words = ["the digit {}", "{}"], ["seven", "one", "seven", "", "zero "]
    found = engine.zero_shot(engine.row("image", 2), words, templates)
    expected = {}
    for word in ("seven", "one", "zero"):
        both = np.stack([engine.words("text", t.replace("{}", word)).vector.double().numpy() for t in templates])
        mean = both.mean(0)
        expected[word] = float(mean @ units["image"][2] / np.linalg.norm(mean))
    assert [fit.word for fit in found] == sorted(expected, key=lambda word: -expected[word])
    assert [fit.cosine for fit in found] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-5)
    assert all(fit.share is None for fit in found)  # nothing has taught it a temperature


def test_shares_of_words_follow_the_temperature(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.model.config, "logit_scale", np.log(10.0).item())
    found = engine.zero_shot(engine.row("image", 2), ["seven", "one"])
    odds = np.exp(10 * (found[0].cosine - found[1].cosine))
    assert found[0].share == pytest.approx(odds / (1 + odds), abs=1e-5)
    assert sum(fit.share or 0 for fit in found) == pytest.approx(1, abs=1e-6)
    monkeypatch.setattr(engine.model.config, "logit_bias", -3.0)  # sigmoids share nothing out
    assert engine.zero_shot(engine.row("image", 2), ["seven"])[0].share is None


@pytest.mark.parametrize(
    ("words", "templates", "said"),
    [([], ["{}"], "0 words"), ([" "], ["{}"], "0 words"), (["a"], [], "template"), (["a"], ["no place"], "{}")],
)
def test_wrong_words_are_a_sentence(engine: Engine, words: list[str], templates: list[str], said: str) -> None:
    with pytest.raises(BadSample) as error:
        engine.zero_shot(engine.row("image", 2), words, templates)
    assert said in str(error.value)
    with pytest.raises(BadSample, match="201 words"):
        engine.zero_shot(engine.row("image", 2), [str(n) for n in range(201)])


def test_rows_are_called_by_their_label(engine: Engine) -> None:
    held = shown.rows()
    names = held.features["label"].names
    assert engine.label == "label" and engine.says(3) == names[held[3]["label"]]
    assert engine.known_words == names and engine.name_of(3) == "row 3"


def test_without_a_shared_space_each_modality_finds_itself_alone(tmp_path: Path) -> None:
    found = open_engine(shown.save(tmp_path, projection=None), config(tmp_path / "model"))
    assert {name: found.targets(name) for name in found.names} == {name: [name] for name in shown.COLUMNS}
    assert found.classified() == []
    with refused("image", "'text' is not found by it"):
        found.search(found.row("image", 0), "text")
    with refused("image", "no text"):
        found.zero_shot(found.row("image", 0), ["one"])


def test_embeddings_are_written_once_and_read_again(
    saved: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "e.parquet"
    asked = config(saved, embeddings=str(place))
    open_engine(saved, asked)
    written = place.read_bytes()
    monkeypatch.setattr("mmssl.demonstrating.engine.write_rows", None)  # nothing is embedded again
    again = open_engine(saved, asked)
    assert place.read_bytes() == written
    for name in engine.index.names:
        assert torch.equal(again.index.vectors[name], engine.index.vectors[name])
    own = tmp_path / "own.parquet"
    embed(saved, str(saved.parent / "rows"), own, columns=shown.COLUMNS)
    assert open_engine(saved, config(saved, embeddings=str(own))).index.names == engine.index.names


def test_embeddings_of_others_are_refused(saved: Path, tmp_path: Path) -> None:
    place = tmp_path / "e.parquet"
    embed(saved, str(saved.parent / "rows"), place, columns=shown.COLUMNS)
    shutil.copytree(saved.parent / "rows", tmp_path / "rows")
    other = shown.save(tmp_path, seed=1)
    with refused("embeddings", "another model"):
        open_engine(other, config(other, embeddings=str(place)))
    with refused("embeddings", "16 rows", "8"):
        open_engine(saved, config(saved, embeddings=str(place), limit=8))
    table = pq.read_table(saved.parent / "rows" / "train.parquet")
    pq.write_table(table.take(list(reversed(range(16)))), tmp_path / "rows" / "train.parquet")
    with refused("embeddings", "other data"):
        open_engine(saved, config(tmp_path / "model", embeddings=str(place)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"streaming": True}, ("streaming",)),
        ({"label": "lable"}, ("lable", "label")),
        ({"split": "test"}, ("test",)),
        ({"embeddings": "/dev/null"}, ("/dev/null", "device")),
    ],
)
def test_wrong_options_are_a_line(saved: Path, options: dict[str, object], words: tuple[str, ...]) -> None:
    with refused(*words):
        open_engine(saved, config(saved, **options))


def test_of_many_rows_some_are_searched_and_it_is_said(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mmssl.demonstrating.engine.MOST_ROWS", 6)
    found = open_engine(saved, config(saved))
    assert len(found.source) == 6 and "6 of 16 rows are searched" in capsys.readouterr().out
    assert "6 of 16 rows" in found.called
    names = [found.name_of(row) for row in range(6)]
    numbers = [int(name.split("(")[1].split()[0]) if "(" in name else row for row, name in enumerate(names)]
    labels = shown.rows()["label"]
    assert [found.says(row) for row in range(6)] == [shown.rows().features["label"].names[labels[n]] for n in numbers]
    assert numbers == sorted(set(numbers)) and numbers != list(range(6))
    assert open_engine(saved, config(saved, limit=9)).called.startswith("9 rows")


def test_a_picture_of_another_size_goes_through_the_models_own_preprocessing(
    saved: Path, engine: Engine, tmp_path: Path
) -> None:
    held = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)).save(held, "JPEG")
    (tmp_path / "a.jpg").write_bytes(held.getvalue())
    sample = engine.files("image", [tmp_path / "a.jpg"])
    model, processor = load_model(saved)
    inputs = processor(image=[held.getvalue()], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).embeddings["image"][0]
    assert torch.allclose(sample.vector, expected, atol=1e-6)
