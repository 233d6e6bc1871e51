"""Channels that are known by their names, as series and volumes have them; without torch."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import BadSample, UserError, nearest


def check_channels(channels: Sequence[str] | None, source_channels: Sequence[str] | None) -> None:
    """UserError where the options `channels` and `source_channels` name one twice, or none."""
    for key, names in (("channels", channels or []), ("source_channels", source_channels or [])):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{key}: found '{twice}' twice, expected different channels")
    if channels is not None and not channels:
        raise UserError("channels: found none, expected at least one, or null")


def own_names(known: Sequence[str] | None, count: int) -> list[str]:
    """Names of `count` channels of which nothing says them: the model's, where it has as many, else numbers from 1."""
    return list(known) if known is not None and len(known) == count else [str(n + 1) for n in range(count)]


def taken(
    names: Sequence[str], known: Sequence[str] | None, noun: str, drop: bool, ways: str = "option unknown: drop"
) -> tuple[list[int], list[str]]:
    """(numbers, names) of those of a sample's channels that a model takes.

    Args:
        names: of the sample's channels.
        known: the model's; None: any.
        noun: what the sample is, for messages.
        drop: leave out what the model has not.
        ways: options that help where it is not left out, for the message.

    Raises:
        BadSample: a name twice, one that the model has not, or none that it has.
    """
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadSample(f"channel '{twice}' is there twice")
    rows = [row for row, name in enumerate(names) if known is None or name in known]
    if len(rows) < len(names) and not drop and known is not None:
        other = next(name for name in names if name not in known)
        raise BadSample(f"unknown channel '{other}', the model has {_few(known)}{nearest(other, known)} ({ways})")
    if not rows:
        raise BadSample(f"the model has channels {_few(known or [])}, the {noun} {_few(names)}")
    return rows, [names[row] for row in rows]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
