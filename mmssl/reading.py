"""How tables are read, as a user may say it: the part of `data` that no file says of itself."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

GIGABYTES = 0.5
"""Of decoded rows of parquet that are shuffled among, where nobody says."""
UNITS = ("auto", "line", "paragraph", "file")


@dataclass(frozen=True)
class Reading:
    """Attributes:
    header: of csv: whether its first row holds the names of the columns; "auto": found.
    encoding: of text files; None: found.
    texts: what of a text file is a sample, one of `UNITS`.
    copy: whether the rows of parquet files here are copied into the cache of `datasets` before they are read.
    """

    header: bool | str = "auto"
    encoding: str | None = None
    texts: str = "auto"
    copy: bool = False


AS_FOUND = Reading()


def check_encoding(encoding: str | None) -> None:
    """ValueError for a name that no encoding has."""
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError:
        raise ValueError(f"found '{encoding}', expected an encoding such as cp1252, shift-jis, gb18030") from None
