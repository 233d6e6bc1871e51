"""What `datasets`, Arrow and other readers raise over somebody's data, in one line."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mmssl.boundary import MACHINE
from mmssl.errors import BadSample, RunError, UserError, one_line

if TYPE_CHECKING:
    from datasets import IterableDataset

logger = logging.getLogger("mmssl")
_told: set[str] = set()

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def warn_once(message: str) -> None:
    """A warning that a process gives once, however often it opens the data."""
    if message not in _told:
        _told.add(message)
        logger.warning("%s", message)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what readers raise over unreadable data into one line; `what` is the data, in quotes.

    Any exception counts: which ones a reader raises over broken bytes nobody lists.
    """
    try:
        yield
    except (UserError, RunError, BadSample, MemoryError):
        raise
    except Exception as error:
        chain: list[BaseException] = [error]
        while (deeper := chain[-1].__cause__ or chain[-1].__context__) is not None and deeper not in chain:
            chain.append(deeper)
        for link in chain:
            if isinstance(link, (UserError, RunError)):  # ours, raised within a reader that wraps what it meets
                raise link from None
        if any(isinstance(e, OSError) and e.errno in NO_SPACE for e in chain):
            raise RunError(
                f"no space left on the disk while {what} was copied into the datasets cache "
                f"(set HF_HOME to another disk, or data.streaming=true)"
            ) from error
        if any(isinstance(e, OSError) and e.errno in MACHINE for e in chain):
            raise RunError(f"cannot read {what}: {one_line(error)}") from error
        if isinstance(error, ConnectionError) or "on the Hub" in str(error):
            offline = "OfflineModeIsEnabled" in str(error)
            why = "it cannot be reached, and is not in the cache" if offline else one_line(error)
            raise UserError(
                f"data.path: {what} is neither a file or folder here nor can it be read from the Hub: {why}"
            ) from error
        raise UserError(f"data.path: cannot read {what}: {_said(error.__cause__ or error)}") from error


def _said(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    if type(error).__name__ == "CastError":
        asked = set(getattr(error, "requested_column_names", None) or ())
        found = set(getattr(error, "table_column_names", None) or ())
        if asked != found:
            return (
                "its files differ in their columns: "
                + "; ".join(
                    f"{where} {', '.join(sorted(names)[:8])}"
                    for where, names in (("some have not", asked - found), ("some have also", found - asked))
                    if names
                )
                + "; give them the same columns, or name one of the files"
            )
        return "the values of a column are of different types in its files: " + one_line(error)
    if "WebDataset format" in str(error):
        return (
            "its files are no WebDataset, in which those of a sample have one name (7.png and 7.txt) and all samples "
            "the same kinds; unpack it (tar -xf) and give the folder, which is read as it is"
        )
    return f"{type(error).__name__}: {one_line(error)}"


def tell_different(columns: Mapping[str, Collection[str]]) -> None:
    """Say which columns some files of one table lack. UserError where they have none in common.

    columns: file -> the names of its columns.
    """
    every = list(columns.items())
    shared = set(every[0][1]).intersection(*(names for _, names in every)) if every else set()
    union: dict[str, str] = {}
    for file, names in every:
        for name in names:
            union.setdefault(name, file)
    if not shared and len(every) > 1 and all(names for _, names in every):
        other = next(item for item in every if not set(item[1]) & set(every[0][1]) or item is every[-1])
        told = "; ".join(f"'{os.path.basename(f)}' has {', '.join(list(names)[:5])}" for f, names in (every[0], other))
        raise UserError(
            f"data.path: the files have no column in common ({told}), so they are no parts of one table: name one of "
            "them, or join them first (edges and nodes of a graph: graph:FOLDER)"
        )
    lacking = [name for name in union if name not in shared]
    if lacking:
        warn_once(
            f"the files differ in their columns: not all have {', '.join(lacking[:6])}"
            f"{f' and {len(lacking) - 6} more' if len(lacking) > 6 else ''} (the first that does: "
            f"'{os.path.basename(union[lacking[0]])}'); empty in the rows of the others"
        )


def stream_rows(source: IterableDataset) -> Iterator[dict[str, Any]]:
    """The rows of a stream; what a reader raises on the way is the data's fault, in one line.

    All of them, in a worker too, where iterating over a stream of `datasets` would give that worker's share.
    """
    from torch.utils.data import get_worker_info

    from .packed import bound_fsspec

    bound_fsspec()
    rows = iter(source) if get_worker_info() is None else _alone(source)
    while True:
        with explained("the stream"):
            try:
                row = next(rows)
            except StopIteration:
                return
        yield row


def _alone(source: IterableDataset) -> Iterator[dict[str, Any]]:
    for batch in source.iter(batch_size=1):
        yield {name: values[0] for name, values in batch.items()}
