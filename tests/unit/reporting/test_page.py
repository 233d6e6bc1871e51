"""The page: whole, small, by itself, and safe whatever stands in names, labels and texts of others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toys.pages import check

from mmssl.modality.shown import Cells, Curves, Frames, Nodes, Shown, Spectrum, Words
from mmssl.reporting import page
from mmssl.reporting.embedding import Colouring, Near, Plane
from mmssl.reporting.looking import Made, Map, Seen
from mmssl.reporting.record import Record

EVIL = '</style></svg><script>alert("1")</script><img src=x onerror=alert(2)> $\\frac{ & \x1b[31m \x00'
RNG = np.random.default_rng(0)
METRIC = {"model": 0.5, "untrained": 0.1, "raw": None, "chance": 0.1, "n": 7, "interval": {"model": [0.4, 0.6]}}
SCORES = {"tasks": {EVIL: {"image/accuracy": METRIC}}, "skipped": {"linear": EVIL}, "notes": []}


def noise(*shape: int) -> np.ndarray:
    return RNG.random(shape, dtype=np.float32)


def samples(text: str) -> dict[str, tuple[Shown, Shown]]:
    """Of every kind (what was, what was made of it), with words of others where there are any."""
    flags = np.zeros((2, 50), bool)
    flags[:, :20] = True
    pixels = np.zeros((1, 32, 32), bool)
    pixels[:, :16] = True
    edges = np.array([[0, 1], [1, 2]])
    nodes = np.array([True, False, False])
    return {
        "image": (Frames(noise(1, 32, 32, 3), pixels), Frames(noise(1, 32, 32, 3), pixels)),
        "ecg": (Curves(noise(2, 50), [text, "V1"], 0.1, flags), Curves(noise(2, 50), [text, "V1"], 0.1, flags)),
        "audio": (Spectrum(noise(50, 8), 0.1, flags.T.repeat(4, 1)), Spectrum(noise(50, 8), 0.1)),
        "text": (Words([text, "b"], [True, False]), Words([text + "other", "b"], [True, False])),
        "tabular": (Cells([text, "b"], [text, "1"], [True, False]), Cells([text, "b"], [text, "1"], [True, False])),
        "graph": (Nodes(np.array([0, 1, 2]), edges, nodes), Nodes(np.array([1, 1, 2]), edges, nodes)),
    }


def seen_of(text: str, count: int = 6) -> Seen:
    seen = Seen(list(range(count)), f"{count} rows of {text}")
    for name, (was, made) in samples(text).items():
        seen.shown[name] = dict.fromkeys(range(count), was)
        seen.made["mae", name] = [Made(row, was, made) for row in range(2)]
        seen.maps[name] = [Map(0, was, noise(4, 4, 3), noise(4, 4))]
        places = [(row / count, row / count) for row in range(count)]
        seen.planes[name] = [Plane("PCA", places), Plane("UMAP", places)]
        seen.there[name] = list(range(count))
        seen.near[name] = [Near(0, [(1, 0.9, False), (2, 0.8, False)])]
    seen.found["image", "text"] = [Near(0, [(1, 0.9, False), (0, 0.8, True)])]
    seen.colourings = [Colouring(text, [text, "b"], [0, 1, -1] * (count // 3), [text, "b", ""] * (count // 3))]
    seen.absent = [f"not there: {text}"]
    return seen


def record_of(text: str, name: str = "run") -> Record:
    rows = [
        {"step": s, "loss": 3.0 / s, f"loss/{name}.part": 100.0, "lr": 0.1, "wall_time": 9.0 * s} for s in (1, 2, 3)
    ]
    record = Record(
        Path("run"), text, settings={"name": "a", "data": {"path": text}, "modalities": {text: {}}}, rows=rows
    )
    record.scores, record.warnings = SCORES, [("2026-01-01 00:00:00", text)]
    record.broken = [{"index": 3, "modality": text, "column": text, "reason": text}]
    record.ended = text
    return record


@pytest.fixture(scope="module")
def plain() -> str:
    return page.report_text([(record_of("mine"), seen_of("mine"))])


def test_nothing_of_others_is_more_than_text() -> None:
    html = page.report_text([(record_of(EVIL), seen_of(EVIL))])
    found = check(html)
    assert "<script>alert" not in html and "onerror=alert" in html.replace("&#34;", '"')  # as text
    assert '<script>alert("1")</script>' in found.text
    shown = {attributes.get("aria-label", "") for attributes in found.all("div")}
    assert any("hidden stretches shaded" in label for label in shown)


def test_every_field_stands_on_the_page(plain: str) -> None:
    found = check(plain)
    for said in (
        "not finished (last logged: step 3): mine",
        "0.500 (0.400-0.600)",
        "linear: left out",
        "all objectives together",
        "learning rate",
        "What it predicts of what it does not see",
        "Patches and attention",
        "Nearest neighbours",
        "image finds text",
        "✓ 0.80 · row 0, mine mine",
        "not there: mine",
        "Broken samples (1)",
        "hidden ones ringed",
    ):
        assert said in found.text, said
    assert len(found.all("circle")) >= 6 * 6
    told = [d["aria-label"] for d in found.all("div") if "over steps 1 to 3" in d.get("aria-label", "")]
    assert any("from 3 to 1" in line for line in told)


def test_a_mask_and_its_guess_are_told_apart_without_colours(plain: str) -> None:
    found = check(plain)
    assert {m.get("class") for m in found.all("mark")} >= {"right", "wrong"}
    assert "✓" in found.text and "✗" in found.text


def test_runs_are_compared() -> None:
    one, other = record_of("x", "mae"), record_of("y", "mae")
    one.name, other.name = "first", "second"
    other.settings = {**other.settings, "train": {"lr": 0.5}}
    found = check(page.report_text([(one, None), (other, None)]))
    assert "What differs between the runs" in found.text and "train.lr" in found.text and "0.5" in found.text
    legends = [attributes for attributes in found.all("span") if attributes.get("class", "").startswith("dash ")]
    assert len({legend["style"] for legend in legends}) == 2


def test_a_page_that_would_be_too_large_shows_less_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six pictures of noise, then three; or none, where even two are too many."""
    was = Frames(noise(1, 32, 32, 3), np.ones((1, 32, 32), bool))
    seen = Seen([0], "a row", made={("mae", "image"): [Made(row, was, was) for row in range(6)]})
    text = page.report_text([(Record(Path("run"), "a"), seen)])
    assert len(check(text).all("img")) == 3 * 6
    for left in (3, 2, 0):
        monkeypatch.setattr(page, "LARGEST", len(text) - 1)
        text = page.report_text([(Record(Path("run"), "a"), seen)])
        assert len(check(text).all("img")) == 3 * left
        assert ("so that this page stays small" in text) == (left > 0)


def test_nothing_at_all_is_a_page_too(tmp_path: Path) -> None:
    size = page.write_report(
        [(Record(tmp_path, "empty", alone=True, absent=["no curves"]), None)], tmp_path / "report.html"
    )
    text = (tmp_path / "report.html").read_text()
    assert size == len(text.encode()) and "a model without its run" in check(text).text


def test_numbers_in_metrics_that_are_no_numbers_draw_nothing(tmp_path: Path) -> None:
    record = Record(tmp_path, "odd", rows=[{"step": 1, "loss": None}, json.loads('{"step": 2, "loss": NaN}')])
    check(page.report_text([(record, None)]))
