"""
The page that a browser gets: it lists what can be asked, runs nothing, and loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any, cast

import pytest

from bridge.admin.api import create_api
from bridge.admin.control import Control
from bridge.admin.frame import HEADERS
from bridge.admin.page import page_of


@pytest.fixture
def document() -> dict[str, Any]:
    return create_api(cast("Control", object())).openapi()


class Read(HTMLParser):
    """
    The tags of a page with their attributes, and the text of each style and each command.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"style": [], "pre": []}
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in self.texts and data.strip():
            self.texts[self.tags[-1][0]].append(data)


def test_the_page_needs_nothing_from_anywhere(document: dict[str, Any]) -> None:
    """
    No script, no handler, no address but its own listener's: it works without the internet, and nothing that could run
    stands beside the hand that moves routes.

    Seen to fail with FastAPI's page, whose script comes from a CDN.
    """
    page = Read(page_of(document, "http://127.0.0.1:8001/"))

    addresses = [value for _, given in page.tags for name, value in given.items() if name in ("src", "href", "action")]
    own = "http://127.0.0.1:8001/"
    assert [f"{own}openapi.json", f"{own}metrics", own] == addresses
    assert not {"script", "link", "iframe", "form", "img", "object"} & {tag for tag, _ in page.tags}
    assert not [name for _, given in page.tags for name in given if name.startswith("on") or name == "style"]


def test_a_browser_is_told_to_run_nothing_and_takes_the_style_all_the_same(document: dict[str, Any]) -> None:
    """
    The policy forbids everything but this one style, which it knows by its digest.
    """
    [style] = Read(page_of(document, "http://127.0.0.1/")).texts["style"]
    policy = HEADERS["Content-Security-Policy"]

    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'; " in policy
    assert "frame-ancestors 'none'" in policy


def test_everything_that_can_be_asked_is_on_the_page(document: dict[str, Any]) -> None:
    """
    With its parameters, what they take, and a command that can be copied.
    """
    page = page_of(document, "http://127.0.0.1:8001/")
    commands = Read(page).texts["pre"]

    asked = [(method, path) for path, each in document["paths"].items() for method in each]
    assert len(asked) == len(commands)
    for (method, path), command in zip(asked, commands, strict=True):
        words = shlex.split(command)
        assert "curl" == words[0]
        assert f"http://127.0.0.1:8001{path}" in words
        assert (method == "post") is ("--json" in words)
    for name in _names(document):
        assert f"<code>{name}</code>" in page
    assert "legacy, shadow, canary, live, modern, retired" in page
    assert '"route": "GET /export/{export_id}"' in commands[[path for _, path in asked].index("/api/set")]


def test_what_a_host_header_says_is_text(document: dict[str, Any]) -> None:
    """
    With a token the listener answers to any name, and a name must not become a part of the page.
    """
    page = page_of(document, 'http://x"><script>alert(1)</script>/')

    assert "<script" not in page
    assert re.search(r"x&quot;&gt;&lt;script&gt;", page)


def _names(document: dict[str, Any]) -> Iterator[str]:
    for each in document["paths"].values():
        for operation in each.values():
            yield from (parameter["name"] for parameter in operation.get("parameters", []))
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Request"):
            yield from schema["properties"]
