"""Randomness as a pure function: what is drawn for a sample depends on (seed, step, sample) and on nothing else.

A generator's stream depends on how much was drawn before, on the batch's padding and on which process asks. `Draws`
instead hashes (key, global row, position). So two processes with half a batch each draw exactly what one process
draws for the whole batch, padding to another length changes nothing, a resumed run goes on as if never stopped, and
CPU and GPU agree bit for bit. The hash is the 32-bit integer mixer "lowbias32" (C. Wellons, "Prospecting for hash
functions", 2018), chained over the key's parts and applied twice. On a CPU numpy does it: its 32-bit products wrap by
themselves and a call costs a fraction of torch's, which is most of what small draws cost.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from .lazy import later

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:
    np = later("numpy", __name__)
    torch = later("torch", __name__)


_M = 0xFFFFFFFF


def _mix_int(x: int) -> int:
    x ^= x >> 16
    x = (x * 0x7FEB352D) & _M
    x ^= x >> 15
    x = (x * 0x846CA68B) & _M
    return x ^ (x >> 16)


def mix(x: Tensor) -> Tensor:
    """`_mix_int` on int64 tensors that hold 32-bit numbers; products may wrap, the low 32 bits stay right."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _M
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _M
    return x ^ (x >> 16)


@cache
def _constants() -> tuple[np.uint32, ...]:
    return tuple(np.uint32(number) for number in (15, 16, 0x7FEB352D, 0x846CA68B))


