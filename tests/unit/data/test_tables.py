"""csv, JSON, text and several files at once: values are those of the files (cases A and B, 11-18, 40, 41)."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys.refusals import refused

from mmssl.cli import main
from mmssl.data import evaluation_batches, open_source, read_rows, text_files
from mmssl.data.explained import _told
from mmssl.errors import UserError
from mmssl.modality import load_modality

NULLS = ["null", "NA", "None", "NaN", "nan", "n/a", "N/A", "NULL", "<NA>", "#N/A", "-nan", "1.#IND"]
both = pytest.mark.parametrize("streaming", [False, True])


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Each test hears its warnings."""
    _told.clear()


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(path: Path | str, *read: str, streaming: bool = False) -> list[dict[str, Any]]:
    return list(open_source(path, columns={"text": list(read)} if read else None, streaming=streaming))


def column(path: Path | str, name: str, *read: str, streaming: bool = False) -> list[Any]:
    return [row[name] for row in rows(path, *read, streaming=streaming)]


# --- csv: what a field is ----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("read", [(), ("text",)])
def test_words_stay_words_and_only_the_empty_field_is_null(tmp_path: Path, streaming: bool, read: tuple[str]) -> None:
    lines = ["hello", *NULLS, "", "true", "12"]
    path = written(tmp_path / "a.csv", "text,n\n" + "".join(f"{line},{i}\n" for i, line in enumerate(lines)))
    assert column(path, "text", *read, streaming=streaming) == [line or None for line in lines]
    assert column(path, "n", *read, streaming=streaming) == list(range(len(lines)))


@both
@pytest.mark.parametrize(
    "fields",
    [["007", "12", "3"], ["7", "12", "3"], ["true", "false", "true"], ["1.50", "2.0", "3"], ["1e5", "2", "-0"]]
    + [["NA", "NA", "NA"], ["2024-05-31", "2024-06-01 12:00", "x"], [" a ", "b  ", "c"], ["inf", "nan", "1"]],
)
def test_a_column_that_a_modality_reads_is_text(tmp_path: Path, fields: list[str], streaming: bool) -> None:
    path = written(tmp_path / "a.csv", "caption,other\n" + "".join(f"{field},x\n" for field in fields))
    assert column(path, "caption", "caption", streaming=streaming) == fields
    (tmp_path / "b").mkdir()
    path = written(tmp_path / "b" / "a.tsv", "caption\tother\n" + "".join(f"{field}\tx\n" for field in fields))
    assert column(path, "caption", "caption", streaming=streaming) == fields


@both
@pytest.mark.parametrize(
    ("fields", "values"),
    [
        (["3", "-1", "", "+2"], [3, -1, None, 2]),
        (["1.5", "2", "NA", "-1e3"], [1.5, 2.0, None, -1000.0]),
        (["True", "false", "", "TRUE"], [True, False, None, True]),
        (["007", "12", "3", ""], ["007", "12", "3", None]),
        (["1", "2", "x", "3"], ["1", "2", "x", "3"]),
        (["12345678901234567890", "1", "2", "3"], ["12345678901234567890", "1", "2", "3"]),
        (["NA", "DE", "FR", "NA"], ["NA", "DE", "FR", "NA"]),
        (["1,5", "2,5", "3", "4"], ["1,5", "2,5", "3", "4"]),
        (["0.1", "0.30000000000000004", "1e-300", "5"], [0.1, 0.30000000000000004, 1e-300, 5.0]),
    ],
)
def test_other_columns_are_numbers_where_all_fields_are(
    tmp_path: Path, fields: list[str], values: list[Any], streaming: bool
) -> None:
    path = written(tmp_path / "a.csv", "label,text\n" + "".join(f'"{field}",x\n' for field in fields))
    found = column(path, "label", "text", streaming=streaming)
    assert found == values and [type(v) for v in found] == [type(v) for v in values]


def test_what_comes_late_decides_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "ROWS", 10)
    path = written(tmp_path / "a.csv", "label\n" + "1\n" * 31 + "one\n")
    for streaming in (False, True):
        found = column(path, "label", streaming=streaming)
        assert found[:2] == ["1", "1"] and found[-1] == "one"


# --- csv: how it is written --------------------------------------------------------------------------------------

