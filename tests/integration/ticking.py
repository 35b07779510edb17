"""
Two stacks with the same loops, for the hand-off's tests: a loop reads its last tick, works a while in a thread, and
commits the next one in the same statement that compares its fence.

Nothing but the fence keeps a tick from being committed twice: there is no unique key on purpose. TICKING_FENCE=off
leaves the comparison out. TICKING_LOOPS is how many loops there are, TICKING_WORK how many seconds a tick mostly takes.
The wall clock of the process jumps all the while.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from twisted.application import internet, service
from twisted.internet import defer, threads
from twisted.web import resource, server

SCHEMA = """
CREATE TABLE IF NOT EXISTS fence (loop TEXT NOT NULL UNIQUE, epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS ticks (
    loop TEXT NOT NULL, number INTEGER NOT NULL, epoch INTEGER NOT NULL, side TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS last ON ticks (loop, number);
"""
NAMES = [f"ticker{number}" for number in range(int(os.environ.get("TICKING_LOOPS", "1")))]
WORK = float(os.environ.get("TICKING_WORK", "0.001"))


class Refused(Exception):
    """
    The fence stands above the epoch of this loop.
    """

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the fence is at {epoch}")
        self.epoch = epoch


def connect() -> sqlite3.Connection:
    made = sqlite3.connect(os.environ["TICKING_DATABASE"], timeout=30, isolation_level=None)
    made.execute("PRAGMA journal_mode = WAL")
    # What a process that is killed had not written is not lost, and nothing here outlives the machine.
    made.execute("PRAGMA synchronous = OFF")
    made.executescript(SCHEMA)
    return made


def raise_fence(loop: str, epoch: int) -> None:
    database = connect()
    try:
        database.execute("INSERT OR IGNORE INTO fence VALUES (?, 0)", (loop,))
        sql = "UPDATE fence SET epoch = ? WHERE loop = ? AND epoch <= ?"
        if database.execute(sql, (epoch, loop, epoch)).rowcount == 0:
            raise Refused(database.execute("SELECT epoch FROM fence WHERE loop = ?", (loop,)).fetchone()[0])
    finally:
        database.close()


def tick(loop: str, epoch: int, side: str) -> bool:
    """
    One tick, on a worker's thread; whether its loop may go on.
    """
    database = connect()
    try:
        last = database.execute("SELECT coalesce(max(number), 0) FROM ticks WHERE loop = ?", (loop,)).fetchone()[0]
        # Mostly a short piece of work; now and then a thread that stalls past lease and drain together.
        time.sleep(random.choice([WORK] * 40 + [2.5]))
        fenced = os.environ.get("TICKING_FENCE") != "off"
        where = "EXISTS (SELECT 1 FROM fence WHERE loop = ? AND epoch = ?)" if fenced else "? || ? IS NOT NULL"
        sql = f"INSERT INTO ticks SELECT ?, ?, ?, ? WHERE {where}"
        return database.execute(sql, (loop, last + 1, epoch, side, loop, epoch)).rowcount == 1
    finally:
        database.close()


class Ticker(service.Service):
    """
    Legacy's loop: one thread's tick after the other.
    """

    epoch = 0

    def __init__(self, name: str) -> None:
        self.setName(name)

    def startService(self) -> None:
        service.Service.startService(self)
        self.ended: defer.Deferred[None] = defer.Deferred()
        self.stopped = self._run(self.epoch)

    def whenEnded(self) -> defer.Deferred[None]:
        return self.ended

    @defer.inlineCallbacks
    def _run(self, epoch: int) -> Any:
        failure: BaseException | None = None
        try:
            yield threads.deferToThread(raise_fence, self.name, epoch)
            while self.running and (yield threads.deferToThread(tick, self.name, epoch, "legacy")):
                pass
        except Refused as refused:
            failure = refused
        if failure is None:
            self.ended.callback(None)
        else:
            self.ended.errback(failure)

    def stopService(self) -> defer.Deferred[None]:
        service.Service.stopService(self)
        return self.stopped


def unsettle_the_clock() -> None:
    """
    Set this process's wall clock by up to an hour, forth and back, several times a second.
    """
    true, ahead = time.time, [0.0]

    def jump() -> None:
        while True:
            ahead[0] = random.uniform(-3600.0, 3600.0)
            time.sleep(0.2)

    time.time = lambda: true() + ahead[0]
    threading.Thread(target=jump, daemon=True).start()


def make_service() -> service.MultiService:
    unsettle_the_clock()
    tree = service.MultiService()
    page = resource.Resource()
    page.putChild(b"", resource.ErrorPage(200, "ticking", "legacy"))
    internet.TCPServer(0, server.Site(page), interface="127.0.0.1").setServiceParent(tree)
    for name in NAMES:
        Ticker(name).setServiceParent(tree)
    return tree


def create_app() -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield

    app = FastAPI(lifespan=lifespan)

    async def ticker(name: str, epoch: int) -> None:
        await asyncio.to_thread(raise_fence, name, epoch)
        while True:
            # Shielded, so that the tick ends as a whole when the loop is told to stop.
            running = asyncio.ensure_future(asyncio.to_thread(tick, name, epoch, "modern"))
            try:
                if not await asyncio.shield(running):
                    return
            except asyncio.CancelledError:
                await running
                raise

    app.state.loops = {name: functools.partial(ticker, name) for name in NAMES}
    return app
