"""
Owns who speaks for the Site on a connection: its channel; from a request on that only Twisted
understands, Twisted's own; or an application that took the connection over. Whoever it is
hears of its end, of a peer that reads too slowly, and of a server that goes down.

Refuses: to parse, and to choose a road.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from bridge.parity.observe import Ending
from bridge.web.asgi_road import AsgiRoadProtocol
from bridge.web.channel import Channel, channel_class
from bridge.web.front import Road
from bridge.web.going_away import say_goodbye
from bridge.web.stock import StockChannel
from bridge.web.transport import LoopTransport, loop_transport


class _LoopChannel(Channel):
    """
    A channel whose home has a loop, to write headers without a body a little later.
    """

    home: SpeakingProtocol

    def flush_soon(self) -> None:
        self.home.loop.call_soon(self._flush)


class SpeakingProtocol(AsgiRoadProtocol):
    """
    Has whoever it is speak, and sees that what they raise ends their connection only.
    """

    _road: Road | None = None
    _channel: _LoopChannel | None = None
    _channel_class: Any = _LoopChannel
    _face: LoopTransport | None = None
    _stock: StockChannel | None = None

    def permits(self, method: bytes, uri: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
        """
        Whether a request that only Twisted's parser understands is legacy's.
        """
        raise AssertionError("only who chooses roads knows")

    # who speaks

    def _made_channel(self, road: Road) -> _LoopChannel:
        self._face = face = loop_transport(self.transport)
        channel: _LoopChannel = self._channel_class(road.site, face, self)
        face.registerProducer(channel, True)
        self._channel = channel
        return channel

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

    # the transport's side

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
