"""How large one sample may be: looked at before it is decoded, so that a few bytes cannot fill the memory.

A picture of 300 kB may say that it has a hundred million pixels, an archive that it holds terabytes. What is larger
than these limits is a broken sample, and the reason names the option that lets it through (`data.limits`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from .errors import BadSample
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


DEFAULT = Limits()
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
    most = getattr(current(), name)
    if not found <= most:  # also for what is not a number
        shown = f"{found:,.0f}" if abs(found) < 1e18 else f"{found:.3g}"
        raise BadSample(f"{shown} {what}, expected at most {most:,.0f} (data.limits.{name})")
