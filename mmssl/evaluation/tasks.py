"""The evaluation tasks over embedded rows: each gives {metric: {"model", "untrained", "raw", "chance", ...}}.

A metric also has `n` (what it is a mean over) and, where it is a share, `interval`: the 95 % interval of each value.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.splits import Groups
from .answers import Answer, hits_of, remembered
from .attentive import attentive_logits, fit_attentive
from .baselines import Ridge, Space, majority, wilson
from .calibration import bootstrap, expected_calibration_error
from .embedding import Embedded
from .knn import knn_predict, standardised
from .linear import fit_probe
from .rank import rankme
from .retrieval import (
    chance_median_rank,
    chance_ranking,
    chance_recall,
    median_rank,
    ranking,
    recall_at,
    retrieval_ranks,
)
from .rows import Numbers

Metric = dict[str, Any]
Metrics = dict[str, Metric]

ENCODERS = ("model", "start", "untrained", "raw")
MIN_PAIRS = 10
"""Fewer training pairs than this make no ridge baseline."""


@dataclass
class Features:
    """What the tasks work on.

    Attributes:
        test: embedded rows.
        train: embedded rows, for the probes; None where there are none.
        counts: modalities whose raw features are counts of ids.
        y_test: (n,) int64 class numbers, -1 unknown, None where there are none.
        y_train: likewise.
        paired: modality -> raw features of the training rows for the ridge map, where they are others than `train.raw`.
        alike: a name a training row; a probe that holds some out to choose by does not part those of one name.
        answers: metric -> what was right, of the task that ran last.
        memory: see `Answers.memory`.
        numbers: labels that are amounts; then there are no classes.
    """

    test: Embedded
    train: Embedded | None
    counts: frozenset[str]
    y_test: Tensor | None = None
    y_train: Tensor | None = None
    paired: Mapping[str, Tensor] = field(default_factory=dict)
    alike: Sequence[Hashable] | None = None
    answers: dict[str, Answer] = field(default_factory=dict)
    memory: Path | None = None
    numbers: Numbers | None = None
    _ridges: dict[tuple[str, str], tuple[Space, Space, Ridge] | None] = field(default_factory=dict)

    def ridge(self, a: str, b: str) -> tuple[Space, Space, Ridge] | None:
        """(space of a, space of b, map from a to b) fitted on the training pairs, or None without enough of them."""
        if (a, b) not in self._ridges:
            self._ridges[a, b] = self._fit_ridge(a, b)
        return self._ridges[a, b]

    def _fit_ridge(self, a: str, b: str) -> tuple[Space, Space, Ridge] | None:
        train = self.train
        if train is None or a not in train.raw or b not in train.raw:
            return None
        both = train.present[a] & train.present[b]
        if int(both.sum()) < MIN_PAIRS:
            return None
        x, y = (self.paired.get(name, train.raw[name])[both] for name in (a, b))
        space_a, space_b = Space.fit(x, counts=a in self.counts), Space.fit(y, counts=b in self.counts)
        return space_a, space_b, Ridge.fit(space_a.transform(x), space_b.transform(y))

    def cross(self, a: str, b: str, raw_a: Tensor | None, raw_b: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Raw-feature vectors of samples of `a` and of `b` that may be compared by cosine, or None without a map."""
        fitted = self.ridge(a, b)
        if fitted is None or raw_a is None or raw_b is None:
            return None
        space_a, space_b, ridge = fitted
        return ridge.centred(ridge.predict(space_a.transform(raw_a))), ridge.centred(space_b.transform(raw_b))


def metric(values: Mapping[str, float | None], n: int, share: bool = True) -> Metric:
    """One metric of a report from its values by encoder and chance."""
    out: Metric = {name: values.get(name) for name in (*ENCODERS, "chance")}
    if out["start"] is None:
        del out["start"]  # only what went on from something has one
    out["n"] = n
    if share and n:
        out["interval"] = {name: list(wilson(value, n)) for name in ENCODERS if (value := values.get(name)) is not None}
    return out


