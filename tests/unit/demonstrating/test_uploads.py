"""What somebody gives: files, words, rows; and the sentences for what is none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toys.own_files import wfdb_record

from mmssl.demonstrating.uploads import as_lines, first_row, has_parts, of_files, row_of, text_of, unreadable
from mmssl.errors import BadSample
from mmssl.modality import load_modality

NAMES = ["age", "age: years", "job"]


def reader(name: str) -> Any:
    package = load_modality(name)
    return package.Preprocessor(package.Config())


def test_a_row_is_written_and_read_again() -> None:
    row = {"age": 3, "age: years": None, "job": "a baker: the\nlast one"}
    assert row_of(as_lines(row), NAMES) == {"age": "3", "age: years": None, "job": "a baker: the last one"}
    assert row_of("  job:cook  ", NAMES) == {"age": None, "age: years": None, "job": "cook"}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "no words yet"),
        ("   \n ", "no words yet"),
        ("wage: 3", "found the line 'wage: 3'"),
        ("just words", "`column: value`"),
        ("age: 3\nage: 4", "'age' twice"),
        ("x" * 20_001, "at most 20,000"),
    ],
)
def test_what_is_no_row_is_a_sentence(lines: str, said: str) -> None:
    with pytest.raises(BadSample, match=".") as error:
        row_of(lines, NAMES)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_no_words_are_a_sentence() -> None:
    assert text_of("  seven ") == "seven"
    for words in (None, "", " \n"):
        with pytest.raises(BadSample, match="no words yet"):
            text_of(words)


@pytest.mark.parametrize("text", ["age,job\n3,cook\n4,smith\n", "\ufeffjob;age\ncook;3\n", "age\tjob\n3\tcook\n"])
def test_the_first_row_of_a_csv_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    assert row_of(first_row(path, NAMES), NAMES) == {"age": "3", "age: years": None, "job": "cook"}


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "no row"), (b"age,job\n", "no row"), (b"a,b\n1,2\n", "the columns a, b"), (b"\x89PNG\xff\x00", "no table")],
)
def test_what_is_no_csv_file_is_a_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(BadSample) as error:
        first_row(path, NAMES)
    assert said in str(error.value)


def test_files_of_one_recording_are_read_together(tmp_path: Path) -> None:
    header, places = wfdb_record(tmp_path, "r"), []
    signals, side = reader("ecg").fit([str(header)]), tmp_path / "side"
    for path in (header.with_suffix(".dat"), header.with_suffix(".hea")):  # each upload comes in a folder of its own
        (tmp_path / path.suffix).mkdir()
        places.append(path.rename(tmp_path / path.suffix / path.name))
    side.mkdir()
    assert has_parts(signals) and not has_parts(reader("image"))
    assert len(signals([of_files(places, signals, side)])) > 0
    (side / "r.dat").unlink()
    with pytest.raises(BadSample, match=r"r\.dat"):
        signals([of_files(places[1:], signals, side)])


def test_files_of_which_none_is_known_are_a_sentence(tmp_path: Path) -> None:
    for name in ("a.doc", "b.doc"):
        (tmp_path / name).write_text("")
    side = tmp_path / "side"
    side.mkdir()
    with pytest.raises(BadSample, match=r"none of these 2 files is an image, expected one of \.png"):
        of_files([tmp_path / "a.doc", tmp_path / "b.doc"], reader("image"), side)
    with pytest.raises(BadSample, match="no file yet"):
        of_files([], reader("image"), side)


@pytest.mark.parametrize("name", ["image", "volume", "video", "audio", "ecg", "eeg", "series", "graph"])
def test_a_file_of_another_kind_is_one_clear_sentence(name: str) -> None:
    read = reader(name)
    said = unreadable(["/somewhere/notes.docx"], read, "Errno 1094995529: b'these ar'")
    assert said.startswith(f"'notes.docx' cannot be read as {read.noun}, expected one of .")
    known = (*read.reads, *read.reads_else)[0]
    assert unreadable([f"a{known.upper()}"], read, "cut in half") == "cut in half"
    assert unreadable(["a.docx", "b.docx"], read, "two of them") == "two of them"


def test_what_is_no_volume_says_so_without_its_bytes() -> None:
    with pytest.raises(BadSample, match=r"^the file is no volume: it is text, expected one of \.nii, .* or \.npy$"):
        reader("volume").prepare(b"these are words and nothing else" * 20)
