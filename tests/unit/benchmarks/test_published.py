"""What is told of a paper's claim: scores, paired differences and in how many seeds they say the same."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.published.__main__ import CLAIMS, says
from benchmarks.published.claims import Claim, accuracy, measured, together


def test_arms_are_told_apart_on_the_same_rows() -> None:
    wrong = np.zeros(400)
    wrong[:100] = 1
    worse = np.maximum(wrong, np.arange(400) < 140)
    found = measured({"a": wrong, "b": worse}, accuracy, (("a", "b"),), 0)
    assert found["scores"] == {"a": 0.75, "b": 0.65} and found["tested"] == 400
    mean, low, high = found["less"]["a less b"]
    assert mean == pytest.approx(0.1)
    # of 400 rows 40 differ: the normal interval of a share of .1
    assert (low, high) == pytest.approx((0.1 - 1.96 * 0.015, 0.1 + 1.96 * 0.015), abs=5e-3)


@pytest.mark.parametrize(
    ("less_is_better", "verdict"), [(False, "yes in 2, no in 1, open in 1"), (True, "yes in 1, no in 2, open in 1")]
)
def test_the_sign_that_a_paper_means_counts(less_is_better: bool, verdict: str) -> None:
    claim = Claim("a paper", "score", (("one", "two"),), ".1 to .2", lambda seed, folder: {}, less_is_better)
    apart = ([0.2, 0.1, 0.3], [0.1, 0.05, 0.2], [0.0, -0.1, 0.1], [-0.3, -0.4, -0.1])
    runs = [{"scores": {"one": 0.5, "two": 0.4}, "less": {"one less two": found}} for found in apart]
    (line,) = says(claim, runs)
    assert verdict in line and "one: 0.500 0.500" in line and "+0.200 (+0.100 to +0.300)" in line


def test_every_claim_names_its_arms() -> None:
    for claim in CLAIMS.values():
        assert claim.better and all(one != other for one, other in claim.better)


def test_settings_are_merged_and_left_as_they_were() -> None:
    first = {"train": {"steps": 1}}
    assert together(first, {"train": {"lr": 2.0}}) == {"train": {"steps": 1, "lr": 2.0}}
    assert first == {"train": {"steps": 1}}
