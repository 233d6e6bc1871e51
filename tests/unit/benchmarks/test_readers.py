"""The benchmark of the readers runs on the real sets; what it measures is not judged here."""

from __future__ import annotations

from pathlib import Path

import pytest

readers = pytest.importorskip("benchmarks.readers")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(readers.RACES))
def test_both_sides_of_every_race_run(name: str, tmp_path: Path, shared_data: Path) -> None:
    ours, peer = readers.run(readers.RACES[name](tmp_path), rounds=1)
    assert ours > 0 and peer > 0
