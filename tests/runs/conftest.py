"""The browser that several of these tests look at pages with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from toys.browser import CHROMIUM


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser; see `toys.browser.needs`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()
