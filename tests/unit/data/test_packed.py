"""Files that unpack or decode to far more than they are, and tables too large in rows, columns, lines and depth."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys.refusals import refused

from mmssl.data.archives import refuse_bombs
from mmssl.data.arrow_files import arrow_rows, arrow_tables
from mmssl.data.explained import explained
from mmssl.data.sources import open_source
from mmssl.errors import BadSample, UserError
from mmssl.limits import Limits, within
from mmssl.modality.parquet_pages import check_group, chunks, pages

SMALL = Limits(bytes=1 << 20, line=1 << 18, rows=30_000, columns=50, values=20_000)


def zst(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zst,
}
LINES = {
    "csv": (b"text\n", b"aaaa" * 200 + b"\n"),
    "jsonl": (b"", b'{"text": "%s"}\n' % (b"a" * 800)),
    "txt": (b"", b"a" * 800 + b"\n"),
}


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with within(SMALL):
        yield


def opened(path: Path, streaming: bool = False) -> list[dict[str, object]]:
    return list(open_source(str(path), streaming=streaming))


@pytest.mark.parametrize("how", PACKERS)
@pytest.mark.parametrize("ending", LINES)
def test_packed_tables_are_read_or_refused_as_bombs(ending: str, how: str, tmp_path: Path) -> None:
    head, row = LINES[ending]
    fair = tmp_path / f"fair.{ending}.{how}"
    fair.write_bytes(PACKERS[how](head + 20 * row))
    assert [r["text"] for r in opened(fair)] == ["a" * 800] * 20
    for name, body in (("rows", 2000 * row), ("line", head + b"a" * (1 << 19))):
        path = tmp_path / f"{name}.{ending}.{how}"
        path.write_bytes(PACKERS[how](head + body))
        with refused(path.name, "data.limits.bytes" if name == "rows" else "data.limits.line"):
            opened(path, streaming=name == "line")


def test_a_file_that_is_large_and_no_bomb_is_read(tmp_path: Path) -> None:
    letters = np.random.default_rng(0).integers(97, 123, (4000, 400), dtype=np.uint8)
    rows = [row.tobytes() for row in letters]
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"\n".join(rows)))
    assert len(b"\n".join(rows)) > SMALL.bytes and len(opened(path)) == 4000


TABLES: dict[str, tuple[pa.Table, str]] = {
    "rows": (pa.table({"text": ["a"] * 30_001}), "30,001 rows, expected at most 30,000 (data.limits.rows)"),
    "columns": (pa.table({f"c{i}": [1] for i in range(51)}), "51 columns, expected at most 50 (data.limits.columns)"),
    "page": (pa.table({"text": ["a" * (2 << 20)]}), "data.limits.bytes"),
    "cells": (pa.table({"text": [1.0] * 25_000}), "data.limits.values"),
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_that_says_or_unpacks_to_too_much(kind: str, streaming: bool, tmp_path: Path) -> None:
    table, said = TABLES[kind]
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    with refused("a.parquet", said):
        opened(tmp_path / "a.parquet", streaming)


def test_other_tables_that_are_too_large(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(51)]
    texts = {
        "wide.csv": (",".join(names) + "\n" + ",".join("1" * 51) + "\n", "51 columns"),
        "wide.jsonl": (json.dumps(dict.fromkeys(names, 1)) + "\n", "51 columns"),
        "many.csv": ("text\n" + "1\n" * 40_001, "data.limits.rows"),
        "many.jsonl": ('{"text": 1}\n' * 30_001, "data.limits.rows"),
        "many.txt": ("a\n" * 30_001, "data.limits.rows"),
        "whole.json": ("[" + "1,\n" * 20_001 + "1]", "data.limits.values"),
        "deep.json": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        "deep.jsonl": ('{"text": ' + "[" * 50_000 + "]" * 50_000 + "}\n", "nested too deeply"),
    }
    for name, (text, said) in texts.items():
        (tmp_path / name).write_text(text)
        with refused(name, said):
            opened(tmp_path / name)


def test_a_header_longer_than_the_look_at_it_is_whole(tmp_path: Path) -> None:
    with within(Limits()):
        names = [f"{'a' * 60}{i}" for i in range(20_000)]  # 1.3 MB
        (tmp_path / "a.csv").write_text(",".join(names) + "\n" + ",".join("1" * 20_000) + "\n")
        from mmssl.data.text_files import csv_rows

        ((found, rows),) = csv_rows(str(tmp_path / "a.csv"), "a.csv")
        assert found == names and rows == [["1"] * 20_000]


def archive(path: Path, content: bytes) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("a.txt", content)
        return
    with tarfile.open(path, f"w:{path.suffix[1:]}") as packed:
        info = tarfile.TarInfo("0.txt")
        info.size = len(content)
        packed.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("name", ["train.tar.gz", "train.tar.xz", "train.tar.bz2"])
def test_archives_that_datasets_unpacks_are_looked_through_before(name: str, tmp_path: Path) -> None:
    archive(tmp_path / name, b"a" * 100)
    assert opened(tmp_path / name)[0]["txt"] == "a" * 100
    archive(tmp_path / name, b"a" * (2 << 20))
    with refused(name, "data.limits.bytes"):
        opened(tmp_path / name)


def test_a_packed_file_that_a_readme_lists(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: a.zip\n---\n")
    archive(tmp_path / "a.zip", b"a" * (2 << 20))
    with refused("a.zip", "data.limits.bytes"):
        opened(tmp_path)
    (tmp_path / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(40))
    with refused("a.7z", "unpack it yourself"):
        refuse_bombs({"a.7z": tmp_path / "a.7z"})


# ------------------------------------------------------------------- parquet and Arrow whose parts decode to far more


def repeated(text: str, count: int) -> pa.Array:
    """The same text many times, as a dictionary of one."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([text]))


