"""
Owns what a Twisted Site sees of a connection: an C{HTTPChannel} in which only the
parsing and the writing are replaced.

Requests come in already parsed (L{Channel.begin}, L{Channel.body},
L{Channel.complete}); answers go out as Twisted frames them.  What lies between, the
C{Request} of the Site's own factory, producers and their back-pressure, cookies,
persistence, 100-continue, is Twisted's own code, inherited.

Two homes use it: L{bridge.web.site_protocol} on uvicorn's transport, and
L{bridge.web.resource_app} behind ASGI.

Refuses: to parse bytes, to keep time, and to queue requests; its home does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context, copy_context
from io import BufferedReader
from typing import Any, Protocol

from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory, Request
from twisted.web.http_headers import InvalidHeaderName, _nameEncoder
from twisted.web.iweb import INonQueuedRequestFactory
from twisted.web.server import Site

from bridge.parity.observe import Ending, Headers
from bridge.web.transport import LoopTransport

RawHeaders = list[tuple[bytes, bytes]]
# Above this, joining costs more than a second write.
_JOIN = 16384
_PARSE_COOKIES = Request.parseCookies
_STOCK_PROTOCOL = HTTPFactory.__dict__["protocol"]
_STOCK_BUILD: Any = Site.buildProtocol


@functools.lru_cache(64)
def _mixed(base: type, own: type) -> type:
    return type(base.__name__, (base, own), {"__doc__": base.__doc__})


def channel_class(site: Any, base: Any) -> Any:
    """
    Our channel for this Site: with the limits and the methods of the Site's own channel
    class underneath, where it has one.
    """
    if getattr(site.protocol, "__func__", site.protocol) is _STOCK_PROTOCOL:
        return base
    # Where it can be, not the Site's own method: that may look at the address.
    built = _STOCK_BUILD(site, None) if isinstance(site, Site) else site.buildProtocol(None)
    own = type(getattr(built, "_channel", built))
    if own is HTTPChannel or not issubclass(own, HTTPChannel):
        return base
    return _mixed(base, own)  # type: ignore[arg-type]


def admits(site: Any, address: Any) -> bool:
    """
    Whether the Site takes a connection from there. One with a C{buildProtocol} of its own may refuse it, as by a list
    of addresses; what else that method makes isn't used.
    """
    build = site.buildProtocol
    if getattr(build, "__func__", build) is _STOCK_BUILD:
        return True
    return build(address) is not None


def _length_of(raw: dict[bytes, list[bytes]]) -> int | None:
    """
    How long a request's body is; None if its chunks say it.

    @raise ValueError: If Twisted refuses what its headers say of that.
    """
    lengths = raw.get(b"Content-Length", [])
    codings = [value.lower() for value in raw.get(b"Transfer-Encoding", [])]
    chunked = codings.count(b"chunked")
    if len(lengths) + chunked > 1 or chunked + codings.count(b"identity") < len(codings):
        raise ValueError("it can be understood in several ways")
    if chunked:
        return None
    if not lengths:
        return 0
    if not lengths[0].isdigit():
        raise ValueError("it is no number")
    return int(lengths[0])


class Records(Protocol):
    """
    What a channel tells of one answer: L{bridge.parity.observe.Recorder}, and L{Watch}.
    """

    def started(self, status: int, headers: Headers, at: float) -> None: ...

    def wrote(self, data: bytes) -> None: ...

    def closed(self, how: Ending, at: float, error: str = "") -> object: ...


class Home(Protocol):
    """
    Who parses for a channel.
    """

    def answered(self, persistent: bool) -> None:
        """
        The current request is done. C{persistent} says whether Twisted would take
        another one on this connection.
        """


class Channel(HTTPChannel):
    """
    One connection's requests, for one Site.

    @ivar recorder: Watches the answers while it isn't None.
    @ivar clock: Tells a recorder the time.
    """

    transport: Any
    _path: Any
    requestFactory: Any
    callLater: Any
    _held: list[bytes] | None = None
    _size = 0
    _rendering = False
    _context: Context | None = None
    recorder: Records | None = None
    # The transport's TCP_NODELAY is the server's business, and timeouts its home's.
    _savedTimeOut = None

    def __init__(self, site: Any, transport: Any, home: Home, log: bool = True) -> None:
        HTTPChannel.__init__(self)
        self.site = site
        # Twisted's Request writes the access log through this attribute.
        self.factory = site if log else None
        self.requestFactory = site.requestFactory
        self._queued = not INonQueuedRequestFactory.providedBy(site.requestFactory)
        self.timeOut = site.timeOut
        self.callLater = site.reactor.callLater
        self.clock: Callable[[], float] = site.reactor.seconds
        self.transport = transport
        self._networkProducer = transport
        self.home = home

    # in

    def begin(
        self,
        method: bytes,
        uri: bytes,
        version: bytes,
        headers: Iterable[tuple[bytes, bytes]],
    ) -> bool:
        """
        A request's head is complete.

        @return: False if it was refused, which closes the connection as Twisted does.
        """
        if self._queued:
            request = self.requestFactory(self, len(self.requests))
        else:
            request = self.requestFactory(self)
        self.requests.append(request)
        self._command, self._path, self._version = method, uri, version
        # Filling the dict directly saves calls and look-ups for each header.
        raw: dict[bytes, list[bytes]] = request.requestHeaders._rawHeaders
        known = _nameEncoder._canonicalHeaderCache
        size = len(method) + len(uri) + len(version) + 2
        count = 0
        for name, value in headers:
            spelled = known.get(name)
            if spelled is None:
                try:
                    spelled = _nameEncoder.encode(name)
                except InvalidHeaderName:
                    return self._refuse()
            value = value.rstrip(b" \t")
            count += 1
            size += len(spelled) + len(value) + 2
            if spelled in raw:
                raw[spelled].append(value)
            else:
                raw[spelled] = [value]
        length: int | None = 0
        if b"Content-Length" in raw or b"Transfer-Encoding" in raw:
            try:
                length = _length_of(raw)
            except ValueError:
                return self._refuse()
        if count > self.maxHeaders or size > self.totalHeadersSize or not version:
            return self._too_much(headers, uri)
        self.length = length
        if b"Cookie" in raw or type(request).parseCookies is not _PARSE_COOKIES:
            request.parseCookies()
        if version == b"HTTP/1.1" and b"Connection" not in raw:
            self.persistent = True
        else:
            self.persistent = self.checkPersistence(request, version)  # type: ignore[no-untyped-call]
        request.gotLength(length)
        if b"Expect" in raw and version == b"HTTP/1.1" and raw[b"Expect"][0].lower() == b"100-continue":
            self._send100Continue()  # type: ignore[no-untyped-call]
        return True

    def _too_much(self, headers: Iterable[tuple[bytes, bytes]], uri: bytes) -> bool:
        if max(len(uri), *(len(name) + len(value) for name, value in headers), 0) > self.MAX_LENGTH:
            # Twisted hangs up on an endless line without a word.
            self.loseConnection()
            return False
        return self._refuse()

    def _refuse(self) -> bool:
        self._respondToBadRequestAndDisconnect()
        return False

    def body(self, data: bytes) -> None:
        """
        Some of the request's body, without its transfer coding.
        """
        self.requests[-1].handleContentChunk(data)

    def complete(self) -> None:
        """
        The request is complete: let the Site answer it, in a context of its own.
        """
        self.length = 0
        self._handlingRequest = True
        # Each request has its own contextvars, whatever the connection's were.
        self._context = copy_context()
        self._rendering = True
        try:
            self._context.run(
                self.requests[-1].requestReceived, self._command, self._path, self._version
            )
        finally:
            self._rendering = False
            if self._held is not None:
                self._flush()

    # out

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        recorder = self.recorder
        if recorder is not None:
            flat = [(n, v) for n, values in headers.getAllRawHeaders() for v in values]
            recorder.started(int(code), flat, self.clock())
        parts = [version, b" ", code, b" ", reason, b"\r\n"]
        for name, values in headers._rawHeaders.items():
            for value in values:
                parts += (name, b": ", value, b"\r\n")
        parts.append(b"\r\n")
        # Nearly always all of the body follows at once: one write instead of three.
        self._held = parts
        self._size = 0
        if not self._rendering:
            self.flush_soon()

    def flush_soon(self) -> None:
        """
        See that what is held doesn't wait for more. Homes with a loop defer it.
        """
        self._flush()

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self.transport.write(b"".join(held))

    def write(self, data: bytes) -> None:
        if self.recorder is not None and not self.requests[0].chunked:
            self.recorder.wrote(data)
        self._put(data)

    def writeSequence(self, iovec: Sequence[bytes]) -> None:
        if self.recorder is not None:
            # Twisted's chunks are length, line end, data, line end.
            chunked = self.requests[0].chunked and len(iovec) == 4
            self.recorder.wrote(iovec[2] if chunked else b"".join(iovec))
        self._put(b"".join(iovec))

    def _put(self, data: bytes) -> None:
        held = self._held
        if held is None:
            self.transport.write(data)
            return
        self._size += len(data)
        if self._size <= _JOIN:
            held.append(data)
        else:
            self._flush()
            self.transport.write(data)

    def send_file(self, file: BufferedReader, most: int) -> int:
        """
        Send what comes next in a file, as bytes of the current answer that nobody looks at.

        @param most: How many bytes at most.
        @return: How many went; 0 where they have to be written, and at the file's end.
        """
        transport = self.transport
        if (
            type(transport) is not LoopTransport
            or self._held is not None
            or self.recorder is not None
            or "write" in self.__dict__
        ):
            return 0
        return transport.send_file(file, most)

    def _respondToBadRequestAndDisconnect(self) -> None:
        self._flush()
        HTTPChannel._respondToBadRequestAndDisconnect(self)

    # endings

    def requestDone(self, request: Any) -> None:
        first = self.requests[0]
        if request is not first and request != first:
            raise TypeError
        del self.requests[0]
        self._handlingRequest = False
        self._flush()
        if self.recorder is not None:
            self.record(Ending.COMPLETE)
        self.home.answered(bool(self.persistent))

    def loseConnection(self) -> Any:
        self._flush()
        self._networkProducer.unregisterProducer()
        return self.transport.loseConnection()

    def lost(self, reason: Failure) -> None:
        """
        The connection is gone: producers stop, and every request hears of it, in the
        context that it was answered in.
        """
        context = copy_context() if self._context is None else self._context
        context.run(self._lost, reason)

    def _lost(self, reason: Failure) -> None:
        if self._requestProducer is not None:
            self._requestProducer.stopProducing()
        # Whoever took the connection over has put its own method here.
        self.connectionLost(reason)
        if self.recorder is None:
            return
        if self.transport.disconnecting:
            # It was the application that closed it; behind ASGI that is this error.
            self.record(Ending.RAISED, ConnectionAbortedError.__name__)
        else:
            self.record(Ending.LEFT)

    def record(self, how: Ending, error: str = "") -> None:
        """
        The answer that is being recorded, if one is, came to its end.
        """
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            recorder.closed(how, self.clock(), error)

    def setTimeout(self, period: float | None) -> float | None:
        """
        Applications turn the idle timeout off, or change it; the home keeps time.
        """
        before: float | None = self.timeOut
        self.timeOut = period  # type: ignore[assignment]
        return before

    def resetTimeout(self) -> None:
        """
        The home knows when something arrives.
        """

    def connectionLost(self, reason: Failure | None = None) -> None:
        for request in self.requests:
            request.connectionLost(reason)
        self.requests = []
        if self._abortingCall is not None:
            self._abortingCall.cancel()
            self._abortingCall = None
