"""
What the dispatcher costs where nothing is shadowed, and what clients feel of a shadow.

    python -m tests.benchmarks.dispatch_shadowing [seconds for each round]

Part one calls a FastAPI application with and without the dispatcher in front, in
process.  Part two serves it with uvicorn in a child process, and sends requests on a
schedule that doesn't wait for answers, evenly and by chance: each latency counts from
when the request was due.  It does so at 30 % of what the shadowing server can take with
all its shadows, which is the promise's load, and at 30 % of what one without shadows
can take.  Rounds are interleaved; the best round of part one, medians of part two.  It
wants two processors.
The promises: 3 % for part one; p50 and p99 within 5 % or one shadow's service time.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI

from bridge.config import GateConfig
from bridge.dispatch import Dispatcher, ShadowQueue
from bridge.dispatch.books import Book
from bridge.dispatch.examiner import Examiner
from bridge.dispatch.ledger import Ledger
from bridge.loop.heap import Heap
from bridge.parity import Gate, Redactor
from bridge.routing import Cell, Route, RouteTable, Side, Stage
from tests.benchmarks.open_loop import OpenLoop, apart, by_chance, quantile, steady

ROUTE = "GET /items/{item_id}"
ROUNDS = 9


def application() -> FastAPI:
    """
    A route as people write them.
    """
    app = FastAPI()

    @app.get("/items/{item_id}")
    async def item(item_id: int) -> dict[str, Any]:
        return {"id": item_id, "rows": [{"name": f"row {n}", "price": n / 4} for n in range(20)]}

    return app


class Seat:
    """
    Nothing is taken back here.
    """

    def demote(self, route: str, stage: Stage, why: str) -> None:
        pass


def examiner(route: str) -> Examiner:
    """
    A judge that leaves nothing out.
    """
    return Examiner({route: Book(route, "i")}, Ledger(), Gate(GateConfig()), Redactor(b"k" * 16), Seat(), time.time)


def house(stage: Stage) -> Dispatcher:
    """
    The same application on both sides, judged in full.
    """
    sides = {Side.LEGACY: application(), Side.MODERN: application()}
    return Dispatcher(Cell(RouteTable.build([Route(ROUTE, stage)])), sides, ShadowQueue(sides, examiner(ROUTE)))


def scope() -> dict[str, Any]:
    """
    One request.
    """
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/items/7",
        "raw_path": b"/items/7",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.org"), (b"accept", b"*/*")],
        "client": ("192.0.2.1", 1),
        "server": ("192.0.2.2", 80),
        "state": {},
    }


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    pass


async def seconds_each(app: Any, count: int = 1000) -> float:
    """
    Seconds of processor time for one call.
    """
    gc.collect()
    gc.disable()
    began = time.process_time()
    for _ in range(count):
        await app(scope(), receive, send)
    taken = time.process_time() - began
    gc.enable()
    return taken / count


async def in_process() -> None:
    """
    Part one.
    """
    apps = {"bare": application(), "legacy": house(Stage.LEGACY), "modern": house(Stage.MODERN)}
    found: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(15):
        for name, app in apps.items():
            found[name].append(await seconds_each(app))
    bare = min(found["bare"])
    for name, taken in found.items():
        each = min(taken)
        print(f"{name:8} {each * 1e6:8.1f} µs  {each / bare - 1:+.1%}")


def serve(stage: str) -> None:
    """
    The child: serve until standard input closes.
    """
    app: Any = application() if stage == "bare" else house(Stage(stage))
    config = uvicorn.Config(app, port=0, lifespan="off", access_log=False, log_level="warning", http="httptools")
    server = uvicorn.Server(config)

    async def run() -> None:
        # As the whole server does.
        await Heap().put_aside()
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        server.should_exit = True
        await task

    asyncio.run(run())


class Served(Protocol):
    """
    A server that somebody started.
    """

    process: subprocess.Popen[str]
    port: int


class Child:
    """
    A server in a process of its own.
    """

    def __init__(self, stage: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.dispatch_shadowing", "serve", stage],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


REQUEST = b"GET /items/7 HTTP/1.1\r\nhost: example.org\r\n\r\n"


def compared(children: Mapping[str, Served], request: bytes, seconds: float, service: float) -> None:
    """
    What clients feel of shadows: the latencies of the child that has none, and of the one that shadows all. Any other
    that has none either shows what the machine does to one and not to the other.

    @param service: Seconds of one shadow.
    """
    plain = next(iter(children))
    loops = {name: OpenLoop(child.port, request) for name, child in children.items()}
    for child in children.values():
        apart(child.process.pid)
    most = loops[plain].most(3.0)
    for loop in loops.values():
        loop.run(steady(most * 0.1, 1.0))
    # Where there is always a request to answer, most shadows are dropped: what all of them cost shows at ease.
    costs = {name: each_takes(loops[name], children[name].process.pid, most * 0.1) for name in children}
    print(", ".join(f"{name}: {cost * 1e6:.0f} µs of the processor for each request" for name, cost in costs.items()))
    shadowing = max(costs.values())
    print("at 30 % of what it takes with all its shadows:")
    felt(loops, min(most, 1 / shadowing) * 0.3, seconds, service)
    print("at 30 % of what it takes without shadows:")
    felt(loops, most * 0.3, seconds, service)


def each_takes(loop: OpenLoop, server: int, rate: float) -> float:
    """
    Seconds of a server's processor time for each request, with all that it does afterwards.
    """
    before = cpu(server)
    answered = len(loop.run(steady(rate, 2.0)))
    time.sleep(0.2)
    return (cpu(server) - before) / answered


def cpu(process: int) -> float:
    """
    Seconds of processor time of a process so far.
    """
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def felt(loops: Mapping[str, OpenLoop], rate: float, seconds: float, service: float) -> None:
    """
    The latencies at one load, in requests a second.
    """
    plain, *others = loops
    print(f"{rate:.0f} requests a second")
    for kind in ("steady", "by chance"):
        found: dict[str, list[list[float]]] = {name: [] for name in loops}
        for seed in range(ROUNDS):
            for name, loop in loops.items():
                due = steady(rate, seconds) if kind == "steady" else by_chance(rate, seconds, seed)
                found[name].append(loop.run(due))
        for share in (0.5, 0.99):
            least = statistics.median(quantile(each, share) for each in found[plain])
            for name in others:
                most = statistics.median(quantile(each, share) for each in found[name])
                print(
                    f"{kind:9} p{share * 100:.0f}  {least * 1e6:6.0f} µs, {name} {most * 1e6:6.0f} µs: "
                    f"{most / least - 1:+.1%}, {(most - least) / service:+.2f} of a shadow ({service * 1e6:.0f} µs)"
                )


def on_the_wire(seconds: float) -> None:
    """
    Part two.
    """
    service = asyncio.run(seconds_each(application()))
    # What the machine alone makes of two servers is seen of the same one, twice.
    children = {"legacy": Child("legacy"), "again": Child("legacy"), "shadow": Child("shadow")}
    try:
        compared(children, REQUEST, seconds, service)
    finally:
        for child in children.values():
            child.close()


def main() -> None:
    """
    Both parts, or the child.
    """
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
        return
    asyncio.run(in_process())
    on_the_wire(float(sys.argv[1]) if sys.argv[1:] else 3.0)


if __name__ == "__main__":
    main()
