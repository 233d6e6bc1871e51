"""Answers as HTML: nothing of others is more than text, and everything can be read by who does not see."""

from __future__ import annotations

from toys import shown
from toys.pages import LOADS, Page

from mmssl.demonstrating import cards
from mmssl.demonstrating.engine import Engine

EVIL = "<script>alert(1)</script>"


def parsed(html: str) -> Page:
    """A piece of a page: well formed, loads nothing, no script of its own or of others."""
    page = Page(html)
    assert page.open == [] and not page.all("script") and not page.all("style")
    for tag, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on")], (tag, attributes)
        assert all(attributes.get(key, "data:,").startswith("data:") for key in LOADS), (tag, attributes)
    assert all(image.get("alt") for image in page.all("img"))
    return page


def test_found_rows_stand_in_their_order_with_cosine_and_label(engine: Engine) -> None:
    sample = engine.row("image", 3)
    for target in engine.index.names:
        hits = engine.search(sample, target, 6)
        page = parsed(cards.found(engine, sample, target, hits))
        assert [item["data-row"] for item in page.all("li")] == [str(hit.row) for hit in hits]
        for hit in hits:
            assert f"row {hit.row} · {engine.says(hit.row)} · {hit.cosine:.3f}" in page.text
        assert page.text.startswith(f"row 3 · {engine.says(3)}")
        assert len(page.all("audio")) == (len(hits) if target == "audio" else 0)


def test_cells_and_words_of_others_are_text(engine: Engine) -> None:
    row = next(n for n, job in enumerate(shown.rows()["job"]) if job == "<b>cook</b>")
    page = parsed(
        cards.found(
            engine, engine.row("tabular", row), "tabular", engine.search(engine.row("image", row), "tabular", 16)
        )
    )
    assert "<b>cook</b>" in page.text and not page.all("b")
    fits = engine.zero_shot(engine.row("image", 2), [EVIL, "one"])
    page = parsed(cards.classified(engine, engine.row("image", 2), fits))
    assert EVIL in page.text
    said = [" ".join(f"{fit.word}{fit.cosine:.3f}".split()) for fit in fits]
    assert all(one in page.text for one in said), page.text
    assert EVIL in parsed(cards.refused(EVIL)).text


def test_the_head_says_what_is_searched_by_what(engine: Engine) -> None:
    text = parsed(cards.about(engine)).text
    assert text.startswith(f"{engine.title} {engine.called}")
    assert "audio: 15 rows; finds image, tabular, text, audio" in text


def test_what_has_no_looks_is_said(engine: Engine, monkeypatch) -> None:
    monkeypatch.setattr(type(engine.model.modality("image")), "show", lambda *_: [])
    text = parsed(
        cards.found(engine, engine.row("image", 0), "image", engine.search(engine.row("image", 0), "image", 2))
    ).text
    assert text.count("it has nothing to be looked at") == 3
