"""
Autobahn's websockets on a Site, which take the connection over and parse it by themselves.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.web.resource import Resource
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request, TextMessage

from tests.web.served import Client, on_loop, serving, until

GREETING = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


class Echo(WebSocketServerProtocol):  # type: ignore[misc]
    """
    Says what it hears, and keeps how it ended.
    """

    ended: list[tuple[bool, int | None]]

    def onConnect(self, request: Any) -> Any:
        return "second" if "second" in request.protocols else None

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.ended.append((wasClean, code))


def site_of(**options: Any) -> tuple[Any, list[tuple[bool, int | None]]]:
    """
    A Site with one of them below C{/ws}, and how its connections ended.
    """
    from twisted.internet import reactor
    from twisted.web.server import Site

    ended: list[tuple[bool, int | None]] = []
    factory = WebSocketServerFactory(protocols=["first", "second"], reactor=reactor)
    factory.protocol = type("Echo", (Echo,), {"ended": ended})
    factory.setProtocolOptions(**options)
    root = Resource()
    root.putChild(b"ws", WebSocketResource(factory))
    return Site(root), ended


class Speaker:
    """
    A websocket client over a raw one.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.conn = WSConnection(ConnectionType.CLIENT)
        self._heard: list[Any] = []

    async def say(self, event: Any) -> None:
        await self.client.send(self.conn.send(event))

    async def hear(self, kind: Any) -> Any:
        while True:
            for event in self._heard:
                if isinstance(event, kind):
                    self._heard.remove(event)
                    return event
            data = await self.client.reader.read(65536)
            assert data, f"hung up before any {kind.__name__}"
            self.conn.receive_data(data)
            self._heard.extend(self.conn.events())


@on_loop
async def test_a_conversation(road: bool) -> None:
    """
    A subprotocol, text, bytes of many packets, and a close from the client.
    """
    site, ended = site_of()
    async with serving(site, hot=road) as served:
        speaker = Speaker(await served.connect())
        await speaker.say(Request("127.0.0.1", "/ws", subprotocols=["second"]))
        assert "second" == (await speaker.hear(AcceptConnection)).subprotocol

        await speaker.say(TextMessage("said"))
        assert "said" == (await speaker.hear(TextMessage)).data
        await speaker.say(BytesMessage(b"ab" * 40_000))
        size = 0
        while size < 80_000:
            size += len((await speaker.hear(BytesMessage)).data)
        await speaker.say(CloseConnection(1000))

        assert 1000 == (await speaker.hear(CloseConnection)).code
        await until(lambda: ended)
        assert [(True, 1000)] == ended


@pytest.mark.parametrize("answers", [True, False], ids=["answered", "ignored"])
@on_loop
async def test_going_away(road: bool, answers: bool) -> None:
    """
    A server that stops says 1001 and waits for the client's answer, but not for ever. On the
    hot road the connection was cut, and the client heard 1006, as it does natively.
    """
    site, ended = site_of(closeHandshakeTimeout=10 if answers else 0.2)
    async with serving(site, hot=road) as served:
        speaker = Speaker(await served.connect())
        await speaker.say(Request("127.0.0.1", "/ws"))
        await speaker.hear(AcceptConnection)

        served.front.stop_accepting()
        draining = asyncio.ensure_future(served.front.drain(5))
        goodbye = await speaker.hear(CloseConnection)
        if answers:
            await speaker.client.send(speaker.conn.send(goodbye.response()))

        assert 1001 == goodbye.code
        assert await draining
        await until(lambda: ended)
        assert not road or [(answers, 1001 if answers else 1006)] == ended


@on_loop
async def test_going_away_in_the_handshake() -> None:
    """
    Who has not been let in yet can't be told anything: it is let go at once. To close such a
    connection with a frame is an exception of Autobahn's.
    """

    class Undecided(Echo):
        def onConnect(self, request: Any) -> Any:
            from twisted.internet.defer import Deferred

            asked.append(request)
            return Deferred()

    asked: list[Any] = []
    site, _ended = site_of()
    site.resource.children[b"ws"]._factory.protocol = type("Undecided", (Undecided,), {"ended": []})
    async with serving(site) as served:
        speaker = Speaker(await served.connect())
        await speaker.say(Request("127.0.0.1", "/ws"))
        await until(lambda: asked)

        assert await served.front.drain(5)
        assert b"" == await speaker.client.rest()


@on_loop
async def test_a_plain_request(road: bool) -> None:
    """
    A plain request for one gets Autobahn's own page, which ends its connection. Behind ASGI
    that was a 500: nobody read what an application says on a connection that it took over.
    """
    site, _ended = site_of()
    async with serving(site, hot=road) as served:
        client = await served.connect()

        status, headers, body = await client.get("/ws")

        assert (200, "text/html; charset=UTF-8") == (status, headers["content-type"])
        assert b"AutobahnPython" in body
        assert b"" == await client.rest()
