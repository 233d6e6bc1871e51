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

from mmssl.data.packed import refuse_bombs
from mmssl.data.sources import open_source
from mmssl.limits import Limits, within

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
