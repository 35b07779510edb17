"""
Owns the asyncio face of a Twisted connection, so that uvicorn's protocol also serves
what stays Twisted's to accept: TLS contexts of pyOpenSSL, which C{ssl} can't use, and
factories that wrap a Site in a policy of their own.

Refuses: plain listeners.  Their sockets go to the loop itself, which is faster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IProtocolNegotiationFactory,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from bridge.web.transport import TWISTED

MakeProtocol = Callable[[], asyncio.Protocol]


class TransportFacade(asyncio.Transport):
    """
    A Twisted transport, as asyncio protocols know transports.
    """

    def __init__(self, host: HostProtocol) -> None:
        transport: Any = host.transport
        secure = ISSLTransport.providedBy(transport)
        super().__init__(
            {
                TWISTED: transport,
                "sslcontext": transport if secure else None,
                "peername": _name(transport.getPeer()),
                "sockname": _name(transport.getHost()),
            }
        )
        self._host = host
        self._transport = transport
        # Some transports in memory can't be told to wait.
        self._paces = IPushProducer.providedBy(transport)
        self._closing = False

    def write(self, data: Any) -> None:
        if not self._closing:
            self._transport.write(bytes(data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if self._paces:
                self._transport.resumeProducing()
            # A push producer that stays registered would hold the connection open.
            self._transport.unregisterProducer()
            self._transport.loseConnection()

    def abort(self) -> None:
        self._closing = True
        self._transport.abortConnection()

    def pause_reading(self) -> None:
        if self._paces and not self._closing:
            self._transport.pauseProducing()

    def resume_reading(self) -> None:
        if self._paces and not self._closing:
            self._transport.resumeProducing()

    def is_reading(self) -> bool:
        return not self._closing

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """
        Twisted's own limits hold.
        """

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._host.inner = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        inner: asyncio.BaseProtocol = self._host.inner
        return inner


@implementer(IPushProducer)
class HostProtocol(Protocol):
    """
    A Twisted protocol that is only there for the asyncio protocol within.
    """

    inner: Any = None
    facade: TransportFacade

    def __init__(self, make: MakeProtocol) -> None:
        self._make = make

    def connectionMade(self) -> None:
        self.facade = TransportFacade(self)
        self.inner = self._make()
        assert self.transport is not None
        self.transport.registerProducer(self, True)
        self.inner.connection_made(self.facade)

    def dataReceived(self, data: bytes) -> None:
        self.inner.data_received(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        from twisted.internet.error import ConnectionDone

        self.facade._closing = True
        clean = reason is None or isinstance(reason.value, ConnectionDone)
        error = None if clean else ConnectionResetError(str(reason and reason.value))
        self.inner.connection_lost(error)

    def pauseProducing(self) -> None:
        self.inner.pause_writing()

    def resumeProducing(self) -> None:
        self.inner.resume_writing()

    def stopProducing(self) -> None:
        """
        C{connectionLost} follows, and says it all.
        """


@implementer(IProtocolNegotiationFactory)
class HostFactory(ServerFactory):
    """
    Stands where a Site stood, at the heart of whatever wraps it.

    @ivar site: Started and stopped with the listening, as before.
    @ivar make: Makes the protocol of one connection; set by the front when it serves.
    """

    noisy = False

    def __init__(self, site: Any, make: MakeProtocol | None = None) -> None:
        self.site = site
        self.make = make

    def doStart(self) -> None:
        self.site.doStart()
        super().doStart()  # type: ignore[no-untyped-call]

    def doStop(self) -> None:
        super().doStop()  # type: ignore[no-untyped-call]
        self.site.doStop()

    def buildProtocol(self, addr: Any) -> HostProtocol | None:
        # Before the front serves there is nobody to answer, so Twisted hangs up.
        return None if self.make is None else HostProtocol(self.make)

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]


def _name(address: Any) -> Any:
    if isinstance(address, IPv4Address | IPv6Address):
        return (address.host, address.port)
    return getattr(address, "name", None) or ""
