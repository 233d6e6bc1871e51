"""How long a thread of OpenMP waits for the others with its core taken up, before it lets the core go.

GCC's OpenMP, which torch's wheels for Linux bring, lets a thread that is done spin for the others some milliseconds at
every product. Where another program has one of the cores, all threads but one then spin while that one waits for its
turn, at each of the many products of a step: a training that has all cores to itself at 1,050 samples a second had less
than ten beside one busy process, on two cores. With the shorter wait here it has 390 there, and 1,050 alone as before.
"""

from __future__ import annotations

from collections.abc import MutableMapping

SPINS = "2500"
"""Turns of the waiting loop. Fewer cost time where nothing else runs (1,000: a fifth; none: half of it)."""
TOLD = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def wait_briefly(environment: MutableMapping[str, str]) -> bool:
    """Set it in the environment, which OpenMP reads when torch is imported; True when it was set.

    Not where the user has said how threads wait, by either of the variables `TOLD`.
    """
    if any(name in environment for name in TOLD):
        return False
    environment["GOMP_SPINCOUNT"] = SPINS
    return True