WRITTEN = {
    "bom.csv": "\ufefftext,n\ncafé,1\n".encode(),
    "crlf.csv": b'text,n\r\n"caf\xc3\xa9",1\r\n',
    "cr.csv": b"text,n\rcaf\xc3\xa9,1\r",
    "semicolon.csv": "text;n\ncafé;1\n".encode(),
    "tab.csv": "text\tn\ncafé\t1\n".encode(),
    "pipe.csv": "text|n\ncafé|1\n".encode(),
    "latin1.csv": "text,n\ncafé,1\n".encode("latin-1"),
    "windows.csv": "text;n\ncafé;1\n".encode("cp1252"),
    "utf16le.csv": "text,n\ncafé,1\n".encode("utf-16-le"),
    "utf16be.csv": "text,n\ncafé,1\n".encode("utf-16-be"),
    "comments.csv": "# made by us\n#\n\ntext,n\ncafé,1\n".encode(),
    "hash.tsv": "##version 1\n#text\tn\ncafé\t1\n".encode(),
    "spaces.csv": 'text, n\n"café", 1\n'.encode(),
    "repeated.csv": "text,n\ncafé,1\ntext,n\n".encode(),
    "within.csv": "text,n\n# half of it, is here, not there\ncafé,1\n".encode(),
    "uci.data": "text,n\ncafé,1\n".encode(),
    "excel.csv": "sep=;\ntext;n\ncafé;1\n".encode(),
    "utf16.csv": "text,n\ncafé,1\n".encode("utf-16"),
    "utf16tab.csv": "text\tn\ncafé\t1\n".encode("utf-16"),
    "utf32.csv": "text,n\ncafé,1\n".encode("utf-32"),
    "blank.csv": "\ntext,n\n\ncafé,1\n\n".encode(),
    "trailing.csv": "text,n\ncafé,1,\n".encode(),
    "gz.csv.gz": gzip.compress("text,n\ncafé,1\n".encode()),
    "bz2.csv.bz2": bz2.compress("text,n\ncafé,1\n".encode()),
    "xz.tsv.xz": lzma.compress("text\tn\ncafé\t1\n".encode()),
}


@both
@pytest.mark.parametrize("name", WRITTEN)
def test_separators_and_encodings(tmp_path: Path, name: str, streaming: bool) -> None:
    assert rows(written(tmp_path / name, WRITTEN[name]), streaming=streaming) == [{"text": "café", "n": 1}]


@both
def test_quotes_and_lines_in_fields(tmp_path: Path, streaming: bool) -> None:
    path = written(tmp_path / "a.csv", 'text,n\n"two\nlines",1\n"a ""b"", c",2\n5" nail,3\n' + f'"{"x" * 200_000}",4\n')
    assert column(path, "text", streaming=streaming) == ["two\nlines", 'a "b", c', '5" nail', "x" * 200_000]


def test_short_rows_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "a.csv", "text,n\na\nb,2\nc\n")
    assert rows(path) == [{"text": "a", "n": None}, {"text": "b", "n": 2}, {"text": "c", "n": None}]
    assert "2 rows have fewer fields than the header (the first in line 2)" in caplog.text


@both
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text\na\nb, c\n", "line 3 has 2 fields, the header 1 .text.: a field that holds ',' must stand in quotes"),
        ("text,n\na, b, 1\n", "line 2 has 3 fields, the header 2"),
        ('text,n\n"a,1\nb,2\n', "line 3: unexpected end of data"),
        ('text,n\n"a" b,1\n', "line 2: ',' expected after"),
        ("text\nкафе мир\n".encode("cp1251"), "is not UTF-8 .the byte 0xea .*data.encoding=NAME.*iconv -f latin1"),
        (b"\0\1\2\3\0\0" * 20, "is no text: save it as UTF-8"),
        ("\n\n", "has no header"),
        ("text,n\n", "has no rows"),
    ],
)
def test_what_is_wrong_with_a_csv(tmp_path: Path, content: str | bytes, said: str, streaming: bool) -> None:
    with pytest.raises(UserError, match=said) as caught:
        rows(written(tmp_path / "a.csv", content), streaming=streaming)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("streaming", [False, True])
def test_of_several_files_the_one_of_another_encoding_is_named(tmp_path: Path, ending: str, streaming: bool) -> None:
    good, bad = (
        ("n,text\n1,tea\n", "n,text\n2,caf\x81\n") if ending == "csv" else ('{"n": "tea"}\n', '{"n": "caf\x81"}\n')
    )
    written(tmp_path / f"a.{ending}", good)
    written(tmp_path / f"b.{ending}", bad.encode("latin-1"))
    with pytest.raises(UserError, match=rf"b\.{ending}' is not UTF-8"):
        rows(tmp_path / f"*.{ending}", streaming=streaming)


