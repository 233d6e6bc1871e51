"""Classes out of several domains that differ by how frequent these are, without a label: `mmssl cluster domain=COLUMN`.

Roberts et al. 2022, "Unsupervised Learning under Latent Label Shift" (arXiv 2207.13179), algorithms 1 and 2 (DDFA):
what tells domains apart is then the class alone, so that the chances of each domain given a row are a mixture, by
class, of the domains that the class comes from. Rows are cut into cells by these chances; how frequent cells are in
each domain is a product of how frequent they are in each class and classes in each domain, which is found by factoring.

Shapes: n rows, R domains, C classes, M cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.splits import parts_of, strata
from ..errors import UserError
from ..evaluation.linear import fit_probe
from ..saying import doing
from .kmeans import Labels, Rows, cluster

FOLDS = 5
"""Parts of which each is told by what learned to tell domains on the others."""
LEAST = 10
"""Rows that a domain has to have."""
UPDATES, CLOSE = 2000, 1e-7
"""Of EM, at most; the largest change of a share at which it ends."""


@dataclass
class Classes:
    """What was found.

    Attributes:
        chances: (n, C) of each class, given the row and its domain.
        priors: (R, C) how frequent classes are in each domain; rows sum to 1.
    """

    chances: Rows
    priors: Rows


def numbered(values: Sequence[Any], classes: int, column: str) -> tuple[list[str], Labels]:
    """(names of the domains, sorted; (n,) the number of each row's). UserError for unknown or too few ones."""
    unknown = sum(value is None or value != value for value in values)
    if unknown:
        raise UserError(f"domain: {unknown:,} rows have no '{column}', expected one for each row with an embedding")
    names, numbers, counts = np.unique([str(value) for value in values], return_inverse=True, return_counts=True)
    if len(names) < classes:
        raise UserError(f"domain: found {len(names)} values of '{column}', expected at least domain_classes={classes}")
    if counts.min() < LEAST:
        few = names[counts.argmin()]
        raise UserError(f"domain: '{few}' of '{column}' has {counts.min()} rows, expected {LEAST} or more")
    return names.tolist(), numbers.astype(np.int64)


def told_apart(x: Rows, domains: Labels, count: int, seed: int) -> Rows:
    """(n, R) chances of each domain given a row, by a linear model of the rows of other parts."""
    found, strength = np.zeros((len(x), count)), None
    for learned, held in parts_of(strata("classification", domains, count), FOLDS, seed=seed):
        probe = fit_probe(x[learned], domains[learned], outputs=count, seed=seed, strength=strength)
        strength = probe.strength
        z = probe(x[held])
        e = np.exp(z - z.max(1, keepdims=True))
        found[held] = e / e.sum(1, keepdims=True)
    return found


def factored(cells: Labels, domains: Labels, count: int, classes: int) -> Rows:
    """(R, C) priors: the (M, R) shares of cells in domains are (M, C) of cells in classes times (C, R) of classes in
    domains, none below 0, every column of sum 1.

    Many such products are the same table. That which is meant has a cell of every class alone, as the paper assumes,
    whose rows no others lie beyond: they are looked for first, among cells with enough rows, by successive projection
    (Araujo et al. 2001). From there on the factors become likelier by EM, cells counting by their rows, where the
    paper's own code takes the least squares from anywhere on.
    """
    from scipy.optimize import nnls

    table = np.zeros((int(cells.max()) + 1, count))
    np.add.at(table, (cells, domains), 1.0)
    table = table[table.sum(1) > 0]
    sizes = table.sum(1)
    enough = np.flatnonzero(sizes >= min(sizes.mean() / 2, np.sort(sizes)[-min(classes, len(sizes))]))
    if len(enough) < classes:
        raise UserError(f"clusters: {len(enough)} cells have rows, expected at least domain_classes={classes}")
    counts, table = table, table / table.sum(0)
    begin = extreme(table[enough] / table[enough].sum(1, keepdims=True), classes)
    parts = np.stack([nnls(begin.T, row)[0] for row in table]) + 1e-6
    first, second = parts / parts.sum(0), (begin * parts.sum(0)[:, None]).clip(1e-9)
    second /= second.sum(0)
    for _ in range(UPDATES):
        wanted = counts / np.maximum(first @ second, 1e-300)
        of_cells, of_domains = first * (wanted @ second.T), second * (first.T @ wanted)
        before, first, second = second, of_cells / of_cells.sum(0), of_domains / of_domains.sum(0)
        if np.abs(second - before).max() < CLOSE:
            break
    return second.T


def extreme(rows: Rows, count: int) -> Rows:
    """(count, R) of rows (M, R), each the longest behind what lies along those before is taken off."""
    left, found = rows.copy(), []
    for _ in range(count):
        best = int(np.square(left).sum(1).argmax())
        found.append(best)
        along = left[best] / max(float(np.linalg.norm(left[best])), 1e-300)
        left = left - (left @ along)[:, None] * along
    return rows[found]


def of_domains(apart: Rows, domains: Labels, priors: Rows, shares: Rows) -> Rows:
    """(n, C) chances of each class given a row and its domain (algorithm 2).

    The chances of domains apart (n, R) are P(d | y) q(y | x) with P(d | y) in proportion to P(y | d) P(d), which is
    solved for q by least squares, what is below 0 being 0; in domain d it is then q(y | x) P(y | d) / P(y).

    priors: (R, C). shares: (R,) of the rows in each domain.
    """
    of_classes = np.maximum(shares @ priors, 1e-12)
    from_classes = priors * shares[:, None] / of_classes
    q = np.maximum(apart @ np.linalg.pinv(from_classes).T, 0.0)
    found = q * priors[domains] / of_classes
    total = found.sum(1, keepdims=True)
    return np.where(total > 0, found / np.maximum(total, 1e-300), priors[domains])


def latent_classes(x: Rows, domains: Labels, count: int, classes: int, cells: int, seed: int = 0) -> Classes:
    """Classes of rows x (n, D) out of the numbers of their domains (n,), of which there are `count`."""
    with doing("telling domains apart"):
        apart = told_apart(x, domains, count, seed)
    with doing("finding classes"):
        k = min(cells, len(x))
        found = cluster(apart, None, len(x), k, spherical=False, seed=seed)
        priors = factored(found.assigning()(apart), domains, count, classes)
    shares = np.bincount(domains, minlength=count) / len(domains)
    return Classes(of_domains(apart, domains, priors, shares), priors)
