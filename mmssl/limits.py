"""How large one sample may be: looked at before it is decoded, so that a few bytes cannot fill the memory.

A picture of 300 kB may say that it has a hundred million pixels, an archive that it holds terabytes. What is larger
than these limits is a broken sample, and the reason names the option that lets it through (`data.limits`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from .errors import BadSample, UserError
from .options import option, strict


@strict
@dataclass(kw_only=True)
class Limits:
    """The largest sample that is decoded; what is larger counts as broken."""

    bytes: int = option(1 << 31, min=1, max=1 << 50, help="of a file that is read whole, packed or unpacked")
    pixels: int = option(89_478_485, min=1, max=1 << 40, help="of a picture, and of a frame of a video")
    values: int = option(1 << 27, min=1, max=1 << 45, help="numbers decoded at once: an array, a sound, a recording")
    seconds: float = option(1e6, above=0, max=1e12, help="of a sound, a video or a recording as its file says")
    frames: int = option(10_000_000, min=1, max=1 << 40, help="of a video as its file says")
    nodes: int = option(1 << 25, min=1, max=1 << 40, help="of a file of graphs")
    edges: int = option(1 << 27, min=1, max=1 << 40, help="of a file of graphs")
    rows: int = option(1 << 30, min=1, max=1 << 45, help="of a table in a file")
    columns: int = option(1 << 16, min=1, max=1 << 24, help="of a table in a file")
    line: int = option(1 << 26, min=1, max=1 << 31, help="bytes of a line, characters of a field, of a table of text")


DEFAULT = Limits()
MOST_RATIO = 100
"""Tables of text get 5 to 20 times larger when they are unpacked, bombs a thousand times."""
_CURRENT: ContextVar[Limits | None] = ContextVar("limits", default=None)


def current() -> Limits:
    """The limits that hold."""
    return _CURRENT.get() or DEFAULT


@contextlib.contextmanager
def within(limits: Limits) -> Iterator[None]:
    """These limits hold inside."""
    token = _CURRENT.set(limits)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def apply(limits: Limits) -> None:
    """These limits hold from now on: what a command does with the options of its data."""
    _CURRENT.set(limits)


def check(name: str, found: float, what: str) -> None:
    """BadSample where a sample has more of something than `name`, an option of `Limits`, allows.

    what: of which it is `found`, for the message: "pixels", "samples of sound".
    """
    if said := _beyond(name, found, what):
        raise BadSample(said)


def check_table(name: str, found: float, what: str, table: str) -> None:
    """As `check`, of a file of rows: UserError "data.path: 'TABLE' has ..."."""
    if said := _beyond(name, found, what):
        raise UserError(f"data.path: '{table}' has {said}")


def is_bomb(packed: int, unpacked: int) -> bool:
    """Whether a file has got larger than `data.limits.bytes` and over a hundred times its size."""
    return unpacked > current().bytes and unpacked > MOST_RATIO * packed


def bomb(name: object, packed: int, unpacked: int) -> None:
    """UserError where `is_bomb`."""
    if is_bomb(packed, unpacked):
        raise UserError(
            f"data.path: '{name}' unpacks from {packed:,} to {unpacked:,} bytes and more (data.limits.bytes)"
        )


def _beyond(name: str, found: float, what: str) -> str:
    most = getattr(current(), name)
    if found <= most:  # not so for what is no number
        return ""
    shown = f"{found:,.0f}" if abs(found) < 1e18 else f"{found:.3g}"
    return f"{shown} {what}, expected at most {most:,.0f} (data.limits.{name})"
