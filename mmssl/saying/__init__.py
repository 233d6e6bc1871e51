"""What a command says: what it found, on stdout; its messages, there as well; and on stderr what it is at.

    activity    something that takes time: what, how far, for how long, how long still
    speaking    the one speaker of a process, and when it speaks
    screen      what is being done at the foot of a terminal, by rich
    lines       the same as JSON lines (`--log json`), and other people's words among them

Whatever may take longer than a few seconds is put into `doing`. Passwords and tokens in addresses are never said
(`mmssl.models.privacy.hidden`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

from ..errors import UserError, nearest
from ..models.privacy import hidden
from .activity import Activity, Advance
from .lines import Lines, others_in_lines
from .speaking import Speaker, doing, loading, result, say, speaker, told, unsaid

__all__ = ["LOGS", "Activity", "Advance", "Speaker", "doing", "loading", "result", "say", "secrets_hidden", "set_log"]
__all__ += ["speaker", "told", "told_as", "unsaid"]

LOGS = ("text", "json")
"""What `--log` knows."""


def set_log(how: str) -> None:
    """How mmssl tells what it is at in this process from now on; what other libraries say is left alone.

    Args:
        how: "text" (as at first: messages on stdout, progress on stderr), "json" (both as JSON lines on stderr), or
            "quiet" (neither; errors are raised as ever).

    Raises:
        UserError: another word.
    """
    if how not in (*LOGS, "quiet"):
        raise UserError(f"set_log: found '{how}', expected text, json or quiet{nearest(how, (*LOGS, 'quiet'))}")
    speaker.quiet, speaker.json = how == "quiet", how == "json"
    logger = logging.getLogger("mmssl")
    for handler in [one for one in logger.handlers if isinstance(one, Lines)]:
        logger.removeHandler(handler)
    if how != "text":
        logger.addHandler(Lines(speaker))


@contextlib.contextmanager
def told_as(quiet: bool, json: bool) -> Iterator[None]:
    """Within the block a command speaks as `--quiet` and `--log json` have it; with these stderr holds nothing but
    JSON lines, whoever writes to it in Python."""
    before = speaker.quiet, speaker.json
    logger, handler = logging.getLogger("mmssl"), Lines(speaker)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_others_calm(quiet, json))
        if quiet or json:
            logger.addHandler(handler)
            stack.callback(logger.removeHandler, handler)
        if json:
            stack.enter_context(others_in_lines(speaker))
        speaker.quiet, speaker.json = quiet, json
        try:
            yield
        finally:
            speaker.quiet, speaker.json = before


@contextlib.contextmanager
def _others_calm(quiet: bool, json: bool) -> Iterator[None]:
    """Bars of other libraries are left out where mmssl tells how far it is, or nothing is to be told."""
    wanted = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}  # it tells of reading itself
    if quiet or json:
        wanted |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    if quiet:
        wanted |= {"TRANSFORMERS_VERBOSITY": "error", "DATASETS_VERBOSITY": "error"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ |= wanted
    try:
        with warnings.catch_warnings() if quiet else contextlib.nullcontext():
            if quiet:
                warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class WithoutSecrets(logging.Filter):
    """Takes passwords and tokens out of the addresses in what is logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record where it holds one; let all pass."""
        text = record.getMessage()
        bare = hidden(text)
        if bare != text:
            record.msg, record.args = bare, ()
        return True


@contextlib.contextmanager
def secrets_hidden() -> Iterator[None]:
    """Within the block warnings hold no passwords and tokens of addresses."""
    logger, bare = logging.getLogger("mmssl"), WithoutSecrets()
    logger.addFilter(bare)
    try:
        yield
    finally:
        logger.removeFilter(bare)
