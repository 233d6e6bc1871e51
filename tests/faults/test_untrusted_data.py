"""Rows of somebody else's data, outputs that are no files, bombs, and secrets: see `test_untrusted.py`."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import socket
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toys import runs
from toys.refusals import refused
from toys.strangers import Place, commands

from mmssl.cli import main
from mmssl.data.loading import evaluation_batches
from mmssl.data.sources import open_source
from mmssl.errors import UserError
from mmssl.files import replaceable
from mmssl.modality import load_modality
from mmssl.models.privacy import public, without_secrets
from mmssl.options import plainyaml
from mmssl.recipe.loading import load_recipe

# ------------------------------------------------------------------------------------------------------------- rows


def picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(out, "PNG")
    return out.getvalue()


def read_rows(rows: list[Any], fetch: tuple[str, ...] = (), remote: str | None = None) -> list[str]:
    """Why each row's picture could not be read; empty where it could."""
    import datasets

    from mmssl.data.origins import note_origins

    feature = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    data = datasets.Dataset.from_dict({"image": rows}, features=feature)
    source = open_source(data, fetch=fetch)
    if remote is not None:
        note_origins(source, remote)
    package = load_modality("image")
    preprocessor = package.Preprocessor(package.Config(size=8, patch=4, channels=1, mean=[0.5], std=[0.5]))
    preprocessor.state = {"channels": 1, "mean": [0.5], "std": [0.5]}
    (loaded,) = evaluation_batches(source, {"image": preprocessor}, {}, batch_size=len(rows))
    bad = {fault.index: fault.reason for fault in loaded.bad}
    return [bad.get(index, "") for index in range(len(rows))]


ADDRESSES = [
    "http://127.0.0.1:9/x.png?token=abcdefgh",
    "zip://x.png::http://127.0.0.1:9/x.zip",
    "https://jo:word@127.0.0.1:9/x.png",
    "hf://datasets/me/private/x.png",
    "s3://bucket/x.png",
    "ftp://127.0.0.1/x.png",
    "filecache::http://127.0.0.1:9/x.png",
    "simplecache::http://127.0.0.1:9/x.png",
    "zip://x.png",
    "github://a:b@/x",
    "reference://x::file:///etc/passwd",
    "python://x",
]


def test_addresses_in_rows_are_not_fetched(place: Place) -> None:
    said = read_rows([{"bytes": None, "path": path} for path in ADDRESSES])
    assert all(said), said
    assert not any("abcdefgh" in text or "jo:word" in text for text in said)


def test_data_from_elsewhere_name_files_there_and_none_here(place: Place) -> None:
    here = place.root / "private.png"
    here.write_bytes(picture())
    rows = [{"bytes": None, "path": str(here)}, {"bytes": None, "path": here.as_uri()}]
    assert read_rows(rows) == ["", ""]
    said = read_rows(rows, remote="hf://datasets/me/pictures")
    assert all("a place on this machine" in text for text in said)
    said = read_rows([{"bytes": None, "path": "hf://datasets/me/others/x.png"}], remote="hf://datasets/me/pictures")
    assert "an address that the data do not come from" in said[0]
    with pytest.raises(UserError, match=r"data.fetch: found 'https://host/x'"):
        read_rows(rows, fetch=("https://host/x",))


def test_a_listed_address_is_fetched(tmp_path: Path) -> None:
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            pass

    (tmp_path / "x.png").write_bytes(picture())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        rows = [{"bytes": None, "path": f"{address}/x.png"}]
        assert read_rows(rows, fetch=(address,)) == [""]
        assert "not fetched (data.fetch)" in read_rows(rows)[0]
    finally:
        server.shutdown()
        server.server_close()


def test_only_regular_files_are_opened(place: Place) -> None:
    pipe, sock = place.root / "pipe.png", socket.socket(socket.AF_UNIX)
    os.mkfifo(pipe)
    sock.bind(str(place.root / "s"))
    paths = ["/dev/zero", "/dev/stdin", str(pipe), str(place.root / "s"), str(place.root), "x\0y", "a" * 5000]
    said = read_rows([{"bytes": None, "path": path} for path in paths])
    sock.close()
    assert all(said), said
    for text, word in zip(said, ["a device", "a ", "a pipe", "a socket", "a folder"], strict=False):
        assert word in text


def test_the_card_of_a_data_folder_names_files_in_it(place: Place) -> None:
    folder = place.root / "data"
    folder.mkdir()
    (folder / "a.csv").write_text("image\n1\n")
    for file in ("http://127.0.0.1:9/x.csv", "../private.csv", "/etc/passwd", "hf://datasets/me/x/a.csv"):
        config = [{"config_name": "default", "data_files": [{"split": "train", "path": file}]}]
        (folder / "README.md").write_text(f"---\n{plainyaml.dump({'configs': config})}---\n")
        with refused("README.md", "expected files in the folder"):
            open_source(str(folder))


