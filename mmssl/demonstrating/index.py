"""Embeddings of rows, and what lies near to what: exact, in memory, by the cosine.

Shapes: n rows that have a modality, E width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..curation.embeddings import SUFFIX, embedding_columns, open_embeddings
from ..errors import UserError


@dataclass(frozen=True)
class Hit:
    """A row that was found, and its cosine with what was asked."""

    row: int
    cosine: float


class Index:
    """Rows by the embeddings of their modalities.

    Attributes:
        vectors: modality -> (n, E) float32 of length 1.
        rows: modality -> (n,) int64 numbers of the rows that have it, rising.
    """

    def __init__(self, vectors: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        self.vectors = {name: normalize(x.float(), dim=1) for name, x in vectors.items()}
        self.rows = dict(rows)

    @classmethod
    def of_file(cls, path: str | Path, names: Sequence[str], option: str = "embeddings") -> Index:
        """Those of a file of `mmssl embed`, of these modalities as far as rows have them.

        UserError where it has embeddings of none of them, or holds what is no number.
        """
        there = embedding_columns(path)
        wanted = [name for name in names if f"{name}{SUFFIX}" in there]
        if not wanted:
            expected = " or ".join(f"{name}{SUFFIX}" for name in names)
            raise UserError(f"{option}: '{path}' has the embeddings {', '.join(there) or 'none'}, expected {expected}")
        vectors, rows = {}, {}
        for name in wanted:
            parts = [part for part in open_embeddings(path, f"{name}{SUFFIX}", option) if len(part[0])]
            if parts:
                rows[name] = torch.cat([torch.from_numpy(numbers) for numbers, _ in parts])
                vectors[name] = torch.cat([torch.from_numpy(x).float() for _, x in parts])
        if not vectors:
            raise UserError(f"{option}: '{path}' has no row with any of {', '.join(wanted)}")
        return cls(vectors, rows)

    @property
    def names(self) -> list[str]:
        """The modalities that can be searched."""
        return list(self.vectors)

    def vector(self, name: str, row: int) -> Tensor | None:
        """(E,) of a row; None where it lacks the modality."""
        at = int(torch.searchsorted(self.rows[name], row))
        there = at < len(self.rows[name]) and int(self.rows[name][at]) == row
        return self.vectors[name][at] if there else None

    def nearest(self, query: Tensor, name: str, count: int, without: int | None = None) -> list[Hit]:
        """The rows whose `name` is nearest to a query (E,), the best first; of equals the earlier row.

        without: a row that is left out.
        """
        vectors, rows = self.vectors[name], self.rows[name]
        if query.shape != vectors.shape[1:]:
            raise UserError(
                f"{name}: its embeddings have {vectors.shape[1]} numbers, those of what was asked {len(query)}"
            )
        cosines = vectors @ normalize(query.float(), dim=0)
        order = cosines.sort(descending=True, stable=True).indices[: count + 1].tolist()
        found = [Hit(int(rows[at]), float(cosines[at])) for at in order]
        return [hit for hit in found if hit.row != without][:count]
