"""
Owns the Twisted face of an asyncio transport: what C{request.transport} and
C{channel.transport} are when the server under the Site is uvicorn's.

Back-pressure is asyncio's own; this only passes it on: C{pause_writing} reaches the
registered producer, C{pauseProducing} the transport's reading.

Refuses: to parse, and to buffer anything itself.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from io import BufferedReader
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import (
    IConsumer,
    IProtocol,
    IPushProducer,
    ISSLTransport,
    ISystemHandle,
    ITCPTransport,
    ITLSTransport,
)
from zope.interface import implementer

# Under this name an asyncio transport keeps the Twisted one that it only stands for.
TWISTED = "twisted_transport"


def address_of(name: Any) -> Any:
    """
    The Twisted address of what C{getsockname}, C{getpeername} or an ASGI scope says.

    A nameless UNIX socket gives C{None} or an empty string.
    """
    if isinstance(name, list | tuple) and len(name) >= 2:
        host, port = name[0], name[1]
        if port is None:
            return UNIXAddress(host or None)
        if ":" in host:
            return IPv6Address("TCP", host, port, *name[2:4])
        return IPv4Address("TCP", host, port)
    if isinstance(name, bytes):
        name = name.decode("utf-8", "surrogateescape")
    return UNIXAddress(name or None)


@implementer(ITCPTransport, IConsumer, IPushProducer, ISystemHandle)
class LoopTransport:
    """
    An asyncio transport, as a Twisted application knows transports.

    Everything here runs on the loop's thread.

    @ivar protocol: Who gets what arrives. None while HTTP is spoken; an application
        that takes the connection over (an upgrade) puts its own protocol here.
    @ivar producer: Who is told when the peer reads too slowly: the channel, until an
        application that took over registers another one.
    """

    protocol: IProtocol | None = None
    disconnecting = False
    disconnected = False
    connected = True

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._reading = True
        self.producer: Any = None
        self._streaming = True
        self._peer: Any = None
        self._host: Any = None

    # writing

    def write(self, data: bytes) -> None:
        # asyncio complains of each write between an error and the news of it.
        if not (self.disconnected or self.disconnecting or self._transport.is_closing()):
            self._transport.write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        # Not writelines(): before 3.13.2 and 3.12.9 asyncio's tells nobody that the peer reads too slowly.
        self.write(b"".join(iovec))

    def send_file(self, file: BufferedReader, most: int) -> int:
        """
        Have the system send what comes next in a regular file, without a look at it.

        @param most: How many bytes at most.
        @return: How many went, and by how much the file's position moved: 0 where earlier bytes still wait, the
            socket has no room, the file is at its end, or anything fails. Whoever writes then learns which.
        """
        below = self._transport
        # The descriptor of a transport that closes may be another connection's already.
        if below.is_closing() or below.get_write_buffer_size() or "write" in self.__dict__:
            return 0
        found = below.get_extra_info("socket")
        if found is None:
            return 0
        try:
            at = file.tell()
            # No more than there is: older kernels would hold the last packet back for what was asked besides.
            left = os.fstat(file.fileno()).st_size - at
            size = os.sendfile(found.fileno(), file.fileno(), at, min(most, left)) if left > 0 else 0
        except OSError:
            return 0
        file.seek(at + size)
        return size

    def loseConnection(self, reason: object = None) -> None:
        self.disconnecting = True
        # A paused transport would never learn that its peer has gone.
        self.resumeProducing()
        self._transport.close()

    def loseWriteConnection(self) -> None:
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def abortConnection(self) -> None:
        self.disconnecting = True
        self._transport.abort()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.disconnected:
            producer.stopProducing()
            return
        self.producer = producer
        self._streaming = streaming
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    # reading

    def pauseProducing(self) -> None:
        if self._reading and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def resumeProducing(self) -> None:
        if not self._reading:
            self._reading = True
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def stopProducing(self) -> None:
        self.loseConnection()

    # facts

    def getPeer(self) -> Any:
        # Every Request asks, and it never changes.
        if self._peer is None:
            self._peer = address_of(self._named("getpeername", "peername"))
        return self._peer

    def getHost(self) -> Any:
        if self._host is None:
            self._host = address_of(self._named("getsockname", "sockname"))
        return self._host

    def _named(self, method: str, key: str) -> Any:
        # uvloop tells no peername of UNIX sockets, but the socket does.
        found = self._transport.get_extra_info("socket")
        if found is not None:
            try:
                return getattr(found, method)()
            except OSError:
                return self._transport.get_extra_info(key)
        return self._transport.get_extra_info(key)

    def native(self) -> Any:
        """
        The Twisted transport below, where Twisted accepts and encrypts; else None.
        """
        return self._transport.get_extra_info(TWISTED)

    def getHandle(self) -> Any:
        """
        The socket, for those who tune it, or what Twisted gives instead.
        """
        native = self.native()
        return self._transport.get_extra_info("socket") if native is None else native.getHandle()

    def fileno(self) -> int:
        found = self.native() or self.getHandle()
        return -1 if found is None else int(found.fileno())

    def getTcpNoDelay(self) -> bool:
        return bool(self._option("getTcpNoDelay", socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def setTcpNoDelay(self, enabled: bool) -> None:
        with suppress(OSError):  # UNIX sockets have no such option
            self._option("setTcpNoDelay", socket.IPPROTO_TCP, socket.TCP_NODELAY, enabled)

    def getTcpKeepAlive(self) -> bool:
        return bool(self._option("getTcpKeepAlive", socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._option("setTcpKeepAlive", socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)

    def _option(self, name: str, level: int, option: int, *value: bool) -> Any:
        native = self.native()
        if native is not None:
            # Below may be a UNIX socket, which has no such options.
            return getattr(native, name)(*value) if ITCPTransport.providedBy(native) else None
        found = self._transport.get_extra_info("socket")
        return found.setsockopt(level, option, *value) if value else found.getsockopt(level, option)

    # what the owner of the asyncio transport reports

    def paused(self) -> None:
        """
        The peer reads too slowly.
        """
        if self.producer is not None and self._streaming:
            self.producer.pauseProducing()

    def resumed(self) -> None:
        """
        The peer caught up.
        """
        if self.producer is not None:
            self.producer.resumeProducing()

    def lost(self) -> None:
        """
        The connection is gone, so nobody should produce for it any more.
        """
        self.disconnected = True
        self.connected = False
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()


@implementer(ISSLTransport, ITLSTransport)
class SecureLoopTransport(LoopTransport):
    """
    The same over TLS, so that C{request.isSecure()} says so.
    """

    def getPeerCertificate(self) -> Any:
        """
        The peer's certificate: OpenSSL's own where Twisted encrypts, else as C{ssl} gives
        it, a dict; or None.
        """
        native = self.native()
        if native is not None:
            return native.getPeerCertificate()
        return self._transport.get_extra_info("peercert")

    @property
    def negotiatedProtocol(self) -> bytes | None:
        native = self.native()
        if native is not None:
            chosen_natively: bytes | None = native.negotiatedProtocol
            return chosen_natively
        found = self._transport.get_extra_info("ssl_object")
        chosen = None if found is None else found.selected_alpn_protocol()
        return None if chosen is None else chosen.encode("ascii")

    def startTLS(self, context: object, normal: object = None) -> None:
        raise RuntimeError("This connection speaks TLS already.")


def loop_transport(transport: asyncio.Transport) -> LoopTransport:
    """
    The right face for a transport, with or without TLS.
    """
    if transport.get_extra_info("sslcontext") is not None:
        return SecureLoopTransport(transport)
    return LoopTransport(transport)
