"""Data on the Hub that are streamed: what unpacks to too much ends in one line, what does not is read as it is here."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys import forking
from toys.data_hub import DataHub

PROCESS = """
import json, sys
from mmssl.data.sources import open_source
from mmssl.data.explained import stream_rows
from mmssl.limits import Limits, apply
apply(Limits(bytes=1 << 20, line=1 << 26))
for name in sys.argv[1:]:
    try:
        print(json.dumps([name, list(stream_rows(open_source(name, streaming=True)))]))
    except Exception as error:
        print(json.dumps([name, f"{type(error).__name__}: {error}"]))
"""
"""In a process of its own: the client reads HF_ENDPOINT when it is imported."""
BIG = "a" * (3 << 20)
DECLARED = "dataset_info:\n  features:\n  - name: text\n    dtype: string\n"


def card(file: str, declared: bool = True) -> bytes:
    return f"---\nconfigs:\n- config_name: default\n  data_files: {file}\n{DECLARED if declared else ''}---\n".encode()


def zipped(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return out.getvalue()


def tarred(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def parquet(values: pa.Array | list[str]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": values}), out, dictionary_pagesize_limit=1 << 30, store_schema=False)
    return out.getvalue()


def arrow(values: pa.Array | list[str]) -> bytes:
    out, batch = io.BytesIO(), pa.record_batch({"text": values})
    with pa.ipc.new_stream(out, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_batch(batch)
    return out.getvalue()


def line(text: str) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


def repositories(text: str, repeated: pa.Array | list[str]) -> dict[str, dict[str, bytes]]:
    """Data sets of a row `text`, or of the rows `repeated`, packed in each way."""
    files = {
        "a.csv.gz": gzip.compress(b"text\n" + text.encode() + b"\n"),
        "a.jsonl.xz": lzma.compress(line(text)),
        "a.txt.bz2": bz2.compress(text.encode()),
        "a.zip": zipped("a.jsonl", line(text)),
        "a.parquet": parquet(repeated),
        "a.arrow": arrow(repeated),
    }
    found = {f"card-{name}": {name: data, "README.md": card(name)} for name, data in files.items()}
    found |= {f"bare-{name}": {name: data, "README.md": card(name, False)} for name, data in files.items()}
    found["bare-a.tar.gz"] = {"a.tar": tarred("0.txt.gz", gzip.compress(text.encode()))}
    return found


@pytest.mark.slow
def test_packed_files_of_the_hub_are_read_or_refused(tmp_path: Path) -> None:
    bombs = repositories(
        BIG, pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * 999]))
    )
    bombs["sparse"] = {"a.tar": tarred("0.txt", b"", tarfile.GNUTYPE_SPARSE)}
    repos = {f"me/fair-{name}": files for name, files in repositories("hello", ["hello"]).items()}
    repos |= {f"me/bomb-{name}": files for name, files in bombs.items()}
    with DataHub(repos) as hub:
        keep = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        keep |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
        keep |= {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = forking.run(["-c", PROCESS, *repos], level="torch", env=keep)
    assert done.returncode == 0, done.stderr
    for name, found in map(json.loads, done.stdout.splitlines()):
        if "/fair-" in name:
            assert isinstance(found, list), (name, found)
            [next(iter(row.values())) for row in found] == ["hello"] or found[0].get("txt.gz") == "hello", name
        else:
            assert isinstance(found, str) and found.startswith("UserError: data.path: "), (name, str(found)[:300])
            assert "sparse" in found if "sparse" in name else "data.limits.bytes" in found, (name, found[:300])
            assert "\n" not in found
    assert len(done.stdout.splitlines()) == len(repos)


def test_a_row_group_is_fetched_once(tmp_path: Path) -> None:
    letters = np.random.default_rng(0).integers(97, 123, (400, 2_000), dtype=np.uint8)
    content = parquet([row.tobytes().decode() for row in letters])
    with DataHub({"me/a": {"a.parquet": content}}) as hub:
        keep = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        keep |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
        keep |= {"PYTHONPATH": os.pathsep.join(sys.path)}
        code = "from mmssl.data.arrow_files import arrow_tables\n"
        code += "tables = arrow_tables('hf://datasets/me/a/a.parquet', 'a', 'parquet')\nprint(sum(map(len, tables)))"
        done = forking.run(["-c", code], level="torch", env=keep)
        assert done.stdout.split() == ["400"], done.stderr
        assert hub.sent < 2.2 * len(content)
