"""Recordings, videos, volumes, series, graphs and rows that somebody gives: the right ones find the row they are a copy
of, of the wrong ones a sentence says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys import uploaded

from mmssl.demonstrating.engine import Engine, open_engine
from mmssl.demonstrating.options import DemoConfig
from mmssl.demonstrating.page import answered
from mmssl.errors import BadSample

WRONG = {"eeg": 5, "ecg": 3, "video": 3, "volume": 4, "series": 4, "graph": 3}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uploaded.save(tmp_path_factory.mktemp("uploaded")).parent


@pytest.fixture(scope="module")
def engine(home: Path) -> Engine:
    return open_engine(home / "model", DemoConfig(path=str(home / "rows"), columns=uploaded.COLUMNS))


@pytest.mark.parametrize("name", list(uploaded.FILES))
def test_a_file_finds_the_row_that_it_is_a_copy_of(engine: Engine, tmp_path: Path, name: str) -> None:
    assert engine.way(name) == "file"
    sample = engine.files(name, uploaded.FILES[name](tmp_path, 3))
    own = engine.index.vector(name, 3)
    assert own is not None and torch.allclose(sample.vector, own, atol=1e-5)
    (best,) = engine.search(sample, name, 1)
    assert sample.shown is not None and best.row == 3 and best.cosine == pytest.approx(1, abs=1e-5)
    for target in engine.targets(name):
        if target != name:  # the row itself asks for the same
            expected = [hit.row for hit in engine.search(engine.row(name, 3), target, 3)]
            assert [hit.row for hit in engine.search(sample, target, 3)] == expected


@pytest.mark.parametrize(("name", "number"), [(name, n) for name, count in WRONG.items() for n in range(count)])
def test_a_wrong_file_is_a_sentence(engine: Engine, tmp_path: Path, name: str, number: int) -> None:
    file, content = uploaded.wrong(tmp_path / "made")[name][number]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(BadSample) as error:
        engine.files(name, [tmp_path / file])
    sentence = str(error.value)
    assert len(sentence) > 10 and "mmssl-demo-" not in sentence and str(tmp_path) not in sentence
    said = answered(lambda: str(engine.files(name, [tmp_path / file])), engine.readers[name].noun)
    assert f"This is not read as {engine.readers[name].noun}: " in said and "Traceback" not in said


def test_every_wrong_file_is_tried(tmp_path: Path) -> None:
    assert {name: len(files) for name, files in uploaded.wrong(tmp_path).items()} == WRONG


def test_a_row_finds_itself_and_a_wrong_one_is_a_sentence(engine: Engine) -> None:
    assert engine.way("tabular") == "row"
    best = engine.search(engine.cells_of("tabular", "age: 36\njob: baker"), "tabular", 1)[0]
    assert best.row == 4 and best.cosine == pytest.approx(1, abs=1e-5)
    assert engine.search(engine.cells_of("tabular", "job: an astronaut"), "ecg", 3)
    for lines, said in (("age: old", "expected a number"), ("wage: 3", "`column: value`"), ("age:", "empty")):
        with pytest.raises(BadSample, match=said):
            engine.cells_of("tabular", lines)


def test_a_header_without_its_signals_says_which_file_it_lacks(engine: Engine, tmp_path: Path) -> None:
    header, _ = uploaded.heart(tmp_path, 1)
    with pytest.raises(BadSample, match=r"heartx\.dat"):
        engine.files("ecg", [header])
