"""Retrieval with conditions, and among look-alikes: what a query has to find beside candidates that are hard to tell.

With conditions, after GeneCIS (Vaze et al. 2023, "GeneCIS: A Benchmark for General Conditional Image Similarity", arXiv
2306.07969): a query is a sample and a value of a column, a small gallery has one right candidate. `change`: the right
one is of the sample's label and has the value, which the sample has not; others have one of the two alone. `focus`: the
right one has the sample's own value and another label; others have not the value, half of them the sample's label. What
matches in the label alone, or in the value alone, is no hit.

A query is w sample + (1 - w) condition, both of length 1. The condition is the value put into templates, where the
model has texts in the same space; else the mean of the training rows that have it.

Shapes: Q queries, G candidates of each, E width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from ..data.sampler import order
from ..errors import UserError, nearest
from .embedding import Embedded
from .knn import standardised
from .retrieval import TIE, recall_at
from .tasks import ENCODERS, Features, Metrics, Side, direction, metric, paired_sides
from .zero_shot import class_vectors

if TYPE_CHECKING:
    from datasets import Dataset

MOST = 2000
"""Queries of a kind at most, always the same ones."""
KINDS = ("change", "focus")
WAYS = {"": (True, True), ", sample alone": (True, False), ", condition alone": (False, True)}
"""What a metric is called -> whether the query has the sample, and the condition."""
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Galleries:
    """Queries of one kind, and what each has to choose from.

    Attributes:
        queries: (Q,) the row of each sample.
        values: (Q,) number of the value that is asked for.
        candidates: (Q, G) rows; the right one comes first.
    """

    queries: Numbers
    values: Numbers
    candidates: Numbers


def galleries(kind: str, y: Numbers, values: Numbers, size: int, seed: int) -> Galleries:
    """Queries and galleries of rows with a label y (n,) and a value (n,), -1 being unknown; rows that a right candidate
    or enough wrong ones cannot be found for ask nothing."""
    known = np.flatnonzero((y >= 0) & (values >= 0))
    found: list[tuple[int, int, list[int]]] = []
    for row in known[order(len(known), seed, 12)[:MOST]].tolist():
        rng = np.random.default_rng([seed, row])
        others = known[known != row]
        same_label, own = y[others] == y[row], values[others] == values[row]
        if kind == "change":
            there = np.setdiff1d(values[others[same_label]], values[row])
            if not len(there):
                continue
            value = int(rng.choice(there))
            has = values[others] == value
            right, wrong = same_label & has, (same_label & ~has, ~same_label & has)
        else:
            value = int(values[row])
            right, wrong = own & ~same_label, (~own & same_label, ~own & ~same_label)
        chosen = _drawn(rng, others[right], [others[of] for of in wrong], size)
        if chosen is not None:
            found.append((row, value, chosen))
    queries, asked, candidates = zip(*found, strict=True) if found else ((), (), np.empty((0, size)))
    return Galleries(*(np.asarray(of, np.int64) for of in (queries, asked, candidates)))


def _drawn(rng: np.random.Generator, right: Numbers, wrong: Sequence[Numbers], size: int) -> list[int] | None:
    """A right row, and wrong ones of two kinds, half of each as far as there are so many."""
    if not len(right):
        return None
    first, second = (rng.permutation(of) for of in wrong)
    half = max((size - 1) // 2, size - 1 - len(second))
    rows = [int(rng.choice(right)), *first[:half].tolist()]
    rows += second[: size - len(rows)].tolist()
    return rows if len(rows) == size else None


def ranks_among(queries: Tensor, candidates: Tensor) -> NDArray[np.float64]:
    """(Q,) the rank, from 1, of the first of each query's candidates by cosine; ties count half.

    queries (Q, E), candidates (Q, G, E).
    """
    cosine = (normalize(queries.float(), dim=1)[:, None] * normalize(candidates.float(), dim=2)).sum(2)
    gap = cosine[:, 1:] - cosine[:, :1]
    ranks: NDArray[np.float64] = (1 + (gap > TIE).sum(1) + 0.5 * (gap.abs() <= TIE).sum(1)).numpy()
    return ranks


def conditional(
    features: Features,
    values: tuple[Numbers, Numbers | None],
    spoken: Mapping[str, tuple[str, Embedded]],
    templates: int,
    size: int,
    weight: float,
    seed: int,
) -> tuple[Metrics, dict[str, str]]:
    """R@1, R@2 and R@3 per modality and kind, and R@1 of the sample alone and of the condition alone.

    Args:
        features: with labels.
        values: number of the value of each test row and of each training row, -1 unknown.
        spoken: modality -> (modality of texts in its space, the values put into templates), where there is one.
        templates: of each value.
        size: of a gallery.
        weight: of the sample.
        seed: of the draws.
    """
    assert features.y_test is not None
    out: Metrics = {}
    skipped: dict[str, str] = {}
    for name, present in features.test.present.items():
        if name in {text for text, _ in spoken.values()}:
            continue
        there = np.where(present.numpy(), features.y_test.numpy(), -1)
        vectors = _spoken_vectors(features, name, *spoken[name], templates) if name in spoken else None
        vectors = _prototypes(features, name, values[1]) if vectors is None else vectors
        if not vectors:
            skipped[name] = "neither texts nor training rows say what the values of the condition look like"
            continue
        lacking = _told(name, vectors, there, values[0], (size, weight, seed), out)
        skipped |= {f"{name}/{kind}": why for kind, why in lacking.items()}
    return out, skipped


Vectors = dict[str, tuple[Tensor, Tensor]]
"""Encoder -> (test rows (n, E), conditions (V, E)), of length 1; a condition that nothing is known of is nan."""


def _told(
    name: str, vectors: Vectors, y: Numbers, values: Numbers, how: tuple[int, float, int], out: Metrics
) -> dict[str, str]:
    size, weight, seed = how
    known = next(iter(vectors.values()))[1].isfinite().all(1).numpy()
    asked = np.where((values >= 0) & known[values], values, -1)
    lacking: dict[str, str] = {}
    for kind in KINDS:
        found = galleries(kind, y, asked, size, seed)
        if len(found.queries) < 2:
            lacking[kind] = f"fewer than two rows have a gallery of {size}"
            continue
        recalls: dict[str, dict[str, float | None]] = {}
        for encoder, (x, conditions) in vectors.items():
            for way, (sample, condition) in WAYS.items():
                w = weight if sample and condition else float(sample)
                query = w * x[found.queries] + (1 - w) * conditions[found.values]
                ranks = ranks_among(query, x[found.candidates])
                for k in (1, 2, 3) if not way else (1,):
                    recalls.setdefault(f"R@{k}{way}", {"chance": k / size})[encoder] = recall_at(ranks, k)
        for score, of in recalls.items():
            out[f"{name}/{kind} {score}"] = metric(of, len(found.queries))
    return lacking


def _spoken_vectors(features: Features, name: str, text: str, spoken: Embedded, templates: int) -> Vectors:
    found: Vectors = {}
    for encoder, of in features.test.embeddings.items():
        conditions = class_vectors(spoken.embeddings[encoder][text], templates)
        if name in of and of[name].shape[1] == conditions.shape[1]:
            found[encoder] = (of[name], conditions)
    pair = features.cross(name, text, features.test.raw.get(name), spoken.raw.get(text))
    if pair is not None:
        found["raw"] = (normalize(pair[0].float(), dim=1), class_vectors(pair[1], templates))
    return found


def _prototypes(features: Features, name: str, values: Numbers | None) -> Vectors:
    """Means of the training rows with each value, number by number standardised over the training rows."""
    train, found = features.train, Vectors()
    if train is None or values is None or name not in train.present:
        return found
    use = train.present[name].numpy() & (values >= 0)
    if not use.any():
        return found
    for encoder in ENCODERS:
        x, test = train.features(encoder, name), features.test.features(encoder, name)
        if x is None or test is None:
            continue
        parts = standardised(x[use].numpy(), test.numpy())
        own, rows = (normalize(torch.from_numpy(part).float(), dim=1) for part in parts)
        numbers = torch.from_numpy(values[use])
        sums = torch.zeros(int(values.max()) + 1, own.shape[1]).index_add(0, numbers, own)
        counts = torch.bincount(numbers, minlength=len(sums))[:, None]
        means = torch.where(counts > 0, normalize(sums, dim=1), torch.nan)
        found[encoder] = (rows, means)
    return found


# ------------------------------------------------------------------------------------------------------- look-alikes


def look_alikes(
    features: Features, sides: Mapping[str, Side], size: int, values: Sequence[Any] | None, seed: int
) -> tuple[Metrics, dict[str, str]]:
    """R@1 between every two modalities, both ways, in bags of the right candidate and those that look most like it;
    and in bags of as many that are drawn.

    Args:
        features: of the rows.
        sides: modality -> its side.
        size: of a bag, at most.
        values: one a test row: alike are candidates of one value, drawn among these; None: those that are nearest to
            the right one by the raw features of their modality.
        seed: of the draws.
    """
    out: Metrics = {}
    skipped: dict[str, str] = {}
    for pair, found, relevant, pool in paired_sides(features, sides, skipped):
        a, b = pair.split("->")
        items = direction(sides[a], sides[b])[1]
        rng = np.random.default_rng(seed)
        alike = _by_value(sides[b], items, values) if values is not None else _by_raw(sides[b].items.raw.get(b), items)
        if alike is None:
            skipped[pair] = f"'{b}' has no raw features to be alike by; name a column (evaluation.look_alikes)"
            continue
        bags: dict[str, list[tuple[int, list[int]]]] = {"look-alikes": [], "drawn": []}
        for query, right in enumerate(relevant):
            near = alike(right[0], rng)
            wrong = near[~np.isin(near, right)][: size - 1]
            if len(wrong):
                free = rng.permutation(np.setdiff1d(np.arange(pool), right))[: len(wrong)]
                bags["look-alikes"].append((query, [right[0], *wrong.tolist()]))
                bags["drawn"].append((query, [right[0], *free.tolist()]))
        if not bags["drawn"]:
            skipped[pair] = "no candidate looks like another one"
            continue
        for what, of in bags.items():
            chance = float(np.mean([1 / len(rows) for _, rows in of]))
            values_of: dict[str, float | None] = {"chance": chance}
            for encoder, (queries, candidates) in found.items():
                ranks = [ranks_among(queries[[q]], candidates[rows][None])[0] for q, rows in of]
                values_of[encoder] = recall_at(np.array(ranks), 1)
            out[f"{pair}/R@1 of {size} {what}"] = metric(values_of, len(of))
    return out, skipped


def _by_raw(raw: Tensor | None, items: Sequence[int]) -> Any:
    """A function of a candidate that gives the others, those most like it by raw features first."""
    if raw is None:
        return None
    x = normalize(torch.from_numpy(standardised(*[raw[items].numpy()] * 2)[0]).float(), dim=1)

    def nearest(right: int, rng: np.random.Generator) -> Numbers:
        found: Numbers = (x @ x[right]).argsort(descending=True, stable=True).numpy()
        return found

    return nearest


def _by_value(side: Side, items: Sequence[int], values: Sequence[Any]) -> Any:
    """The same of those that have its value, in a drawn order."""
    owner: dict[int, int] = {}
    for row, owned in enumerate(side.owned):
        for item in owned:
            owner.setdefault(item, row)
    of = np.array([str(values[owner[item]]) if values[owner[item]] is not None else "" for item in items])

    def same(right: int, rng: np.random.Generator) -> Numbers:
        rows = np.flatnonzero((of == of[right]) & (of != ""))
        return rng.permutation(rows[rows != right])

    return same


def check_column(rows: Dataset, column: str | None, option: str) -> None:
    """UserError where the rows lack a column that an option names."""
    known = rows.column_names
    if column is not None and column not in known:
        raise UserError(
            f"evaluation.{option}: the data has no column '{column}', it has {', '.join(known)}{nearest(column, known)}"
        )


def values_of(rows: Dataset | None, column: str) -> list[Any]:
    """What a column holds, row by row; none of rows that lack it."""
    return [] if rows is None or column not in rows.column_names else list(rows.with_format(None)[column])


def numbered_values(test: Sequence[Any], train: Sequence[Any]) -> tuple[list[str], Numbers, Numbers | None]:
    """(the values as text, number of each test row's, of each training row's); -1: it has none.

    UserError where they are not a few values that come again: a condition has to be of several rows.
    """
    texts = [[None if value is None or value != value else str(value) for value in of] for of in (test, train)]
    known = sorted({value for of in texts for value in of if value is not None})
    if len(known) < 2 or len(known) > len(test) // 2:
        raise UserError(
            f"evaluation.condition: found {len(known):,} values in {len(test):,} rows, expected at least two, and far "
            "fewer than rows"
        )
    number = {value: at for at, value in enumerate(known)}
    rows = [np.array([-1 if value is None else number[value] for value in of], np.int64) for of in texts]
    return known, rows[0], rows[1] if len(train) else None