Read = Callable[[Embedded, str, str], Tensor | None]
"""(rows, encoder, modality) -> what a probe sees (n, ...), or None where there is nothing."""
Probe = Callable[[Tensor, Tensor, Tensor, int, Groups | None], tuple[Tensor, Tensor | None]]
"""(training features, their labels, test features, classes, names of training rows that stay together) -> predicted
classes and their probability, or None."""


def probed(
    features: Features, probe: Probe, what: str = "accuracy", read: Read = Embedded.features
) -> tuple[Metrics, dict[str, str]]:
    """Accuracy of a probe on every modality and encoder, where it gives probabilities also their calibration error
    (ECE), and the modalities left out with the reason. read: what the probe sees of a row."""
    train, test, y_train, y_test = features.train, features.test, features.y_train, features.y_test
    assert train is not None and y_train is not None and y_test is not None
    classes = int(max(y_train.max(), y_test.max())) + 1
    out, skipped = {}, {}
    for name in test.present:
        if name not in train.present:
            skipped[name] = "the training rows lack it"
            continue
        use, against = train.present[name] & (y_train >= 0), test.present[name] & (y_test >= 0)
        if not bool(against.any()) or len(y_train[use].unique()) < 2:
            skipped[name] = "it needs labelled test rows and labelled training rows of two classes"
            continue
        truth, names = y_test[against], features.alike
        groups = None if names is None else [names[row] for row in use.nonzero()[:, 0].tolist()]
        values: dict[str, float | None] = {"chance": majority(truth, int(torch.bincount(y_train[use]).argmax()))}
        sure: dict[str, tuple[Tensor, Tensor]] = {}
        right: dict[str, Tensor] = {}
        for encoder in ENCODERS:
            x, x_test = read(train, encoder, name), read(test, encoder, name)
            if x is not None and x_test is not None:
                predicted, confidence = probe(x[use], y_train[use], x_test[against], classes, groups)
                values[encoder] = float((predicted == truth).double().mean())
                right[encoder] = hits_of(predicted, truth)
                if confidence is not None:
                    sure[encoder] = (confidence, predicted == truth)
        out[f"{name}/{what}"] = metric(values, len(truth))
        features.answers[f"{name}/{what}"] = Answer(against.nonzero()[:, 0], right)
        if sure:
            out[f"{name}/ECE"] = calibration(sure, len(truth))
    return out, skipped


def calibration(sure: Mapping[str, tuple[Tensor, Tensor]], n: int) -> Metric:
    """Expected calibration error of each encoder from (confidence, correct), with bootstrap intervals."""
    out = metric({e: expected_calibration_error(*pair) for e, pair in sure.items()}, n, share=False)
    out["interval"] = {
        encoder: bootstrap(lambda rows, c=c, hit=hit: expected_calibration_error(c[rows], hit[rows]), n)  # type: ignore[misc]
        for encoder, (c, hit) in sure.items()
    }
    return out


def knn(features: Features, k: int) -> tuple[Metrics, dict[str, str]]:
    """Accuracy of the weighted kNN classifier of `knn_predict` on standardised features, per modality."""

    def nearest(x: Tensor, y: Tensor, x_test: Tensor, classes: int, _: Groups | None) -> tuple[Tensor, None]:
        train, test = (torch.from_numpy(part) for part in standardised(x.numpy(), x_test.numpy()))
        return knn_predict(train, y, test, classes=classes, k=k), None

    return probed(features, nearest)


def linear(features: Features, seed: int) -> tuple[Metrics, dict[str, str]]:
    """Accuracy and calibration error of the probe of `fit_probe`, per modality."""

    def probe(x: Tensor, y: Tensor, x_test: Tensor, classes: int, groups: Groups | None) -> tuple[Tensor, Tensor]:
        fitted = fit_probe(x.numpy(), y.numpy(), outputs=classes, groups=groups, seed=seed)
        confidence, predicted = torch.from_numpy(fitted(x_test.numpy())).softmax(1).max(1)
        return predicted, confidence

    return probed(features, probe)


