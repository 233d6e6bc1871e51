"""The browser that pages are tried in, where there is one."""

from __future__ import annotations

import shutil

import pytest

from mmssl.modality import installed

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skips, and says so, where one of these packages, Playwright or Chromium (of the system) is lacking."""
    lacking = [name for name in (*packages, "playwright") if not installed(name)] + ["chromium"] * (CHROMIUM is None)
    return pytest.mark.skipif(bool(lacking), reason=f"no page in a browser without {', '.join(lacking)}")
