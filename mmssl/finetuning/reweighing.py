"""What kept rows count by what learning from them does for labelled rows that are kept aside.

Ren et al. 2018, "Learning to Reweight Examples for Robust Deep Learning" (arXiv 1803.09050), equations 6 to 8, as LiST
does (Wang et al. 2022, arXiv 2110.06274): a step of gradient descent on the rows with weights e changes the loss L of
the rows kept aside by -d L / d e_i, at e = 0 in proportion to the product of the gradients of L and of row i. Rows
that would raise it count nothing.

Here a linear head on standardised features is learned so from zero on, by steps over all rows, of which the product is
known in closed form; what a row counts is the mean over these steps. Each fold of the labelled rows is kept aside once,
so that none of them is lost for learning.

Shapes: n labelled rows, m others, V kept aside, D features, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.splits import parts_of, strata
from .pseudo import Classes, Floats, Known, probabilities

FOLDS, STEPS = 4, 30


def gradient_products(x: Floats, wrong: Floats, aside: Floats, wrong_aside: Floats) -> Floats:
    """(m,) products of each row's gradient with the mean one of the rows kept aside, of a linear head.

    x (m, D), aside (V, D): features, of which one is 1 for a bias. wrong (m, C), wrong_aside (V, C): chances less the
    one-hot label.
    """
    mean = wrong_aside.T @ aside / len(aside)
    found: Floats = ((x @ mean.T) * wrong).sum(1)
    return found


def worth(known: Known, x: NDArray[Any], labels: Classes, seed: int) -> Floats:
    """(m,) from 0 on, mean 1 of those that count: how much rows with these labels (m,) help, see the module.

    Where no fold has two classes to learn, all 1.
    """
    mean, deviation = known.x.mean(0, dtype=np.float64), known.x.std(0, dtype=np.float64)
    deviation = np.where(deviation > 1e-8, deviation, 1.0)
    of_known, of_others = (
        np.concatenate([(rows.astype(np.float64) - mean) / deviation, np.ones((len(rows), 1))], 1)
        for rows in (known.x, x)
    )
    one_hot = np.eye(known.classes)
    found = []
    for learned, held in parts_of(strata("classification", known.y, known.classes), FOLDS, seed=seed):
        if len(np.unique(known.y[learned])) > 1:
            parts = [(of_known[rows], one_hot[known.y[rows]]) for rows in (learned, held)]
            found.append(_along(parts[0], parts[1], (of_others, one_hot[labels])))
    total = np.mean(found, axis=0) if found else np.ones(len(x))
    counted = total > 0
    return total / total[counted].mean() if counted.any() else np.ones(len(x))


Rows = tuple[Floats, Floats]
"""Features and one-hot labels."""


def _along(learned: Rows, held: Rows, others: Rows) -> Floats:
    """(m,) what the others count on average while a head learns from them, so weighted, and from labelled rows."""
    head = np.zeros((learned[1].shape[1], learned[0].shape[1]))
    # the loss bends by at most half the mean square of the features
    rate = 2 / max(float(np.square(rows).sum(1).mean()) for rows, _ in (learned, others))
    total = np.zeros(len(others[0]))
    for _ in range(STEPS):
        wrong = [probabilities(rows @ head.T) - labels for rows, labels in (learned, held, others)]
        products = np.maximum(gradient_products(others[0], wrong[2], held[0], wrong[1]), 0.0)
        weights = products / max(float(products.sum()), 1e-300)
        total += weights
        slope = wrong[0].T @ learned[0] / len(learned[0]) + (wrong[2] * weights[:, None]).T @ others[0]
        head -= rate / 2 * slope
    return total