def test_a_card_may_say_how_a_csv_is_read(tmp_path: Path) -> None:
    written(tmp_path / "a.csv", "t:n\nNA:1\n")
    written(tmp_path / "README.md", '---\nconfigs:\n- config_name: x\n  data_files: a.csv\n  sep: ":"\n---\n')
    assert rows(tmp_path) == [{"t": "NA", "n": 1}]


# --- JSON --------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "values",
    [
        ["a dog", ["a cat", "a grey cat"], "a cow", None],
        ["a", 5, "c"],
        ["12", True, '"quoted"', '{"a": 1}', "[1]"],
        ["2024-05-31", "2024-05-31 12:00:00", "2024-05-31T12:00:00Z"],
        ["007", "NA", "null", ""],
        [[0, 1], {"x": "y"}],
        [1, 2.5, None],
        [{"a": 1, "b": None}, {"a": None, "b": "x"}, None],
        [[], ["x"], None],
    ],
)
def test_values_of_json_are_its_values(tmp_path: Path, values: list[Any], streaming: bool) -> None:
    path = written(tmp_path / "a.jsonl", "".join(json.dumps({"v": value, "text": "x"}) + "\n" for value in values))
    assert column(path, "v", streaming=streaming) == values
    listed = written(tmp_path / "b.json", json.dumps([{"v": value} for value in values], indent=1))
    assert column(listed, "v", streaming=streaming) == values


def test_mixed_captions_reach_the_text_modality(tmp_path: Path) -> None:
    lines = [{"text": "a dog"}, {"text": ["a cat", "a grey cat"]}, {"text": "a cow"}, {"text": 5}]
    data = open_source(written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines))), columns={"text": "text"})
    text = load_modality("text")
    reader = text.Preprocessor(text.Config(vocab_size=270)).fit(row["text"] for row in lines[:3])
    (loaded,) = evaluation_batches(data, {"text": reader}, {}, batch_size=9)
    assert [bad.reason for bad in loaded.bad] == ["expected text or a list of texts, found int"]
    expected = reader.collate([reader.read(row["text"]) for row in lines[:3]])
    assert loaded.batch["text"]["input_ids"][:3].tolist() == expected["input_ids"].tolist()


def test_a_json_feature_of_the_users_own_stays_decoded() -> None:
    features = datasets.Features(text=datasets.Json(), image=datasets.Image())
    data = datasets.Dataset.from_dict({"text": ["a", ["b"]], "image": [None, None]}, features=features)
    assert open_source(data)["text"][:] == ["a", ["b"]]


@both
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('\ufeff{"a": 1}\r\n\r\n{"a": 2}\r\n', [1, 2]),
        ('{"data": [{"a": 1}, {"a": 2}], "version": 3}', [1, 2]),
        ('{\n "a": 1\n}\n{\n "a": 2\n}', [1, 2]),
        (' \n[{"a": 1}, {"b": 0, "a": 2}]', [1, 2]),
        ('{"a": 123456789012345678901234567890}\n{"a": 2}', ["123456789012345678901234567890", "2"]),
        ('{"a": null}\n' * 31 + '{"a": "late", "b": 1}', [None] * 31 + ["late"]),
    ],
)
def test_shapes_of_json_files(
    tmp_path: Path, content: str, expected: list[Any], streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "ROWS", 10)
    assert column(written(tmp_path / "a.json", content), "a", streaming=streaming) == expected


@both
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}\n{"a": \n', "JSON parse error in line 2"),
        ('{"a": 1}\n[1]\n', "holds list where an object was expected"),
        ('[{"a": 1}, ', "JSON parse error"),
        ("[1, 2]", "holds int where an object was expected"),
        ("{}", "holds no rows"),
        (" \n ", "holds no rows"),
    ],
)
def test_what_is_wrong_with_json(tmp_path: Path, content: str, said: str, streaming: bool) -> None:
    with pytest.raises(UserError, match=said) as caught:
        rows(written(tmp_path / "a.jsonl", content), streaming=streaming)
    assert "\n" not in str(caught.value)


@both
def test_text_files(tmp_path: Path, streaming: bool) -> None:
    path = written(tmp_path / "a.txt", "\ufeffone\n\n \r\n two \r\nthree\u2028four".encode())
    assert column(path, "text", streaming=streaming) == ["one", " two ", "three\u2028four"]
    with refused("is not UTF-8"):
        rows(written(tmp_path / "b.txt", b"caf\x81"), streaming=streaming)


# --- several files -----------------------------------------------------------------------------------------------

