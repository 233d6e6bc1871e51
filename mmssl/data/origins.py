"""Where data come from, and so which places and addresses their rows may name files at.

A row is the word of whoever wrote the data. Rows of data on this machine may name files on this machine; rows of data
from elsewhere may name files where the data come from, and none on this machine. What else a row names is not fetched,
unless the user lists the address (`data.fetch`). The origins are kept with the data, as the URLs that they came from.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mmssl.boundary import reading_sample, regular_file
from mmssl.errors import BadSample, UserError
from mmssl.limits import check, current
from mmssl.options import plainyaml

if TYPE_CHECKING:
    from .sources import Source

ARCHIVES = ("zip", "tar", "gzip", "bz2", "xz", "lz4", "zstd")
"""Schemes of what lies in a file, in front of where that file is: `zip://a.png::hf://datasets/me/x/pictures.zip`."""
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
LISTED = "fetch://"
"""Stands before an address that the user lists: it adds to where the data come from, and does not change that."""


def note_origins(source: Source, url: str | None, fetch: Sequence[str] = ()) -> None:
    """Keep with the data where they come from (None: from here), and what the user lets their rows fetch from."""
    for address in fetch:
        if origin_of(address) != address.rstrip("/"):
            raise UserError(f"data.fetch: found '{address}', expected an address without a path: https://HOST")
    urls = [url] if url is not None else []
    urls += [LISTED + address.rstrip("/") for address in fetch]
    if urls:
        known = source.info.download_checksums or {}
        source.info.download_checksums = {**known, **{url: {"num_bytes": 0, "checksum": None} for url in urls}}


def elsewhere(path: object) -> str | None:
    """The URL that what a user names as data comes from; None for what lies here, and for a `datasets` object."""
    if not isinstance(path, str) or path.startswith("file://") or Path(path).expanduser().exists():
        return None
    if URL.match(path):
        return path
    return None if glob.has_magic(path) or ":" in path else f"hf://datasets/{path}"


def folder_of(path: object) -> Path | None:
    """The folder on this machine that what a user names as data lies in: itself, that of a file, that in front of a
    glob's stars; None for what lies elsewhere, and for a `datasets` object."""
    plain = bare(path)
    place = Path(plain).expanduser()
    if glob.has_magic(plain) and not place.exists():
        place = next(above for above in place.parents if not glob.has_magic(str(above)))
    if not plain or plain.startswith("//") or not place.exists():
        return None
    return place if place.is_dir() else place.parent


def bare(path: object) -> str:
    """The file or folder of what a user names as data: `readings.csv` of `series:readings.csv?id=machine`."""
    plain = str(path).removeprefix("file://") if isinstance(path, (str, Path)) else ""
    behind = plain.partition(":")[2].partition("?")[0]
    return behind if behind and not behind.startswith("//") and Path(behind).expanduser().exists() else plain


def origins(source: Source) -> frozenset[str]:
    """The addresses that the rows of some data may name files at."""
    return frozenset(origin_of(url.removeprefix(LISTED)) for url in _urls(source))


def places(source: Source) -> tuple[Path, ...] | None:
    """The folders that rows may name files in: of data from elsewhere where they are kept here; None: any."""
    if not any(not url.startswith(LISTED) for url in _urls(source)):
        return None
    import datasets.config
    from huggingface_hub import constants

    return tuple(Path(p) for p in (datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE, constants.HF_HOME))


def _urls(source: Source) -> list[str]:
    info = getattr(source, "info", None)
    return [url for url in getattr(info, "download_checksums", None) or {} if "://" in str(url)]


def origin_of(url: str) -> str:
    """`scheme://host` of an address, `hf://datasets/owner/name` of a file on the Hub."""
    parts = urlsplit(url)
    if parts.scheme == "hf":
        names = f"{parts.netloc}{parts.path}".split("@")[0].split("/")
        return "hf://" + "/".join(names[:3] if names[0] in ("datasets", "spaces") else names[:2])
    return f"{parts.scheme}://{parts.netloc}"


def fetched(raw: object, allowed: frozenset[str]) -> object:
    """The bytes of a file that is not on this disk as such (in an archive, on the Hub); anything else as it is.

    Args:
        raw: a value of a row.
        allowed: addresses that the row may name.

    Raises:
        BadSample: the row names another address.
    """
    if not isinstance(raw, dict) or raw.get("bytes") is not None or not isinstance(raw.get("path"), str):
        return raw
    path = raw["path"]
    if "://" not in path:
        return raw
    *inner, outer = path.split("::")
    if any(part.partition("://")[0] not in ARCHIVES for part in inner):
        raise BadSample(f"'{path:.200}' is no file in an archive that rows may name")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", outer)
    if scheme is None or scheme[1] == "file":
        local = regular_file(unquote(urlsplit(outer).path) if scheme else outer)
        if not inner:
            return {**raw, "path": str(local)}
        outer = str(local)
    elif scheme[1] in ARCHIVES:
        raise BadSample(f"'{path:.200}' does not say which archive the file lies in")
    elif origin_of(outer) not in allowed:
        raise BadSample(f"'{path:.200}' is an address that the data do not come from: not fetched (data.fetch)")
    from datasets.utils.file_utils import xopen

    with xopen("::".join([*inner, outer]), "rb") as file:
        content = file.read(current().bytes + 1)
    check("bytes", len(content), "bytes")
    return {**raw, "bytes": content}


def refuse_elsewhere(folder: Path, what: str) -> None:
    """UserError where the README.md of a data folder, which says what its files are, names some outside of the folder:
    `datasets` would open them, and fetch addresses.
    """
    head = re.match(
        r"---\s*\n(.*?)\n---", (folder / "README.md").read_text(encoding="utf-8", errors="replace"), re.DOTALL
    )
    configs = plainyaml.parse(head[1], f"{folder / 'README.md'}") if head else {}
    for name in _strings(configs.get("configs") if isinstance(configs, dict) else None):
        if "://" in name or name.startswith(("/", "~")) or ".." in name.split("/"):
            raise UserError(f"data.path: the README.md of {what} names '{name:.100}', expected files in the folder")


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def is_null(raw: object) -> bool:
    """Null: no value in any of the modality's columns."""
    if isinstance(raw, dict):
        return not raw or all(value is None for value in raw.values())
    return raw is None


def fetched_if_possible(raw: object, allowed: frozenset[str]) -> object:
    """As `fetched`, null structs as None. What cannot be fetched stays as it is, for `read` to call broken."""
    try:
        with reading_sample():
            return None if is_null(raw) else fetched(raw, allowed)
    except BadSample:
        return raw
