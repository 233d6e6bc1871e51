"""Every page that a run, a comparison and a check write, in a real browser: on a desk, on a phone and in the dark, with
nothing but the file; nothing lies over anything, nothing is cut off, and it is read without a mouse.

Skipped, and said so, without Playwright or Chromium (of the system). $MMSSL_SCREENSHOTS: a folder for what they look
like.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toys.browser import needs

import mmssl
from mmssl.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("drawn"), needs()]
REPO = Path(__file__).parents[2]
EXAMPLES = {"ecg": ("ecg_mae", "ptbxl_500"), "audio": ("audio_mae", "fsdd"), "table": ("tabular_mae", "adult")}
MOST = 5_000_000
VIEWS: dict[str, dict[str, Any]] = {
    "desk": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True},
    "dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
    "desk-dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
}
LOOKS = (REPO / "tests/toys/pages.js").read_text(encoding="utf-8").rstrip().rstrip(";")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """$MMSSL_PAGES: a folder in which runs stay, to look at them again."""
    return Path(os.environ["MMSSL_PAGES"]) if "MMSSL_PAGES" in os.environ else tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def made(home: Path, drawn: None, request: pytest.FixtureRequest) -> Callable[[str, str], Path]:
    """(run, page) -> its file; each run is trained once, for a few steps."""

    def run(name: str) -> Path:
        folder = home / name
        if not (folder / "report.html").exists():
            recipe, changes = "quickstart", {"train": {"steps": 40}}
            if name in EXAMPLES:
                example, data = EXAMPLES[name]
                path = request.getfixturevalue("shared_data") / data
                files = sorted(path.glob("*.csv"))
                recipe = str(REPO / "configs/examples" / f"{example}.yaml")
                source = str(files[0] if len(files) == 1 else path)
                changes = {"data": {"path": source, "limit": 300}, "train": {"steps": 12, "report": True}}
            mmssl.pretrain(recipe, output=folder, **changes)
        return folder

    def page(name: str, kind: str) -> Path:
        if kind == "report":
            return run(name) / "report.html"
        place = home / f"{name}-{kind}"
        if kind == "check" and not (place / "report.html").exists():
            words = ["sample=100", "workers=0", "--output", str(place)]
            assert main(["check", str(run(name) / "config.yaml"), *words]) in (0, 1)
        if kind == "compared" and not (place / "report.html").exists():
            other = home / f"{name}-again"
            if not (other / "report.html").exists():
                mmssl.pretrain(run(name) / "config.yaml", output=other, train={"lr": 3e-4, "steps": 12})
            place.mkdir(exist_ok=True)
            mmssl.report([run(name), other], place / "report.html")
        return place / "report.html"

    return page


PAGES = [(name, kind) for name in ("quickstart", *EXAMPLES) for kind in ("report", "check")]
PAGES += [("quickstart", "compared"), ("table", "compared")]


@pytest.mark.parametrize("view", list(VIEWS))
@pytest.mark.parametrize(("name", "kind"), PAGES, ids=[f"{name}-{kind}" for name, kind in PAGES])
def test_a_page_is_read(made: Callable[[str, str], Path], chromium: Any, name: str, kind: str, view: str) -> None:
    path = made(name, kind)
    assert path.stat().st_size < MOST
    window, faults = chromium.new_page(**VIEWS[view]), list[str]()
    window.on("console", lambda said: said.type in ("error", "warning") and faults.append(f"console: {said.text}"))
    window.on("pageerror", lambda error: faults.append(f"error: {error}"))
    window.on("request", lambda r: r.url.startswith((path.as_uri(), "data:")) or faults.append(f"asked: {r.url}"))
    window.goto(path.as_uri())
    try:
        shot = window.screenshot(full_page=True)
        if folder := os.environ.get("MMSSL_SCREENSHOTS"):
            Path(folder, f"{name}-{kind}-{view}.png").write_bytes(shot)
        window.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        width = VIEWS[view]["viewport"]["width"]
        assert window.evaluate("document.documentElement.scrollWidth") <= width
        looks = window.evaluate(LOOKS)
        assert looks == {name: [] for name in looks}
        brightness = float(np.asarray(Image.open(io.BytesIO(shot)).convert("L").resize((64, 256))).mean())
        assert (brightness < 110) == (VIEWS[view].get("color_scheme") == "dark"), brightness
        assert window.evaluate("document.querySelectorAll('h1').length") == 1
    finally:
        window.close()
    assert faults == []


def test_the_map_of_a_report_is_read_by_the_keys(made: Callable[[str, str], Path], chromium: Any) -> None:
    window = chromium.new_page()
    window.goto(made("quickstart", "report").as_uri())
    window.keyboard.press("Tab")
    assert window.evaluate("document.activeElement.className") == "skip"
    seen = []
    for _ in range(60):
        window.keyboard.press("Tab")
        seen.append(
            window.evaluate("document.activeElement.tagName + '.' + document.activeElement.getAttribute('class')")
        )
        window.keyboard.press("ArrowRight")
    assert len(set(seen)) > 3 and any("BODY" not in one for one in seen)
    window.close()
