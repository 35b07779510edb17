"""
Owns what a decision may ask of a request that httptools parsed.

Refuses: to look anything up before it is asked.  The answers are those that the
dispatcher gives for the same request on the ASGI road.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from bridge.routing import Selector, SelectorKind
from bridge.web.proxies import Proxies


class HeaderAsks:
    """
    L{bridge.routing.Asks} for a protocol object with these attributes.
    """

    headers: list[tuple[bytes, bytes]]
    client: tuple[str, int] | None
    proxies: Proxies | None = None

    def subject(self, selector: Selector) -> bytes:
        """
        The bytes that a canary sticks to; empty where the request has none.
        """
        if selector.kind is SelectorKind.CLIENT:
            client: Any = self.client
            if self.proxies is not None:
                client = self.proxies.client_of(client, self.headers)
            return b"" if client is None else str(client[0]).encode()
        if selector.kind is SelectorKind.HEADER:
            return b",".join(_values(self.headers, selector.name.lower().encode("latin-1")))
        if selector.kind is SelectorKind.COOKIE:
            name = selector.name.encode("latin-1", "replace")
            for part in b"; ".join(_values(self.headers, b"cookie")).split(b";"):
                found, equals, value = part.strip().partition(b"=")
                if equals and found.strip() == name:
                    return value.strip().strip(b'"')
        return b""

    def dice(self) -> float:
        """
        From 0 to 1, new each time.
        """
        return random.random()


def _values(headers: Sequence[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name.lower() == wanted]