SHARDS: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {
    "nulls first": ([{"text": pa.nulls(3)}, {"text": ["red", "dog"]}], [None, None, None, "red", "dog"]),
    "nulls last": ([{"text": ["red"]}, {"text": pa.nulls(1)}], ["red", None]),
    "other columns": ([{"text": ["a"], "a": [1]}, {"b": ["x"], "text": ["b"]}], ["a", "b"]),
    "column lacking": ([{"text": ["a"], "a": [1]}, {"a": [2]}], ["a", None]),
    "empty first": ([{"text": pa.array([], pa.string())}, {"text": ["a", "b"]}], ["a", "b"]),
    "empty and null": ([{"text": pa.array([], pa.null())}, {"text": ["a", "b"]}], ["a", "b"]),
    "string sizes": ([{"text": pa.array(["a"], pa.large_string())}, {"text": ["b"]}], ["a", "b"]),
    "order": ([{"text": ["a"], "x": [1]}, {"x": [2], "text": ["b"]}], ["a", "b"]),
    "another column differs": ([{"text": ["a"], "x": [1]}, {"text": ["b"], "x": ["one"]}], ["a", "b"]),
    "numbers": ([{"text": ["a"], "x": [1]}, {"text": ["b"], "x": [1.5]}], ["a", "b"]),
}


@both
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("name", SHARDS)
def test_files_of_different_schemas(tmp_path: Path, name: str, kind: str, streaming: bool) -> None:
    for number, content in enumerate(SHARDS[name][0]):
        table = pa.table(content)
        if kind == "parquet":
            pq.write_table(table, tmp_path / f"{number}.parquet")
        else:
            with pa.ipc.new_stream(tmp_path / f"{number}.arrow", table.schema) as sink:
                sink.write_table(table)
    for path in (tmp_path, tmp_path / f"*.{kind}"):
        assert column(path, "text", "text", streaming=streaming) == SHARDS[name][1]
    data = open_source(tmp_path, streaming=streaming)
    if name == "numbers":
        assert [row["x"] for row in data] == [1.0, 1.5]


@both
def test_csv_and_json_files_of_different_columns(tmp_path: Path, streaming: bool) -> None:
    for ending, parts in {
        "csv": ("text,a\nx,1\n", "b,text\n2,y\n", "text\n"),
        "jsonl": ('{"text": "x", "a": 1}', '{"b": 2, "text": "y"}', ""),
    }.items():
        for number, content in enumerate(parts):
            written(tmp_path / f"{number}.{ending}", content)
        expected = [{"text": "x", "a": 1, "b": None}, {"text": "y", "a": None, "b": 2}]
        found = rows(tmp_path / f"*.{ending}", streaming=streaming)
        assert [dict(sorted(row.items())) for row in found] == [dict(sorted(row.items())) for row in expected]


def test_a_column_that_is_read_has_one_type(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, value in enumerate((1, "one")):
        pq.write_table(pa.table({"text": ["a"], "x": [value]}), tmp_path / f"{number}.parquet")
    with refused("column 'x'", "int64", "string", "0.parquet", "1.parquet"):
        rows(tmp_path, "x")
    assert rows(tmp_path, "text")[0] == {"text": "a"} and "column 'x' is left out" in caplog.text


def test_files_without_any_row(tmp_path: Path) -> None:
    for number in range(2):
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / f"{number}.parquet")
    for streaming in (False, True):
        with refused("has no rows"):
            rows(tmp_path, streaming=streaming)


def test_a_stream_that_breaks_ends_the_run_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "ROWS", 8)
    good = "".join(f"the quick brown fox number {i} jumps over the lazy dog\n" for i in range(400))
    path = written(tmp_path / "lines.txt", good.encode() + b"caf\x81\n")
    small = ["model.towers.text.width=16", "model.towers.text.depth=1", "model.towers.text.heads=2"]
    data = [f"data.path={path}", "data.streaming=true", "data.fit_samples=300", "data.shuffle_buffer=1"]
    run = ["train.steps=60", "train.batch_size=8", "modalities.text.vocab_size=280", "evaluation.tasks=[]"]
    assert main(["pretrain", "text_mae", *data, *small, *run, f"--output={tmp_path / 'run'}"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 1 and "lines.txt' is not UTF-8 (the byte 0x81" in said[0], said


def test_a_broken_part_of_a_parquet_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"{i:0100d}" for i in range(2000)]}), tmp_path / "a.parquet", row_group_size=100)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    half = len(content) // 2
    content[half : half + 2000] = bytes(2000)
    written(tmp_path / "a.parquet", bytes(content))
    stream = open_source(tmp_path / "a.parquet", columns={"text": "text"}, streaming=True)
    for read in (lambda: rows(tmp_path / "a.parquet", "text"), lambda: read_rows(stream, ["text"], 5000)):
        with pytest.raises(UserError, match="^data.path: cannot read [^\n]*$"):
            read()


