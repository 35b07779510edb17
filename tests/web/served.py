"""
What the web room's tests share: a front on a free port, and a client that speaks bytes.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest_twisted

from bridge.routing import Cell, RouteTable, Side

# The full counts take their time.
LONGEST = 1700 if os.environ.get("BGSERVER_LONG") == "1" else 60


def on_loop(test: Callable[..., Awaitable[None]]) -> Any:
    """
    Run a coroutine test as a task of the bridged reactor's loop.
    """

    @pytest_twisted.ensureDeferred
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        from bridge.loop import as_deferred

        await as_deferred(asyncio.wait_for(test(*args, **kwargs), LONGEST))

    return run


async def until(happened: Callable[[], Any]) -> None:
    """
    Let the loop go round until something has happened.
    """
    while not happened():  # noqa: ASYNC110 - what happens knows nothing of events
        await asyncio.sleep(0)


class Dispatch:
    """
    The smallest dispatcher: what the table says, without shadows.
    """

    def __init__(self, table: RouteTable, sides: dict[Side, Any]) -> None:
        self.cell = Cell(table)
        self.sides = sides
        self.seen: list[tuple[str, Side]] = []

    def decide(self, method: bytes, raw_path: bytes, asks: Any) -> Any:
        return self.cell.value.decide(method, raw_path, asks)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        decision = (scope.get("extensions") or {}).get("bgserver.decision")
        if decision is None:
            decision = self.decide(scope.get("method", "GET").encode(), scope["raw_path"], None)
        self.seen.append((scope["path"], decision.answers))
        await self.sides[decision.answers](scope, receive, send)


class Client:
    """
    A raw connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """
        The next answer, complete.
        """
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while True:
                size = int(await self.reader.readline(), 16)
                body += (await self.reader.readexactly(size + 2))[:-2]
                if size == 0:
                    break
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("connection") == "close":
            body = await self.reader.read()
        return status, headers, body

    async def get(self, path: str, extra: str = "") -> tuple[int, dict[str, str], bytes]:
        await self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode())
        return await self.answer()

    async def rest(self) -> bytes:
        """
        All that comes until the server hangs up.
        """
        return await self.reader.read()

    def abort(self) -> None:
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()


class Served:
    """
    A front that serves.
    """

    def __init__(self, front: Any, listener: Any) -> None:
        self.front = front
        self.listener = listener
        self.clients: list[Client] = []

    @property
    def port(self) -> int:
        found: int = self.listener.adopted.port.getHost().port
        return found

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def exchange(self, data: bytes) -> bytes:
        """
        Everything that the server says to these bytes, until it hangs up.
        """
        client = await self.connect()
        await client.send(data)
        try:
            return await client.rest()
        finally:
            await client.close()


@asynccontextmanager
async def serving(
    site: Any, app: Any = None, decide: Any = None, hot: bool = True, watch: Any = None, **options: Any
) -> AsyncIterator[Served]:
    """
    A site under a front of its own, on the bridged reactor's loop.
    """
    from twisted.internet import reactor

    from bridge.web.listen import Front
    from bridge.web.resource_app import ResourceApp

    front = Front(reactor, **options)
    [listener] = front.bind("tcp:0:interface=127.0.0.1", site if hot else None, decide, watch)
    await front.start(ResourceApp(site, reactor) if app is None else app)
    served = Served(front, listener)
    try:
        yield served
    finally:
        for client in served.clients:
            client.abort()
        await front.close()
        for client in served.clients:
            with suppress(OSError):
                await client.writer.wait_closed()
