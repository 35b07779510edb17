"""
Owns the road to the ASGI application: the scope of a request whose head is complete, its
place in the line of answers, and what becomes of its body.

It does what uvicorn's protocol does there, and looks at each head once where that looks
three times.

Refuses: to choose a road.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote

import httptools
from twisted.web.http_headers import _nameEncoder
from uvicorn.protocols.http import flow_control
from uvicorn.server import ServerState

from bridge.routing import Decision
from bridge.web.asgi_cycle import AsgiCycle, Heads
from bridge.web.asgi_head import Preface
from bridge.web.parsing import ParsingProtocol
from bridge.web.proxies import Proxies
from bridge.web.virtual import ADDED_HEADERS

# Under this name an ASGI application finds what the route table decided, so that nobody asks it again.
DECISION = "bgserver.decision"

_VERSIONS = ("1.1", "1.0")
_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}


# Under this name a server's state keeps what all its connections share.
_HEADS = "bgserver_heads"


def _heads_of(state: ServerState, loop: asyncio.AbstractEventLoop) -> Heads:
    found: Heads | None = getattr(state, _HEADS, None)
    if found is None or found.loop is not loop:
        found = Heads(loop)
        setattr(state, _HEADS, found)
    return found


class AsgiRoadProtocol(ParsingProtocol):
    """
    Gives requests to the ASGI application.

    @ivar decision: What the route table said of the request at hand; None if nobody asked it.
    @ivar proxies: Who is believed about who asks.
    """

    decision: Decision | None = None
    proxies: Proxies | None = None
    _asgi: AsgiCycle | None = None
    _adds: Any = None
    _preface = Preface.of(())
    _added: frozenset[bytes] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Older releases haven't that option.
        self._resets_context: bool = getattr(self.config, "reset_contextvars", False)
        self.heads = _heads_of(self.server_state, self.loop)

    def cross(self, method: bytes) -> None:
        """
        The head at hand is complete: have the application answer.

        @raise ValueError: If it can't be understood in one way only.
        """
        self._asgi = None
        parser = self.parser
        version = parser.get_http_version()
        headers: list[tuple[bytes, bytes]] = []
        expects, framings = False, 0
        for name, value in self.headers:
            name = name.lower()
            headers.append((name, value))
            if name == b"expect":
                expects = value.lower() == b"100-continue"
            elif name == b"content-length" or name == b"transfer-encoding":
                framings += 1
        if framings > 1 or version not in _VERSIONS:
            # uvicorn would believe one of the lengths, and somebody else the other.
            raise ValueError("Twisted refuses this too")
        scope = self.scope = self.scope_of(method, version, headers)
        # Trailers come the same way, and are nobody's headers.
        self.headers = []
        if parser.should_upgrade():
            # uvicorn looks at them once more.
            self.headers = headers[:]
            if self._should_upgrade():
                return
        app = self.app
        if self.limit_concurrency is not None and self.over_limit():
            app = flow_control.service_unavailable
            self.logger.warning("Exceeded concurrency limit.")
        cycle = self.cycle = self._asgi = AsgiCycle(
            scope,
            self.heads,
            self.tasks,
            self.transport,
            self.flow,
            self.logger,
            self.access_logger if self.access_log else None,
            self._preface,
            expects,
            version != "1.0" and parser.should_keep_alive(),
            self.on_response_complete,
        )
        if self.waits():
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))
        else:
            self.start_asgi(cycle, app)

    def start_asgi(self, cycle: AsgiCycle, app: Any) -> None:
        if self._resets_context:
            super().start_asgi(cycle, app)
            return
        self.current = cycle
        task = cycle.task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)

    def over_limit(self) -> bool:
        """
        Whether so much is going on that this request is refused, where there is a limit.
        """
        limit = self.limit_concurrency
        assert limit is not None
        return len(self.connections) >= limit or len(self.tasks) >= limit

    def scope_of(self, method: bytes, version: str, headers: list[tuple[bytes, bytes]]) -> Any:
        """
        The request at hand as ASGI says it.

        @param headers: With lower-case names.
        @raise httptools.HttpParserInvalidURLError: If ASGI has no words for its target.
        """
        url, root = self.url, self.root_path
        if url[:1] == b"/" and url.find(b"#") < 0:
            raw, _, query = url.partition(b"?")
        else:
            parsed = httptools.parse_url(url)
            if parsed.path is None:
                raise httptools.HttpParserInvalidURLError(url)
            raw, query = parsed.path, parsed.query or b""
        path = raw.decode("ascii")
        if "%" in path:
            path = unquote(path)
        if self.server_state.default_headers is not self._adds:
            self._renew(self.server_state.default_headers)
        decision = self.decision
        extensions: dict[str, Any] = (
            {ADDED_HEADERS: self._added}
            if decision is None
            else {ADDED_HEADERS: self._added, DECISION: decision}
        )
        scope: MutableMapping[str, Any] = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": _METHODS.get(method) or method.decode("ascii"),
            "root_path": root,
            "path": root + path if root else path,
            "raw_path": root.encode("ascii") + raw if root else raw,
            "query_string": query,
            "headers": headers,
            "state": self.app_state.copy(),
            "extensions": extensions,
        }
        return scope

    def _renew(self, adds: Any) -> None:
        """
        Learn the headers that this server adds to every answer of its own; Twisted spells their names differently.
        """
        self._adds, self._preface = adds, Preface.of(adds)
        self._added = frozenset(_nameEncoder.encode(name) for name in self._preface.names)

    def on_body(self, body: bytes) -> None:
        if self._asgi is not None:
            self._asgi.heard(body)
