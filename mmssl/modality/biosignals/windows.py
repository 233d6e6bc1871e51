"""Where a window of a recording lies, and how long a batch of them is. All lengths are in samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def place(free: int, choice: int) -> int:
    """Where a window begins that `free` samples are free beside, 0: in the middle. Without room nothing is drawn, so
    that the sample is the same in every epoch and may be kept (`mmssl.data.memory`)."""
    if not free:
        return 0
    return free // 2 if choice == 0 else choice % (free + 1)


def in_span(spans: Sequence[tuple[int, int]], count: int, choice: int) -> int:
    """First sample of a window of `count` in one of the measured stretches: drawn by their length, 0: in the longest.

    A window that is longer than its stretch begins with it.
    """
    low, high = max(spans, key=lambda span: span[1] - span[0])
    if len(spans) == 1 and high - low <= count:
        return low
    if choice == 0:
        return low + max(high - low - count, 0) // 2
    place = choice % sum(high - low for low, high in spans)
    for low, high in spans:
        if place < high - low:
            return low + place % (max(high - low - count, 0) + 1)
        place -= high - low
    raise AssertionError("the place lies in one of the stretches")


def padded_length(lengths: Iterable[int], window: int) -> int:
    """Samples of a batch: the longest, rounded up to whole windows; one window when there is none."""
    return -(-max(lengths, default=window) // window) * window
