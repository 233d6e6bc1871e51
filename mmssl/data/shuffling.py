"""A shuffle through a buffer that can begin at any place: what the buffer holds there is a function of the key.

The first k rows fill a buffer of k; then each row that comes takes the place of one that is drawn, which goes out.
Which place that is does not depend on the rows. So it is known, without reading one, which rows are in the buffer
after n went out, and these alone are read again: most of them came within the last k (ln k + 0.6) rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .sampler import philox

T = TypeVar("T")
Key = tuple[int, int]
"""Of the draws: (seed, epoch), or (seed, reader)."""


def shuffled(
    rows: Callable[[int], Iterator[T]], key: Key, buffer: int, gone: int = 0, total: int | None = None
) -> Iterator[T]:
    """The rows in another order, without the first `gone` of that order.

    Args:
        rows: from a number on, all rows that come.
        key: of the draws.
        buffer: rows that are shuffled among; at most 1: the order stays.
        gone: how many are left out.
        total: rows in all, where that is known. Where it is not, and fewer come than `gone`, none go out.
    """
    if buffer <= 1:
        yield from rows(gone)
        return
    drawn = gone if total is None else min(gone, max(total - buffer, 0))  # of these, those that made room for others
    bits = _bits(key, drawn)
    if total is not None and gone > drawn:  # all rows have come: what is still held goes out, in a drawn order
        left = held_after(key, buffer, drawn)[:total]
        yield from _numbered(rows, left[_rest(bits, len(left))][gone - drawn :])
        return
    held: list[T] = []
    coming = rows(0)
    if drawn:
        places = held_after(key, buffer, drawn)
        first, last = int(places.min()), buffer + drawn - 1
        coming = rows(first)
        found = _found(coming, set(places.tolist()), first, last)
        if len(found) < buffer:
            return
        held = [found[number] for number in places.tolist()]
    for row in coming:
        if len(held) < buffer:
            held.append(row)
            continue
        place = int(bits.random_raw()) % buffer
        yield held[place]
        held[place] = row
    for place in _rest(bits, len(held)).tolist():
        yield held[place]


def held_after(key: Key, buffer: int, drawn: int) -> NDArray[np.int64]:
    """(buffer,) which row is at each place of a full buffer, after `drawn` made room for others.

    Goes back over the draws until every place was met, some k (ln k + 0.6) of them.
    """
    held = np.arange(buffer)  # where no other row came, the one that filled it
    met = np.zeros(buffer, bool)
    end = drawn
    while end > 0 and not met.all():
        begin = max(end - 4 * buffer, 0)
        places = (_bits(key, begin).random_raw(end - begin) % np.uint64(buffer)).astype(np.int64)
        last, back = np.unique(places[::-1], return_index=True)  # of each place its last draw
        new = ~met[last]
        held[last[new]] = buffer + end - 1 - back[new]
        met[last] = True
        end = begin
    return held


def _bits(key: Key, drawn: int) -> np.random.Philox:
    """The generator of a key after so many draws, of which it makes four at a time."""
    bits = philox(*key)
    bits.advance(drawn // 4)
    bits.random_raw(drawn % 4)
    return bits


def _rest(bits: np.random.Philox, count: int) -> NDArray[np.int64]:
    """(count,) the order in which what is left in the buffer goes out."""
    return np.argsort(bits.random_raw(count), kind="stable")


def _found(coming: Iterator[T], wanted: set[int], first: int, last: int) -> dict[int, T]:
    """Number -> row of the wanted ones among the rows `first` to `last`, which come next."""
    found: dict[int, T] = {}
    for number in range(first, last + 1):
        row = next(coming, None)
        if row is None:
            break
        if number in wanted:
            found[number] = row
    return found


def _numbered(rows: Callable[[int], Iterator[T]], numbers: NDArray[np.int64]) -> Iterator[T]:
    """The rows of these numbers, in their order."""
    if len(numbers):
        first = int(numbers.min())
        found = _found(rows(first), set(numbers.tolist()), first, int(numbers.max()))
        yield from (found[number] for number in numbers.tolist())
