"""
Owns a connection that goes no further than an ASGI server: the transport and the channel
of one request, whose answer becomes ASGI messages that wait here until C{send} takes them.

Refuses: to send and to receive; L{bridge.web.resource_app} and L{bridge.web.websocket_app} do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, MutableMapping
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConsumer, IPushProducer, ISSLTransport, ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from bridge.web.channel import Channel, RawHeaders

Message = MutableMapping[str, Any]

# As much as asyncio's own transports hold before they pause who writes.
HIGH_WATER = 65536
# Under this name a scope says which headers its server adds to every answer by itself.
ADDED_HEADERS = "bgserver.headers"


@implementer(ITCPTransport, IConsumer, IPushProducer)
class VirtualTransport:
    """
    A connection that goes no further than an ASGI server.

    What Twisted writes waits here until C{send} took it; past L{HIGH_WATER} the
    channel's producer is paused.
    """

    # Whoever took the connection over.
    protocol: Any = None

    def __init__(self, peer: Any, host: Any) -> None:
        self._peer = peer
        self._host = host
        self.producer: Any = None
        self._streaming = True
        self.disconnecting = False
        self.disconnected = False
        self.connected = True
        self._paused = False
        self.queued = 0
        self.messages: deque[Message] = deque()
        self.stirred = asyncio.Event()

    # the application's side

    def write(self, data: bytes) -> None:
        if not data or self.disconnected:
            return
        self.messages.append({"type": "http.response.body", "body": data, "more_body": True})
        self.queued += len(data)
        self.stirred.set()
        if self.queued > HIGH_WATER and not self._paused:
            self._paused = True
            if self.producer is not None and self._streaming:
                self.producer.pauseProducing()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def loseConnection(self, reason: object = None) -> None:
        self.disconnecting = True
        self.stirred.set()

    def abortConnection(self) -> None:
        self.messages.clear()
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer
        self._streaming = streaming

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        """
        ASGI servers read at the pace at which C{receive} is awaited.
        """

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None:
        self.loseConnection()

    def getPeer(self) -> Any:
        return self._peer

    def getHost(self) -> Any:
        return self._host

    def loseWriteConnection(self) -> None: ...

    def setTcpNoDelay(self, enabled: bool) -> None: ...

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None: ...

    def getTcpKeepAlive(self) -> bool:
        return False

    # the server's side

    def taken(self, size: int) -> None:
        """
        The server took so many bytes.
        """
        self.queued -= size
        if self._paused and self.queued <= HIGH_WATER // 4:
            self._paused = False
            if self.producer is not None:
                self.producer.resumeProducing()


@implementer(ISSLTransport)
class SecureVirtualTransport(VirtualTransport):
    """
    The same where the ASGI server speaks TLS.
    """

    def getPeerCertificate(self) -> None:
        return None


class VirtualChannel(Channel):
    """
    A channel whose answer becomes ASGI messages.
    """

    transport: VirtualTransport
    finished = False
    started = False
    without: frozenset[bytes] = frozenset()

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        request = self.requests[0]
        if request.chunked:
            # The ASGI server frames the body itself.
            request.chunked = 0
            headers.removeHeader(b"Transfer-Encoding")
        flat: RawHeaders = [
            (name, value)
            for name, values in headers.getAllRawHeaders()
            if name not in self.without
            for value in values
        ]
        if self.recorder is not None:
            self.recorder.started(int(code), flat, self.clock())
        self.started = True
        self.transport.messages.append(
            {"type": "http.response.start", "status": int(code), "headers": flat}
        )
        self.transport.stirred.set()

    def _put(self, data: bytes) -> None:
        self.transport.write(data)

    def _respondToBadRequestAndDisconnect(self) -> None:
        transport = self.transport
        if not self.started:
            self.started = True
            transport.messages.append(
                {
                    "type": "http.response.start",
                    "status": 400,
                    "headers": [(b"Content-Length", b"0"), (b"Connection", b"close")],
                }
            )
        self.finished = True
        transport.loseConnection()

    def _too_much(self, headers: Iterable[tuple[bytes, bytes]], uri: bytes) -> bool:
        # ASGI can't hang up without a word.
        return self._refuse()

    def _send100Continue(self) -> None:
        """
        The server says it, when the body is asked for.
        """


def lose(channel: VirtualChannel, transport: VirtualTransport) -> bool:
    """
    The connection ended: tell whoever speaks on it.

    @return: False if that was known.
    """
    if transport.disconnected:
        return False
    transport.disconnected = True
    transport.connected = False
    reason = Failure(ConnectionDone())
    if transport.protocol is None:
        channel.lost(reason)
    else:
        transport.protocol.connectionLost(reason)
    return True
