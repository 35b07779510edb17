"""
Owns a Twisted Site behind ASGI: the same L{Channel}, with a connection that is made
of C{receive} and C{send}.

It is for shadows of legacy, for other servers, and for uvicorn releases that the hot
road doesn't know.  The Request is the Site's own, with C{prepath} and C{postpath}
from C{raw_path}; bodies are spooled by the Site's C{getContentFile}; producers are
paused while C{send} waits; C{notifyFinish} fires at C{http.disconnect}.

Refuses: to write the access log for a shadow, and to hop threads: it runs on the
reactor's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from twisted.logger import Logger

from bridge.web.channel import RawHeaders, channel_class
from bridge.web.observed import observed
from bridge.web.proxies import peer_of
from bridge.web.sessions import SHADOW, OverlaySessions, shadow_of
from bridge.web.spoken import SpokenAnswer
from bridge.web.transport import address_of
from bridge.web.virtual import (
    ADDED_HEADERS,
    Message,
    SecureVirtualTransport,
    VirtualChannel,
    VirtualTransport,
    lose,
)
from bridge.web.websocket_app import answer_websocket

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _RootedSite:
    """
    A Site below a C{root_path}: those segments are in C{prepath} from the beginning.
    """

    def __init__(self, site: Any, segments: list[bytes]) -> None:
        self._site = site
        self._segments = segments

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site, name)

    def getResourceFor(self, request: Any) -> Any:
        count = len(self._segments)
        if request.postpath[:count] == self._segments:
            request.prepath = request.postpath[:count]
            request.postpath = request.postpath[count:]
        return self._site.getResourceFor(request)


class ResourceApp:
    """
    An ASGI application that is a Twisted Site.

    @ivar site: The Site; its C{requestFactory}, sessions and log are used as they are.
    @ivar reactor: An C{IReactorTime}, on whose loop this must be called.
    @ivar overlays: Whether a shadow gets copies of the sessions. A sandbox, whose Site is
        nobody else's, keeps its own from one request to the next.
    """

    _log = Logger()

    def __init__(self, site: Any, reactor: Any, overlays: bool = True) -> None:
        self.site = site
        self.reactor = reactor
        self.overlays = overlays

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await answer_websocket(self, scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        # The Site's factory is started by who listens, not here.
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    def channel_for(self, scope: Scope, home: Any) -> VirtualChannel:
        """
        A channel for one request of that scope; nothing has begun yet.
        """
        extensions = scope.get("extensions") or {}
        # A Site sees who connected, whatever a proxy in front says.
        peer, scheme = peer_of(scope)
        transport_class = SecureVirtualTransport if scheme in ("https", "wss") else VirtualTransport
        transport = transport_class(address_of(peer), address_of(scope.get("server")))
        shadow = SHADOW in extensions
        site = shadow_of(self.site) if shadow and self.overlays else self.site
        root = scope.get("root_path") or ""
        if root.strip("/"):
            segments = [unquote_to_bytes(part) for part in root.strip("/").split("/")]
            site = _RootedSite(site, segments)
        made = channel_class(self.site, VirtualChannel)
        channel: VirtualChannel = made(site, transport, home, log=not shadow)
        channel.without = extensions.get(ADDED_HEADERS, frozenset())
        transport.registerProducer(channel, True)
        return channel

    def head_of(self, scope: Scope) -> tuple[bytes, bytes, bytes, RawHeaders]:
        """
        What the first line and the headers were, as far as ASGI kept them.
        """
        raw = scope.get("raw_path") or quote(scope["path"], safe="/%").encode("ascii")
        query = scope.get("query_string") or b""
        uri = raw + b"?" + query if query else raw
        version = b"HTTP/1.0" if scope.get("http_version") == "1.0" else b"HTTP/1.1"
        method = scope.get("method", "GET").encode("ascii")
        return method, uri, version, list(scope["headers"])

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(receive, send)
        channel = self.channel_for(scope, exchange)
        exchange.carry(channel)
        try:
            if not channel.begin(*self.head_of(scope)):
                await exchange.pump()
                return
            holds = observed(channel.requests[-1], scope.get("extensions") or {})
            if await exchange.upload():
                channel.complete()
                await exchange.answer()
                if holds is not None:
                    await holds.released()
        finally:
            if isinstance(channel.site.sessions, OverlaySessions):
                channel.site.sessions.close()


class _Exchange:
    """
    One request's way through C{receive} and C{send}; the channel's home.
    """

    channel: VirtualChannel
    # The channel has it too, until somebody takes the connection over.
    transport: VirtualTransport

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._ended = False
        self._spoken: SpokenAnswer | None = None

    def carry(self, channel: VirtualChannel) -> None:
        """
        Whose request and answer these are.
        """
        self.channel, self.transport = channel, channel.transport

    def answered(self, persistent: bool) -> None:
        """
        The Site finished its answer.
        """
        self.channel.finished = True
        self.transport.stirred.set()

    async def upload(self) -> bool:
        """
        Give the body to the Site as it comes.

        @return: False if the client went away before it was complete.
        """
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._lose()
                return False
            body = message.get("body", b"")
            if body:
                self.channel.body(body)
            if not message.get("more_body", False):
                return True

    async def answer(self) -> None:
        """
        Send what the Site writes until it is done or the client has gone.
        """
        if self.channel.finished:
            await self.pump()
            return
        watch = asyncio.ensure_future(self._watch())
        try:
            while not self._ended and not self.transport.disconnected:
                await self.transport.stirred.wait()
                self.transport.stirred.clear()
                await self.pump()
        except BaseException:
            self._lose()
            raise
        finally:
            watch.cancel()
            # Its end must not be lost, nor may it outlive the request.
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                if not self._ended:
                    self._lose()
                return

    async def pump(self) -> None:
        """
        Send what waits.
        """
        channel = self.channel
        transport = self.transport
        messages = transport.messages
        while messages and not transport.disconnected:
            message = messages.popleft()
            last = channel.finished and not messages
            if message["type"] != "http.response.body":
                await self._send(message)
            elif channel.started:
                if last:
                    message["more_body"] = False
                    self._ended = True
                await self._send(message)
                transport.taken(len(message["body"]))
            else:
                await self._speak(message["body"])
        if transport.disconnected or self._ended:
            return
        spoken = self._spoken
        if channel.finished or (spoken is not None and spoken.over):
            await self._end()
        elif transport.disconnecting:
            if spoken is None or not spoken.open:
                self._cut()
            await self._end()

    async def _speak(self, data: bytes) -> None:
        """
        The application took the connection over, and says this on it.
        """
        if self._spoken is None:
            self._spoken = SpokenAnswer(self.channel.without, to_head=self.channel._command == b"HEAD")
        for message in self._spoken.heard(data):
            await self._send(message)
        self.transport.taken(len(data))

    async def _end(self) -> None:
        self._ended = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        if self._spoken is not None:
            # Nothing else will be said on this connection.
            self._lose()

    def _cut(self) -> None:
        """
        The application closed the connection in the middle of its answer; ASGI knows
        no better word for that than an error.
        """
        self._lose()
        raise ConnectionAbortedError("The application closed the connection in its answer")

    def _lose(self) -> None:
        if lose(self.channel, self.transport):
            self.transport.messages.clear()
            self.transport.stirred.set()
