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
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bridge.parity.observe import Ending, Watch
from bridge.routing import Decision, Side
from bridge.web.asgi_road import AsgiRoadProtocol
from bridge.web.asks import HeaderAsks
from bridge.web.channel import Channel, admits, channel_class
from bridge.web.cycle import LegacyCycle, Refusal, uvicorn_known
from bridge.web.front import Road, road_of
from bridge.web.going_away import say_goodbye
from bridge.web.stock import StockChannel
from bridge.web.transport import LoopTransport, address_of, loop_transport
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


class _LoopChannel(Channel):
    """
    A channel whose home has a loop, to write headers without a body a little later.
    """

    home: SiteProtocol

    def flush_soon(self) -> None:
        self.home.loop.call_soon(self._flush)


class SiteProtocol(HeaderAsks, AsgiRoadProtocol):
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
        self._channel: _LoopChannel | None = None
        self._channel_class: Any = _LoopChannel
        self._face: LoopTransport | None = None
        self._stock: StockChannel | None = None
        self._on_hot_road = False

    # the transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self._look:
            self._road = road_of(self.app, transport.get_extra_info("sockname"))
        if self._road is not None:
            self._channel_class = channel_class(self._road.site, _LoopChannel)
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

    def _taken(self, data: bytes) -> bool:
        """
        Give data to whoever took the connection over, if somebody did.
        """
        channel = self._channel
        if channel is None or not self.taken_over:
            return False
        if self.held:
            data = b"".join(self.held) + data
        self.held = None
        if data:
            self._guard(self._owner().dataReceived, data)
        return True

    def _owner(self) -> Any:
        # Twisted's websockets replace the channel's method, others the transport's protocol.
        return self._channel if self._face is None or self._face.protocol is None else self._face.protocol

    @property
    def taken_over(self) -> bool:
        """
        Whether the application speaks its own protocol on this connection.
        """
        channel = self._channel
        if channel is None:
            return False
        return "dataReceived" in channel.__dict__ or (
            self._face is not None and self._face.protocol is not None
        )

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        channel, self._channel = self._channel, None
        face, self._face = self._face, None
        stock, self._stock = self._stock, None
        if face is None:
            return
        error = ConnectionDone() if exc is None else ConnectionLost(str(exc))
        reason = Failure(error)
        owner: Any = face.protocol
        try:
            face.lost()
            if owner is not None:
                owner.connectionLost(reason)
                if channel is not None:
                    # Whoever watched the request that led to it sees no more of it.
                    channel.record(Ending.LEFT)
            elif stock is not None:
                stock.connectionLost(reason)  # type: ignore[no-untyped-call]
            elif channel is not None:
                channel.lost(reason)
        except Exception:
            self._log.failure("The application failed when its connection was lost")

    def patience(self) -> float | None:
        if self._channel is not None:
            return self._channel.timeOut
        if self._road is not None:
            found: float | None = self._road.site.timeOut
            return found
        return super().patience()

    def last_patience(self) -> float | None:
        if self._road is None:
            return super().last_patience()
        found: float | None = self._channel_class.abortTimeout
        return found

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        if self._face is not None:
            self._face.paused()

    def resume_writing(self) -> None:
        if self._face is not None:
            self._face.resumed()
        super().resume_writing()

    def shutdown(self) -> None:
        """
        Take no further requests: close at once, or after the answers that are owed.
        """
        if self.taken_over:
            self._guard(say_goodbye, self._owner(), self._face)
            return
        if self._stock is not None:
            self._stock.stop()
        else:
            super().shutdown()

    # the parser's side

    def on_headers_complete(self) -> None:
        self.in_head, self.in_body = False, True
        parser = self.parser
        method = parser.get_method()
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
        decision = self.decision = road.decide(method, _path(self.url), self)
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
            super().on_message_complete()
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
            self._face = face = loop_transport(self.transport)
            made = self._channel_class
            channel = self._channel = made(self._road.site, face, self)
            face.registerProducer(channel, True)
        if self.deaf:
            return
        try:
            self.deaf = not (channel.begin(*cycle.head) if cycle.watch is None else begin_watched(channel, cycle))
        except Exception as error:
            self._failed_at(error)

    def _guard(self, call: Callable[..., object], *args: Any) -> None:
        """
        Have the application do something, unless nothing is of interest any more.
        """
        if self.deaf:
            return
        try:
            call(*args)
        except Exception as error:
            self._failed_at(error)

    def _failed_at(self, error: Exception) -> None:
        """
        What the application raises ends its connection, as under Twisted, and never
        becomes a fault of the parser.
        """
        self._log.failure("The application failed, so its connection is closed")
        self.deaf = True
        if self._channel is not None:
            self._channel.record(Ending.RAISED, type(error).__name__)
        self.transport.abort()

    def answered(self, persistent: bool) -> None:
        """
        The channel is done with the current request.
        """
        cycle = self.current
        if cycle is None or cycle.response_complete:
            return
        cycle.response_complete = True
        if persistent and cycle.keep_alive:
            self.completed()
            return
        self.server_state.total_requests += 1
        self.deaf = True
        if self._face is not None:
            self._face.loseConnection()

    def ask_twisted(self, raw: bytes) -> bool:
        if self._road is None:
            return False
        self.leave()
        if self._face is None:
            self._face = loop_transport(self.transport)
        self._face.unregisterProducer()
        self.current = None
        self._stock = channel_class(self._road.site, StockChannel)(self._road.site, self)
        held, self.held = self.held, None
        # Line ends between requests may have come in parts, the first of them before.
        self._guard(self._stock.makeConnection, self._face)
        self._guard(self._stock.dataReceived, raw.lstrip(b"\r\n") + b"".join(held or ()))
        return True
