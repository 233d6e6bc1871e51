"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real data sets: $MMSSL_SHARED_DATA, or `shared/data` beside the repository."""
    folder = Path(os.environ.get("MMSSL_SHARED_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MMSSL_SHARED_DATA to the folder of the shared data sets")
    return folder
