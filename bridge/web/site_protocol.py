"""
Owns one connection: uvicorn's httptools protocol, with a second road.

When a request's headers are complete the route table is asked. What legacy answers
without a shadow goes straight into a L{Channel} of the Site on uvicorn's transport,
and is written as Twisted writes it; everything else takes uvicorn's own road to the
ASGI application. Requests are answered in the order they came in, whichever road each
of them takes, and limits, timeouts, draining and counts hold for both.

It follows uvicorn's internals, so it serves only the releases in L{UVICORN}; on others
it steps aside for uvicorn's own class.

Refuses: signals, listening, and deciding.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import _nameEncoder
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bridge.routing import Decision, Effects, Side, Stage
from bridge.web.asks import HeaderAsks
from bridge.web.channel import Channel
from bridge.web.cycle import LegacyCycle, Refusal, uvicorn_known
from bridge.web.front import Road, road_of
from bridge.web.patience import Patience
from bridge.web.stock import OpenHead, StockChannel, Where
from bridge.web.transport import LoopTransport, loop_transport

BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\n\r\n"
# What Twisted reads ahead while a request is being answered.
EAGER = 0x4000
# Twisted's limit to a head, which httptools hasn't.
HEAD = 16384
# Under this name an ASGI application finds which headers this server adds by itself.
ADDED_HEADERS = "bgserver.headers"
_VERSIONS = {"1.1": b"HTTP/1.1", "1.0": b"HTTP/1.0"}


def _alone(decision: Decision) -> bool:
    """
    Whether nobody else wants to see the answer.
    """
    if decision.shadows is not None:
        return False
    # Without a shadow a canary is judged by its errors, which the dispatcher counts.
    route = decision.route
    return not (route.effects is Effects.EXTERNAL and route.stage in (Stage.CANARY, Stage.LIVE))


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


class SiteProtocol(HeaderAsks, HttpToolsProtocol):
    """
    uvicorn's C{http=} class for a server that has a Site.

    In owned mode the listener gives it a L{Road}, or none; made by uvicorn itself it
    looks for C{legacy_front} in the application. Without a road it is uvicorn's protocol.
    """

    _log = Logger()
    cycle: Any
    pipeline: deque[Any]

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
        self._face: LoopTransport | None = None
        self._current: Any = None
        self._on_hot_road = False
        self._in_body = False
        self._proceeding = False
        self._refused = False
        self._eager = 0
        self._held: list[bytes] | None = None
        self._patience: Patience | None = None
        self._stock: StockChannel | None = None
        self._in_head = False
        self._completed = 0
        self._open_head = OpenHead()
        self.decision: Decision | None = None

    # the transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._look:
            self._road = road_of(self.app, self.server)
        self._patience = Patience(self.loop, transport, self._seconds, self._waiting)

    def data_received(self, data: bytes) -> None:
        patience = self._patience
        if patience is not None:
            patience.heard = self.loop.time()
        if self._refused:
            return
        if self._stock is not None:
            self._guard(self._stock.dataReceived, data)
            return
        current = self._current
        if current is not None and not current.response_complete:
            if self._taken(data):
                return
            if not current.more_body:
                # Twisted reads a little ahead, so that it hears of a disconnect.
                self._eager += len(data)
                if self._eager > EAGER:
                    self.flow.pause_reading()
        if self._held is not None:
            self._held.append(data)
            return
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        while data and not self._refused:
            at = Where.HEAD if self._in_head else Where.BODY if self._in_body else Where.BETWEEN
            self._completed = 0
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                if not self._refused:
                    self._failed(data, at)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                if not self._upgraded(data):
                    return
            else:
                if self._in_head:
                    self._open_head.fed(data, at, self._completed)
                    if self._open_head.longer_than(HEAD):
                        self._malformed(self._open_head.bytes())
                return

    def _failed(self, data: bytes, at: Where) -> None:
        if self._in_body or (at is Where.BODY and not self._completed):
            # What Twisted would say of a broken body is known.
            self._malformed(None)
        else:
            self._open_head.fed(data, at, self._completed)
            self._malformed(self._open_head.bytes())

    def _upgraded(self, data: bytes) -> bool:
        """
        A request with an Upgrade (or a CONNECT) is complete, and this came behind it.

        @return: Whether it is the next request.
        """
        if self._on_hot_road:
            # The application may take the connection over, now or later.
            if self._busy():
                if not self._taken(data):
                    self._held = [data]
                return False
        elif self._should_upgrade():
            if self._busy():
                self._queue_refusal(None)
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
        face = channel.transport or self._face
        if self._held:
            data = b"".join(self._held) + data
        self._held = None
        if data:
            receiver = channel if face is None or face.protocol is None else face.protocol
            self._guard(receiver.dataReceived, data)
        return True

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

    def handle_websocket_upgrade(self) -> None:
        self._rest_in_peace()
        super().handle_websocket_upgrade()

    def _rest_in_peace(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest_in_peace()
        super().connection_lost(exc)
        current, self._current = self._current, None
        # uvicorn tells only the request that was parsed last.
        if current is not None and not current.response_complete:
            current.disconnected = True
            current.message_event.set()
        self.pipeline.clear()
        self._held = None
        channel, self._channel = self._channel, None
        face, self._face = self._face, None
        stock, self._stock = self._stock, None
        if face is None:
            return
        error = ConnectionDone() if exc is None else ConnectionLost(str(exc))
        reason = Failure(error)  # type: ignore[no-untyped-call]
        owner: Any = face.protocol
        try:
            face.lost()
            if owner is not None:
                owner.connectionLost(reason)
            elif stock is not None:
                stock.connectionLost(reason)  # type: ignore[no-untyped-call]
            elif channel is not None:
                channel.lost(reason)
        except Exception:
            self._log.failure("The application failed when its connection was lost")

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        if self._face is not None:
            self._face.paused()

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        if self._face is not None:
            self._face.resumed()
        if not self._busy():
            self._proceed()

    def shutdown(self) -> None:
        """
        Take no further requests: close at once, or after the answers that are owed.
        """
        if self.taken_over:
            # Its own protocol, so its own good-bye; the drain is bounded anyway.
            return
        if self._stock is not None:
            self._stock.stop()
        elif self._busy() or self.pipeline:
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    # the parser's side

    def on_message_begin(self) -> None:
        self._in_head = True
        # The scope is made only where somebody will look at it.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._in_body = True
        parser = self.parser
        method = parser.get_method()
        road = self._road
        self._on_hot_road = False
        if road is not None and self._hot(road, method):
            self._on_hot_road = True
            version = _VERSIONS.get(parser.get_http_version(), b"")
            cycle = LegacyCycle((method, self.url, version, self.headers))
            self.cycle = cycle
            if self._busy() or self.pipeline or self.flow.write_paused:
                self.pipeline.appendleft((cycle, self.app))
            else:
                self._open(cycle)
        else:
            self._cross()
        # Trailers come the same way, and are nobody's headers.
        self.headers = []

    def _hot(self, road: Road, method: bytes) -> bool:
        if self.limit_concurrency is not None and (
            len(self.connections) >= self.limit_concurrency
            or len(self.tasks) >= self.limit_concurrency
        ):
            # uvicorn's road ends in its 503.
            self.decision = None
            return False
        if road.decide is None:
            return True
        decision = road.decide(method, _path(self.url), self)
        self.decision = decision
        if decision.answers is not Side.LEGACY:
            return False
        # Nobody can answer a websocket twice.
        return _alone(decision) or bool(self.parser.should_upgrade())

    def permits(self, method: bytes, uri: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
        """
        Whether a request that only Twisted's parser understands is legacy's.
        """
        road = self._road
        if road is None or road.decide is None:
            return road is not None
        self.headers = headers
        decision = road.decide(method, _path(uri), self)
        return decision.answers is Side.LEGACY

    def _cross(self) -> None:
        """
        Take uvicorn's own road to the ASGI application.
        """
        url, headers = self.url, self.headers
        lengths = codings = 0
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            name = name.lower()
            if name == b"content-length":
                lengths += 1
            elif name == b"transfer-encoding":
                codings += 1
            elif name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))
        if lengths + codings > 1 or self.parser.get_http_version() not in _VERSIONS:
            # uvicorn would believe one of the lengths, and somebody else the other.
            raise ValueError("Twisted refuses this too")
        added = frozenset(_nameEncoder.encode(name) for name, _ in self.server_state.default_headers)
        scope: Any = self.scope
        scope["extensions"] = {"bgserver.decision": self.decision, ADDED_HEADERS: added}
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._on_hot_road:
            super().on_body(body)
            return
        cycle = self.cycle
        if cycle is self._current:
            assert self._channel is not None
            self._guard(self._channel.body, body)
        elif cycle.chunks is None:
            cycle.chunks = [body]
        else:
            cycle.chunks.append(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._completed += 1
        if not self._on_hot_road:
            super().on_message_complete()
            return
        cycle = self.cycle
        cycle.more_body = False
        if cycle is self._current and not self._refused:
            assert self._channel is not None
            self._guard(self._channel.complete)

    # the order of answers

    def _busy(self) -> bool:
        return self._current is not None and not self._current.response_complete

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._current = cycle
        if type(cycle) is Refusal:
            self._refuse(cycle.head)
        elif type(cycle) is LegacyCycle:
            self._open(cycle)
            chunks, cycle.chunks = cycle.chunks, None
            assert self._channel is not None
            for chunk in chunks or ():
                self._guard(self._channel.body, chunk)
            if not cycle.more_body and not self._refused:
                self._guard(self._channel.complete)
        else:
            super()._start_asgi_task(cycle, app)

    def _open(self, cycle: LegacyCycle) -> None:
        self._current = cycle
        channel = self._channel
        if channel is None:
            assert self._road is not None
            self._face = face = loop_transport(self.transport)
            channel = self._channel = _LoopChannel(self._road.site, face, self)
            face.registerProducer(channel, True)
        if not self._guard(channel.begin, *cycle.head):
            self._refused = True

    def _guard(self, call: Callable[..., Any], *args: Any) -> Any:
        """
        What the application raises ends its connection, as under Twisted, and never
        becomes a fault of the parser.
        """
        if self._refused:
            return None
        try:
            return call(*args)
        except Exception:
            self._log.failure("The application failed, so its connection is closed")
            self._refused = True
            self.transport.abort()
            return None

    def answered(self, persistent: bool) -> None:
        """
        The channel is done with the current request.
        """
        cycle = self._current
        if cycle is None or cycle.response_complete:
            return
        cycle.response_complete = True
        self.server_state.total_requests += 1
        if not (persistent and cycle.keep_alive):
            self._refused = True
            if self._face is not None:
                self._face.loseConnection()
            return
        if self.pipeline or self._held or self.flow.write_paused:
            self._proceed()
        else:
            self._rest()

    def on_response_complete(self) -> None:
        """
        uvicorn's road is done with the current request.
        """
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self._proceed()

    def _proceed(self) -> None:
        """
        Start what waits in the line; a loop, because the line may be long.
        """
        if self._proceeding:
            return
        self._proceeding = True
        try:
            while self.pipeline and not self.flow.write_paused and not self.transport.is_closing():
                cycle, app = self.pipeline.pop()
                self._start_asgi_task(cycle, app)
                if not cycle.response_complete:
                    break
        finally:
            self._proceeding = False
        if self.flow.write_paused and not self._busy():
            # Who doesn't read answers sends no more questions.
            self.flow.pause_reading()
        elif not self.pipeline:
            self._rest()

    def _rest(self) -> None:
        self._eager = 0
        if self._patience is not None:
            self._patience.heard = self.loop.time()
        self.flow.resume_reading()
        if self._face is not None:
            self._face.resumeProducing()
        held, self._held = self._held, None
        if held and not self._busy():
            self._feed(b"".join(held))
        elif held:
            self._held = held

    # refusals

    def _malformed(self, raw: bytes | None) -> None:
        """
        @param raw: What the parser failed at, from the first byte of the request on.
        """
        cycle = self.cycle
        if self.pipeline and self._in_body and self.pipeline[0][0] is cycle:
            # It waits in the line, and the rest of it will never come.
            self.pipeline.popleft()
        if self.pipeline or (self._busy() and not (self._in_body and cycle is self._current)):
            self._queue_refusal(raw)
        else:
            self._refuse(raw)

    def _queue_refusal(self, raw: bytes | None) -> None:
        self.cycle = Refusal(raw)
        self.pipeline.appendleft((self.cycle, self.app))
        # What comes after it can't be understood before it is its turn.
        self._held = []

    def _refuse(self, raw: bytes | None) -> None:
        if raw is not None and self._road is not None:
            self._ask_twisted(raw)
            return
        self._refused = True
        if not getattr(self._current, "response_started", False):
            self.transport.write(BAD_REQUEST)
        self.transport.close()

    def _ask_twisted(self, raw: bytes) -> None:
        """
        Let Twisted's own parser read the connection from here on.
        """
        assert self._road is not None
        self._rest_in_peace()
        if self._face is None:
            self._face = loop_transport(self.transport)
        self._face.unregisterProducer()
        self._current = None
        self._stock = StockChannel(self._road.site, self)
        held, self._held = self._held, None
        self._guard(self._stock.makeConnection, self._face)
        self._guard(self._stock.dataReceived, raw + b"".join(held or ()))

    # time

    def _seconds(self) -> float | None:
        if self._channel is not None:
            return self._channel.timeOut
        if self._road is not None:
            found: float | None = self._road.site.timeOut
            return found
        return self.timeout_keep_alive

    def _waiting(self) -> bool:
        if self.flow.read_paused:
            return False
        return not self._busy() or self._current.more_body