def test_data_on_disk_name_files_in_their_folder(place: Place) -> None:
    import datasets

    folder = place.root / "saved"
    datasets.Dataset.from_dict({"x": [1]}).save_to_disk(str(folder))
    assert len(open_source(str(folder))) == 1
    state = json.loads((folder / "state.json").read_text())
    for name in ("../private.arrow", "/etc/passwd", 5):
        state["_data_files"] = [{"filename": name}]
        (folder / "state.json").write_text(json.dumps(state))
        with refused("_data_files"):
            open_source(str(folder))


@pytest.mark.parametrize("kind", ["csv.gz", "jsonl.xz", "npz"])
def test_what_unpacks_to_too_much_is_refused(place: Place, kind: str) -> None:
    from mmssl import limits

    content, file = b"a,b\n" + b"1,2\n" * 300_000, place.root / f"x.{kind}"
    if kind == "npz":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("edge_index.npy", npy_header((2, 1 << 40)) + bytes(10**6))
    else:
        file.write_bytes((gzip if kind.endswith("gz") else lzma).compress(content))
    with limits.within(limits.Limits(bytes=100_000)), pytest.raises(UserError, match="data.limits"):
        open_source(f"graph:{file}" if kind == "npz" else str(file))


def npy_header(shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<i8", "fortran_order": False, "shape": shape})
    return out.getvalue()


def test_a_large_picture_is_refused_before_it_is_decoded() -> None:
    from mmssl import limits
    from mmssl.errors import BadSample

    package = load_modality("image")
    preprocessor = package.Preprocessor(package.Config(size=8, patch=4, channels=1, mean=[0.5], std=[0.5]))
    with (
        limits.within(limits.Limits(pixels=63)),
        pytest.raises(BadSample, match="64 pixels .8 x 8.*data.limits.pixels"),
    ):
        preprocessor.read(picture())
    with pytest.raises(BadSample, match=r"numbers in .npy, expected at most .*data.limits.values"):
        preprocessor.read(npy_header((10**6, 10**6)))
    assert preprocessor.read(picture()) is not None


def test_transparency_in_strips_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmssl.modality.pixels import decode as module

    pixels = np.random.default_rng(0).integers(0, 256, (37, 23, 4), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    whole = module.decode(out.getvalue(), (10, 20, 30))
    monkeypatch.setattr(module, "STRIP", 100)
    assert np.array_equal(module.decode(out.getvalue(), (10, 20, 30)), whole)


# ------------------------------------------------------------------------------------------------- outputs and bombs


def test_only_a_regular_file_or_nothing_is_replaced(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    words = commands(place.model, place.root)["embed"][:-1]
    there = place.root / "there.parquet"
    there.write_text("mine")
    link, pipe = place.root / "link.parquet", place.root / "pipe.parquet"
    link.symlink_to(there)
    os.mkfifo(pipe)
    for output in ("/dev/null", str(link), str(pipe)):
        assert main([*words, output]) == 2
        assert "expected a regular file to replace" in capsys.readouterr().err
    assert Path("/dev/null").is_char_device() and there.read_text() == "mine" and link.is_symlink()
    assert main([*words, str(there)]) == 0
    assert replaceable(there).stat().st_size > 100


def test_a_page_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 11)]
    with refused("aliases"):
        plainyaml.parse("\n".join(lines), "bomb.yaml")
    with refused("levels"):
        plainyaml.parse("[" * 20_000, "deep.yaml")
    with refused("levels"):
        plainyaml.parse("&a [*a]", "self.yaml")
    with refused("characters"):
        plainyaml.parse("x" * (1 << 20), "long.yaml")
    assert plainyaml.parse("a: &a [1]\nb: *a", "x") == {"a": [1], "b": [1]}


def test_secrets_and_places_are_taken_out_of_what_is_written() -> None:
    said = "from https://user:password@host.example:8443/data?token=abcd1234#frag, hf_" + "a" * 34
    assert without_secrets(said) == "from https://host.example:8443/data, (taken out)"
    assert public({"source": said, "path": "/home/" + "jo/data"}) == {
        "source": "from https://host.example:8443/data, (taken out)",
        "path": "data",
    }
    recipe = load_recipe(runs.recipe(data={"source": said}))
    from mmssl.hub.card import Facts, card_text

    text = card_text(recipe, None, Facts())
    assert "password" not in text and "abcd1234" not in text and "host.example:8443/data" in text


def test_words_of_others_move_and_forge_no_lines_of_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "x\x1b[2J\nerror: all is well\u202e"
    assert runs.cli(tmp_path, content={**runs.recipe(), "name": name}) == 2
    said = capsys.readouterr().err
    assert len(runs.errors(said)) == 1 and "\x1b" not in said and "\u202e" not in said
    assert r"x\x1b[2J\nerror: all is well\u202e" in said
    words = ["show", str(tmp_path / "tiny.yaml"), "data.path=a\x1b[2Jb"]
    assert main(words) == 2
    assert "\x1b" not in capsys.readouterr().err
    (reason,) = read_rows([{"bytes": None, "path": "/no/\x1b]0;mine\x07 \u202e.png"}])
    assert r"\x1b]0;mine\x07" in reason and "\x1b" not in reason and "\u202e" not in reason
