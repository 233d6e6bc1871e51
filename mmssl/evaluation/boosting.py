"""Gradient boosting on raw features: what a table asks for first, and what an encoder of few labels has to beat.

scikit-learn's histogram boosting, which takes empty cells and categories as they are. How small a leaf may be is
chosen as the linear probe chooses its C: a fifth of the training rows is held out, by class and by group (of few rows
each fifth in its turn), the best score there wins, of equal scores the largest leaf; then it is fitted on all of them.
The default of 20 rows a leaf would make a constant of 20 labels, and so a weak rival.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.splits import Groups, strata
from .linear import NEVER, RARELY, fifths
from .scoring import Array, mean_of_known, scores_of

LEAVES = (20, 5, 2)
"""Fewest rows of a leaf that are tried, those that at least four leaves can be made with."""
WIDEST = 512
"""Of more features the ones are taken that tell most by an F test on the training rows."""


@dataclass(frozen=True)
class Boosting:
    """Fitted trees.

    Attributes:
        models: one of all classes, or one a label or regression target; a number where there was nothing to tell apart.
        classes: of a classification, those that the training rows have.
        outputs: C.
        columns: which features are used.
        leaf: fewest rows of a leaf.
    """

    models: list[Any]
    classes: list[int] | None
    outputs: int
    columns: Array
    leaf: int

    def __call__(self, x: Array) -> Array:
        """(n, C) float64 log probabilities, log odds of several labels, or numbers, for x (n, F)."""
        x = x[:, self.columns]
        if self.classes is not None:
            out = np.full((len(x), self.outputs), NEVER)
            out[:, self.classes] = np.log(np.maximum(self.models[0].predict_proba(x), np.exp(NEVER)))
            return out
        return np.stack([self._one(model, x) for model in self.models], 1)

    @staticmethod
    def _one(model: Any, x: Array) -> Array:
        if isinstance(model, float):
            return np.full(len(x), model)
        found = model.decision_function(x) if hasattr(model, "decision_function") else model.predict(x)
        return np.asarray(found, np.float64)


def fit_boosting(
    x: Array,
    y: Array,
    *,
    task: str = "classification",
    outputs: int,
    categories: Sequence[bool] | None = None,
    groups: Groups | None = None,
    balanced: bool = False,
    seed: int = 0,
) -> Boosting:
    """Boosting on raw features, its leaves chosen on held-out training rows.

    Args:
        x: (n, F), NaN where nothing is.
        y: (n,) class numbers, or (n, C) of 0 and 1 or of numbers.
        task: classification, multilabel or regression.
        outputs: C.
        categories: which features are codes of categories; None: none.
        groups: a name a row; rows of one name are held out together.
        balanced: each class weighs the same.
        seed: of the fifths.
    """
    fitting = _Fitting(task, outputs, np.array(categories or [False] * x.shape[1], bool), balanced, seed)
    parts = fifths(strata(task, y, outputs), groups, seed)
    learned = min((len(rest) for rest, _ in parts), default=len(y))
    leaves = [leaf for leaf in LEAVES if 4 * leaf <= learned] or [LEAVES[-1]]
    if len(leaves) == 1 or not parts:
        return fitting.fit(x, y, leaves[-1])
    score = next(iter(scores_of(task).values()))
    found = [
        mean_of_known([score(fitting.fit(x[rest], y[rest], leaf)(x[held]), y[held]) for rest, held in parts])
        for leaf in leaves
    ]
    best = leaves[0] if np.isnan(found).all() else leaves[int(np.nanargmax(found))]
    return fitting.fit(x, y, best)


@dataclass(frozen=True)
class _Fitting:
    task: str
    outputs: int
    categories: Array
    balanced: bool
    seed: int

    def fit(self, x: Array, y: Array, leaf: int) -> Boosting:
        columns = _telling(x, y, self.task)
        x, categories = x[:, columns], self.categories[columns]
        if self.task == "classification":
            classes = np.unique(y).tolist()
            return Boosting([self._model(leaf, categories, True).fit(x, y)], classes, self.outputs, columns, leaf)
        models = [self._target(x, y[:, c], leaf, categories) for c in range(self.outputs)]
        return Boosting(models, None, self.outputs, columns, leaf)

    def _target(self, x: Array, y: Array, leaf: int, categories: Array) -> Any:
        if self.task == "regression":
            return self._model(leaf, categories, False).fit(x, y)
        positive = y > 0.5
        if positive.all() or not positive.any():
            return -RARELY if positive.all() else RARELY
        return self._model(leaf, categories, True).fit(x, positive)

    def _model(self, leaf: int, categories: Array, classifies: bool) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        options = {"min_samples_leaf": leaf, "categorical_features": categories, "random_state": self.seed}
        if not classifies:
            return HistGradientBoostingRegressor(**options)
        weight = "balanced" if self.balanced and self.task == "classification" else None
        return HistGradientBoostingClassifier(class_weight=weight, **options)


def _telling(x: Array, y: Array, task: str) -> Array:
    """The numbers of the features that are used, in rising order."""
    if x.shape[1] <= WIDEST:
        return np.arange(x.shape[1])
    from sklearn.feature_selection import f_classif, f_regression

    plain = np.nan_to_num(x.astype(np.float64))
    with np.errstate(all="ignore"):  # a constant feature tells nothing
        if task == "classification":
            found = np.nan_to_num(f_classif(plain, y)[0])
        else:
            found = sum(np.nan_to_num(f_regression(plain, y[:, c])[0]) for c in range(y.shape[1]))
    return np.sort(np.argsort(-np.asarray(found), kind="stable")[:WIDEST])
