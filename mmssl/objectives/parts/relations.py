"""What columns of the data say of pairs of samples: who belongs together, how much, and who is told from whom.

A sample whose value is unknown has one of its own: it belongs with itself alone, and is of the same cluster as nobody.
Shapes: M rows of the global batch, n queries of this process, m keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...distributed import gather_rows, rank
from ...losses.several import listwise, several_rows
from ..options.relations import RelationOptions

if TYPE_CHECKING:
    from ..step import Step
    from .compared import Candidates


class Said(NamedTuple):
    """What a column says of rows: value (r,) int64 or float32, and whether it is known (r,)."""

    value: Tensor
    known: Tensor

    def rows(self, at: slice) -> Said:
        """Of some of the rows."""
        return Said(self.value[at], self.known[at])


def together(said: list[Said]) -> Said:
    """Of several lots of rows, one behind the other."""
    return Said(torch.cat([one.value for one in said]), torch.cat([one.known for one in said]))


def alike(a: Said, b: Said, within: float | None = None) -> Tensor:
    """(n, m) bool: both are known and equal, or numbers that lie at most `within` apart."""
    if within is None:
        same = a.value[:, None] == b.value[None]
    else:
        same = (a.value[:, None] - b.value[None]).abs() <= within
    return same & a.known[:, None] & b.known[None]


@dataclass(frozen=True)
class Relations:
    """What columns say of the rows of a step.

    Attributes:
        options: which column says what.
        said: role (together, grade, apart) -> the column, of the rows (M,) of the global batch.
    """

    options: RelationOptions
    said: Mapping[str, Said]

    @classmethod
    def of(cls, options: RelationOptions, step: Step) -> Relations:
        """All processes must call it together."""
        found = {role: step.column(column) for role, column in options.columns.items()}
        return cls(options, {role: Said(*map(gather_rows, pair)) for role, pair in found.items()})

    @property
    def pair(self) -> bool:
        """Whether a sample's own other side is among its positives."""
        return self.options.positives is None or self.options.positives.pair

    def relate(
        self, rows: slice, valid: Tensor, keys: Mapping[str, Said], mine: Tensor, graded: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`mmssl.losses.several.Relate` of c rows of the global batch as queries.

        Args:
            rows: which.
            valid: (m,) bool, keys that count.
            keys: role -> what the column says of the keys.
            mine: (c, e) int64, keys of a query's own sample: its other side, then, where it is one, itself.
            graded: grades are of the keys; else of the queries.
        """
        o, there = self.options, valid.expand(rows.stop - rows.start, -1)
        belongs = torch.zeros_like(there)
        if o.positives is not None:
            belongs = alike(self.said["together"].rows(rows), keys["together"], o.positives.within)
        belongs = belongs.scatter(1, mine[:, :1], self.pair)
        weights = belongs * there * self._grades(rows, keys, graded)
        negatives = there & (weights <= 0)
        if "apart" in self.said:
            same = alike(self.said["apart"].rows(rows), keys["apart"])
            negatives = negatives & (same if o.negatives_of == "same" else ~same)
        # neither itself nor, where it is no positive, its other side
        left_out = mine[:, 1:] if self.pair else mine
        own = torch.zeros_like(there).scatter(1, mine, True)
        return weights.scatter(1, left_out, 0.0), negatives.scatter(1, left_out, False), own

    def own_grades(self, rows: slice, like: Tensor) -> Tensor:
        """(c,) of some rows of the global batch: how much their own pairs do."""
        if "grade" not in self.said:
            return like.new_ones(len(like))
        said = self.said["grade"].rows(rows)
        return torch.where(said.known, said.value, 1.0).clamp(min=0)

    def _grades(self, rows: slice, keys: Mapping[str, Said], graded: bool) -> Tensor | float:
        """(1, m) or (c, 1): how much those that belong together do; 1 where nobody says."""
        if "grade" not in self.said:
            return 1.0
        said = keys["grade"] if graded else self.said["grade"].rows(rows)
        grades = torch.where(said.known, said.value, 1.0).clamp(min=0)
        return grades[None] if graded else grades[:, None]


def related_rows(
    relations: Relations,
    among: Candidates,
    query: Tensor,
    scale: Tensor,
    *,
    graded: bool,
    decoupled: bool,
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    """(loss (n,), number of positives (n,)) of this process's queries (n, D); see `mmssl.losses.several`."""
    o, first = relations.options, rank() * len(query)
    key = among.positive if among.positive.ndim == 2 else None
    mine = [x for x in (among.positive if key is None else None, among.own) if x is not None]
    places = torch.stack(mine, 1) if mine else query.new_zeros(len(query), 0, dtype=torch.int64)

    def relate(at: slice) -> tuple[Tensor, Tensor, Tensor]:
        rows = slice(first + at.start, first + at.stop)
        return relations.relate(rows, among.valid, among.said, places[at], graded)

    apart = None
    if key is not None and relations.pair:
        apart = key, relations.own_grades(slice(first, first + len(query)), key)
    form = o.positives.form if o.positives is not None else "outside"
    return several_rows(
        query,
        among.keys,
        scale,
        relate,
        apart=apart,
        neighbours=o.neighbours,
        form=form,
        decoupled=decoupled,
        chunk=chunk,
    )


def listed(
    relations: Relations, among: Candidates, query: Tensor, both: Tensor, scale: Tensor, *, graded: bool
) -> Tensor:
    """(): `mmssl.losses.several.listwise` of the whole batch, the same in every process."""
    valid, queries = gather_rows(both), gather_rows(query)
    places = torch.arange(len(valid), device=valid.device)[:, None]
    grades, _, _ = relations.relate(slice(0, len(valid)), among.valid, among.said, places, graded)
    return listwise(scale * queries @ among.keys.T, grades, valid[:, None] & among.valid[None])