def boosting(features: Features, seed: int) -> tuple[Metrics, dict[str, str]]:
    """Accuracy of gradient boosting on the raw features alone, per modality: what an encoder has to beat."""

    def probe(x: Tensor, y: Tensor, x_test: Tensor, classes: int, groups: Groups | None) -> tuple[Tensor, None]:
        from .boosting import fit_boosting

        def make() -> NDArray[Any]:
            fitted = fit_boosting(x.numpy(), y.numpy(), outputs=classes, groups=groups, seed=seed)
            return fitted(x_test.numpy()).argmax(1)

        parts = ("boosting", x.numpy(), y.numpy(), x_test.numpy(), classes, groups, seed)
        return torch.from_numpy(remembered(features.memory, parts, make)), None

    return probed(features, probe, read=lambda rows, encoder, name: rows.raw.get(name) if encoder == "raw" else None)


def attentive(features: Features, seed: int, device: torch.device) -> tuple[Metrics, dict[str, str]]:
    """Accuracy and calibration error of the probe of `fit_attentive`, per modality; raw features have no tokens."""
    assert features.train is not None
    for rows in (features.test, features.train):
        if rows.no_tokens is not None:
            return {}, dict.fromkeys(features.test.present, rows.no_tokens)

    def probe(x: Tensor, y: Tensor, x_test: Tensor, classes: int, groups: Groups | None) -> tuple[Tensor, Tensor]:
        logits = attentive_logits(fit_attentive(x, y, classes, groups=groups, seed=seed, device=device), x_test)
        confidence, predicted = logits.softmax(1).max(1)
        return predicted, confidence

    return probed(features, probe, read=lambda rows, encoder, name: rows.tokens.get(encoder, {}).get(name))


@dataclass(frozen=True)
class Side:
    """One side of a retrieval: its items, and which items each test row owns (an absent row owns none)."""

    items: Embedded
    owned: Sequence[Sequence[int]]


def row_side(test: Embedded, name: str) -> Side:
    """Every test row that has the modality is one item."""
    return Side(test, [[i] if there else [] for i, there in enumerate(test.present[name].tolist())])


def text_side(items: Embedded, unique: Sequence[str], texts: Sequence[Sequence[str]], present: Tensor) -> Side:
    """Every different text is one item; a row owns its own texts, so rows with equal texts share them."""
    number = {text: i for i, text in enumerate(unique)}
    owned = [sorted({number[t] for t in own}) if ok else [] for own, ok in zip(texts, present.tolist(), strict=True)]
    return Side(items, owned)


def direction(queries: Side, candidates: Side) -> tuple[list[int], list[int], list[list[int]]]:
    """(query items, candidate items, for each query the places of its relevant candidates)."""
    rights: dict[int, set[int]] = {}
    for mine, theirs in zip(queries.owned, candidates.owned, strict=True):
        if mine and theirs:
            for item in mine:
                rights.setdefault(item, set()).update(theirs)
    pool = sorted({item for right in rights.values() for item in right})
    place = {item: i for i, item in enumerate(pool)}
    asked = sorted(rights)
    return asked, pool, [sorted(place[i] for i in rights[item]) for item in asked]


Pair = tuple[Tensor, Tensor]
"""Queries (Q, E) and candidates (C, E) that may be compared by cosine."""


