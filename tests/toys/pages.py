"""A page of HTML as a parser reads it, and what every page of mmssl keeps."""

from __future__ import annotations

import re
from html.parser import HTMLParser

LOADS = ("src", "href", "srcset", "data", "action", "poster", "background")
"""Attributes that name something to be loaded or gone to."""


class Page(HTMLParser):
    """tags: (name, attributes) in order; text: what is read outside of scripts and styles."""

    VOID = ("meta", "link", "img", "br", "input", "hr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tags, self.open, self.parts = html, list[tuple[str, dict[str, str]]](), list[str](), list[str]()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> ends <{self.open[-1:]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open[-1:]):
            self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.parts).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def check(html: str, most: int = 5_000_000) -> Page:
    """The page parsed: well formed, small, by itself, with one script of its own, and readable for who does not see."""
    assert len(html.encode()) < most
    page = Page(html)
    assert page.open == []
    for tag, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on")], (tag, attributes)
        for key in LOADS:
            value = attributes.get(key, "#")
            assert value.startswith(("#", "data:image/", "data:,")), (tag, key, value[:80])
        assert not re.search(r"url\((?!#|data:image/)", attributes.get("style", "")), attributes
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")}
    assert anchors <= set(ids)
    assert len(page.all("script")) == 1 and not page.all("iframe") and not page.all("object")
    assert not re.search(r"@import|url\((?!#|data:)", "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL)))
    assert all(image.get("alt") for image in page.all("img"))
    assert all(svg.get("aria-hidden") or svg.get("aria-labelledby") for svg in page.all("svg"))
    assert all(div["aria-label"] for div in page.all("div") if div.get("role") in ("img", "region"))
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'") and "unsafe-inline" not in policy.partition("script-src")[2]
    assert page.all("html")[0]["lang"] and "viewport" in str(page.all("meta"))
    return page
