"""Linear maps of several towers into one space, in closed form: regularised canonical correlations.

What a contrastive loss asks of two linear maps on few pairs has a solution that no step of a gradient has to look for:
the directions of either side that go along with one of the other (Hotelling 1936), shrunk, as there are more numbers
than rows (Vinod 1976), and of more than two sides those that go along with all others (the SUMCOR of Kettenring 1971,
as the eigenvectors of the blocks between sides). A direction counts by a power of its correlation (in image-text
retrieval Gong et al. 2014, arXiv 1212.4522, section 3.3). How strongly each side is shrunk, and the power, are chosen
on held-out pairs. Numbers are scaled by the root of their deviation (Pareto scaling, van den Berg et al. 2006): over
the deviation itself rare words would outweigh all others, and as they come frequent ones do.

    C_ab = (X_a' X_a + r_a I)^(-1/2) X_a' X_b (X_b' X_b + r_b I)^(-1/2)         r: penalty * mean eigenvalue
    [C_ab]_ab v = l v                            W_a = (X_a' X_a + r_a I)^(-1/2) v_a l^power

Shapes: n rows, W numbers of a tower, r of them kept (principal directions), P width of the shared space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...algebra import eigh, svd
from ...errors import UserError

LEAST = 16
"""Pairs of two towers that it takes."""
MOST = 4096
"""Samples that are looked at."""
KEPT = 512
"""Principal directions of a side, the strongest; the others are left alone."""
FOLDS = 3
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
POWERS = (0.5, 1.0)

Pairs = Sequence[tuple[str, str]]


class Rows(NamedTuple):
    """What a tower pooled to: x (n, W), there (n,) bool."""

    x: Tensor
    there: Tensor

    def some(self, at: Tensor) -> Rows:
        """Those of the rows."""
        return Rows(self.x[at], self.there[at])


class Linear(NamedTuple):
    """x -> ((x - mean) / deviation) @ weight: mean (W,), deviation (W,) the root of x's own, weight (W, P)."""

    mean: Tensor
    deviation: Tensor
    weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """x (n, W) -> (n, P)."""
        return ((x - self.mean) / self.deviation) @ self.weight

    def single(self) -> Linear:
        """The same in float32."""
        return Linear(*(part.float() for part in self))


@dataclass(frozen=True)
class Shrinkage:
    """What is chosen.

    Attributes:
        penalties: tower -> what is added to its spectrum, in units of the mean of it.
        power: of its correlation, that a direction counts by.
    """

    penalties: Mapping[str, float]
    power: float


class Correlated:
    """The sides' principal directions and what lies between them, from which any shrinkage's maps are had."""

    def __init__(self, rows: Mapping[str, Rows], pairs: Pairs) -> None:
        self.names, self.pairs = list(rows), pairs
        self.mean, self.deviation = {}, {}
        turned, self.spectrum, self.basis, self.scale = {}, {}, {}, {}
        for name, (x, there) in rows.items():
            seen = x[there].double()
            self.mean[name] = seen.mean(0)
            self.deviation[name] = seen.std(0, correction=0).clamp(min=1e-6).sqrt()
            z = (x.double() - self.mean[name]) / self.deviation[name] * there[:, None]
            self.spectrum[name], self.basis[name] = _principal(z)
            self.scale[name] = float(self.spectrum[name].mean()) if len(self.spectrum[name]) else 1.0
            turned[name] = z @ self.basis[name]
        # rows that lack a side are zero in it; those that are there stand for all of its own
        self.between = {}
        for a, b in pairs:
            both = (rows[a].there & rows[b].there).sum().clamp(min=1)
            share = (rows[a].there.sum() * rows[b].there.sum()).double().sqrt() / both
            self.between[a, b] = turned[a].T @ turned[b] * share

    def maps(self, chosen: Shrinkage, width: int) -> dict[str, Linear]:
        """Tower -> its map into `width` numbers, float64; where there are fewer directions, the last ones are zero."""
        shrunk = {n: (self.spectrum[n] + chosen.penalties[n] * self.scale[n]).rsqrt() for n in self.names}
        first = torch.tensor([0, *(len(shrunk[n]) for n in self.names)]).cumsum(0).tolist()
        at = {name: slice(a, b) for name, a, b in zip(self.names, first, first[1:], strict=False)}
        whole = torch.zeros(first[-1], first[-1], dtype=torch.float64)
        for (a, b), block in self.between.items():
            whole[at[a], at[b]] = shrunk[a][:, None] * block * shrunk[b]
            whole[at[b], at[a]] = whole[at[a], at[b]].T
        value, vector = _strongest(whole, at, width)
        out = {}
        for name in self.names:
            weight = (self.basis[name] * shrunk[name]) @ vector[at[name]] * value**chosen.power
            out[name] = torch.nn.functional.pad(weight, (0, width - weight.shape[1]))
        return {n: Linear(self.mean[n], self.deviation[n], weight) for n, weight in out.items()}


