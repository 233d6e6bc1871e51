"""The two errors that a user of mmssl meets.

Both carry one clear line: what was found, where, and what was expected. The command line prints that line and
exits with code 2 for `UserError` (the user's input is wrong) and 1 for `RunError` (the world went wrong).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST = 2000
"""Characters of a line."""


class UserError(ValueError):
    """The user's input is wrong: one line (or one line a fault) to print, exit code 2."""

    def __str__(self) -> str:
        """The lines, none longer than anybody reads: a value of somebody else's may be quoted in them."""
        return "\n".join(
            line if len(line) <= LONGEST else f"{line[:LONGEST]}..." for line in super().__str__().split("\n")
        )


class NoSplit(UserError):
    """The data has no split of the name that was asked for."""


class NoConfiguration(UserError):
    """The data have several configurations, and none of them, or none that there is, was named. `known`: theirs."""

    def __init__(self, message: str, known: list[str]) -> None:
        super().__init__(message)
        self.known = known


class RunError(RuntimeError):
    """Something outside the input failed (a full disk, a lost file): one line to print, exit code 1."""


class LostProcess(RunError):
    """Another process of this run ended. `speaks`: this one says it, since the first one, which does, is gone."""

    def __init__(self, message: str, speaks: bool) -> None:
        super().__init__(message)
        self.speaks = speaks


class TimeUp(RunError):  # noqa: N818  (nothing went wrong)
    """A run has reached `train.time_limit` and wrote its checkpoint: exit code 75 (EX_TEMPFAIL: try again)."""


class BadSample(ValueError):
    """One sample cannot be used (truncated, empty, not what it claims): it is quarantined with this reason."""


def out_of_memory(error: BaseException) -> bool:
    """Whether a machine's or an accelerator's memory is at its end; torch says the former in words alone."""
    words = ("can't allocate memory", "out of memory", "Unable to allocate")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def nearest(name: str, valid: Iterable[object]) -> str:
    """`"; did you mean 'x'?"` for the valid name nearest to `name`, or an empty string when none is near."""
    close = difflib.get_close_matches(str(name), [str(v) for v in valid], n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def unknown(what: str, name: str, valid: Iterable[object]) -> UserError:
    """The error of a look-up: which names there are, and the nearest of them."""
    known = [str(v) for v in valid]
    return UserError(f"unknown {what} '{name}', expected one of {', '.join(known)}{nearest(name, known)}")


UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
"""What a terminal acts on and does not show: control characters, halves of pairs, changes of the reading direction."""


def shown(text: str) -> str:
    """A text of others with what would move, colour or forge the lines of a terminal in Python's escapes."""
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(error: object, most: int = 300) -> str:
    """What an error says, in one line of at most `most` characters; its type where it says nothing."""
    text = shown(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."
