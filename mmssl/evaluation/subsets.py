"""The subset scorecard: how much does an encoder know from any of the modalities that a sample may come with?

For every subset of the modalities a probe (weighted kNN: accuracy, or R2 of labels that are amounts) and retrieval into
every modality outside it. The embedding of a subset is the normalised mean of its towers' normalised embeddings, a
tower of several modalities giving one for those of the subset together; a row counts for a subset when it has all of
it.

Shapes: n rows, E embedding width, F raw features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from .amounts import interval, nearest
from .baselines import Ridge, Space, majority
from .embedding import Embedded
from .knn import knn_predict
from .retrieval import chance_median_rank, chance_recall, median_rank, recall_at, retrieval_ranks
from .scoring import r2
from .tasks import ENCODERS, MIN_PAIRS, Features, Metric, Metrics, metric

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel

Subset = tuple[str, ...]


def subsets_of(names: Sequence[str]) -> list[Subset]:
    """All non-empty subsets, small ones first."""
    return [subset for size in range(1, len(names) + 1) for subset in combinations(names, size)]


def mean_embedding(parts: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
    """(n, E) normalised mean of the normalised parts (n, E) of those that are present (n,); zeros where none is."""
    weights = [there.to(part.dtype)[:, None] for part, there in zip(parts, present, strict=True)]
    total = sum((normalize(p.float(), dim=1) * w for p, w in zip(parts, weights, strict=True)), torch.zeros(()))
    return normalize(total, dim=1)


def joint_groups(model: MMSSLModel, subset: Subset) -> list[Subset]:
    """The modalities of the subset, tower by tower."""
    groups = [tuple(n for n in subset if model.tower_of(n) == tower) for tower in model.towers]
    return [group for group in groups if group]


def concatenated(parts: Sequence[Tensor]) -> Tensor:
    """(n, sum of F) raw features of a subset side by side, each modality's normalised so that none drowns others."""
    return torch.cat([normalize(part.float(), dim=1) for part in parts], 1)


