"""The words for data: which rows of which data, and how they are read.

A recipe's `data`, `mmssl finetune`, `mmssl evaluate` and `mmssl embed` build on `RowsConfig`, so that a key means the
same, and has the same type, default and help, wherever it is written.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..options import option, strict

PATH = "builtin:NAME, a folder, a file or glob (parquet, csv, tsv, json, jsonl, arrow), a Hub id"
SPLIT = "which rows of the data: one of its splits"
MAX_BAD = "share of broken samples above which the run stops"


@strict
@dataclass(kw_only=True)
class RowsConfig:
    """The keys that every command shares. `--data` of a command says `path`, `--column` says `columns`.

    What a command cannot do anything with it names in `REFUSED`: key -> why, and what to do instead
    (`mmssl.options.schema`).
    """

    path: str | None = option(None, local=True, help=PATH)
    name: str | None = option(None, help="configuration of a `datasets` data set")
    split: str = option("train", help=SPLIT)
    columns: dict[str, str | list[str]] = option(factory=dict, help="modality -> column(s); default: its own name")
    streaming: bool = option(False, help="read the rows in their order, without a copy in the cache first")
    limit: int | None = option(None, min=1, help="so many rows of the split: any, always the same; a stream's first")
    workers: int = option(0, min=0, resumable=True, local=True, help="processes that read and decode")
