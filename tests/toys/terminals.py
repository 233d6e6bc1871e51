"""Commands at a terminal, and with their streams in pipes: what each of them shows, as somebody sees it.

As a script: reads a JSON list of words on stdin, and for each (words, terminal) of it forks a process that is the
command; writes (exit code, stdout, stderr) of each to stdout. What takes long says so after a moment, not after 3 s.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import sys
from collections.abc import Sequence
from dataclasses import dataclass

SECONDS = 240.0


@dataclass
class Shown:
    """code: of the exit; out, err: what was written; at a terminal all of it is `out`."""

    code: int
    out: str
    err: str

    @property
    def left(self) -> list[str]:
        """The lines that stand on the terminal at the end: what was drawn over, or taken away, is gone."""
        rows, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.out):
            if part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                rows += [""] * (row == len(rows))
            elif part[0] == "\x1b":
                row = max(row - int(re.sub(r"\D", "", part) or 1), 0) if part[-1] == "A" else row
                rows[row] = "" if part[-1] == "K" else rows[row]
            else:
                rows[row] = rows[row][:column].ljust(column) + part + rows[row][column + len(part) :]
                column += len(part)
        return [line.rstrip() for line in rows]


def shown(asked: Sequence[tuple[Sequence[str], bool]]) -> list[Shown]:
    """Of each (words of a command, at a terminal)."""
    from toys import forking

    done = forking.run([__file__], level="mmssl", stdin=json.dumps(asked).encode(), timeout=600)
    assert done.returncode == 0, done.stderr
    return [Shown(*of) for of in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    """See above."""
    from mmssl.saying import speaking

    speaking.FIRST = speaking.AGAIN = speaking.EACH = 0.2
    speaking.BEAT = 0.05
    print(json.dumps([_command(words, terminal) for words, terminal in json.loads(sys.stdin.read())]))


def _command(words: Sequence[str], terminal: bool) -> tuple[int, str, str]:
    if terminal:
        inner, outer = pty.openpty()
        streams, read = (outer, outer, outer), [inner]
    else:
        (out, to_out), (err, to_err) = os.pipe(), os.pipe()
        streams, read = (os.open(os.devnull, os.O_RDONLY), to_out, to_err), [out, err]
    process = os.fork()
    if process == 0:
        _be(words, streams)
    for stream in set(streams):
        os.close(stream)
    said = dict.fromkeys(read, b"")
    open_ones = set(read)
    while open_ones:
        ready, _, _ = select.select(list(open_ones), [], [], SECONDS)
        if not ready:
            os.kill(process, 9)
            break
        for stream in ready:
            data = b""
            with contextlib.suppress(OSError):  # a terminal whose process has ended
                data = os.read(stream, 1 << 16)
            said[stream] += data
            if not data:
                open_ones.discard(stream)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    for stream in read:
        os.close(stream)
    texts = [said[stream].decode(errors="replace") for stream in read]
    return (code, texts[0], texts[1] if len(texts) == 2 else "")


def _be(words: Sequence[str], streams: Sequence[int]) -> None:
    """Be the command, and end."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115  # its own
    os.environ |= {"COLUMNS": "100", "TERM": "xterm"}
    code: object = 99
    try:
        from mmssl.cli import main as command

        code = command(words)
    except SystemExit as error:
        code = error.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
