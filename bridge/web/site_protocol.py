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
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools
import uvicorn
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import _nameEncoder
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bridge.routing import Decision, Effects, Selector, SelectorKind, Side, Stage
from bridge.web.channel import Channel
from bridge.web.front import Road, road_of
from bridge.web.transport import LoopTransport, loop_transport

UVICORN = ((0, 54), (0, 55))
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\n\r\n"
# What Twisted reads ahead while a request is being answered.
EAGER = 0x4000
# Under this name an ASGI application finds which headers this server adds by itself.
ADDED_HEADERS = "bgserver.headers"
# Twisted's patience with a peer that doesn't take what is left for it.
ABORT = 15.0


def uvicorn_known(version: str = uvicorn.__version__) -> bool:
    """
    Whether this uvicorn is one that the hot road was tested with.
    """
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return UVICORN[0] <= parts < UVICORN[1]


def _judged(decision: Decision) -> bool:
    # Without a shadow a canary is judged by its errors, which the dispatcher counts.
    route = decision.route
    return route.effects is Effects.EXTERNAL and route.stage in (Stage.CANARY, Stage.LIVE)


class _Quiet:
    """
    An event that nobody waits for: uvicorn sets one on each cycle.
    """

    def set(self) -> None: ...


class LegacyCycle:
    """
    One request on the hot road, as far as uvicorn's bookkeeping looks at it.
    """

    __slots__ = ("chunks", "disconnected", "head", "keep_alive", "more_body", "response_complete")
    message_event = _Quiet()

    def __init__(self, head: Any) -> None:
        self.head = head
        self.chunks: list[bytes] | None = None
        self.more_body = True
        self.response_complete = False
        self.keep_alive = True
        self.disconnected = False


class Refusal(LegacyCycle):
    """
    The place in the order of a request that can't be parsed.
    """

    __slots__ = ()


class _LoopChannel(Channel):
    """
    A channel whose home has a loop, to write headers without a body a little later.
    """

    home: SiteProtocol

    def flush_soon(self) -> None:
        self.home.loop.call_soon(self._flush)


class SiteProtocol(HttpToolsProtocol):
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
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.decision: Decision | None = None

    # the transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._look:
            self._road = road_of(self.app, self.server)
        self._heard = self.loop.time()
        self._arm(self._patience())

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        if self._refused:
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
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            if not self._refused:
                self._malformed()
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[upgrade.args[0] :])

    def _feed(self, data: bytes) -> None:
        if data and self.parser is not None:
            self.data_received(data)

    def _upgraded(self, data: bytes) -> None:
        """
        A request with an Upgrade (or a CONNECT) is complete; this came behind it.
        """
        if self._on_hot_road:
            # The application may take the connection over, now or later.
            if self._busy():
                if not self._taken(data):
                    self._held = [data]
                return
        elif self._should_upgrade():
            if self._busy():
                self._queue_refusal()
            else:
                self.handle_websocket_upgrade()
            return
        else:
            self._unsupported_upgrade_warning()
        self._feed(data)

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
        self._disarm()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
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
        if channel is None or face is None:
            return
        error = ConnectionDone() if exc is None else ConnectionLost(str(exc))
        reason = Failure(error)  # type: ignore[no-untyped-call]
        owner: Any = face.protocol
        try:
            face.lost()
            if owner is None:
                channel.lost(reason)
            else:
                owner.connectionLost(reason)
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
        if self._busy() or self.pipeline:
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    # the parser's side

    def on_message_begin(self) -> None:
        # The scope is made only where somebody will look at it.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_body = True
        parser = self.parser
        method = parser.get_method()
        road = self._road
        self._on_hot_road = False
        if road is not None and self._hot(road, method):
            self._on_hot_road = True
            version = b"HTTP/" + parser.get_http_version().encode("ascii")
            cycle = LegacyCycle((method, self.url, version, self.headers))
            self.cycle = cycle
            if self._busy() or self.pipeline or self.flow.write_paused:
                self.pipeline.appendleft((cycle, self.app))
            else:
                self._open(cycle)
        else:
            self._cross()

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
        url = self.url
        if url[:1] != b"/" and b"://" in url:
            url = httptools.parse_url(url).path or b"/"
        cut = url.find(b"?")
        decision = road.decide(method, url if cut < 0 else url[:cut], self)
        self.decision = decision
        if decision.answers is not Side.LEGACY:
            return False
        if self._is_upgrade():
            # Nobody can answer a websocket twice.
            return True
        return decision.shadows is None and not _judged(decision)

    def _is_upgrade(self) -> bool:
        return bool(self.parser.should_upgrade())

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
        if lengths + codings > 1:
            # uvicorn would believe one of them, and somebody else the other.
            raise ValueError("Content-Length and Transfer-Encoding contradict each other")
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
            self._refuse()
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
            self._eager = 0
            self._heard = self.loop.time()
            self.flow.resume_reading()

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
        self._heard = self.loop.time()
        self.flow.resume_reading()
        if self._face is not None:
            self._face.resumeProducing()
        held, self._held = self._held, None
        if held and not self._busy():
            self._feed(b"".join(held))
        elif held:
            self._held = held

    # refusals

    def _malformed(self) -> None:
        cycle = self.cycle
        if self.pipeline and self._in_body and self.pipeline[0][0] is cycle:
            # It waits in the line, and the rest of it will never come.
            self.pipeline.popleft()
        if self.pipeline or (self._busy() and not (self._in_body and cycle is self._current)):
            self._queue_refusal()
        else:
            self._refuse()

    def _queue_refusal(self) -> None:
        self.cycle = Refusal(None)
        self.pipeline.appendleft((self.cycle, self.app))
        # What comes after it can't be understood; reading on only shows a disconnect.
        self._held = []

    def _refuse(self) -> None:
        self._refused = True
        if not getattr(self._current, "response_started", False):
            self.transport.write(BAD_REQUEST)
        self.transport.close()

    # time

    def _patience(self) -> float | None:
        if self._channel is not None:
            return self._channel.timeOut
        if self._road is not None:
            found: float | None = self._road.site.timeOut
            return found
        return self.timeout_keep_alive

    def _arm(self, seconds: float | None) -> None:
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self._tick)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        """
        One timer for each connection: it looks how long ago something was heard, and
        is armed again for the rest.
        """
        self._timer = None
        patience = self._patience()
        if patience is None or self.transport.is_closing():
            return
        if self.flow.read_paused or (self._busy() and not self._current.more_body):
            # It is the application's turn, not the peer's.
            self._arm(patience)
            return
        left = self._heard + patience - self.loop.time()
        if left > 0:
            self._arm(left)
            return
        self._log.info("Timing out client: {peer}", peer=self.client)
        self.transport.close()
        self._timer = self.loop.call_later(ABORT, self.transport.abort)

    # what a decision may ask

    def subject(self, selector: Selector) -> bytes:
        """
        What a canary sticks to: the first header or cookie of that name, the peer.
        """
        if selector.kind is SelectorKind.CLIENT:
            return b"" if self.client is None else self.client[0].encode("ascii")
        name = selector.name.encode("latin-1").lower()
        if selector.kind is SelectorKind.HEADER:
            for found, value in self.headers:
                if found.lower() == name:
                    return value
            return b""
        name = selector.name.encode("latin-1")
        for found, value in self.headers:
            if found.lower() == b"cookie":
                for pair in value.split(b";"):
                    key, _, content = pair.strip().partition(b"=")
                    if key == name:
                        return content
        return b""

    def dice(self) -> float:
        """
        From 0 to 1, new each time.
        """
        return random.random()
