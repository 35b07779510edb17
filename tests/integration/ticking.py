"""
Two stacks with one loop each, for the hand-off's tests: the loop reads the last tick, works a while in a thread, and
commits the next one in the same statement that compares the fence.

Nothing but the fence keeps a tick from being committed twice: there is no unique key on purpose. TICKING_FENCE=off
leaves the comparison out.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from twisted.application import internet, service
from twisted.internet import defer, threads
from twisted.web import resource, server

SCHEMA = """
CREATE TABLE IF NOT EXISTS fence (epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS ticks (number INTEGER NOT NULL, epoch INTEGER NOT NULL, side TEXT NOT NULL);
"""


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
    made.executescript(SCHEMA)
    if made.execute("SELECT count(*) FROM fence").fetchone()[0] == 0:
        made.execute("INSERT INTO fence SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM fence)")
    return made


def raise_fence(epoch: int) -> None:
    database = connect()
    try:
        if database.execute("UPDATE fence SET epoch = ? WHERE epoch <= ?", (epoch, epoch)).rowcount == 0:
            raise Refused(database.execute("SELECT epoch FROM fence").fetchone()[0])
    finally:
        database.close()


def tick(epoch: int, side: str) -> bool:
    """
    One tick, on a worker's thread; whether its loop may go on.
    """
    database = connect()
    try:
        last = database.execute("SELECT coalesce(max(number), 0) FROM ticks").fetchone()[0]
        # Mostly a short piece of work; now and then a thread that stalls past lease and drain together.
        time.sleep(random.choice([0.001] * 40 + [2.5]))
        fenced = os.environ.get("TICKING_FENCE") != "off"
        where = "WHERE EXISTS (SELECT 1 FROM fence WHERE epoch = ?)" if fenced else "WHERE ? IS NOT NULL"
        done = database.execute(f"INSERT INTO ticks SELECT ?, ?, ? {where}", (last + 1, epoch, side, epoch))
        return done.rowcount == 1
    finally:
        database.close()


class Ticker(service.Service):
    """
    Legacy's loop: one thread's tick after the other.
    """

    name = "ticker"
    epoch = 0

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
            yield threads.deferToThread(raise_fence, epoch)
            while self.running and (yield threads.deferToThread(tick, epoch, "legacy")):
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


def make_service() -> service.MultiService:
    tree = service.MultiService()
    page = resource.Resource()
    page.putChild(b"", resource.ErrorPage(200, "ticking", "legacy"))
    internet.TCPServer(0, server.Site(page), interface="127.0.0.1").setServiceParent(tree)
    Ticker().setServiceParent(tree)
    return tree


def create_app() -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield

    app = FastAPI(lifespan=lifespan)

    async def ticker(epoch: int) -> None:
        await asyncio.to_thread(raise_fence, epoch)
        while True:
            # Shielded, so that the tick ends as a whole when the loop is told to stop.
            running = asyncio.ensure_future(asyncio.to_thread(tick, epoch, "modern"))
            try:
                if not await asyncio.shield(running):
                    return
            except asyncio.CancelledError:
                await running
                raise

    app.state.loops = {"ticker": ticker}
    return app
