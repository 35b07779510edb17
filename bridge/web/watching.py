"""
Owns how a request of the hot road is shown to whoever watches it: what it would be as an
ASGI scope, and what its channel and its Request tell.

Refuses: to decide who watches, and to be there where nobody does.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bridge.parity.observe import Ending, Headers, Watch
from bridge.web.channel import Channel
from bridge.web.cycle import LegacyCycle
from bridge.web.virtual import ADDED_HEADERS as ADDED_HEADERS

# Under this name an ASGI application finds what the route table decided, so that nobody asks it again.
DECISION = "bgserver.decision"


def scope_of(connection: Any, added: frozenset[bytes]) -> MutableMapping[str, Any] | None:
    """
    The scope that uvicorn would have made of the request whose head is complete.

    @param connection: uvicorn's protocol, with the head in C{url} and C{headers}.
    @param added: What it adds to answers by itself.
    @return: None if ASGI has no words for it.
    """
    url, headers = connection.url, connection.headers
    try:
        parsed = httptools.parse_url(url)
        path = parsed.path.decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError, AttributeError):
        return None
    HttpToolsProtocol.on_message_begin(connection)
    connection.url, connection.headers = url, headers
    root = connection.root_path
    scope: MutableMapping[str, Any] = connection.scope
    scope["method"] = connection.parser.get_method().decode("ascii")
    scope["http_version"] = connection.parser.get_http_version()
    scope["path"] = root + (unquote(path) if "%" in path else path)
    scope["raw_path"] = root.encode("ascii") + parsed.path
    scope["query_string"] = parsed.query or b""
    scope["headers"] = [(name.lower(), value) for name, value in headers]
    scope["extensions"] = {ADDED_HEADERS: added, DECISION: connection.decision}
    if connection.proxies is not None:
        connection.proxies.believe(scope)
    return scope


class _Recorder:
    """
    A watch, as a channel's recorder. It looks by itself whether the body is complete, so that
    requests which nobody watches aren't asked at their end.
    """

    def __init__(self, watch: Watch, cycle: LegacyCycle) -> None:
        self._watch = watch
        self._cycle = cycle
        self.wrote = watch.wrote

    def started(self, status: int, headers: Headers, at: float) -> None:
        self._look()
        self._watch.started(status, headers, at)

    def closed(self, how: Ending, at: float, error: str = "") -> None:
        self._look()
        self._watch.closed(how, at, error)

    def _look(self) -> None:
        if not self._cycle.more_body:
            self._watch.heard_all()


def begin_watched(channel: Channel, cycle: LegacyCycle) -> bool:
    """
    Begin a request that is watched: C{Channel.begin}, with the watch told of it.

    @return: False if the channel refused it.
    """
    watch = cycle.watch
    assert watch is not None
    watch.begins()
    channel.recorder, channel.clock = _Recorder(watch, cycle), watch.clock
    if not channel.begin(*cycle.head):
        # As the same channel says it behind ASGI, where no answer is without headers.
        channel.recorder.started(400, [(b"Content-Length", b"0"), (b"Connection", b"close")], watch.clock())
        channel.record(Ending.COMPLETE)
        return False
    if watch.effect is not None:
        request: Any = channel.requests[-1]
        request.bgserverEffects = watch.effect
        request.bgserverHold = watch.hold
    return True
