"""
What the dispatcher costs where nothing is shadowed, and what clients feel of a shadow.

    python -m tests.benchmarks.dispatch_shadowing [seconds for each round]

Part one calls a FastAPI application with and without the dispatcher in front, in
process.  Part two serves it with uvicorn in a child process, and sends requests at
30 % of what it can take, on a schedule that doesn't wait for answers: each latency
counts from when the request was due.  Rounds are interleaved; the best round of part one, medians of part two.
The promises: 3 % for part one; p50 and p99 within 5 % or one shadow's service time.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import subprocess
import sys
import time
from typing import Any

import uvicorn
from fastapi import FastAPI

from bridge.config import GateConfig
from bridge.dispatch import Dispatcher, ShadowQueue
from bridge.dispatch.books import Book
from bridge.dispatch.examiner import Examiner
from bridge.dispatch.ledger import Ledger
from bridge.parity import Gate, Redactor
from bridge.routing import Cell, Route, RouteTable, Side, Stage

ROUTE = "GET /items/{item_id}"
ROUNDS = 5


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


def house(stage: Stage) -> Dispatcher:
    """
    The same application on both sides, judged in full.
    """
    examiner = Examiner({ROUTE: Book(ROUTE, "i")}, Ledger(), Gate(GateConfig()), Redactor(b"k" * 16), Seat(), time.time)
    sides = {Side.LEGACY: application(), Side.MODERN: application()}
    return Dispatcher(Cell(RouteTable.build([Route(ROUTE, stage)])), sides, ShadowQueue(sides, examiner))


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
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        server.should_exit = True
        await task

    asyncio.run(run())


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


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """
    One request on a connection that stays.
    """
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    await reader.readexactly(length)


async def capacity(port: int, seconds: float = 2.0) -> float:
    """
    Requests in a second with as many connections as keep it busy.
    """
    done = 0
    until = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            await ask(reader, writer)
            done += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(16)))
    return done / seconds


async def paced(port: int, rate: float, seconds: float) -> list[float]:
    """
    Latencies from when each request was due.
    """
    idle: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(32):
        idle.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    latencies: list[float] = []

    async def one(due: float) -> None:
        connection = await idle.get()
        await ask(*connection)
        latencies.append(time.perf_counter() - due)
        idle.put_nowait(connection)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for n in range(int(rate * seconds)):
            due = began + n / rate
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            group.create_task(one(due))
    while not idle.empty():
        idle.get_nowait()[1].close()
    return sorted(latencies)


async def on_the_wire(seconds: float) -> None:
    """
    Part two.
    """
    children = {stage: Child(stage) for stage in ("legacy", "shadow")}
    try:
        most = await capacity(children["legacy"].port)
        rate = most * 0.3
        print(f"capacity {most:.0f}/s, paced at {rate:.0f}/s")
        found: dict[str, list[tuple[float, float]]] = {stage: [] for stage in children}
        for child in children.values():
            await paced(child.port, rate, 1.0)
        for _ in range(ROUNDS):
            for stage, child in children.items():
                taken = await paced(child.port, rate, seconds)
                found[stage].append((taken[len(taken) // 2], taken[int(len(taken) * 0.99)]))
        service = await seconds_each(application())
        for place, name in enumerate(("p50", "p99")):
            plain, shadowed = (
                statistics.median(each[place] for each in found[stage]) for stage in ("legacy", "shadow")
            )
            print(
                f"{name}  {plain * 1e6:7.0f} µs  with shadows {shadowed * 1e6:7.0f} µs  "
                f"{shadowed / plain - 1:+.1%}, {(shadowed - plain) / service:+.2f} of a shadow's service time "
                f"({service * 1e6:.0f} µs)"
            )
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
    asyncio.run(on_the_wire(float(sys.argv[1]) if sys.argv[1:] else 3.0))


if __name__ == "__main__":
    main()
