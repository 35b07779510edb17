"""
Owns the access log of what the modern side answers: a line of the Site's own log, as
its formatter writes it, so that a route which moves doesn't go dark.

Refuses: to log shadows, and to be there where the Site doesn't log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bridge.web.proxies import peer_of
from bridge.web.sessions import SHADOW
from bridge.web.transport import address_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]
Send = Callable[[Message], Awaitable[None]]


class Answered:
    """
    A request that was answered behind ASGI, as a Site's log formatter looks at one.
    """

    __slots__ = ("_log", "_scope", "_send", "code", "sentLength")

    def __init__(self, scope: Scope, send: Send, log: Callable[[Any], object]) -> None:
        self._scope = scope
        self._send = send
        self._log = log
        self.code = 500
        self.sentLength = 0

    def send(self, message: Message) -> Awaitable[None]:
        """
        The application's C{send}. Plain, since every answer of FastAPI pays for each
        coroutine here; the line is written as the last part goes.
        """
        if message["type"] == "http.response.start":
            self.code = message["status"]
        elif message["type"] == "http.response.body":
            self.sentLength += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._log(self)
        return self._send(message)

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
        return address_of(peer_of(self._scope)[0])

    def getClientIP(self) -> str | None:
        client = peer_of(self._scope)[0]
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

    def __call__(self, scope: Scope, receive: Any, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or SHADOW in (scope.get("extensions") or ()):
            return self.app(scope, receive, send)
        return self.app(scope, receive, Answered(scope, send, self.site.log).send)
