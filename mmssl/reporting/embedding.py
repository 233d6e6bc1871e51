"""Embeddings of some rows on a plane, what lies near to what, and what a row of one modality finds in another."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..evaluation.rows import label_column
from ..modality import installed
from ..saying import doing
from .words import text_in_line

if TYPE_CHECKING:
    from datasets import Dataset

NEAR = 5
"""Neighbours of a sample that are shown."""
FOUND = 3
"""Rows of the other modality that are shown of what a query finds."""
COLUMNS = 5
"""Columns that a map can be coloured by, at most."""
CLASSES = 10
"""Different values that have a colour of their own; the rarer ones share one. Of more numbers, as many ranges."""
NEIGHBOURS = 15
"""Of a row by which UMAP lays it out."""
FEWEST = 4
"""Rows that a map is made of, at least."""


@dataclass(frozen=True)
class Colouring:
    """column: its name; names: of groups; group: (n,) which one each row is in, -1: unknown; values: in words."""

    column: str
    names: list[str]
    group: list[int]
    values: list[str]


@dataclass(frozen=True)
class Plane:
    """(n, 2) places in 0..1, and how they were found."""

    how: str
    places: list[tuple[float, float]]


@dataclass
class Near:
    """query: a row; found: (row, cosine, whether it is the one that belongs to it) of the nearest ones."""

    query: int
    found: list[tuple[int, float, bool]] = field(default_factory=list)


def planes(embeddings: Tensor, seed: int, more: bool) -> list[Plane]:
    """(n, E) embeddings on a plane: by UMAP where it is installed and more is wanted, and by principal components."""
    centred = embeddings.double() - embeddings.double().mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    u = u * (u.gather(0, u.abs().argmax(0, keepdim=True)).sign() + 0.5).sign()  # of both signs the same one each time
    share = s.square() / s.square().sum().clamp(min=1e-30)
    places = torch.zeros(len(u), 2, dtype=torch.float64)
    places[:, : min(2, u.shape[1])] = (u * s)[:, :2]
    found = [Plane(f"PCA: {float(share[:2].sum()):.0%} of the variance", _unit(places))]
    if more and len(embeddings) > NEIGHBOURS and installed("umap"):
        with doing("laying the map out by UMAP"):  # it compiles for half a minute at its first use
            found.insert(0, _umap(embeddings, seed))
    return found


def _umap(embeddings: Tensor, seed: int) -> Plane:
    """McInnes et al. 2018, arXiv 1802.03426."""
    import umap

    fitted = umap.UMAP(n_neighbors=NEIGHBOURS, metric="cosine", random_state=seed, n_jobs=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="(umap|sklearn)")  # of its own calls of others
        places = torch.from_numpy(fitted.fit_transform(embeddings.float().numpy())).double()
    return Plane(f"UMAP: {NEIGHBOURS} neighbours by cosine", _unit(places))


def _unit(places: Tensor) -> list[tuple[float, float]]:
    low, high = places.amin(0), places.amax(0)
    scaled = (places - low) / (high - low).clamp(min=1e-12)
    return [(round(x, 4), round(y, 4)) for x, y in scaled.tolist()]


def neighbours(embeddings: Tensor, rows: Sequence[int], queries: Sequence[int]) -> list[Near]:
    """The nearest other rows of each query by cosine. rows: numbers of the embeddings (n, E), which are normalised."""
    at = {row: i for i, row in enumerate(rows)}
    out = []
    for query in queries:
        if query in at:
            cosine = embeddings @ embeddings[at[query]]
            cosine[at[query]] = -torch.inf
            best = cosine.topk(min(NEAR, len(rows) - 1))
            out.append(
                Near(
                    query,
                    [(rows[i], v, False) for v, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)],
                )
            )
    return out


def retrieved(one: Tensor, other: Tensor, rows: Sequence[int], queries: Sequence[int]) -> list[Near]:
    """The rows whose embeddings `other` (n, E) are nearest to that of each query in `one` (n, E)."""
    at = {row: i for i, row in enumerate(rows)}
    out = []
    for query in queries:
        if query in at:
            best = (other @ one[at[query]]).topk(min(FOUND, len(rows)))
            pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            out.append(Near(query, [(rows[i], v, rows[i] == query) for v, i in pairs]))
    return out


# --------------------------------------------------------------------------------------------------------- columns


def colourings(rows: Dataset, label: str | None) -> list[Colouring]:
    """The label first, then other columns with few different values, or with numbers."""
    import datasets

    first = label_column(rows, label if label in rows.column_names else None)[0]
    order = [name for name in dict.fromkeys([first, *rows.column_names]) if name is not None]
    out: list[Colouring] = []
    for name in order:
        feature = rows.features[name]
        plain = isinstance(feature, datasets.ClassLabel) or (
            isinstance(feature, datasets.Value) and feature.dtype not in ("binary", "large_binary")
        )
        found = _colouring(name, rows.with_format(None)[name], feature) if plain else None
        if found is not None and found.values not in [other.values for other in out]:  # a number's name beside it
            out.append(found)
        if len(out) == COLUMNS:
            break
    return out


def _colouring(name: str, values: Sequence[Any], feature: Any) -> Colouring | None:
    names = getattr(feature, "names", None)
    said = [None if v is None else names[v] if names and 0 <= v < len(names) else v for v in values]
    known = [v for v in said if v is not None and v == v]
    different = list(dict.fromkeys(known))
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)
    if len(different) < 2 or (not numbers and len(different) > max(CLASSES, len(known) // 3)):
        return None
    shown = ["" if v is None or v != v else text_in_line(v) for v in said]
    if numbers and len(different) > CLASSES + 2:
        return _ranges(name, said, known, shown)
    counts = sorted(different, key=lambda v: -known.count(v))
    place_of = {v: i for i, v in enumerate(names or ())}  # in the order of their declaration, else of the alphabet
    kept = sorted(counts[:CLASSES], key=lambda v: (place_of.get(v, 0), isinstance(v, str), v))
    titles = [text_in_line(v) for v in kept] + (["others"] if len(different) > CLASSES else [])
    place = {v: i for i, v in enumerate(kept)}
    group = [-1 if v is None or v != v else place.get(v, CLASSES) for v in said]
    return Colouring(name, titles, group, shown)


def _ranges(name: str, values: Sequence[Any], known: Sequence[float], shown: list[str]) -> Colouring:
    """Numbers in as many ranges of about equal count as there are colours."""
    edges = torch.tensor(known, dtype=torch.float64).quantile(torch.linspace(0, 1, CLASSES + 1, dtype=torch.float64))
    edges = edges.unique()
    inner = edges[1:-1].contiguous()
    group = [-1 if v is None or v != v else int(torch.bucketize(float(v), inner, right=True)) for v in values]
    titles = [f"{low:.3g} to {high:.3g}" for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    return Colouring(name, titles, group, shown)
