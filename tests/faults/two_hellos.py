"""
Two stacks that say who they are and keep nothing: what fails around them is the harness's own.
"""

from __future__ import annotations

from typing import Any

from twisted.web.resource import ErrorPage, Resource


def make_root() -> Resource:
    root = Resource()
    for name in (b"", b"b"):
        root.putChild(name, ErrorPage(200, "hello", "legacy"))
    return root


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    body = b"modern"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
