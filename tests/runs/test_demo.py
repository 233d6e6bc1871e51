"""The page of `mmssl demo` in a real browser, on two real runs: what it answers is what the engine answers, by mouse,
by keyboard and on a phone; it asks nobody but this machine.

Skipped, and said so, without Gradio, Playwright (`pip install 'mmssl[demo]' playwright`) or Chromium (of the system).
"""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toys import uploaded
from toys.browser import needs

import mmssl
from mmssl.demonstrating.engine import Engine
from mmssl.demonstrating.serving import Page

pytestmark = [pytest.mark.slow, needs("gradio")]
REPO = Path(__file__).parents[2]
PATIENCE = 120_000
"""Milliseconds that an answer may take on a busy machine."""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def asked_of_others() -> Iterator[list[str]]:
    """Who this process, which serves the page, has turned to or looked up beyond the loopback."""
    found: list[str] = []
    connects, looks_up = socket.socket.connect, socket.getaddrinfo

    def note(host: object) -> None:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name not in ("localhost", "None") and not name.startswith("127.") and name != "::1":
            found.append(name)

    def connect(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            note(address[0])
        return connects(self, address)

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        note(host)
        return looks_up(host, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield found


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, asked_of_others: list[str]) -> Iterator[Page]:
    """Pictures and captions, of a short run of the quickstart."""
    run = mmssl.pretrain("quickstart", output=tmp_path_factory.mktemp("runs") / "digits", train={"steps": 150})
    with mmssl.demo(run.folder, port=0, split="test", templates=["the digit {}", "a handwritten {}"]) as page:
        yield page


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory, asked_of_others: list[str], shared_data: Path) -> Iterator[Page]:
    """Spoken and written digits."""
    recipe, data = REPO / "configs/examples/audio_image_clip.yaml", shared_data / "spoken_written_digits"
    output = tmp_path_factory.mktemp("runs") / "sounds"
    run = mmssl.pretrain(recipe, output=output, data={"path": str(data)}, train={"steps": 60})
    with mmssl.demo(run.folder, port=0, split="test", label="label") as page:
        yield page


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, asked_of_others: list[str]) -> Iterator[Page]:
    """Recordings, videos, volumes, series, graphs and cells, and a model that nobody has trained."""
    model = uploaded.save(tmp_path_factory.mktemp("uploaded"))
    with mmssl.demo(model, model.parent / "rows", port=0, columns=uploaded.COLUMNS) as page:
        yield page


class Browser:
    """A window on a page. faults: what its console calls an error, what was asked of others, answers from 400 on."""

    def __init__(self, window: Any, url: str) -> None:
        self.window, self.url, self.faults = window, url, list[str]()
        window.set_default_timeout(PATIENCE)
        window.on("console", lambda said: said.type == "error" and self.faults.append(f"console: {said.text}"))
        window.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        window.on("request", self._asked)
        window.on("response", lambda r: r.status >= 400 and self.faults.append(f"{r.status}: {r.url}"))
        window.goto(url)
        window.get_by_role("tab", name="Search", exact=True).wait_for()

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.faults.append(f"asked of others: {request.url}")

    def tab(self, *names: str) -> None:
        for name in names:
            self.window.get_by_role("tab", name=name, exact=True).locator("visible=true").first.click()

    def click(self, button: str) -> Any:
        """Click a button; the answer."""
        return self.answer(self.window.get_by_role("button", name=button, exact=True).locator("visible=true").click)

    def answer(self, act: Callable[[], object]) -> Any:
        """Do something that is answered; the answer, which is a new one."""
        window = self.window
        window.evaluate("document.querySelectorAll('section[aria-label=answer]').forEach(e => e.dataset.old = 1)")
        act()
        found = window.locator("section[aria-label=answer]:not([data-old])").locator("visible=true")
        found.wait_for()
        return found

    def fill(self, label: str, text: str) -> None:
        self.window.get_by_label(label).locator("visible=true").fill(text)

    def upload(self, *paths: Path) -> None:
        """Give a file, or several of one sample, to the field that is seen, in place of what is there."""
        window = self.window
        clear = window.get_by_label("Clear", exact=True).locator("visible=true")
        if clear.count():
            clear.first.click()
        field = window.locator("button:has-text('Click to Upload')").locator("visible=true").first
        with window.expect_file_chooser() as chosen:
            field.click()
        chosen.value.set_files(list(paths))
        window.get_by_text(paths[0].stem[:8]).locator("visible=true").first.wait_for()


def rows_of(answer: Any) -> list[int]:
    return [int(item.get_attribute("data-row")) for item in answer.locator("ol.hits > li").all()]


def words_of(answer: Any) -> list[str]:
    return answer.locator("ol.bars .word").all_inner_texts()  # type: ignore[no-any-return]


