"""Quantisers: vectors to ids of codes, and back.

`Codebooks` holds vectors: one book (k-means; VQ-VAE, van den Oord et al. 2017, arXiv 1711.00937), several of which each
codes what the ones before leave over (residual, as EnCodec, Defossez et al. 2022, arXiv 2210.13438), or each a part of
the vector (product, Jegou et al. 2011). Books are fitted by k-means or follow what they are given as moving averages
(VQ-VAE's appendix A.1, as in vector-quantize-pytorch and fairseq); a code that nothing comes to is set to an input of
the batch. Or they are parameters (`train_codes`), which an optimiser moves by `pull`, and the averages only count.
`FiniteScalar` rounds each number to a few levels (FSQ, Mentzer et al. 2023, arXiv 2309.15505) and has nothing to fit.
Both pass gradients straight through, and compute in float32 under autocast too.

Shapes: n vectors, F numbers of one, C books, K codes of a book, W numbers of a code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..distributed import in_full, set_in_full

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

AT_A_TIME = 1 << 24
"""Distances that are computed at once: 64 MiB."""


@dataclass
class Quantised:
    """What a quantiser makes of vectors.

    Attributes:
        values: (n, F) the nearest that the codes can say; the gradient goes to the vectors as they came.
        ids: (n, C) int64.
        distance: (n,) mean over F of the squared distance of the vectors to their codes, with a gradient for the
            vectors alone: the commitment loss.
    """

    values: Tensor
    ids: Tensor
    distance: Tensor


class Quantiser(nn.Module):
    """Vectors (n, F) to `Quantised`. sizes: codes of each book; width: F."""

    sizes: tuple[int, ...]
    width: int

    def ids(self, x: Tensor) -> Tensor:
        """x (n, F) -> (n, C) int64."""
        raise NotImplementedError

    def values(self, ids: Tensor) -> Tensor:
        """ids (n, C) -> (n, F) float32."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Quantised:
        """x (n, F) of any precision."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            with torch.no_grad():
                ids = self.ids(x)
                values = self.values(ids)
            distance = (x - values).square().mean(-1)
            return Quantised(x + (values - x).detach(), ids, distance)


class Codebooks(Quantiser):
    """Books of vectors; the nearest by Euclidean distance is the code, the first of equally near ones.

    Buffers, none of which an optimiser knows: `codes` (C, K, W), and of each code the moving averages of how many
    vectors came to it, `counts` (C, K), and of their sum, `sums` (C, K, W).
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, width: int, size: int, books: int = 1, residual: bool = True) -> None:
        super().__init__()
        self.width, self.residual, self.sizes = width, residual, (size,) * books
        part = width if residual else width // books
        self.register_buffer("codes", torch.zeros(books, size, part))
        self.register_buffer("counts", torch.zeros(books, size))
        self.register_buffer("sums", torch.zeros(books, size, part))

    def train_codes(self) -> None:
        """Make `codes` a parameter, under the same name: saved and loaded it is the same."""
        codes = self.codes
        del self.codes
        self.codes = nn.Parameter(codes)

    def pull(self, x: Tensor) -> Tensor:
        """(n,) of x (n, F): the squared distance of each book's codes to what they code, the mean over its numbers and
        the sum over books, with a gradient for the codes alone: VQ-VAE's second term."""
        with torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():
                ids, inputs = self.coded(x.float())
            parts = [
                (given - self.codes[book].float()[ids[:, book]]).square().mean(-1) for book, given in enumerate(inputs)
            ]
            return torch.stack(parts).sum(0)

    @staticmethod
    def _ids(x: Tensor, codes: Tensor) -> Tensor:
        """x (n, W) -> (n,): which of codes (K, W) is the nearest."""
        codes = codes.float()
        bias = codes.square().sum(1) / 2
        rows = max(AT_A_TIME // len(codes), 1)
        # |x - e|^2 is least where x e - |e|^2 / 2 is most
        return (
            torch.cat([torch.addmm(-bias, part, codes.T).argmax(1) for part in x.split(rows)])
            if len(x)
            else (torch.zeros(0, dtype=torch.int64, device=x.device))
        )

    def coded(self, x: Tensor, codes: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """(ids (n, C), of each book what it coded (n, W)) of x (n, F) float32; codes (C, K, W): in place of its own."""
        found, inputs = [], []
        rest, codes = x, self.codes if codes is None else codes
        with torch.autocast(x.device.type, enabled=False):
            for book in range(len(self.sizes)):
                given = rest if self.residual else x.chunk(len(self.sizes), 1)[book]
                inputs.append(given)
                found.append(self._ids(given, codes[book]))
                if self.residual:
                    rest = given - codes[book].float()[found[-1]]
        return torch.stack(found, 1), inputs

    def ids(self, x: Tensor) -> Tensor:
        """x (n, F) -> (n, C) int64."""
        return self.coded(x.float())[0]

    def values(self, ids: Tensor) -> Tensor:
        """ids (n, C) -> (n, F): the sum of the codes, or one behind the other."""
        parts = [self.codes[book].float()[ids[:, book]] for book in range(len(self.sizes))]
        return torch.stack(parts).sum(0) if self.residual else torch.cat(parts, 1)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(how many of x (n, F) come to each code (C, K), their sums (C, K, W)), float32."""
        ids, inputs = self.coded(x)
        counts, sums = torch.zeros_like(self.counts), torch.zeros_like(self.sums)
        for book, given in enumerate(inputs):
            counts[book].index_add_(0, ids[:, book], torch.ones_like(given[:, 0]))
            sums[book].index_add_(0, ids[:, book], given)
        return counts, sums

    def follow(self, counts: Tensor, sums: Tensor, decay: float, moves: bool = True) -> None:
        """Move the averages, and with `moves` the codes that anything came to lately, towards the `statistics` of all
        vectors of a step (over all processes)."""
        self.counts.lerp_(counts, 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        if not moves:
            return
        alive = (self.counts > 1e-3)[..., None]
        self.codes.copy_(torch.where(alive, self.sums / self.counts.clamp(min=1e-3)[..., None], self.codes))

    def revive(self, x: Tensor, least: float) -> None:
        """Give the codes whose average count is below `least` an input each of x (n, F): in their order the first one,
        the second one, ... as far as there are any."""
        if not len(x):
            return
        codes = in_full(self.codes).detach().clone()  # those that are trained may be cut over processes
        _, inputs = self.coded(x, codes)
        for book, given in enumerate(inputs):
            dead = (self.counts[book] < least).nonzero()[: len(given), 0]
            codes[book, dead] = given[: len(dead)].to(codes)
            self.counts[book, dead] = least
            self.sums[book, dead] = given[: len(dead)] * least
        set_in_full(self.codes, codes)

    @torch.no_grad()
    def fit(self, x: NDArray[np.float32], seed: int) -> None:
        """k-means of x (n, F), book after book, each on what the ones before leave over (or its own part).

        scikit-learn's `MiniBatchKMeans` (Sculley 2010) as HuBERT's labels are made by it (Hsu et al. 2021), with three
        starts by k-means++. The counts are those of x, in shares of a book's mean.

        Raises ValueError where x has fewer different vectors than there are codes.
        """
        from sklearn.cluster import MiniBatchKMeans

        rest = x
        for book, size in enumerate(self.sizes):
            given = rest if self.residual else x[:, book * self.codes.shape[2] : (book + 1) * self.codes.shape[2]]
            if len(given) < size:
                raise ValueError(f"{len(given)} vectors for {size} codes")
            batch = max(min(len(given), 10_000), size)
            means = MiniBatchKMeans(size, random_state=seed + book, batch_size=batch, n_init=3, max_iter=100)
            means.fit(given)
            self.codes[book] = torch.from_numpy(means.cluster_centers_).to(self.codes)
            ids = self._ids(torch.from_numpy(given).to(self.codes), self.codes[book])
            share = torch.bincount(ids, minlength=size).to(self.counts) * (size / len(given))
            self.counts[book], self.sums[book] = share, self.codes[book] * share[:, None]
            if self.residual:
                rest = given - self.codes[book][ids].cpu().numpy()


class FiniteScalar(Quantiser):
    """Every number, bounded by a tanh, is rounded to one of `levels[i]` values in [-1, 1]; their combination is the id.

    As in Mentzer et al. 2023 (their appendix A.1): an even number of levels is shifted by half a level. Nothing is
    learned in it, no code can die, and there is no commitment: the distance is 0.
    """

    base: Tensor
    levels: Tensor

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        self.width, self.sizes = len(levels), (math.prod(levels),)
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float32))
        self.register_buffer("base", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]))

    def bounded(self, x: Tensor) -> Tensor:
        """x (n, F) -> (n, F), which `round` brings to whole numbers from -(L // 2) on."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return (x + (offset / half).atanh()).tanh() * half - offset

    def ids(self, x: Tensor) -> Tensor:
        """x (n, F) -> (n, 1) int64."""
        with torch.autocast(x.device.type, enabled=False):
            whole = self.bounded(x.float()).round() + self.levels.div(2).floor()
            return (whole.long() * self.base).sum(-1, keepdim=True)

    def values(self, ids: Tensor) -> Tensor:
        """ids (n, 1) -> (n, F) in [-1, 1]."""
        half = self.levels.div(2).floor()
        whole = ids.div(self.base, rounding_mode="floor") % self.levels.long()
        return (whole - half) / half

    def forward(self, x: Tensor) -> Quantised:
        """Straight through the rounding, not through the tanh."""
        with torch.autocast(x.device.type, enabled=False):
            bounded = self.bounded(x.float())
            half = self.levels.div(2).floor()
            values = (bounded + (bounded.round() - bounded).detach()) / half
            return Quantised(values, self.ids(x), torch.zeros_like(values[:, 0]))


def make_quantiser(spec: Mapping[str, Any], width: int) -> Quantiser:
    """The quantiser of `width` numbers that the options (or `config.json`) describe."""
    if spec["kind"] == "scalar":
        return FiniteScalar(list(spec["levels"]))
    return Codebooks(width, spec["size"], spec["books"], residual=spec["kind"] != "product")


def use_of(ids: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """(C, K of the largest book) float32: how often each code of each book is among ids (n, C)."""
    counts = ids.new_zeros(len(sizes), max(sizes), dtype=torch.float32)
    for book in range(len(sizes)):
        counts[book].index_add_(0, ids[:, book], torch.ones_like(ids[:, book], dtype=torch.float32))
    return counts


def perplexity(counts: Tensor) -> Tensor:
    """counts (..., K) -> (...): exp of the entropy: K where all codes are used alike, 1 where one is."""
    share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return (-torch.special.xlogy(share, share).sum(-1)).exp()
