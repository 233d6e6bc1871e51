"""Table rows as patches: the `Modality` that knows cells.

Shapes: B batch, N columns, n patches at hand, P elements of a cell, D width, S slots of all columns' predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import modality as base
from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.modality import Inputs, MaskToken, Preprocessor
from mmssl.modality.places import Places, by_number
from mmssl.modality.shown import Cells, Shown, flags, rows
from mmssl.models.positions import LearnedGrid
from mmssl.patches import Patches

from .augment import augment
from .options import View

CATEGORIES = 255
"""scikit-learn's trees tell so many categories apart, "other" among them."""


class Columns(nn.Module):
    """What the columns are, as tables to look up by column number. Buffers, so that they follow the model's device.

    Attributes:
        categories: (N,) how many the column has, 0 for numbers.
        is_category: (N,) bool.
        first: (N,) its first row in the table of categories.
        slots: (N,) how many predictions it has.
        offset: (N,) where they begin.
        can_miss: (N,) bool: the training rows ever lacked it.
        related: (N, N - 1) the other columns, those first that it tells most of.
    """

    categories: Tensor
    is_category: Tensor
    first: Tensor
    slots: Tensor
    offset: Tensor
    can_miss: Tensor
    related: Tensor

    def __init__(self, columns: Sequence[Mapping[str, Any]], related: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.count = len(columns)
        self.elements = max(int(c["elements"]) for c in columns)
        is_category = [c["categories"] is not None for c in columns]
        categories = [c["categories"] or 0 for c in columns]
        # numbers: their elements and "missing"; categories: "missing", "other", then each of them
        slots = [
            k + 2 if cat else int(c["elements"]) + 1 for c, k, cat in zip(columns, categories, is_category, strict=True)
        ]
        codes = [k + 1 if cat else 0 for k, cat in zip(categories, is_category, strict=True)]
        self.codes, self.width, self.most = sum(codes), sum(slots), max(slots)
        self.raw = sum(k + 2 if cat else self.elements + 1 for k, cat in zip(categories, is_category, strict=True))
        tables = {
            "categories": categories,
            "is_category": is_category,
            "first": [sum(codes[:i]) for i in range(self.count)],
            "slots": slots,
            "offset": [sum(slots[:i]) for i in range(self.count)],
            "can_miss": [bool(c["missing"]) for c in columns],
            "related": [list(row) for row in related],
        }
        for name, table in tables.items():
            kind = torch.bool if name in ("is_category", "can_miss") else torch.int64
            self.register_buffer(name, torch.tensor(table, dtype=kind))


class Numbers(nn.Module):
    """A linear map of its own for every column, (..., P) -> (..., D), and the column's token for "missing"."""

    def __init__(self, count: int, elements: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, elements, width))
        self.bias = nn.Parameter(torch.zeros(count, width))
        self.missing = nn.Parameter(torch.zeros(count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(D)."""
        bound = self.weight.shape[-1] ** -0.5  # of the FT-Transformer (Gorishniy et al. 2021)
        for parameter in (self.weight, self.bias, self.missing):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, values: Tensor, column: Tensor) -> Tensor:
        """values (B, n, P) without NaN of the columns (B, n)."""
        return torch.einsum("bnp,bnpd->bnd", values, self.weight[column]) + self.bias[column]


class Categories(nn.Module):
    """A learned vector for every category of every column, and one for those never met."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(D)."""
        bound = self.table.shape[-1] ** -0.5
        nn.init.uniform_(self.table, -bound, bound)

    def forward(self, index: Tensor) -> Tensor:
        """(..., D) of rows index (...)."""
        return F.embedding(index, self.table)


class Modality(base.Modality):
    """A patch is a cell. Its values are the scaled number, or the category's code; NaN: the cell is empty."""

    targets = ("cell",)
    views, crossing = View.names(), View.crossing
    coordinates = ("column",)
    readouts = ("flat", "mean+std")

    def __init__(self, width: int, columns: Sequence[Mapping[str, object]], related: Sequence[Sequence[int]]) -> None:
        """Make the parameters.

        Args:
            width: D.
            columns: of each its name, categories (None for numbers), elements, and whether the training rows ever
                lacked it.
            related: for each column all others by how much it tells of them.
        """
        super().__init__()
        self.names = [str(c["name"]) for c in columns]
        self.columns = Columns(columns, related)
        self.number = Numbers(len(columns), self.columns.elements, width)
        self.category = Categories(self.columns.codes, width) if self.columns.codes else None
        self.mask = MaskToken(width)
        self.position = self.positions(width)

    def patchify(self, inputs: Inputs) -> Patches:
        """The coordinate is the column's number. Cells that a view hides are invalid."""
        cells = inputs["cells"]
        batch, count = cells.shape[:2]
        if count != self.columns.count or cells.shape[2] != self.columns.elements:
            raise UserError(
                f"cells are {count} columns of {cells.shape[2]} elements, this model has {self.columns.count} of "
                f"{self.columns.elements} ({', '.join(self.names)})"
            )
        coords = torch.arange(count, device=cells.device, dtype=torch.float32).expand(batch, count)[..., None]
        valid, full = torch.ones(batch, count, dtype=torch.bool, device=cells.device), True
        for mask in (inputs["present"][:, None] if "present" in inputs else None, inputs.get("shown")):
            if mask is not None:
                valid, full = valid & mask, False
        return Patches(cells.to(torch.float32), coords, valid, full)

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """values (B, N, P) as the cells of rows like `like`."""
        return like | {"cells": values}

    def positions(self, width: int) -> nn.Module:
        """A learned vector a column: columns have no order."""
        return LearnedGrid(width, (self.columns.count,))

    def cells(self, kind: str) -> int:
        """Every column."""
        return self.columns.count if kind in ("axis", "flat") else 0

    def cell(self, kind: str, patches: Patches) -> Tensor:
        """The column's number."""
        return patches.coords[..., 0].long()

    def embed(self, patches: Patches, hidden: Tensor | None = None) -> Tensor:
        """Numbers by their column's linear map, categories by their vector, empty cells by their column's token."""
        column = patches.coords[..., 0].to(torch.int64)
        empty = patches.values.isnan().all(-1, keepdim=True)
        values = patches.values.nan_to_num(0.0)
        tokens = self.number(values.to(self.number.weight.dtype), column)
        if self.category is not None:
            code = self._code(values, column)
            vectors = self.category(self.columns.first[column] + code)
            tokens = torch.where(self.columns.is_category[column][..., None], vectors, tokens)
        tokens = torch.where(empty, self.number.missing[column].to(tokens.dtype), tokens)
        if hidden is not None:
            tokens = self.mask(tokens, hidden)
        # under autocast the sum stays float32, as the trunk's residual stream should
        return (tokens + self.position(patches.coords)).to(self.number.weight.dtype)

    def _code(self, values: Tensor, column: Tensor) -> Tensor:
        """(B, n) int64 the category's code; of numbers 0, as their first row may lie behind the table's end."""
        code = values[..., 0].to(torch.int64).clamp(min=0)
        code = torch.minimum(code, self.columns.categories[column])
        return torch.where(self.columns.is_category[column], code, -self.columns.first[column])

    def pred_width(self, kind: str | None = None) -> int:
        """S: every column has predictions of its own, for its elements and for "missing", or for each category."""
        self.kind(kind)
        return self.columns.width

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, N, P) the cells."""
        self.kind(kind)
        return inputs["cells"].to(torch.float32)

    def _own(self, pred: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """(predictions (B, n, most) of each cell's own column, of all columns' (B, n, S); which of them it has)."""
        table = self.columns
        place = torch.arange(table.most, device=pred.device)
        index = (table.offset[column][..., None] + place).clamp(max=table.width - 1)
        return pred.gather(2, index), place < table.slots[column][..., None]

    def guess(self, pred: Tensor, patches: Patches, kind: str | None = None) -> Tensor | None:
        """The likeliest category; the number, NaN where the cell is likelier to be empty in a column that ever was."""
        self.kind(kind)
        table, column = self.columns, patches.coords[..., 0].to(torch.int64)
        own, inside = self._own(pred, column)
        likeliest = own.masked_fill(~inside, -torch.inf).argmax(-1)
        category = torch.where(likeliest > 0, (likeliest - 1).float(), torch.nan)
        elements = F.pad(own[..., 1 : 1 + table.elements], (0, max(table.elements - own.shape[-1] + 1, 0)))
        empty = table.can_miss[column] & (own[..., 0] > 0)
        numbers = elements.masked_fill(empty[..., None], torch.nan)
        of_category = torch.full_like(numbers, torch.nan)
        of_category[..., 0] = category
        return torch.where(table.is_category[column][..., None], of_category, numbers)

    def show(self, inputs: Inputs, reader: Preprocessor, hidden: Inputs | None = None) -> list[Shown | None]:
        """The row, as its columns write it."""
        columns: Any = reader.columns  # type: ignore[attr-defined]
        found: list[Shown | None] = []
        for row, (there, cells) in enumerate(rows(inputs, "cells")):
            told = [column.told(float(cell[0])) for column, cell in zip(columns, cells, strict=True)]
            mask = flags(hidden, "cells", row)
            part = None if mask is None else mask.any(-1).tolist()
            found.append(Cells(list(self.names), told, part) if there else None)
        return found

    def score(self, pred: Tensor, target: Tensor, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, n) loss of pred (B, n, S) for the cells target (B, n, P).

        Categories: cross-entropy in nats over the column's categories, "missing" and "other" among them. Numbers: mean
        squared error over the elements of a cell that is not empty, plus, in columns that were ever empty, the
        cross-entropy of being so.
        """
        self.kind(kind)
        table, column = self.columns, patches.coords[..., 0].to(torch.int64)
        own, inside = self._own(pred, column)
        empty = target.isnan().all(-1)
        values = target.nan_to_num(0.0)
        # categories: class 0 is "missing", 1 "other", then the categories
        code = torch.minimum(values[..., 0].to(torch.int64).clamp(min=0), table.categories[column])
        chosen = torch.where(empty | ~table.is_category[column], torch.zeros_like(code), code + 1)
        entropy = -own.masked_fill(~inside, -1e9).log_softmax(-1).gather(-1, chosen[..., None])[..., 0]
        # numbers: slot 0 says "missing", the elements follow
        there = ~target.isnan() & ~table.is_category[column][..., None]
        elements = own[..., 1 : 1 + target.shape[-1]]
        if elements.shape[-1] < target.shape[-1]:
            elements = F.pad(elements, (0, target.shape[-1] - elements.shape[-1]))
        error = torch.where(there, elements - values, 0.0).square().sum(-1) / there.sum(-1).clamp(min=1)
        missing = F.binary_cross_entropy_with_logits(own[..., 0], empty.to(pred.dtype), reduction="none")
        number = error + torch.where(table.can_miss[column], missing, 0.0)
        return torch.where(table.is_category[column], entropy, number)

    def augment(self, inputs: Inputs, draws: Draws, **spec: object) -> Inputs:
        """One view of the batch.

        Args:
            inputs: rows.
            draws: random numbers of the B samples.
            spec: options of `mmssl_tabular.options.View`.
        """
        return augment(inputs, draws, View.build(spec), ~self.columns.is_category, self.columns.related)

    def places(self, inputs: Inputs, patches: Patches, draws: Draws, **spec: object) -> Places:
        """Column by column."""
        return by_number(patches)

    @property
    def raw_width(self) -> int:
        """F of `raw_features`."""
        return self.columns.raw

    def raw_features(self, inputs: Inputs) -> Tensor:
        """(B, F) scaled numbers (an empty one is 0) and one-hot categories ("other" and "missing" among them)."""
        cells = inputs["cells"].to(torch.float32)
        parts = []
        for i, (is_category, categories) in enumerate(
            zip(self.columns.is_category.tolist(), self.columns.categories.tolist(), strict=True)
        ):
            empty = cells[:, i].isnan().all(-1)
            values = cells[:, i].nan_to_num(0.0)
            if is_category:
                code = torch.where(empty, categories + 1, values[:, 0].to(torch.int64).clamp(0, categories))
                parts.append(F.one_hot(code, categories + 2).to(torch.float32))
            else:
                parts += [values, empty[:, None].to(torch.float32)]
        features = torch.cat(parts, 1)
        return features * inputs["present"][:, None] if "present" in inputs else features

    def tree_features(self, inputs: Inputs) -> tuple[Tensor, tuple[bool, ...]]:
        """(B, F) the cells, NaN where empty: scaled numbers, which keep their order, and codes of categories."""
        cells = inputs["cells"].to(torch.float32)
        if "present" in inputs:
            cells = torch.where(inputs["present"][:, None, None], cells, torch.nan)
        parts, categories = [], []
        for i, (is_category, count) in enumerate(
            zip(self.columns.is_category.tolist(), self.columns.categories.tolist(), strict=True)
        ):
            values = cells[:, i, :1] if is_category else cells[:, i]
            parts.append(values)
            # of more categories than scikit-learn takes the codes are numbers
            categories += [is_category and count < CATEGORIES] * values.shape[1]
        return torch.cat(parts, 1), tuple(categories)
