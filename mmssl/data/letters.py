"""Bytes to letters: which encoding a text file is in, and its lines."""

from __future__ import annotations

import codecs
import functools
import io
import os
import re
from typing import BinaryIO, TextIO, cast

from mmssl.errors import UserError

from .explained import warn_once
from .packed import bounded

BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"))
BOMS_16 = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
CHUNK = 1 << 20
WESTERN = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿŠšŽžŒœŸ€£°º§²³µ½¼¾«»¿¡®©™•·‘’“”„‚–—…´\u00a0"
)
"""What stands in western European text beside ASCII."""


def open_binary(path: str) -> BinaryIO:
    """A file of this disk or behind a URL, as it is."""
    if "://" in path:
        from datasets.utils.file_utils import xopen

        return cast(BinaryIO, xopen(path, "rb"))
    return open(path, "rb")


def open_text(path: str, name: str, newline: str | None, encoding: str | None = None) -> TextIO:
    """As letters, unpacked as its `name` says (.gz, .bz2, .xz, .zst), in the encoding that is asked for or that
    `encoding_of` finds. Strict: no byte is passed over.
    """
    found = encoding or encoding_of(path, name)
    return io.TextIOWrapper(bounded(open_binary(path), name), encoding=found, errors="strict", newline=newline)


def encoding_of(path: str, name: str) -> str:
    """UTF-8, what a byte order mark or the zeros of UTF-16 say, or cp1252 where all bytes look like western text.

    The last two are said. Raises UserError for what is no text.
    """
    if "://" in path:
        return _found(path, name, 0, 0)
    stat = os.stat(path)
    return _found(path, name, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(4096)
def _found(path: str, name: str, changed: int, size: int) -> str:
    """As `encoding_of`; changed, size: of the file, so that another one under its name is looked at again."""
    with bounded(open_binary(path), name) as file:
        head = file.read(CHUNK)
        marked = next((found for mark, found in (*BOMS, *BOMS_16) if head.startswith(mark)), None)
        if marked is not None:
            return marked
        if b"\0" in head[:4] and len(head) >= 4:
            wide = _without_mark(head)
            if wide is None:
                raise UserError(
                    f"data.path: '{name}' is no text: save it as UTF-8, or give it the ending of what it is"
                )
            warn_once(f"'{name}' is read as {wide.upper()}, as its bytes look (data.encoding says another)")
            return wide
        decoder = codecs.getincrementaldecoder("utf-8")()
        chunk = head
        while chunk:
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                if not _is_western(chunk):
                    return "utf-8"  # whose decoder says where it fails
                warn_once(f"'{name}' is not UTF-8: it is read as cp1252 (western European; data.encoding says another)")
                return "cp1252"
            chunk = file.read(CHUNK) if "://" not in path else b""  # what lies elsewhere is not fetched twice
    return "utf-8"


def _without_mark(head: bytes) -> str | None:
    """UTF-16 without a mark: of ASCII letters every second byte is zero."""
    even, odd = head[0::2][:2000], head[1::2][:2000]
    for zeros, others, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros.count(0) > 0.6 * len(zeros) and others.count(0) == 0:
            try:
                text = head[: len(head) // 2 * 2].decode(encoding)
            except UnicodeDecodeError:
                return None
            return encoding if all(letter.isprintable() or letter.isspace() for letter in text[:2000]) else None
    return None


def _is_western(chunk: bytes) -> bool:
    """Whether the bytes above 127 stand alone among ASCII letters, as accents do, and mean nothing but such signs."""
    try:
        text = chunk.decode("cp1252")
    except UnicodeDecodeError:
        return False
    high = [letter for letter in text if ord(letter) > 127]
    runs = sum(len(run) for run in re.findall(rb"[\x80-\xff]{3,}", chunk))
    return all(letter in WESTERN for letter in set(high)) and runs < 0.2 * len(high)


def not_in_encoding(name: str, error: UnicodeDecodeError) -> UserError:
    """What to do about a file in another encoding."""
    byte = f"the byte 0x{error.object[error.start]:02x}" if error.start < len(error.object) else "its end"
    return UserError(
        f"data.path: '{name}' is not {error.encoding.upper()} ({byte} fits no letter): say its encoding with "
        f"data.encoding=NAME (cp1252 of Windows, cp1251, shift-jis, gb18030 ...), or convert it, for example with "
        f"`iconv -f latin1 -t utf-8 OLD > NEW`"
    )
