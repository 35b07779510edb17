"""
Clients that read slowly, write slowly, hang up anywhere or say half a request leave
nothing behind: no request, channel, protocol, spooled file, session or Deferred, whether
somebody watches them or not.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from bridge.dispatch import Dispatcher, Limits, ShadowQueue
from bridge.routing import Cell, Effects, Route, RouteTable, Side, Stage
from tests.web.served import Served, on_loop, serving, until
from tests.web.wire import Unjudged, quiet

pytestmark = pytest.mark.filterwarnings("ignore:twisted.web.resource:DeprecationWarning")

# Straight on uvicorn's transport, behind ASGI, and straight with somebody watching.
KINDS = ["hot", "asgi", "watched"]
WHOLE = (
    b"POST /later?x=1 HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\nContent-Length: 120000\r\n\r\n" + b"b" * 120_000,
    b"POST /now HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
    b"GET /later HTTP/1.1\r\nHost: x\r\n\r\n",
)


def kept() -> Counter[str]:
    """
    How many of the objects that a request makes are alive.
    """
    gc.collect()
    names = {
        *("Request", "_LoopChannel", "VirtualChannel", "SiteProtocol", "LoopTransport", "VirtualTransport", "Drips"),
        *("_Exchange", "LegacyCycle", "Observed", "Recording", "Session", "OverlaySessions", "Mark"),
        *("Deferred", "Task"),
    }
    return Counter(type(found).__name__ for found in gc.get_objects() if type(found).__name__ in names)


class Later(Resource):
    """
    Answers when it is told to, and counts who went away.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.ended = 0

    def render(self, request: Request) -> Any:
        def over(_: Any) -> None:
            self.ended += 1

        finished: Deferred[Any] = request.notifyFinish()
        finished.addBoth(over)
        if request.path == b"/now":
            return b"now"
        return NOT_DONE_YET


def tree() -> tuple[Any, Later]:
    from twisted.web.server import Site

    leaf = Later()
    return Site(leaf), leaf


async def cut(served: Served, data: bytes, at: int) -> None:
    client = await served.connect()
    await client.send(data[:at])
    for _ in range(3):
        await asyncio.sleep(0)
    client.abort()
    served.clients.remove(client)
    try:
        await client.writer.wait_closed()
    except OSError:
        return