@pytest.fixture
def window(chromium: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Browser]]:
    """Opens windows; at the end none of them has a fault. $MMSSL_SCREENSHOTS: a folder for what they look like then."""
    opened: list[Browser] = []

    def browser(page: Page, **options: Any) -> Browser:
        opened.append(Browser(chromium.new_page(**options), page.url))
        return opened[-1]

    yield browser
    folder = os.environ.get("MMSSL_SCREENSHOTS")
    for number, one in enumerate(opened):
        if folder:
            one.window.screenshot(path=f"{folder}/{request.node.name}-{number}.png", full_page=True)
        one.window.close()
    assert [fault for one in opened for fault in one.faults] == []


def pictures(engine: Engine, folder: Path, rows: list[int], name: str, ending: str) -> list[Path]:
    """What some rows hold, as files."""
    found = []
    for row in rows:
        column = engine.columns[name]
        assert isinstance(column, str)
        found.append(folder / f"{name}-{row}{ending}")
        found[-1].write_bytes(engine.cells_in(name, row)[column]["bytes"])
    return found


def test_twenty_queries_are_answered_as_the_engine_does(
    digits: Page, window: Callable[..., Browser], tmp_path: Path
) -> None:
    engine, seen = digits.engine, window(digits)
    right = count = 0
    seen.tab("Search", "by text")
    for word in DIGITS[:8]:
        seen.fill("text: words", f"the digit {word}")
        answer = seen.click("Search by text")
        hits = engine.search(engine.words("text", f"the digit {word}"), "image", 12)
        assert rows_of(answer) == [hit.row for hit in hits]
        assert answer.get_by_text(f"{hits[0].cosine:.3f}").count()
        right, count = right + sum(engine.says(hit.row) == word for hit in hits), count + len(hits)
    seen.tab("by image")
    for path in pictures(engine, tmp_path, [3, 60, 200, 300], "image", ".png"):
        seen.upload(path)
        answer = seen.click("Search by image")
        assert rows_of(answer) == [hit.row for hit in engine.search(engine.files("image", [path]), "text", 12)]
    seen.tab("Neighbours")
    for row in (0, 7, 123, 359):
        seen.fill("row (0 to 359)", str(row))
        answer = seen.click("Find neighbours")
        expected = [hit.row for hit in engine.search(engine.row("image", row), "image", 12)]
        assert rows_of(answer) == expected and row not in expected
    seen.tab("Own words")
    for row in (5, 50, 150, 250):
        seen.fill("words, a line each", "\n".join(DIGITS[: 4 + row % 7]))
        seen.fill("row (0 to 359)", str(row))
        answer = seen.click("Classify the row")
        fits = engine.zero_shot(engine.row("image", row), DIGITS[: 4 + row % 7])
        assert words_of(answer) == [fit.word for fit in fits]
        assert fits[0].share is not None and answer.get_by_text(f"{100 * fits[0].share:.0f} %").count()
    print(f"{right} of {count} pictures that were found by a word show it")
    assert right > count / 2  # one in ten by chance


def test_a_wrong_upload_is_a_sentence(digits: Page, window: Callable[..., Browser], tmp_path: Path) -> None:
    seen = window(digits)
    seen.tab("Search", "by image")
    (answer := seen.click("Search by image")).get_by_role("alert").wait_for()
    assert "there is no file yet" in answer.inner_text()
    (tmp_path / "holiday.png").write_text("these are words <img src=x onerror=alert(1)>")
    seen.upload(tmp_path / "holiday.png")
    answer = seen.click("Search by image")
    said = answer.get_by_role("alert").inner_text()
    assert said.startswith("This is not read as an image:") and "Traceback" not in seen.window.inner_text("body")
    seen.tab("by text")
    assert "there are no words yet" in seen.click("Search by text").inner_text()
    seen.tab("Neighbours")
    seen.fill("row (0 to 359)", "360")
    assert "expected the number of a row, 0 to 359" in seen.click("Find neighbours").inner_text()
    seen.tab("Own words")
    seen.fill("sentences around them, {} for the word", "no place")
    assert "has no '{}'" in seen.click("Classify the row").inner_text()


def test_it_fits_a_phone_in_the_dark(digits: Page, window: Callable[..., Browser]) -> None:
    phone = {"width": 390, "height": 844}
    seen = window(digits, viewport=phone, device_scale_factor=2, has_touch=True, color_scheme="dark")
    for tabs, button in ((("Neighbours",), "Find neighbours"), (("Own words",), "Classify the row")):
        seen.tab(*tabs)
        seen.click(button)
        assert seen.window.evaluate("document.documentElement.scrollWidth") <= phone["width"]
    seen.tab("Search", "by text")
    seen.fill("text: words", "number seven")
    answer = seen.click("Search by text")
    assert len(rows_of(answer)) == 12
    assert seen.window.evaluate("document.documentElement.scrollWidth") <= phone["width"]
    box = answer.locator("ol.hits").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= phone["width"]


