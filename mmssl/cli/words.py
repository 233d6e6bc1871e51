"""What the words of several commands mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise

from ..errors import UserError
from ..saying import LOGS
from .telling import one_of


def columns_of(words: list[str]) -> dict[str, str | list[str]]:
    """`["image=img", "table=a,b"]` -> `{"image": "img", "table": ["a", "b"]}`."""
    columns: dict[str, str | list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        column = listed(value)
        if not equals or column is None:
            raise UserError(f"--column: found '{word}', expected MODALITY=COLUMN, e.g. image=img")
        columns[name] = column
    return columns


def listed(text: str | None) -> str | list[str] | None:
    """`"a,b"` -> `["a", "b"]`, `"a"` as it is."""
    if not text:
        return None
    return text.split(",") if "," in text else text


def add_log(parser: argparse.ArgumentParser) -> None:
    """The options of every command, which `main` reads before all others."""
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors and the result")
    help = "json: messages and progress as JSON lines on stderr, results on stdout as ever (default: text)"
    parser.add_argument("--log", metavar="|".join(LOGS), type=one_of(LOGS), default=LOGS[0], help=help)


def wanted_log(words: Sequence[str]) -> tuple[bool, bool]:
    """(whether `--quiet`, whether `--log json`) of a command line, which may be wrong otherwise."""
    json = "--log=json" in words or ("--log", "json") in pairwise(words)
    return "--quiet" in words, json


def command_first(argv: list[str]) -> list[str]:
    """With the options of every command behind it: `mmssl --quiet COMMAND` is `mmssl COMMAND --quiet`."""
    front = next((i for i, word in enumerate(argv) if i == len(argv) - 1 or not _is_log(argv, i)), 0)
    return [*argv[front : front + 1], *argv[:front], *argv[front + 1 :]]


def _is_log(argv: Sequence[str], i: int) -> bool:
    """Whether a word is one of the options of every command, or the value of one."""
    return argv[i] == "--quiet" or argv[i].partition("=")[0] == "--log" or (i > 0 and argv[i - 1] == "--log")
