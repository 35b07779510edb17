"""
Owns one connection: uvicorn's httptools protocol, with a second road.

When a request's headers are complete the route table is asked. What legacy answers
goes straight into a L{Channel} of the Site on uvicorn's transport, and is written as
Twisted writes it, whether somebody watches it or not; everything else takes the road to the
ASGI application (L{bridge.web.asgi_road}). Requests are answered in the order they came in,
whichever road each of them takes, and limits, timeouts, draining and counts hold for both.

It follows uvicorn's internals, so it serves only the releases in L{UVICORN}; on others
it steps aside for uvicorn's own class.

Refuses: signals, listening, and deciding.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bridge.parity.observe import Watch
from bridge.routing import Decision, Side
from bridge.web.asks import HeaderAsks
from bridge.web.channel import admits, channel_class
from bridge.web.cycle import LegacyCycle, Refusal, uvicorn_known
from bridge.web.front import Road, road_of
from bridge.web.speaking import SpeakingProtocol
from bridge.web.transport import address_of
from bridge.web.watching import begin_watched, scope_of

_VERSIONS = {"1.1": b"HTTP/1.1", "1.0": b"HTTP/1.0"}


def _path(uri: bytes) -> bytes:
    """
    The raw path of a request target, which may be in the absolute form.
    """
    if uri[:1] != b"/" and b"://" in uri:
        uri = b"/" + uri.partition(b"://")[2].partition(b"/")[2]
    cut = uri.find(b"?")
    return uri if cut < 0 else uri[:cut]


class SiteProtocol(HeaderAsks, SpeakingProtocol):
    """
    uvicorn's C{http=} class for a server that has a Site.

    In owned mode the listener gives it a L{Road}, or none; made by uvicorn itself it
    looks for C{legacy_front} in the application. Without a road it is uvicorn's protocol.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if not uvicorn_known():
            kwargs.pop("road", None)
            kwargs.pop("look", None)
            return HttpToolsProtocol(*args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        road: Road | None = None,
        look: bool = True,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._road = road
        self._look = look
        self._on_hot_road = False

    # the transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self._look:
            self._road = road_of(self.app, transport.get_extra_info("sockname"))
        if self._road is not None:
            self._channel_class = channel_class(self._road.site, self._channel_class)
            self.head_limit = self._channel_class.totalHeadersSize
            self.proxies = self._road.proxies
        super().connection_made(transport)
        if self._road is not None and not self._admitted(self._road.site):
            self.deaf = True
            transport.abort()

    def _admitted(self, site: Any) -> bool:
        try:
            return admits(site, address_of(self.transport.get_extra_info("peername")))
        except Exception:
            self._log.failure("The Site failed to build a protocol, so its connection is closed")
            return False

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            return
        if self._stock is not None:
            self._guard(self._stock.dataReceived, data)
            return
        current = self.current
        if current is not None and not current.response_complete and self._taken(data):
            return
        self.heard(len(data))
        if self.held is not None:
            self.held.append(data)
        else:
            self.feed(data)

    def upgraded(self, data: bytes) -> bool:
        """
        A request with an Upgrade (or a CONNECT) is complete, and this came behind it.

        @return: Whether it is the next request.
        """
        if self._on_hot_road:
            # The application may take the connection over, now or later.
            if self.busy():
                if not self._taken(data):
                    self.held = [data]
                return False
        elif self._should_upgrade():
            if self.busy():
                self.queue_refusal(None)
            else:
                self.handle_websocket_upgrade()
            return False
        else:
            self._unsupported_upgrade_warning()
        return True

    # the parser's side

    def on_headers_complete(self) -> None:
        self.in_head, self.in_body = False, True
        parser = self.parser
        method = parser.get_method()
        if parser.should_upgrade() and self.postpones(method):
            self._on_hot_road, self._asgi = False, None
            return
        road = self._road
        if road is None or not self._hot(road, method):
            self._on_hot_road = False
            self.cross(method)
            return
        self._on_hot_road = True
        version = _VERSIONS.get(parser.get_http_version(), b"")
        cycle = self.cycle = LegacyCycle((method, self.url, version, self.headers))
        decision = self.decision
        if decision is not None and decision.watched:
            cycle.watch = self._watched(road, decision)
        if self.waits():
            self.queue(cycle)
        else:
            self._open(cycle)
        # Trailers come the same way, and are nobody's headers.
        self.headers = []

    def _hot(self, road: Road, method: bytes) -> bool:
        if self.limit_concurrency is not None and self.over_limit():
            # The other road ends in uvicorn's 503.
            self.decision = None
            return False
        if road.decide is None:
            return True
        url = self.url
        path = url if url[:1] == b"/" and url.find(b"?") < 0 else _path(url)
        decision = self.decision = road.decide(method, path, self)
        return decision.answers is Side.LEGACY

    def _watched(self, road: Road, decision: Decision) -> Watch | None:
        """
        Who sees the request at hand.
        """
        # Nobody can answer a websocket twice.
        if road.watch is None or self.parser.should_upgrade():
            return None
        return road.watch(decision, scope_of(self))

    def permits(self, method: bytes, uri: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
        """
        Whether a request that only Twisted's parser understands is legacy's.
        """
        road = self._road
        if road is None or road.decide is None:
            return road is not None
        self.headers = headers
        decision = road.decide(method, _path(uri), self)
        if decision.answers is not Side.LEGACY:
            return False
        if decision.watched and road.watch is not None:
            road.watch(decision, None)
        return True

    def on_body(self, body: bytes) -> None:
        if not self.completions:
            self.body_bytes += len(body)
        if not self._on_hot_road:
            super().on_body(body)
            return
        cycle = self.cycle
        if cycle.watch is not None:
            cycle.watch.heard(body)
        if cycle is self.current:
            assert self._channel is not None
            self._guard(self._channel.body, body)
        elif cycle.chunks is None:
            cycle.chunks = [body]
        else:
            cycle.chunks.append(body)

    def on_message_complete(self) -> None:
        self.in_body = False
        self.completions += 1
        if not self._on_hot_road:
            if self._asgi is not None:
                self._asgi.heard_all()
            return
        cycle = self.cycle
        cycle.more_body = False
        if cycle is self.current and not self.deaf:
            assert self._channel is not None
            try:
                self._channel.complete()
            except Exception as error:
                self._failed_at(error)

    # the order of answers

    def start_legacy(self, cycle: LegacyCycle) -> None:
        if type(cycle) is Refusal:
            self.refuse(cycle.head)
            return
        self._open(cycle)
        chunks, cycle.chunks = cycle.chunks, None
        assert self._channel is not None
        for chunk in chunks or ():
            self._guard(self._channel.body, chunk)
        if not cycle.more_body:
            self._guard(self._channel.complete)

    def _open(self, cycle: LegacyCycle) -> None:
        self.current = cycle
        channel = self._channel
        if channel is None:
            assert self._road is not None
            channel = self._made_channel(self._road)
        if self.deaf:
            return
        try:
            begun = channel.begin(*cycle.head) if cycle.watch is None else begin_watched(channel, cycle)
        except Exception as error:
            self._failed_at(error)
        else:
            # Never back to False: it may have been answered already, as the connection's last.
            if not begun:
                self.deaf = True
