"""
Owns the access log of what the modern side answers: a line of the Site's own log, as
its formatter writes it, so that a route which moves doesn't go dark.

Refuses: to log shadows, and to be there where the Site doesn't log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bridge.web.sessions import SHADOW
from bridge.web.transport import address_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]


class Answered:
    """
    A request that was answered behind ASGI, as a Site's log formatter looks at one.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self.code = 500
        self.sentLength = 0

    @property
    def method(self) -> bytes:
        return str(self._scope["method"]).encode("latin-1")

    @property
    def uri(self) -> bytes:
        raw: bytes = self._scope.get("raw_path") or str(self._scope["path"]).encode()
        query: bytes = self._scope.get("query_string", b"")
        return raw + b"?" + query if query else raw

    @property
    def clientproto(self) -> bytes:
        return b"HTTP/" + str(self._scope.get("http_version", "1.1")).encode("ascii")

    def getClientAddress(self) -> Any:
        return address_of(self._scope.get("client"))

    def getClientIP(self) -> str | None:
        client = self._scope.get("client")
        return client[0] if client else None

    def getHeader(self, key: bytes | str) -> bytes | str | None:
        wanted = key.lower() if isinstance(key, bytes) else key.lower().encode("latin-1")
        for name, value in self._scope["headers"]:
            if name == wanted:
                found: bytes = value
                return found if isinstance(key, bytes) else found.decode("latin-1")
        return None


class Logged:
    """
    ASGI middleware: one line in the Site's access log for each answer.

    @ivar site: Its C{log} is called, with what a formatter needs.
    """

    def __init__(self, app: App, site: Any) -> None:
        self.app = app
        self.site = site

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or SHADOW in (scope.get("extensions") or {}):
            await self.app(scope, receive, send)
            return
        answered = Answered(scope)

        async def watching(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                answered.code = message["status"]
            elif message["type"] == "http.response.body":
                answered.sentLength += len(message.get("body", b""))
                if not message.get("more_body", False):
                    self.site.log(answered)

        await self.app(scope, receive, watching)