# --- arrays ------------------------------------------------------------------------------------------------------

ARRAYS = {
    "Array3D": datasets.Array3D((16, 16, 3), "uint8"),
    "lists": datasets.List(datasets.List(datasets.List(datasets.Value("uint8")))),
    "uint16": datasets.Array3D((16, 16, 3), "uint16"),
    "float32": datasets.Array3D((16, 16, 3), "float32"),
    "int64": datasets.Array3D((16, 16, 3), "int64"),
}


@both
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_in_training_what_it_is_in_use(tmp_path: Path, name: str, streaming: bool) -> None:
    feature = ARRAYS[name]
    dtype = "uint8" if name == "lists" else feature.dtype
    arrays = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(dtype)
    data = datasets.Dataset.from_dict({"image": list(arrays)}).cast_column("image", feature)
    data.to_parquet(tmp_path / "n.parquet")
    data.save_to_disk(tmp_path / "disk")
    image = load_modality("image")
    for path in (tmp_path / "n.parquet", tmp_path / "disk"):
        source = open_source(path, columns={"image": "image"}, streaming=streaming)
        fitted = [row["image"] for row in read_rows(source, ["image"], 6)]
        reader = image.Preprocessor(image.Config(size=16, patch=4)).fit(fitted)
        (loaded,) = evaluation_batches(source, {"image": reader}, {}, batch_size=6)
        expected = reader(list(arrays))
        assert not loaded.bad and all((loaded.batch["image"][key] == value).all() for key, value in expected.items())


def test_sounds_of_declared_integers(tmp_path: Path) -> None:
    wave = (np.sin(np.arange(8000) / 9) * 9000).astype(np.int16)
    features = datasets.Features(
        audio={"array": datasets.List(datasets.Value("int16")), "sampling_rate": datasets.Value("int64")}
    )
    data = datasets.Dataset.from_dict({"audio": [{"array": wave, "sampling_rate": 16000}]}, features=features)
    audio = load_modality("audio")
    reader = audio.Preprocessor(audio.Config()).fit([(wave, 16000)])
    (loaded,) = evaluation_batches(open_source(data), {"audio": reader}, {}, batch_size=1)
    assert not loaded.bad
    assert all((loaded.batch["audio"][key] == value).all() for key, value in reader([(wave, 16000)]).items())


# --- what is said of single values -------------------------------------------------------------------------------


def test_values_that_are_no_image_are_told_in_short(tmp_path: Path) -> None:
    picture = {"bytes": b"\x89PNG...", "path": None}
    struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    for value, feature, said in (
        ("iVBORw0KGgo" * 400, datasets.Value("string"), "is it base64"),
        ([picture, picture], datasets.List(struct), "a list of 2 values, expected one image"),
    ):
        data = datasets.Dataset.from_dict({"image": [value] * 6}, features=datasets.Features(image=feature))
        image = load_modality("image")
        reader = image.Preprocessor(image.Config()).fit([np.zeros((4, 4, 3), np.uint8)])
        (loaded,) = evaluation_batches(open_source(data), {"image": reader}, {}, batch_size=6)
        assert len(loaded.bad) == 6 and said in loaded.bad[0].reason and len(loaded.bad[0].reason) < 320


def test_a_list_of_one_image_is_an_image(tmp_path: Path) -> None:
    digits = open_source("builtin:digits", limit=3)
    images = [row["image"] for row in digits]
    struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    listed = datasets.Dataset.from_dict(
        {"images": [[one] for one in images] + [[]]}, features=datasets.Features(images=datasets.List(struct))
    )
    image = load_modality("image")
    reader = image.Preprocessor(image.Config()).fit(images)
    (loaded,) = evaluation_batches(listed, {"image": reader}, {"image": "images"}, batch_size=4)
    assert len(loaded.bad) == 1 and loaded.bad[0].reason == "no modality present"
    assert all((loaded.batch["image"][key][:3] == value).all() for key, value in reader(images).items())


def test_a_part_of_a_struct_is_not_a_column(tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict({"doc": [{"image": "a.png", "text": "x"}]})
    with refused("no column 'doc.image'", "'doc' is read whole"):
        open_source(data, columns={"image": "doc.image"})
