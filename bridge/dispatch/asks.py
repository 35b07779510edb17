"""
Owns what a decision may ask of an ASGI scope: a canary's subject and a throw of dice.

Refuses: to look anything up before it is asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

from bridge.dispatch.asgi import Scope
from bridge.routing import Selector, SelectorKind


@attrs.define(slots=True, eq=False)
class ScopeAsks:
    """
    L{bridge.routing.Asks} over one scope.
    """

    scope: Scope
    dice: Callable[[], float] = random.random

    def subject(self, selector: Selector) -> bytes:
        """
        The bytes that a canary sticks to; empty where the request has none.
        """
        if selector.kind is SelectorKind.CLIENT:
            client = self.scope.get("client")
            return str(client[0]).encode() if client else b""
        if selector.kind is SelectorKind.HEADER:
            return self._header(selector.name.lower().encode("latin-1"))
        if selector.kind is SelectorKind.COOKIE:
            return cookie(self._header(b"cookie", b"; "), selector.name)
        return b""

    def _header(self, name: bytes, between: bytes = b",") -> bytes:
        return between.join(v for n, v in self.scope.get("headers", ()) if n == name)


def cookie(header: bytes, name: str) -> bytes:
    """
    One cookie's value out of a C{Cookie} header, as it stands there.
    """
    wanted = name.encode("latin-1", "replace")
    for part in header.split(b";"):
        found, equals, value = part.strip().partition(b"=")
        if equals and found.strip() == wanted:
            return value.strip().strip(b'"')
    return b""
