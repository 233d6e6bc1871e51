"""What the tests of faults share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def mmssl_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Warnings are recorded, whatever an earlier test set the logger to."""
    with caplog.at_level(logging.WARNING, logger="mmssl"):
        yield
