"""
Measures what a legacy route costs when somebody begins to watch it.

`python -m tests.benchmarks.web_shadowing` prints one table: CPU microseconds a request for one Site with its route at
`legacy`, at `shadow` with every request dropped before it runs (what the answering itself pays), and at `shadow` with
those shadows run that find a lull, on the hot road and behind ASGI. Medians of interleaved rounds of the same requests,
paced by the answers on a few connections, so that there is hardly a lull; it wants nothing but this checkout. A
shadow's service time is what the same request takes behind ASGI. With `--paced SECONDS` it goes on with what clients
feel of all shadows under open-loop load, with rounds that long, on two processors: at 30 % of what the server takes
with all its shadows, and at 30 % of what it takes without, which is several times as much of so cheap a request.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = ("legacy", "watched", "shadow", "legacy-asgi", "watched-asgi", "shadow-asgi")
REQUEST = b"GET /hello HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n"


def serve(variant: str) -> None:
    """
    One server; it prints its port and runs until it is killed.
    """
    from bridge.loop import install

    reactor = install("uvloop")
    from twisted.web.resource import Resource
    from twisted.web.server import Site

    from bridge.dispatch import Dispatcher, Limits, ShadowQueue
    from bridge.loop.heap import Heap
    from bridge.routing import Cell, Route, RouteTable, Side, Stage
    from bridge.web.listen import Front
    from bridge.web.resource_app import ResourceApp
    from tests.benchmarks.dispatch_shadowing import examiner

    class Hello(Resource):
        isLeaf = True

        def render_GET(self, request: Any) -> bytes:
            return b"Hello, world!"

    async def modern(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": b"Hello, world!"})

    root = Resource()
    root.putChild(b"hello", Hello())
    site = Site(root)
    site.log = lambda request: None  # type: ignore[method-assign]
    sides = {Side.LEGACY: ResourceApp(site, reactor), Side.MODERN: modern}
    stage = Stage.LEGACY if variant.startswith("legacy") else Stage.SHADOW
    limits = Limits(waiting=0) if variant.startswith("watched") else Limits()
    queue = ShadowQueue(sides, examiner("GET /hello"), limits)
    dispatcher = Dispatcher(Cell(RouteTable.build([Route("GET /hello", stage)])), sides, queue)
    front = Front(reactor)
    hot = None if variant.endswith("asgi") else site
    [listener] = front.bind("tcp:0:interface=127.0.0.1", hot, dispatcher.table.value.decide, dispatcher.watch)
    starting: list[asyncio.Task[None]] = []

    async def start() -> None:
        await Heap().put_aside()
        await front.start(dispatcher)
        print(listener.adopted.port.getHost().port, flush=True)

    reactor.callWhenRunning(lambda: starting.append(asyncio.get_running_loop().create_task(start())))
    reactor.run()


class Server:
    """
    One of them in a process of its own.
    """

    def __init__(self, variant: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.web_shadowing", "--serve", variant],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def cpu(self) -> float:
        """
        Seconds of CPU so far.
        """
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


async def ask(port: int, count: int) -> None:
    """
    So many requests over four connections.
    """

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count // 4):
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(client() for _ in range(4)))


def measure(server: Server, count: int) -> float:
    """
    CPU microseconds a request.
    """
    before = server.cpu()
    asyncio.run(ask(server.port, count))
    return (server.cpu() - before) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--serve", choices=VARIANTS)
    parser.add_argument("--paced", type=float, default=0.0)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    servers = {variant: Server(variant) for variant in VARIANTS}
    found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    try:
        for server in servers.values():
            measure(server, options.requests // 10)
        for _ in range(options.rounds):
            for variant, server in servers.items():
                found[variant].append(measure(server, options.requests))
        report(found)
        if options.paced:
            shadow = statistics.median(found["legacy-asgi"]) / 1e6
            servers["again"] = Server("legacy")
            feel({name: servers[name] for name in ("legacy", "again", "shadow")}, options.paced, shadow)
    finally:
        for server in servers.values():
            server.stop()


def report(found: dict[str, list[float]]) -> None:
    """
    The table.
    """
    base = statistics.median(found["legacy"])
    for variant, rounds in found.items():
        each = statistics.median(rounds)
        print(f"{variant:13} {each:7.1f} µs  {each - base:+7.1f} µs")


def feel(servers: dict[str, Server], seconds: float, service: float) -> None:
    """
    What clients feel.
    """
    from tests.benchmarks.dispatch_shadowing import compared

    compared(servers, REQUEST, seconds, service)


if __name__ == "__main__":
    main()
