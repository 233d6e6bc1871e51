"""What the tests of a user's first hour share; the folders are written by `toys.own_files`."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Each test hears its warnings."""
    from mmssl.data.explained import _told

    _told.clear()
