"""Archives and packed files that `datasets` goes through: their parts, none of which unpacks without end."""

from __future__ import annotations

import contextlib
import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from datasets.utils.file_utils import ArchiveIterable, _get_extraction_protocol, xopen

from mmssl.boundary import reading_of
from mmssl.errors import UserError
from mmssl.limits import bomb, check_table, current
from mmssl.modality.raw import check_npy

from .arrow_files import check_parquet
from .packed import ENDINGS, FURTHEST, HEAD, PIECE, Counted, Unpacked, how_packed, unpacked


class Members(ArchiveIterable):
    """(name, file) of what is in an archive, as `datasets`' own, but of known sizes."""

    @classmethod
    def _iter_from_urlpath(cls, urlpath: str, download_config: object = None) -> Iterator[tuple[str, BinaryIO]]:
        if _get_extraction_protocol(urlpath, download_config=download_config) == "zip":
            with xopen(urlpath, "rb", download_config=download_config) as file:
                check_zip(file, urlpath)
                yield from cls._iter_zip(file)
            return
        # without blocks: what follows is fetched as it is read
        with xopen(urlpath, "rb", download_config=download_config, block_size=0) as file:
            yield from _contents(file, urlpath)


def check_zip(file: BinaryIO, name: str) -> None:
    """UserError where a zip archive unpacks to too much, or one of its files does."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    with reading_of(f"data.path: '{name}' cannot be unpacked"), zipfile.ZipFile(file) as archive:
        bomb(name, size, sum(member.file_size for member in archive.infolist()))


def check_tar(path: str | Path, name: str) -> None:
    """UserError where a file of this disk is a tar archive with holes, or one that unpacks to too much."""
    with open(path, "rb") as file:
        how = how_packed(file.read(HEAD))
    with open(path, "rb") as file:
        packed = how is not None and how in ENDINGS.values()
        head = (unpacked(file, str(how)) if packed else file).read(tarfile.BLOCKSIZE)
    with contextlib.suppress(tarfile.HeaderError):
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
        with open(path, "rb") as file:
            for _ in _members(file, name):
                pass


def _members(file: BinaryIO, name: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of a tar archive, packed or not, in order; UserError where they are sparse or too many bytes."""
    counted = Counted(file)
    opened = io.BufferedReader(counted)
    how = how_packed(opened.peek(HEAD)[:HEAD])
    packed = how is not None and how in ENDINGS.values()
    if packed:
        opened = io.BufferedReader(Unpacked(unpacked(opened, str(how)), name, counted))
    total = 0
    with tarfile.open(fileobj=opened, mode="r|") as archive:
        stream: Any = archive
        for member in stream:
            if member.issparse():
                raise UserError(
                    f"data.path: '{name}': '{member.name:.100}' is a sparse file, which says that it has "
                    f"{member.size:,} bytes: pack it without holes (tar without --sparse)"
                )
            total += member.size
            if member.size < 0:
                raise UserError(f"data.path: '{name}': '{member.name:.100}' says that it has {member.size:,} bytes")
            if packed:
                bomb(name, counted.count, total)
            yield stream, member
            _pass_over(stream, member, name)
            stream.members = []


def _pass_over(stream: Any, member: tarfile.TarInfo, name: str) -> None:
    """Go to the end of a member. `tarfile` itself goes on for as long as the member says where the file ends before."""
    if not member.isreg() and member.type in tarfile.SUPPORTED_TYPES:
        return  # nothing of it is there, whatever it says
    left = member.offset_data + member.size - stream.fileobj.tell()
    while left > 0:
        piece = stream.fileobj.read(min(left, PIECE))
        left -= len(piece)
        if not piece:
            raise UserError(f"data.path: '{name}' ends within '{member.name:.100}'")


def _contents(file: BinaryIO, name: str) -> Iterator[tuple[str, BinaryIO]]:
    """(name, content) of the regular files of a tar archive but for hidden ones."""
    for stream, member in _members(file, name):
        if not member.isreg() or PurePosixPath(member.name).name.startswith((".", "__")):
            continue
        place = f"{name}: {member.name:.100}"
        check_table("bytes", member.size, "bytes", place)
        content = stream.extractfile(member)
        assert content is not None  # of a regular file
        data = content.read()
        _check_content(data, member.name, place)
        yield member.name, io.BytesIO(data)


def _check_content(data: bytes, name: str, place: str) -> None:
    """UserError where a file that `datasets` unpacks or decodes gets too large."""
    path = PurePosixPath(name.lower())
    how = ENDINGS.get(path.suffix)
    inner: Any = io.BytesIO(data)
    with reading_of(f"data.path: '{place}' cannot be read"):
        if how is not None:
            size, packed = 0, unpacked(io.BytesIO(data), how)
            while piece := packed.read(PIECE):
                size += len(piece)
                bomb(place, len(data), size)
                check_table("bytes", size, "bytes", place)
            inner, path = unpacked(io.BytesIO(data), how), path.with_suffix("")
        if path.suffix == ".npy":
            check_npy(inner, place)


def refuse_bombs(files: Mapping[str, str | Path]) -> None:
    """UserError where a file of this disk gets too large when `datasets` unpacks or decodes it.

    files: name, for the message -> where it lies. What cannot be looked through (7z, rar) is refused.
    """
    for name, file in files.items():
        with reading_of(f"data.path: '{name}' cannot be unpacked"):
            with open(file, "rb") as opened:
                how = how_packed(opened.read(HEAD))
            packed = Path(file).stat().st_size
            if how in ("7z", "rar"):
                raise UserError(
                    f"data.path: '{name}' is a {how} archive: unpack it yourself, or pack it as .tar or .zip"
                )
            if how == "parquet":
                check_parquet(file, name)
                continue
            if how == "zip":
                with open(file, "rb") as opened:
                    check_zip(opened, str(name))
                continue
            if how is not None and packed * FURTHEST[how] > current().bytes:
                with open(file, "rb") as opened:
                    size, inner = 0, unpacked(Counted(opened), how)
                    while piece := inner.read(PIECE):
                        size += len(piece)
                        bomb(name, packed, size)
            check_tar(file, str(name))
