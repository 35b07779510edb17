"""
Who was accepted by the system is served, though the server stops at that moment.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.web.resource import Resource
from twisted.web.server import Request

from tests.web.served import serving, until

ROOT = Path(__file__).resolve().parents[2]
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Hello(Resource):
    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        return b"hello"


def site() -> Any:
    from twisted.web.server import Site

    return Site(Hello())


def knock(port: int) -> socket.socket:
    """
    A client that the system alone has accepted, and that has asked already.
    """
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(REQUEST)
    client.setblocking(False)
    return client


async def rest(client: socket.socket) -> bytes:
    heard = b""
    loop = asyncio.get_running_loop()
    with client:
        while data := await loop.sock_recv(client, 65536):
            heard += data
    return heard


async def stopping(turns: int) -> list[bytes]:
    """
    What twenty clients hear that knock so many turns of the loop before the server stops.
    """
    async with serving(site()) as served:
        clients = [knock(served.port) for _ in range(20)]
        for _ in range(turns):
            await asyncio.sleep(0)
        served.front.stop_accepting()
        assert await served.front.drain(5)
        return [await rest(client) for client in clients]


async def all_turns() -> list[int]:
    """
    How many of the twenty are answered, for each place on the way in.
    """
    return [sum(said.endswith(b"hello") for said in await stopping(turns)) for turns in range(6)]


async def starved() -> bool:
    """
    Whether a client is answered that knocked while there was no descriptor for it.
    """
    async with serving(site()) as served:
        acceptor: Any = served.listener.acceptor
        loop = asyncio.get_running_loop()
        client = socket.socket()
        client.setblocking(False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 5, hard))
            with suppress(OSError):
                while True:
                    spare.append(os.dup(0))
            await loop.sock_connect(client, ("127.0.0.1", served.port))
            await loop.sock_sendall(client, REQUEST.replace(b"Host", b"Connection: close\r\nHost"))
            await until(lambda: acceptor._pausing is not None)
            pausing = acceptor._pausing
            for _ in range(10):
                await asyncio.sleep(0)
            asleep = pausing is acceptor._pausing
        finally:
            for each in spare:
                os.close(each)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        acceptor._pausing.cancel()
        acceptor._resume()
        return asleep and (await rest(client)).endswith(b"hello")


def told(kind: str, story: str) -> str:
    """
    What one of these comes to, on a loop of that kind in a process of its own.
    """
    code = (
        "import asyncio\n"
        "from bridge.loop import install\n"
        f"reactor = install({kind!r})\n"
        f"from tests.web.test_accepting import {story} as story\n"
        "async def tell():\n"
        "    try:\n"
        "        print(await story())\n"
        "    finally:\n"
        "        reactor.stop()\n"
        "tasks = []\n"
        "reactor.callWhenRunning(lambda: tasks.append(asyncio.get_running_loop().create_task(tell())))\n"
        "reactor.run()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.stdout, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_stop_loses_no_accepted_connection(kind: str) -> None:
    """
    Wherever on its way into the server a connection is when that stops, it is answered.
    asyncio's own server lost those without a transport, and both all that the system still
    held.
    """
    pytest.importorskip(kind)

    assert "[20, 20, 20, 20, 20, 20]" == told(kind, "all_turns")


def test_without_descriptors_it_waits() -> None:
    """
    Where the system has no descriptor left, those who knock are served once it has; the loop
    isn't woken for them again and again, and the listener stays.
    """
    assert "True" == told("asyncio", "starved")