@on_loop
async def test_disconnect_at_every_byte(road: bool) -> None:
    """
    A client that hangs up after any byte of its request leaves nothing behind.
    """
    site, _leaf = tree()
    async with serving(site, hot=road) as served:
        await cut(served, WHOLE[0], 40)
        await until(lambda: not served.front.state.connections)
        before, files = kept(), len(os.listdir("/proc/self/fd"))

        for data in WHOLE:
            for at in [*range(0, min(len(data), 150), 1), len(data) // 2, len(data)]:
                await cut(served, data, at)
        await until(lambda: not served.front.state.connections and not served.front.state.tasks)
        for _ in range(5):
            await asyncio.sleep(0)

        assert kept() - before == Counter()
        assert files >= len(os.listdir("/proc/self/fd"))


class Visitors(Resource):
    """
    A site with everything that a request can leave behind.
    """

    def __init__(self, big: Path) -> None:
        from twisted.web.static import File  # importing it warns, which only a test may ignore

        super().__init__()
        self.later, self.told = Later(), 0
        self.putChild(b"later", self.later)
        self.putChild(b"now", self.later)
        self.putChild(b"big", File(str(big)))
        self.putChild(b"session", Answers(lambda request: request.getSession().uid))
        self.putChild(b"slow", Answers(self._slow))

    def _slow(self, request: Request) -> Any:
        finished: Deferred[Any] = request.notifyFinish()
        finished.addBoth(self._tell)
        producer = Drips(request)
        request.registerProducer(producer, True)
        producer.resumeProducing()
        return NOT_DONE_YET

    def _tell(self, _: Any) -> None:
        self.told += 1


class Answers(Resource):
    isLeaf = True

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.render_GET = answer


class Drips:
    """
    A push producer without an end.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.call: asyncio.Handle | None = None

    def resumeProducing(self) -> None:
        if self.call is None:
            self.call = asyncio.get_running_loop().call_soon(self.drip)

    def drip(self) -> None:
        self.call = None
        self.request.write(b"d" * 8192)
        self.resumeProducing()

    def pauseProducing(self) -> None:
        if self.call is not None:
            self.call.cancel()
            self.call = None

    stopProducing = pauseProducing


GET = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
SAID = (*WHOLE, GET % b"/slow", GET % b"/big", GET % b"/session" + GET % b"/later", GET % b"/nowhere")


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def visit(served: Served, n: int) -> None:
    """
    One of the ways in which a client is a bad one.
    """
    data = SAID[n % len(SAID)]
    if n // (5 * len(SAID)) % 2:  # of each kind, every other says all of it
        data = data[: 1 + n * 7919 % len(data)]
    client = await served.connect()
    served.clients.remove(client)
    writer: Any = client.writer.transport
    match n // len(SAID) % 5:
        case 0:  # hangs up
            client.writer.write(data)
            await turns(3)
        case 1:  # says that there is no more, and waits a little
            client.writer.write(data)
            await turns(1)
            writer.write_eof()
            await turns(4)
        case 2:  # reads nothing
            writer.pause_reading()
            client.writer.write(data)
            await turns(6)
        case 3:  # writes byte by byte
            for byte in data[:60]:
                client.writer.write(bytes([byte]))
                await turns(1)
        case 4:  # hangs up with a reset
            reset = struct.pack("ii", 1, 0)
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            client.writer.write(data)
            await turns(2)
    client.abort()
    with suppress(OSError):
        await client.writer.wait_closed()


async def bad_clients(kind: str, folder: Path, count: int) -> None:
    """
    So many of them, in every way; and nothing of them is left.
    """
    from twisted.internet import reactor
    from twisted.web.server import Site

    from bridge.web.resource_app import ResourceApp

    (folder / "big").write_bytes(b"b" * 3_000_000)
    root = Visitors(folder / "big")
    site = Site(root)
    # An errand per request that nobody reads would be kept by the log's buffer.
    site.log = lambda request: None  # type: ignore[method-assign]
    sides = {Side.LEGACY: ResourceApp(site, reactor), Side.MODERN: quiet}
    limits = Limits(deadline=0.05, grace=0.05, linger=0.05)
    shadows = ShadowQueue(sides, Unjudged(), limits)
    shadows.circuits.after = count + 1
    route = Route(None, Stage.SHADOW if kind == "watched" else Stage.LEGACY, effects=Effects.NONE)
    dispatcher = Dispatcher(Cell(RouteTable.build([], route)), sides, shadows)
    decide, watch = dispatcher.table.value.decide, dispatcher.watch
    async with serving(site, dispatcher, decide, hot=kind != "asgi", watch=watch) as served:

        async def ended() -> None:
            await until(lambda: not served.front.state.connections and not served.front.state.tasks)
            await shadows.settled()
            for session in list(site.sessions.values()):
                session.expire()
            await turns(5)

        for n in range(60):  # whatever is made once and kept
            await visit(served, n)
        await ended()
        before, files = kept(), len(os.listdir("/proc/self/fd"))
        for n in range(count):
            await visit(served, n)
        await ended()

        assert kept() - before == Counter()
        assert files >= len(os.listdir("/proc/self/fd"))
        assert root.told > 0 and root.later.ended > 0
    await shadows.close()


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_bad_clients(kind: str, tmp_path: Path) -> None:
    """
    Nothing adds up over those who hang up anywhere, read or write slowly, half close or reset.
    """
    await bad_clients(kind, tmp_path, 300)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_ten_thousand_bad_clients(kind: str, tmp_path: Path) -> None:
    """
    The same, 10,000 of them.
    """
    await bad_clients(kind, tmp_path, 10_000)


@on_loop
async def test_half_closed_and_slow_clients(road: bool) -> None:
    """
    Who says that it is done writing is let go as natively; who writes byte by byte is served.
    """
    site, leaf = tree()
    async with serving(site, hot=road) as served:
        half = await served.connect()
        await half.send(b"GET /later HTTP/1.1\r\nHost: x\r\n\r\n")
        half.writer.write_eof()
        assert b"" == await half.rest()
        await until(lambda: leaf.ended == 1)

        slow = await served.connect()
        for byte in b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc":
            await slow.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (200, b"now") == (await slow.answer())[::2]


def memory() -> int:
    """
    Bytes of memory that are this process's own.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


async def up_and_down(kind: str, folder: Path, size: int) -> int:
    """
    Upload and download so many bytes; how much more memory it took at most.
    """
    from twisted.internet import reactor
    from twisted.web.server import Site
    from twisted.web.static import File

    from bridge.web.resource_app import ResourceApp

    block = b"m" * 65536
    big = folder / "big.bin"
    big.touch()
    os.truncate(big, size)

    class Count(Resource):
        isLeaf = True

        def render_POST(self, request: Request) -> bytes:
            assert request.content is not None
            return b"%d" % request.content.seek(0, 2)

    root = Resource()
    root.putChild(b"count", Count())
    root.putChild(b"big", File(str(big)))
    site = Site(root)
    sides = {Side.LEGACY: ResourceApp(site, reactor), Side.MODERN: quiet}
    shadows = ShadowQueue(sides, Unjudged())
    route = Route(None, Stage.SHADOW if kind == "watched" else Stage.LEGACY, effects=Effects.NONE)
    dispatcher = Dispatcher(Cell(RouteTable.build([], route)), sides, shadows)
    decide, watch = dispatcher.table.value.decide, dispatcher.watch
    async with serving(site, dispatcher, decide, hot=kind != "asgi", watch=watch) as served:
        client = await served.connect()
        await client.get("/count")
        before, most = memory(), 0
        await client.send(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        for n in range(size // len(block)):
            await client.send(block)
            if n % 64 == 0:
                most = max(most, memory())
        assert b"%d" % size == (await client.answer())[2]
        await client.send(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        got = 0
        while data := await client.reader.read(1 << 20):
            got += len(data)
            most = max(most, memory())
        assert size == got
        await shadows.settled()
        return max(most, memory()) - before


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_memory_stays_flat(kind: str, tmp_path: Path) -> None:
    """
    64 MiB up and down take less than 32 MiB more memory: nothing is held whole.
    """
    assert await up_and_down(kind, tmp_path, 64 << 20) < 32 << 20


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_memory_stays_flat_for_a_gibibyte(kind: str, tmp_path: Path) -> None:
    """
    The same with 1 GiB.
    """
    assert await up_and_down(kind, tmp_path, 1 << 30) < 32 << 20