def paired_sides(
    features: Features, sides: Mapping[str, Side], skipped: dict[str, str]
) -> Iterator[tuple[str, dict[str, Pair], list[list[int]], int]]:
    """(name, encoder -> its vectors, relevant candidates of each query, number of candidates) of every two modalities,
    both ways; those left out are added to `skipped`."""
    for a, b in permutations(sides, 2):
        pair = f"{a}->{b}"
        asked, pool, relevant = direction(sides[a], sides[b])
        if len(pool) < 2:
            skipped[pair] = "fewer than two test rows have both"
            continue
        found: dict[str, Pair] = {}
        for encoder, of in sides[a].items.embeddings.items():
            queries, candidates = of[a][asked], sides[b].items.embeddings[encoder][b][pool]
            if queries.shape[1] == candidates.shape[1]:
                found[encoder] = (queries, candidates)
        if "model" not in found:
            skipped[pair] = "the two embeddings differ in width (set model.projection)"
            continue
        raw = features.cross(a, b, sides[a].items.raw.get(a), sides[b].items.raw.get(b))
        if raw is not None:
            found["raw"] = (raw[0][asked], raw[1][pool])
        yield pair, found, relevant, len(pool)


def retrieval(features: Features, sides: Mapping[str, Side]) -> tuple[Metrics, dict[str, str]]:
    """R@1, R@5, R@10 and the median rank between every two modalities, both ways."""
    out: Metrics = {}
    skipped: dict[str, str] = {}
    for pair, found, relevant, pool in paired_sides(features, sides, skipped):
        ranks = {encoder: retrieval_ranks(*vectors, relevant) for encoder, vectors in found.items()}
        counts, n = [len(right) for right in relevant], len(relevant)
        for k in (1, 5, 10):
            if k < pool:  # with k candidates in all, every recall at k is 1
                values: dict[str, float | None] = {encoder: recall_at(rank, k) for encoder, rank in ranks.items()}
                out[f"{pair}/R@{k}"] = metric({**values, "chance": chance_recall(counts, pool, k)}, n)
        values = {encoder: median_rank(rank) for encoder, rank in ranks.items()}
        values["chance"] = chance_median_rank(counts, pool)
        out[f"{pair}/median rank"] = metric(values, n, share=False) | {"candidates": pool}
    return out, skipped


def ranked(features: Features, sides: Mapping[str, Side]) -> tuple[Metrics, dict[str, str]]:
    """The mean reciprocal rank and nDCG between every two modalities, both ways, with bootstrap intervals."""
    out: Metrics = {}
    skipped: dict[str, str] = {}
    for pair, found, relevant, pool in paired_sides(features, sides, skipped):
        orders = {encoder: ranking(*vectors, relevant) for encoder, vectors in found.items()}
        chance = chance_ranking([len(right) for right in relevant], pool)
        for name, which, by_chance in (("MRR", "reciprocal", chance[0]), ("nDCG", "gain", chance[1])):
            each = {e: torch.from_numpy(getattr(order, which)) for e, order in orders.items()}
            values: dict[str, float | None] = {e: float(of.mean()) for e, of in each.items()}
            spans = {e: bootstrap(lambda rows, of=of: float(of[rows].mean()), len(of)) for e, of in each.items()}  # type: ignore[misc]
            out[f"{pair}/{name}"] = metric({**values, "chance": by_chance}, len(relevant), share=False)
            out[f"{pair}/{name}"]["interval"] = spans
    return out, skipped


def rank_me(rows: Embedded, projected: bool) -> tuple[Metrics, dict[str, str]]:
    """RankMe of the pooled state per modality, and of the projected embedding where the model has a projection."""
    out: Metrics = {}
    skipped: dict[str, str] = {}
    for name, present in rows.present.items():
        n = int(present.sum())
        if n < 2:
            skipped[name] = "fewer than two rows have it"
            continue
        values: dict[str, float | None] = {}
        for encoder in ENCODERS:
            x = rows.features(encoder, name)
            values[encoder] = None if x is None else rankme(x[present])
        of = min(n, rows.pooled["model"][name].shape[1])
        out[f"{name}/pooled"] = metric(values, n, share=False) | {"of": of}
        if projected:
            values = {e: rankme(z[name][present]) for e, z in rows.embeddings.items()}
            of = min(n, rows.embeddings["model"][name].shape[1])
            out[f"{name}/embedding"] = metric(values, n, share=False) | {"of": of}
    return out, skipped