def in_lists(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


DELTA = {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
MANY = "z" * 2_000
GROWN: dict[str, tuple[pa.Array, dict[str, object], str]] = {
    "texts": (repeated("x" * 100_000, 20_000), {"store_schema": False}, "bytes"),
    "texts_in_lists": (in_lists(repeated("x" * 100_000, 20_000)), {"store_schema": False}, "bytes"),
    "texts_in_structs": (pa.StructArray.from_arrays([repeated("x" * 100_000, 20_000)], ["a"]), {}, "bytes"),
    "binary_of_one_width": (pa.array([b"y" * 1_000] * 5_000, pa.binary(1_000)), {}, "bytes"),
    "shared_beginnings": (pa.array([f"{MANY}{i}" for i in range(5_000)]), DELTA, "bytes"),
    "shared_beginnings_2": (
        pa.array([f"{MANY}{i}" for i in range(5_000)]),
        {**DELTA, "data_page_version": "2.0"},
        "bytes",
    ),
    "numbers_in_lists": (in_lists(pa.array(np.zeros(50_000, np.int8))), {}, "values"),
}


@pytest.mark.parametrize("kind", GROWN)
@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_whose_parts_decode_to_too_much(kind: str, streaming: bool, tmp_path: Path) -> None:
    values, options, said = GROWN[kind]
    if "texts" in kind:
        options = {**options, "dictionary_pagesize_limit": 1 << 30}
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet", compression="zstd", **options)
    assert (tmp_path / "a.parquet").stat().st_size < 20_000
    with refused("a.parquet", f"data.limits.{said}"):
        opened(tmp_path / "a.parquet", streaming)


def test_parts_of_other_schemas_and_metadata_are_bounded_too(tmp_path: Path) -> None:
    values, options, _ = GROWN["texts"]
    pq.write_table(pa.table({"text": values}), tmp_path / "a1.parquet", dictionary_pagesize_limit=1 << 30, **options)
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a0.parquet")
    with refused("a1.parquet", "data.limits.bytes"):
        opened(tmp_path / "a?.parquet")
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"1")
    names = repeated("a.png", 20_000)
    pq.write_table(pa.table({"file_name": names, "text": values}), folder / "metadata.parquet", **options)
    with refused("metadata.parquet", "data.limits.bytes"):
        opened(folder)


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_arrow_files_that_unpack_to_too_much(kind: str, tmp_path: Path) -> None:
    zeros, nulls = pa.array(np.zeros(400_000, np.int64)), pa.nulls(30_001)
    for values, said in ((repeated("x" * 100_000, 20_000), "bytes"), (zeros, "bytes"), (nulls, "rows")):
        path = tmp_path / f"{said}{len(values)}.arrow"
        write_arrow(path, pa.record_batch({"text": values}), kind)
        for streaming in (False, True):
            with refused(path.name, f"data.limits.{said}"):
                opened(path, streaming)


def write_arrow(path: Path, batch: pa.RecordBatch, kind: str, compression: str | None = "zstd") -> None:
    writer = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with writer(path, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as out:
        out.write_batch(batch)


def test_saved_data_that_unpack_to_too_much(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"text": [0]}).save_to_disk(str(tmp_path / "a"))
    (file,) = (tmp_path / "a").glob("*.arrow")
    write_arrow(file, pa.record_batch({"text": np.zeros(400_000, np.int64)}), "stream")
    with refused(file.name, "data.limits.bytes"):
        opened(tmp_path / "a")


@pytest.mark.parametrize("change", [b"\0" * 4, b"\xff" * 4, b"\x7f" * 8, b"\x00\x00\x00\x40"])
def test_arrow_files_that_are_damaged_take_no_memory(change: bytes, tmp_path: Path) -> None:
    write_arrow(tmp_path / "fair.arrow", pa.record_batch({"text": ["a", "b"]}), "stream")
    fair = (tmp_path / "fair.arrow").read_bytes()
    for place in range(0, len(fair) - len(change), 4):
        (tmp_path / "a.arrow").write_bytes(fair[:place] + change + fair[place + len(change) :])
        try:
            with explained("'a.arrow'"):
                rows = [table.to_pylist() for table in arrow_tables(str(tmp_path / "a.arrow"), "a.arrow", "arrow")]
        except (UserError, BadSample) as error:
            assert "\n" not in str(error)
        else:
            assert len(rows) < 10


LABELS = ["ab", None, "c" * 300, "é" * 4_000]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "lz4", "zstd", "brotli"])
@pytest.mark.parametrize("encoding", ["dictionary", "DELTA_BYTE_ARRAY"])
def test_texts_are_counted_as_they_are(version: str, compression: str, encoding: str, tmp_path: Path) -> None:
    """Where each text might be as long as all that it is taken from, the true lengths are counted."""
    texts = [LABELS[(i * i) % 7 % 4] if i % 9 else f"http://host/{i}" for i in range(4_000)]
    chosen: dict[str, object] = {"use_dictionary": True}
    if encoding != "dictionary":
        chosen = {"use_dictionary": False, "column_encoding": {"text.list.element": encoding}}
    rows = [texts[i : i + 3] for i in range(0, len(texts), 3)]
    pq.write_table(
        pa.table({"text": rows}), tmp_path / "a.parquet", compression=compression, data_page_version=version, **chosen
    )
    true = sum(len(text.encode()) for text in texts if text is not None)
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    with open(tmp_path / "a.parquet", "rb") as file, within(Limits(bytes=1)):
        ((chunk,),) = chunks(file, "a")
        found = list(pages(file, chunk.start, chunk.size, chunk.values))
        flat = 8 * len(texts) + sum(page.unpacked for page in found)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mmssl.modality.parquet_pages.MOST_RATIO", 0)
            patch.setattr("mmssl.modality.parquet_pages.is_bomb", lambda *_: True)
            patch.setattr("mmssl.modality.parquet_pages.bomb", lambda *_: None)
            patch.setattr("mmssl.modality.parquet_pages.check_table", lambda *_: None)
            counted = check_group(file, metadata.schema, {0: chunk}, "a") - flat
    if encoding == "dictionary":
        assert true <= counted <= true + 8 * 8_000  # runs are filled up to eight
    else:
        assert true - sum(page.unpacked for page in found) <= counted <= true
    assert [row["text"] for row in opened(tmp_path / "a.parquet")] == rows


