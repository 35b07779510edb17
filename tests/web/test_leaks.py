"""
Clients that read slowly, write slowly, hang up anywhere or say half a request leave
nothing behind: no request, channel, protocol, spooled file or Deferred.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from tests.web.served import Served, on_loop, serving, until

pytestmark = pytest.mark.filterwarnings("ignore:twisted.web.resource:DeprecationWarning")

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
    names = {"Request", "_LoopChannel", "VirtualChannel", "SiteProtocol", "LoopTransport", "_Exchange", "LegacyCycle"}
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

        assert before == kept()
        assert files >= len(os.listdir("/proc/self/fd"))


@pytest.mark.long
@pytest.mark.timeout(1800)
@on_loop
async def test_ten_thousand_disconnects() -> None:
    """
    Nothing adds up over 10,000 clients that hang up anywhere.
    """
    site, _leaf = tree()
    async with serving(site) as served:
        await cut(served, WHOLE[0], 40)
        await until(lambda: not served.front.state.connections)
        before = kept()
        for n in range(10_000):
            data = WHOLE[n % 2]
            await cut(served, data, n * 7919 % len(data))
        await until(lambda: not served.front.state.connections)

        assert before == kept()


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


async def up_and_down(road: bool, folder: Path, size: int) -> int:
    """
    Upload and download so many bytes; how much more memory it took at most.
    """
    from twisted.web.server import Site
    from twisted.web.static import File

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
    async with serving(Site(root), hot=road) as served:
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
        return most - before


@on_loop
async def test_memory_stays_flat(road: bool, tmp_path: Path) -> None:
    """
    64 MiB up and down take less than 32 MiB more memory: nothing is held whole.
    """
    assert await up_and_down(road, tmp_path, 64 << 20) < 32 << 20


@pytest.mark.long
@pytest.mark.timeout(600)
@on_loop
async def test_memory_stays_flat_for_a_gibibyte(road: bool, tmp_path: Path) -> None:
    """
    The same with 1 GiB.
    """
    assert await up_and_down(road, tmp_path, 1 << 30) < 32 << 20
