"""What the header of a sound or a film says of its length, against what is there.

Libraries play what is left of a file that was cut off, as a shorter one. Where a header gives the bytes that follow it,
such a file is told from a whole one. Writers into pipes put down lengths that no file has: these say nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Literal

from mmssl.errors import BadSample

STREAMED = 0x7FFF0000
"""Lengths of 4 bytes from here on are what writers put down that cannot seek back: sox, ffmpeg, arecord."""
BY_SOX = 0x7EFF0000
"""The same of AIFF: sox puts down 0x7F000000, in whole frames."""
ENDLESS = 1 << 62
"""The same of 8 bytes; -1 is one of them."""
NIST = re.compile(rb"(sample_count|channel_count|sample_n_bytes|sample_coding) +-\w+ +(\S+)")


@dataclass(frozen=True)
class Announced:
    """The samples of a file.

    Attributes:
        start: the byte at which they begin.
        bytes: how many there are, by the header.
    """

    start: int
    bytes: int


@dataclass(frozen=True)
class Chunks:
    """A file of chunks, each with a name and a length.

    Attributes:
        first: the byte of the first one.
        name: bytes of a name.
        length: bytes of a length.
        order: of its bytes.
        align: chunks begin at multiples of it.
        whole: the length counts name and length, too.
        data: how the names of chunks of samples begin.
    """

    first: int
    name: int
    length: int
    order: Literal["little", "big"]
    align: int
    whole: bool
    data: tuple[bytes, ...]

    def find(self, file: BinaryIO, size: int) -> Announced | None:
        """The chunk of samples; None where there is none."""
        at, head = self.first, self.name + self.length
        while at + head <= size:
            file.seek(at)
            chunk = file.read(head)
            length = int.from_bytes(chunk[self.name :], self.order)
            length -= head if self.whole else 0
            if chunk.startswith(self.data):
                return Announced(at + head, length)
            if length < 0:
                return None
            at += head + length + -length % self.align
        return None


RIFF = Chunks(12, 4, 4, "little", 2, False, (b"data",))
RIFX = Chunks(12, 4, 4, "big", 2, False, (b"data",))
IFF = Chunks(12, 4, 4, "big", 2, False, (b"SSND", b"BODY"))
W64 = Chunks(40, 16, 8, "little", 8, True, (b"data",))
CAF = Chunks(8, 4, 8, "big", 1, False, (b"data",))


def _rf64(file: BinaryIO, size: int) -> Announced | None:
    """RF64 and BW64: the chunk `ds64` says in 8 bytes what the others have no room for."""
    file.seek(12)
    head = file.read(24)
    found = RIFF.find(file, size)
    if found is None or head[:4] != b"ds64":
        return found
    return Announced(found.start, int.from_bytes(head[16:24], "little")) if found.bytes == 0xFFFFFFFF else found


def _au(file: BinaryIO, _: int) -> Announced | None:
    file.seek(0)
    head = file.read(12)
    order: Literal["little", "big"] = "big" if head.startswith(b".snd") else "little"
    start, length = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
    return Announced(start, length)


def _avr(file: BinaryIO, _: int) -> Announced | None:
    file.seek(0)
    head = file.read(128)
    channels = 2 if int.from_bytes(head[12:14], "big") else 1
    return Announced(128, int.from_bytes(head[26:30], "big") * channels * (int.from_bytes(head[14:16], "big") // 8))


def _nist(file: BinaryIO, _: int) -> Announced | None:
    """SPHERE, of which most .wav of speech corpora are; compressed samples have no length in its header."""
    file.seek(0)
    head = file.read(1024)
    said = {name.decode(): value for name, value in NIST.findall(head)}
    start = head[8:16].strip()
    if not start.isdigit() or said.get("sample_coding", b"pcm") not in (b"pcm", b"ulaw", b"mu-law", b"alaw"):
        return None
    try:
        counts = [int(said[name]) for name in ("sample_count", "channel_count", "sample_n_bytes")]
    except (KeyError, ValueError):
        return None
    return Announced(int(start), counts[0] * counts[1] * counts[2])


def _voc(file: BinaryIO, size: int) -> Announced | None:
    """Creative Voice: blocks, those of the types 1, 2 and 9 are samples. The first one that is not whole, or None."""
    file.seek(20)
    at = int.from_bytes(file.read(2), "little")
    while at + 4 <= size:
        file.seek(at)
        block = file.read(4)
        length = int.from_bytes(block[1:], "little")
        if block[0] in (1, 2, 9) and at + 4 + length > size:
            return Announced(at + 4, length)
        if not block[0]:
            break
        at += 4 + length
    return None


def _matroska(file: BinaryIO, _: int) -> Announced | None:
    """Matroska and WebM: after a header comes one segment, of all there is."""
    file.seek(0)
    head = file.read(4096)
    length = _ebml(head, 4)
    if length is None:
        return None
    start = length[0] + length[1]
    if head[start : start + 4] != b"\x18\x53\x80\x67":
        return None
    segment = _ebml(head, start + 4)
    return None if segment is None else Announced(segment[0], segment[1])


def _ebml(data: bytes, at: int) -> tuple[int, int] | None:
    """(byte behind it, number) of a number of 1 to 8 bytes; None where it is cut off, or says that nobody knows it."""
    if at >= len(data) or not data[at]:
        return None
    width = 9 - data[at].bit_length()
    number = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return None if at + width > len(data) or number == (1 << 7 * width) - 1 else (at + width, number)


_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], Announced | None], int], ...] = (
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"WAVE", RIFF.find, STREAMED),
    (lambda head: head[:4] == b"RIFX" and head[8:12] == b"WAVE", RIFX.find, STREAMED),
    (lambda head: head[:4] in (b"RF64", b"BW64"), _rf64, ENDLESS),
    (lambda head: head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC", b"8SVX", b"16SV"), IFF.find, BY_SOX),
    (lambda head: head[:4] == b"riff" and head[24:28] == b"wave", W64.find, ENDLESS),
    (lambda head: head[:4] == b"caff", CAF.find, ENDLESS),
    (lambda head: head[:4] in (b".snd", b"dns."), _au, STREAMED),
    (lambda head: head[:8] == b"NIST_1A\n", _nist, ENDLESS),
    (lambda head: head[:4] == b"2BIT", _avr, STREAMED),
    (lambda head: head.startswith(b"Creative Voice File\x1a"), _voc, STREAMED),
    (lambda head: head[:4] == b"\x1aE\xdf\xa3", _matroska, ENDLESS),
)


def announced(file: BinaryIO) -> Announced | None:
    """Where the samples of a file begin and how many bytes they have by its header; 0 or more than any file has where
    its writer did not know. None of formats that do not say it, and where nothing like samples is found.

    The file is at its beginning afterwards.
    """
    file.seek(0)
    head = file.read(64)
    size = file.seek(0, os.SEEK_END)
    try:
        for known, find, endless in _FORMATS:
            if known(head):
                found = find(file, size)
                return None if found is None or found.bytes >= endless else found
        return None
    finally:
        file.seek(0)


def cut_off(file: BinaryIO) -> str | None:
    """What is missing where a file has fewer bytes than its header says; the file is at its beginning afterwards."""
    found = announced(file)
    if found is None:
        return None
    left = max(file.seek(0, os.SEEK_END) - found.start, 0)
    file.seek(0)
    return f"truncated: {left} of {found.bytes} bytes are there" if found.bytes > left else None


def refuse_cut(file: BinaryIO) -> None:
    """BadSample where a file has fewer bytes than its header says; the file is at its beginning afterwards."""
    said = cut_off(file)
    if said:
        raise BadSample(said)