# ---------------------------------------------------------------------------------------------------------- archives


def header(name: str, size: int, kind: bytes, form: int = tarfile.GNU_FORMAT, **pax: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, pax
    return info.tobuf(form)


def gnu_sparse(size: int) -> bytes:
    """A member of so many bytes, all of them a hole, as GNU tar writes it."""
    head = bytearray(header("0.txt", 0, tarfile.GNUTYPE_SPARSE))
    head[483:495] = b"%011o\0" % min(size, 8**11 - 1)
    head[148:156] = b"%06o\0 " % (256 + sum(head[:148]) + sum(head[156:512]))
    return bytes(head)


def pax_sparse(version: str) -> bytes:
    """The same in the headers of PAX: 0.1 has the map of what is there in a header, 1.0 in front of the data."""
    size = str(1 << 40)
    if version == "0.1":
        said = {"GNU.sparse.size": size, "GNU.sparse.map": f"{size},0", "GNU.sparse.name": "0.txt"}
        return header("0.txt", 0, tarfile.REGTYPE, tarfile.PAX_FORMAT, **said)
    said = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": size, "GNU.sparse.name": "0.txt"}
    return header("0.txt", 512, tarfile.REGTYPE, tarfile.PAX_FORMAT, **said) + b"1\n%d\n0\n" % (1 << 40)


SPARSE = {"gnu": gnu_sparse(8**11 - 1), "pax 0.1": pax_sparse("0.1"), "pax 1.0": pax_sparse("1.0")}


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("how", ["tar", "tar.gz"])
@pytest.mark.parametrize("streaming", [False, True])
def test_members_with_holes_are_refused(kind: str, how: str, streaming: bool, tmp_path: Path) -> None:
    data = SPARSE[kind]
    data += bytes(-len(data) % 512) + bytes(1024)
    path = tmp_path / f"train.{how}"
    path.write_bytes(gzip.compress(data) if how == "tar.gz" else data)
    with refused(path.name, "sparse"):
        opened(path, streaming)
    if not streaming:  # what is unpacked to the disk
        with refused("sparse"):
            refuse_bombs({path.name: path})


@pytest.mark.parametrize("size", [4_000, 1 << 40, -1])
@pytest.mark.parametrize("streaming", [False, True])
def test_members_that_are_not_as_large_as_they_say(size: int, streaming: bool, tmp_path: Path) -> None:
    head = header("0.txt", size, tarfile.REGTYPE) if size > 0 else bytearray(header("0.txt", 0, tarfile.REGTYPE))
    if size < 0:
        head[124:136] = b"\xff" * 12
        head[148:156] = b"%06o\0 " % (256 + sum(head[:148]) + sum(head[156:512]))
    (tmp_path / "train.tar").write_bytes(bytes(head) + b"a" * 512)
    with refused("train.tar"):
        opened(tmp_path / "train.tar", streaming)


@pytest.mark.parametrize("inner", ["txt.gz", "txt.xz", "txt.bz2", "json.zst", "npy", "npy.gz"])
@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_packed_in_an_archive_is_bounded(inner: str, streaming: bool, tmp_path: Path) -> None:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<i8", "fortran_order": False, "shape": (1 << 40,)})
    content = out.getvalue() if inner.startswith("npy") else b'"' + b"a" * (3 << 20) + b'"'
    packer = PACKERS.get(inner.rpartition(".")[2])
    with tarfile.open(tmp_path / "train.tar", "w") as packed:
        data = content if packer is None else packer(content)
        info = tarfile.TarInfo(f"0.{inner}")
        info.size = len(data)
        packed.addfile(info, io.BytesIO(data))
    with refused("train.tar", "data.limits.values" if inner.startswith("npy") else "data.limits.bytes"):
        opened(tmp_path / "train.tar", streaming)


@pytest.mark.parametrize("how", ["tar", "tar.gz", "tar.xz", "tar.bz2"])
@pytest.mark.parametrize("streaming", [False, True])
def test_archives_are_read_as_before(how: str, streaming: bool, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / f"train.{how}", f"w:{how[4:]}") as packed:
        for name, data in (
            ("0.txt", b"zero"),
            (".0.txt", b"hidden"),
            ("0.json.gz", gzip.compress(b"[1, 2]")),
            ("1.txt", b""),
            ("1.json.gz", gzip.compress(b"[]")),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        packed.addfile(folder)
    rows = opened(tmp_path / f"train.{how}", streaming)
    assert [(row["txt"], row["json.gz"]) for row in rows] == [("zero", [1, 2]), ("", [])]


def test_a_footer_that_ended_the_process_is_refused(tmp_path: Path) -> None:
    """Arrow's look at a column whose sizes are those of another kind ended the process."""
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    fair = (tmp_path / "a.parquet").read_bytes()
    for at in range(len(fair) - 200, len(fair)):
        for value in (0, 12, 0x19):
            (tmp_path / "b.parquet").write_bytes(fair[:at] + bytes([value]) + fair[at + 1 :])
            try:
                with explained("'b.parquet'"):
                    arrow_rows(str(tmp_path / "b.parquet"), "parquet")
                    rows = [t.num_rows for t in arrow_tables(str(tmp_path / "b.parquet"), "b.parquet", "parquet")]
            except (UserError, BadSample) as error:
                assert "\n" not in str(error)
            else:
                assert sum(rows) < 10
