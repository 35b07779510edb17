"""
Owns websockets that reach a Twisted Site through ASGI.

The resource speaks the protocol's bytes (C{twisted.web.websocket}, Autobahn's), and
ASGI speaks messages.  So this is a websocket client, without a network, of the resource:
it makes the handshake, and translates both ways.

Refuses: compression towards the resource, which would be undone a step later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from bridge.web.virtual import lose

Message = MutableMapping[str, Any]
_OURS = (b"connection", b"upgrade", b"host")
# ASGI's word for a handshake that the application refused in HTTP.
_DENIAL = "websocket.http.response"


class WebsocketExchange:
    """
    One websocket; the channel's home while the handshake is HTTP.
    """

    channel: Any

    def __init__(
        self,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
        denial: bool,
    ) -> None:
        self._receive = receive
        self._send = send
        self._denial = denial
        self._conn = WSConnection(ConnectionType.CLIENT)
        self._parts: list[Any] = []
        self._over = False
        self._denied: int | None = None
        self._finished = False

    def answered(self, persistent: bool) -> None:
        """
        The resource answered in HTTP, so it refused the handshake.
        """
        self._finished = True
        self.channel.transport.stirred.set()

    async def run(self, scope: Message, head: Any, channel: Any) -> None:
        """
        From the handshake to the end.
        """
        message = await self._receive()
        if message["type"] != "websocket.connect":
            return
        self.channel = channel
        # Whoever takes the connection over may take this attribute away.
        self._transport = transport = channel.transport
        _, uri, version, headers = head
        if not channel.begin(b"GET", uri, version, self._handshake(scope, uri, headers)):
            await self._send({"type": "websocket.close", "code": 1002})
            return
        channel.complete()
        listening = asyncio.ensure_future(self._listen())
        try:
            await self._pump()
            while not (self._over or transport.disconnected):
                await transport.stirred.wait()
                transport.stirred.clear()
                await self._pump()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            lose(self.channel, self._transport)

    def _handshake(self, scope: Message, uri: bytes, headers: Any) -> list[tuple[bytes, bytes]]:
        host = dict(headers).get(b"host", b"localhost").decode("latin-1")
        asked = Request(host, uri.decode("latin-1"), subprotocols=list(scope.get("subprotocols") or ()))
        made = self._conn.send(asked).split(b"\r\n")[1:-2]
        ours = [(n.strip(), v.strip()) for n, _, v in (line.partition(b":") for line in made)]
        theirs = [
            (name, value)
            for name, value in headers
            if name.lower() not in _OURS and not name.lower().startswith(b"sec-websocket-")
        ]
        return ours + theirs

    # from the resource

    async def _pump(self) -> None:
        messages = self._transport.messages
        while messages:
            if self._over:
                return
            message = messages.popleft()
            if message["type"] == "http.response.start":
                await self._deny(message)
            elif self._denied is not None:
                self._transport.taken(len(message["body"]))
                if self._denial:
                    await self._send({**message, "type": f"{_DENIAL}.body"})
            else:
                await self._translate(message["body"])
                self._transport.taken(len(message["body"]))
        if self._over:
            return
        if self._denied is not None and self._finished:
            self._over = True
            if self._denial:
                await self._send({"type": f"{_DENIAL}.body", "body": b"", "more_body": False})
            else:
                await self._send({"type": "websocket.close", "code": 1008})
        elif self._transport.disconnecting:
            self._over = True
            await self._send({"type": "websocket.close", "code": 1006 if self._denied else 1000})

    async def _deny(self, message: Message) -> None:
        self._denied = message["status"]
        if self._denial:
            lowered = [(name.lower(), value) for name, value in message["headers"]]
            await self._send({**message, "type": f"{_DENIAL}.start", "headers": lowered})

    async def _translate(self, data: bytes) -> None:
        try:
            self._conn.receive_data(data)
            events = list(self._conn.events())
        except RemoteProtocolError:
            self._over = True
            await self._send({"type": "websocket.close", "code": 1011})
            return
        for event in events:
            await self._event(event)

    async def _event(self, event: Event) -> None:
        if isinstance(event, AcceptConnection):
            await self._send(
                {
                    "type": "websocket.accept",
                    "subprotocol": event.subprotocol,
                    "headers": list(event.extra_headers),
                }
            )
        elif isinstance(event, TextMessage | BytesMessage):
            self._parts.append(event.data)
            if event.message_finished:
                parts, self._parts = self._parts, []
                if isinstance(event, TextMessage):
                    await self._send({"type": "websocket.send", "text": "".join(parts)})
                else:
                    await self._send({"type": "websocket.send", "bytes": b"".join(parts)})
        elif isinstance(event, Ping):
            # The server pings its peer by itself; a resource's ping is answered here.
            self._deliver(self._conn.send(event.response()))
        elif isinstance(event, CloseConnection):
            self._over = True
            await self._send(
                {"type": "websocket.close", "code": event.code, "reason": event.reason or ""}
            )

    # to the resource

    async def _listen(self) -> None:
        while True:
            message = await self._receive()
            try:
                if message["type"] == "websocket.disconnect":
                    code = message.get("code") or 1005
                    if code not in (1005, 1006):
                        self._deliver(self._conn.send(CloseConnection(code)))
                    return
                text = message.get("text")
                if text is not None:
                    self._deliver(self._conn.send(TextMessage(text)))
                else:
                    self._deliver(self._conn.send(BytesMessage(message["bytes"])))
            except LocalProtocolError:
                # The resource closed first; what comes now reaches nobody.
                return
            finally:
                if message["type"] == "websocket.disconnect":
                    self._over = True
                    self._transport.stirred.set()

    def _deliver(self, data: bytes) -> None:
        owner = self._transport.protocol
        if owner is None and "dataReceived" in vars(self.channel):
            owner = self.channel
        if owner is not None:
            owner.dataReceived(data)


async def answer_websocket(app: Any, scope: Message, receive: Any, send: Any) -> None:
    """
    Let a L{bridge.web.resource_app.ResourceApp}'s Site answer a websocket scope.
    """
    denial = _DENIAL in (scope.get("extensions") or {})
    exchange = WebsocketExchange(receive, send, denial)
    channel = app.channel_for(scope, exchange)
    await exchange.run(scope, app.head_of(scope), channel)