def _strongest(whole: Tensor, at: Mapping[str, slice], width: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (k,) that are above 0, and their vectors (r of all sides, k), k <= width."""
    if len(at) == 2:  # two sides: the singular vectors of their one block
        a, b = at.values()
        left, value, right = svd(whole[a, b])
        value, vector = value[:width], torch.cat([left[:, :width], right[:width].T])
    else:
        value, vector = eigh(whole)
        value, vector = value.flip(0)[:width], vector.flip(1)[:, :width]
    kept = value > 1e-9 * value[:1]
    return value[kept], vector[:, kept]


def _principal(z: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (r,) and vectors (W, r) of z' z, the strongest; r <= KEPT."""
    if len(z) < z.shape[1]:  # the small matrix has the same eigenvalues
        value, left = eigh(z @ z.T)
    else:
        value, left = eigh(z.T @ z)
    value, left = value.flip(0)[:KEPT], left.flip(1)[:, :KEPT]
    kept = value > 1e-9 * value[:1]
    value, left = value[kept], left[:, kept]
    return value, z.T @ (left / value.sqrt()) if len(z) < z.shape[1] else left


def closed_form(
    rows: Mapping[str, Rows], pairs: Pairs, width: int, seed: int, where: str, seen: Mapping[str, Rows] | None = None
) -> dict[str, Linear]:
    """Tower -> its map, float32, after which embeddings are of length 1 on average.

    Args:
        rows: tower -> what it pooled to, of the same samples.
        pairs: of towers, that are compared.
        width: P.
        seed: of the folds.
        where: for the message.
        seen: what the maps are of once the shrinkage is chosen, such as views of the samples; None: the rows.

    Raises UserError where two towers have too few samples in common.
    """
    for a, b in pairs:
        both = int((rows[a].there & rows[b].there).sum())
        if both < LEAST:
            raise UserError(
                f"{where}: start: found {both} samples with both '{a}' and '{b}', expected at least {LEAST}"
            )
    chosen = choose(rows, pairs, width, seed)
    found = Correlated(rows if seen is None else seen, pairs).maps(chosen, width)
    out = {}
    for name, linear in ((n, of.single()) for n, of in found.items()):
        x, there = rows[name]
        size = linear(x[there].float()).norm(dim=1).mean().clamp(min=1e-12)
        out[name] = linear._replace(weight=linear.weight / size)
    return out


def choose(rows: Mapping[str, Rows], pairs: Pairs, width: int, seed: int) -> Shrinkage:
    """The shrinkage that best tells a held-out row's partner from others': one penalty for all sides first, then each
    side's own, then the power."""
    folds = [
        (Correlated({n: of.some(fit) for n, of in rows.items()}, pairs), {n: of.some(held) for n, of in rows.items()})
        for fit, held in _folds(rows, seed)
    ]
    seen: dict[tuple[float, ...], float] = {}

    def score(of: Shrinkage) -> float:
        key = (*of.penalties.values(), of.power)
        if key not in seen:
            seen[key] = sum(_held_out(correlated.maps(of, width), held, pairs) for correlated, held in folds)
        return seen[key]

    best = max((Shrinkage(dict.fromkeys(rows, p), POWERS[0]) for p in PENALTIES), key=score)
    for name in rows:
        best = max((Shrinkage({**best.penalties, name: p}, best.power) for p in PENALTIES), key=score)
    return max((Shrinkage(best.penalties, power) for power in POWERS), key=score)


def _held_out(maps: Mapping[str, Linear], held: Mapping[str, Rows], pairs: Pairs) -> float:
    """By how many standard deviations a row's partner is nearer (cosine) than all rows, on average both ways."""
    made = {name: normalize(linear.single()(held[name].x.float()), dim=1) for name, linear in maps.items()}
    total = 0.0
    for a, b in pairs:
        both = held[a].there & held[b].there
        if int(both.sum()) < 2:
            continue
        cosine = made[a][both] @ made[b][both].T
        for way in (cosine, cosine.T):
            total += float(((way.diagonal() - way.mean(1)) / way.std(1).clamp(min=1e-12)).mean())
    return total


def _folds(rows: Mapping[str, Rows], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows that are fitted on, rows that are held out), of each fold. Equal rows, as of a picture that comes with
    several texts, are on one side."""
    first = next(iter(rows.values())).x
    _, group = torch.unique((first.double() * 1e4).round(), dim=0, return_inverse=True)
    order = torch.randperm(int(group.max()) + 1, generator=torch.Generator().manual_seed(seed))
    fold = order[group] % FOLDS
    for number in range(FOLDS):
        yield (fold != number).nonzero()[:, 0], (fold == number).nonzero()[:, 0]