class Scorecard:
    """Probe and retrieval over the subsets, for one evaluation's features."""

    def __init__(self, features: Features, model: MMSSLModel, k: int) -> None:
        self.features, self.k = features, k
        self.names = list(features.test.present)
        self.groups = {s: joint_groups(model, s) for s in subsets_of(self.names)}

    def run(self) -> tuple[Metrics, dict[str, str]]:
        """Metrics `<a>+<b>/accuracy` (or `/R2`) and `<a>+<b>-><c>/<measure>`, and what was left out with the reason."""
        out: Metrics = {}
        skipped: dict[str, str] = {}
        # means and cosines across modalities need one space
        widths = {z.shape[1] for z in self.features.test.embeddings["model"].values()}
        if len(widths) > 1:
            return {}, {"embeddings": f"they differ in width, {sorted(widths)} (set model.projection)"}
        for subset in self.groups:
            for name, probe, of in self._probes():
                found = probe(subset)
                if found is None:
                    skipped["+".join(subset)] = f"it needs labelled test rows and labelled training rows of two {of}"
                else:
                    out[f"{'+'.join(subset)}/{name}"] = found
        for subset in self.groups:
            for target in self.names:
                if target not in subset:
                    pair = "+".join(subset) + f"->{target}"
                    found_here = self._retrieve(subset, target)
                    out |= {f"{pair}/{name}": value for name, value in found_here.items()}
                    if not found_here:
                        skipped[pair] = "fewer than two test rows have all of it"
        return out, skipped

    def _probes(self) -> list[tuple[str, Callable[[Subset], Metric | None], str]]:
        """(measure, probe, what labels are) by the labels that there are."""
        features = self.features
        if features.y_test is not None and features.y_train is not None:
            return [("accuracy", self._probe, "classes")]
        amounts = features.numbers is not None and features.numbers.train is not None
        return [("R2", self._probe_amounts, "values")] if amounts else []

    def _rows(self, rows: Embedded, subset: Subset) -> Tensor:
        """(n,) bool: the rows that have all of the subset."""
        return torch.stack([rows.present[name] for name in subset]).all(0)

    def _embedding(self, rows: Embedded, encoder: str, subset: Subset) -> Tensor:
        """(n, E) of all rows; meaningful where they have all of the subset."""
        parts = [
            rows.embeddings[encoder][group[0]] if len(group) == 1 else rows.joint[encoder]["+".join(group)]
            for group in self.groups[subset]
        ]
        return mean_embedding(parts, [torch.ones(len(part), dtype=torch.bool) for part in parts])

    def _inputs(self, rows: Embedded, encoder: str, subset: Subset) -> Tensor | None:
        """What the probe sees of an encoder, "raw" for the raw features, or None where there is nothing."""
        if encoder != "raw":
            return self._embedding(rows, encoder, subset) if encoder in rows.embeddings else None
        if any(name not in rows.raw for name in subset):
            return None
        return concatenated([rows.raw[name] for name in subset])

    def _probe(self, subset: Subset) -> Metric | None:
        train, test, y_train, y_test = (getattr(self.features, n) for n in ("train", "test", "y_train", "y_test"))
        if train is None or any(name not in train.present for name in subset):
            return None
        use, against = self._rows(train, subset) & (y_train >= 0), self._rows(test, subset) & (y_test >= 0)
        if not bool(against.any()) or len(y_train[use].unique()) < 2:
            return None
        truth, classes = y_test[against], int(max(y_train.max(), y_test.max())) + 1
        values: dict[str, float | None] = {"chance": majority(truth, int(torch.bincount(y_train[use]).argmax()))}
        for encoder in ENCODERS:
            x, x_test = self._inputs(train, encoder, subset), self._inputs(test, encoder, subset)
            if x is not None and x_test is not None:
                predicted = knn_predict(x[use], y_train[use], x_test[against], classes=classes, k=self.k)
                values[encoder] = float((predicted == truth).double().mean())
        return metric(values, len(truth))

    def _probe_amounts(self, subset: Subset) -> Metric | None:
        train, test, numbers = self.features.train, self.features.test, self.features.numbers
        assert numbers is not None and numbers.train is not None
        if train is None or any(name not in train.present for name in subset):
            return None
        use = self._rows(train, subset) & numbers.train.isfinite()
        against = self._rows(test, subset) & numbers.test.isfinite()
        y, truth = numbers.train[use], numbers.test[against, None].numpy()
        if len(y.unique()) < 2 or len(np.unique(truth)) < 2:
            return None
        values: dict[str, float | None] = {"chance": r2(np.full_like(truth, float(y.mean())), truth)}
        spans: dict[str, list[float]] = {}
        for encoder in ENCODERS:
            x, x_test = self._inputs(train, encoder, subset), self._inputs(test, encoder, subset)
            if x is not None and x_test is not None:
                said = nearest(x[use], y, x_test[against], self.k)[:, None].numpy()
                values[encoder], spans[encoder] = r2(said, truth), interval(said[None], truth)
        return metric(values, len(truth), share=False) | {"interval": spans}

    def _retrieve(self, subset: Subset, target: str) -> Metrics:
        """Every row asks with the subset for its own `target` among those of all rows. Equal candidates share ranks."""
        test = self.features.test
        rows = self._rows(test, (*subset, target))
        n = int(rows.sum())
        if n < 2:
            return {}
        pairs = {
            encoder: (self._embedding(test, encoder, subset)[rows], of[target][rows])
            for encoder, of in test.embeddings.items()
        }
        raw = self._raw_pair(subset, target, rows)
        if raw is not None:
            pairs["raw"] = raw
        own, ones = [[i] for i in range(n)], [1] * n
        ranks = {encoder: retrieval_ranks(*pair, own) for encoder, pair in pairs.items()}
        out: Metrics = {}
        for k in (1, 10):
            if k < n:
                values: dict[str, float | None] = {encoder: recall_at(rank, k) for encoder, rank in ranks.items()}
                out[f"R@{k}"] = metric(values | {"chance": chance_recall(ones, n, k)}, n)
        values = {encoder: median_rank(rank) for encoder, rank in ranks.items()}
        values["chance"] = chance_median_rank(ones, n)
        out["median rank"] = metric(values, n, share=False) | {"candidates": n}
        if self.features.y_test is not None:
            y = self.features.y_test[rows]
            known = y >= 0
            if int(known.sum()) > 1:
                out["same class"] = self._same_class(pairs, y, known)
        return out

    @staticmethod
    def _same_class(pairs: Mapping[str, tuple[Tensor, Tensor]], y: Tensor, known: Tensor) -> Metric:
        """How often the nearest candidate is of the query's class."""
        y = y[known]
        values: dict[str, float | None] = {"chance": float((torch.bincount(y).double() / len(y)).square().sum())}
        for encoder, (queries, candidates) in pairs.items():
            q, c = (normalize(x[known].float(), dim=1) for x in (queries, candidates))
            values[encoder] = float((y[(q @ c.T).argmax(1)] == y).double().mean())
        return metric(values, len(y))

    def _raw_pair(self, subset: Subset, target: str, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Raw-feature vectors to compare: a ridge map from the subset's to the target's, or None without enough."""
        f = self.features
        train, test = f.train, f.test
        names = (*subset, target)
        if train is None or any(name not in train.raw or name not in test.raw for name in names):
            return None
        both = self._rows(train, names)
        if int(both.sum()) < MIN_PAIRS:
            return None
        spaces = {name: Space.fit(train.raw[name][both], counts=name in f.counts) for name in names}

        def inputs(of: Embedded, at: Tensor) -> Tensor:
            return torch.cat([spaces[name].transform(of.raw[name][at]) for name in subset], 1)

        ridge = Ridge.fit(inputs(train, both), spaces[target].transform(train.raw[target][both]))
        asked = ridge.centred(ridge.predict(inputs(test, rows)))
        return asked, ridge.centred(spaces[target].transform(test.raw[target][rows]))