def _mix_array(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """`mix` in place."""
    fifteen, sixteen, first, second = _constants()
    shifted = x >> sixteen
    x ^= shifted
    x *= first
    x ^= np.right_shift(x, fifteen, out=shifted)
    x *= second
    x ^= np.right_shift(x, sixteen, out=shifted)
    return x


def key_of(*parts: int | str) -> int:
    """A 32-bit key from numbers and names."""
    key = 0x9E3779B9
    for part in parts:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else int(part)
        key = _mix_int(key ^ _mix_int((number & _M) ^ 0x85EBCA6B))
        key = _mix_int((key + (number >> 32 & _M) + 0x9E3779B9) & _M)
    return key


@dataclass(frozen=True)
class Draws:
    """Random numbers for the rows of one batch.

    key: the 32-bit key; `draws("mask")` derives the independent draws named so.
    rows: rows (samples) of the local batch.
    first: the global number of local row 0 (rank * rows); `total` rows in the global batch over all processes.
    root: the key that all names were derived from; see `shared`.
    alike: every row draws what the first row of the global batch does.
    """

    key: int
    rows: int
    first: int = 0
    total: int | None = None
    device: torch.device | str = "cpu"
    root: int | None = None
    alike: bool = False

    def __call__(self, *names: int | str) -> Draws:
        """The independent draws of this name, e.g. `draws("crop", 1)`."""
        return replace(self, key=key_of(self.key, *names), root=self.key if self.root is None else self.root)

    def shared(self, *names: int | str) -> Draws:
        """The draws of this name that all views and masks of a step have in common: for views that complement."""
        return replace(self, key=key_of(self.key if self.root is None else self.root, "shared", *names))

    def once(self) -> Draws:
        """What is drawn once for the global batch: one row, the same on every process."""
        return replace(self, first=0, rows=1, alike=False)

    def for_all(self) -> Draws:
        """The draws of which every sample of the global batch has the same."""
        return replace(self, alike=True)

    def part(self, first: int, rows: int) -> Draws:
        """What is drawn for `rows` of the rows, from the `first` on."""
        return replace(self, rows=rows, first=self.first + first, total=self.total or self.rows)

    def bits(self, *shape: int) -> Tensor:
        """(rows, *shape) int64 tensor of uniform 32-bit integers."""
        if self.alike:
            return self._bits(0, 1, shape).repeat(self.rows, *[1] * len(shape))
        return self._bits(self.first, self.rows, shape)

    def _bits(self, first: int, rows: int, shape: tuple[int, ...]) -> Tensor:
        if torch.device(self.device).type == "cpu" and not torch.compiler.is_compiling():
            return torch.from_numpy(_array([self.key], first, rows, shape)[0].astype(np.int64))
        row = torch.arange(first, first + rows, device=self.device)
        out = mix(mix(row ^ self.key) ^ 0x68E31DA4)
        for axis, size in enumerate(shape):  # axis by axis, so that padding along any of them changes nothing
            at = mix(torch.arange(size, device=self.device) ^ _mix_int(self.key ^ (0xB5297A4D + axis)))
            out = mix(mix((out[..., None] + at) & _M) ^ out[..., None])
        return out

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(rows, *shape) float32 in [low, high), 24 bits fine."""
        unit = uniforms([self], *shape)[0]
        return unit if (low, high) == (0.0, 1.0) else low + (high - low) * unit

    def integers(self, high: int, *shape: int) -> Tensor:
        """(rows, *shape) int64 in [0, high), high < 2**31."""
        return (self.bits(*shape) * high) >> 32

    def chance(self, p: float, *shape: int) -> Tensor:
        """(rows, *shape) bool, True with probability p."""
        return self.uniform(*shape) < p

    def normal(self, *shape: int) -> Tensor:
        """(rows, *shape) float32 standard normal (Box-Muller)."""
        radius, angle = self._polar(shape)
        return radius.mul_(angle.cos_())

    def noise(self, *shape: int) -> Tensor:
        """As `normal`, by both numbers of each pair of Box-Muller: for whole pictures, at two thirds of its cost."""
        radius, angle = self._polar((*shape[:-1], (shape[-1] + 1) // 2))
        out = torch.empty(self.rows, *shape, device=self.device)
        torch.mul(radius, angle.cos(), out=out[..., 0::2])
        out[..., 1::2] = radius.mul_(angle.sin_())[..., : shape[-1] // 2]
        return out

    def _polar(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(radius, angle) (rows, *shape) of pairs of normal numbers."""
        u = self("u").uniform(*shape).clamp_(min=2**-25)
        return u.log_().mul_(-2).sqrt_(), self("v").uniform(*shape).mul_(2 * math.pi)

    def permutation(self) -> Tensor:
        """(total,) int64: one permutation of the global batch, the same on every process (for in-batch mixing)."""
        total = self.total or self.rows
        return self._bits(0, total, (1,))[:, 0].argsort(stable=True)


def uniforms(several: Sequence[Draws], *shape: int) -> Tensor:
    """(len(several), rows, *shape) float32 in [0, 1): the `uniform(*shape)` of each, by one computation on a CPU, where
    many small ones cost more than what they compute. They differ in nothing but their keys."""
    one = several[0]
    if one.alike:
        alone = uniforms([draws.once() for draws in several], *shape)
        return alone.repeat(1, one.rows, *[1] * len(shape))
    if torch.device(one.device).type != "cpu" or torch.compiler.is_compiling():
        return torch.stack([(draws.bits(*shape) >> 8).to(torch.float32) * (1 / (1 << 24)) for draws in several])
    bits = _array([draws.key for draws in several], one.first, one.rows, shape)
    bits >>= np.uint32(8)
    unit = bits.astype(np.float32)
    unit *= np.float32(1 / (1 << 24))
    return torch.from_numpy(unit)


def _array(keys: Sequence[int], first: int, rows: int, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    """(len(keys), rows, *shape): `Draws.bits` of each key by numpy."""
    row, key = np.arange(first, first + rows, dtype=np.uint32), np.array(keys, dtype=np.uint32)
    out = _mix_array(_mix_array(row ^ key[:, None]) ^ np.uint32(0x68E31DA4))
    for axis, size in enumerate(shape):
        constant = np.array([_mix_int(k ^ (0xB5297A4D + axis)) for k in keys], dtype=np.uint32)
        at = _mix_array(np.arange(size, dtype=np.uint32) ^ constant[:, None])
        at = at.reshape(len(keys), *[1] * (axis + 1), size)
        mixed = _mix_array(out[..., None] + at)
        mixed ^= out[..., None]
        out = _mix_array(mixed)
    return out
