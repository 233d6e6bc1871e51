"""Data under a name: `builtin:NAME`, and `<modality>:FILE` where a modality's package reads files that no table is.

Such a package has `open_rows(path: str, split: str) -> datasets.Dataset`; see `mmssl_graph.sources`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmssl.errors import UserError
from mmssl.modality import load_modality, modality_names

from .builtin import open_builtin

if TYPE_CHECKING:
    from datasets import Dataset


def open_prefixed(path: str, split: str) -> Dataset | None:
    """The rows behind `builtin:NAME` or `<modality>:FILE`; None where `path` is neither. Raises UserError."""
    prefix, colon, rest = path.partition(":")
    if prefix == "builtin" and colon:
        return open_builtin(rest, split)
    if not colon or rest.startswith("//") or prefix not in modality_names():
        return None
    package = load_modality(prefix)
    if not hasattr(package, "open_rows"):
        raise UserError(f"data.path: '{path}': modality '{prefix}' opens no files of its own; leave out '{prefix}:'")
    rows: Dataset = package.open_rows(rest, split)
    return rows