def test_it_is_used_without_a_mouse(digits: Page, window: Callable[..., Browser]) -> None:
    seen = window(digits)

    def forward(to: str) -> None:
        """Tab on to what is called so."""
        for _ in range(40):
            seen.window.keyboard.press("Tab")
            called = seen.window.evaluate(
                "(e => [e.ariaLabel, e.innerText, e.labels && e.labels[0] && e.labels[0].innerText].join('|'))"
                "(document.activeElement)"
            )
            if to in called:
                return
        raise AssertionError(f"the Tab key does not reach '{to}'")

    forward("by text")
    seen.window.keyboard.press("Enter")
    forward("text: words")
    seen.window.keyboard.type("the digit three")
    forward("Search by text")
    answer = seen.answer(lambda: seen.window.keyboard.press("Enter"))
    hits = digits.engine.search(digits.engine.words("text", "the digit three"), "image", 12)
    assert rows_of(answer) == [hit.row for hit in hits]


def test_sounds_find_pictures_and_pictures_sounds(sounds: Page, window: Callable[..., Browser], tmp_path: Path) -> None:
    engine, seen = sounds.engine, window(sounds)
    assert engine.classified() == [] and not seen.window.get_by_role("tab", name="Own words").count()
    for name, target, ending in (("audio", "image", ".wav"), ("image", "audio", ".png")):
        seen.tab("Search", f"by {name}")
        for path in pictures(engine, tmp_path, [2, 31], name, ending):
            seen.upload(path)
            answer = seen.click(f"Search by {name}")
            assert rows_of(answer) == [hit.row for hit in engine.search(engine.files(name, [path]), target, 12)]
            players = answer.locator("audio")
            assert players.count() == (1 if name == "audio" else 12)
            playing = (
                "e => new Promise(r => { e.onloadedmetadata = () => r(e.duration); e.onerror = () => r(-1); e.load() })"
            )
            assert players.first.evaluate(playing) > 0.1
    seen.tab("by audio")
    (tmp_path / "voice.wav").write_bytes(b"RIFF and no sound")
    seen.upload(tmp_path / "voice.wav")
    assert seen.click("Search by audio").get_by_role("alert").inner_text().startswith("This is not read as sound:")


@pytest.mark.parametrize("name", list(uploaded.FILES))
def test_files_of_every_kind_find_their_row(
    everything: Page, window: Callable[..., Browser], tmp_path: Path, name: str
) -> None:
    """The right files find the row that they are a copy of, of each wrong one a sentence is said."""
    engine, seen = everything.engine, window(everything, viewport={"width": 1000, "height": 900})
    seen.tab("Search", f"by {name}")
    paths = uploaded.FILES[name](tmp_path, 3)
    seen.upload(*paths)
    answer, target = seen.click(f"Search by {name}"), engine.targets(name)[0]
    assert rows_of(answer) == [hit.row for hit in engine.search(engine.files(name, paths), target, 12)]
    seen.window.set_viewport_size({"width": 390, "height": 844})
    assert seen.window.evaluate("document.documentElement.scrollWidth") <= 390
    file, content = uploaded.wrong(tmp_path / "made")[name][0]
    (tmp_path / f"wrong-{file}").write_bytes(content)
    seen.upload(tmp_path / f"wrong-{file}")
    said = seen.click(f"Search by {name}").get_by_role("alert").inner_text()
    assert said.startswith(f"This is not read as {engine.readers[name].noun}:") and "Traceback" not in said


def test_cells_of_a_row_find_it(everything: Page, window: Callable[..., Browser]) -> None:
    seen = window(everything)
    seen.tab("Search", "by tabular")
    seen.fill("tabular: a line a column", "age: old")
    assert "expected a number" in seen.click("Search by tabular").get_by_role("alert").inner_text()
    seen.fill("tabular: a line a column", "age: 36\njob: baker")
    engine = everything.engine
    hits = engine.search(engine.cells_of("tabular", "age: 36\njob: baker"), engine.targets("tabular")[0], 12)
    assert rows_of(seen.click("Search by tabular")) == [hit.row for hit in hits]


def test_it_speaks_to_this_machine_alone(digits: Page, asked_of_others: list[str]) -> None:
    assert digits.url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(digits.url) as found:
        assert "default-src 'self'" in found.headers["content-security-policy"]
    with pytest.raises(urllib.error.HTTPError) as error:  # another name that is made to lead here
        urllib.request.urlopen(urllib.request.Request(digits.url, headers={"Host": "evil.example"}))
    assert error.value.code == 400
    assert asked_of_others == []
