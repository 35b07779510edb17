"""
Connections and transactions. Two kinds, and no third: ``read`` (each statement for itself) and ``write``.

A SQLite transaction that reads first and writes later fails as "locked" at once when another writer came between,
whatever the timeout; so every write transaction takes the lock when it begins. Within this process writers queue
here, in order, rather than in SQLite's own retries.
"""

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

# For how long a writer waits for another process's, and for how long at a time: a stop needn't wait for all of it.
BUSY_SECONDS = 30.0
SLICE_SECONDS = 2.0


class Turnstile:
    """
    Lets one pass at a time, in order, on whatever event loop each of them is. SQLite's own way is to sleep and try
    again, which may pass somebody over for seconds.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[Future[None]] = deque()

    async def __aenter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            turn: Future[None] = Future()
            self._waiting.append(turn)
        try:
            await asyncio.wrap_future(turn)
        except asyncio.CancelledError:
            if not turn.cancel():  # it was ours already
                self._next()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._next()

    def _next(self) -> None:
        with self._guard:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return
            self._taken = False


class Database:
    """
    The pool of connections to one database. All methods run on the event loop. ``writers`` is shared by those of one
    process that write to one SQLite file from several loops.
    """

    def __init__(self, url: str, writers: Turnstile | None = None, pool: int = 10) -> None:
        self.url = url
        self.postgresql = url.startswith("postgresql:")
        if self.postgresql:
            address = make_url(url).set(drivername="postgresql+psycopg")
            self.engine = create_async_engine(address, pool_size=pool, max_overflow=10, pool_pre_ping=True)
        else:
            address = make_url(url).set(drivername="sqlite+aiosqlite")
            self.engine = create_async_engine(
                address, connect_args={"timeout": SLICE_SECONDS}, pool_size=pool, pool_reset_on_return=None
            )
            event.listen(self.engine.sync_engine, "connect", _prepare)
            event.listen(self.engine.sync_engine, "begin", self._begin)
        self._latest = float("inf")
        self.listeners: list[Callable[[], None]] = []
        self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT") if self.postgresql else self.engine
        self._writer = self.engine.execution_options(takes_the_lock=True)
        self.writers = writers or Turnstile()
        self._queue: AbstractAsyncContextManager[Any] = nullcontext() if self.postgresql else self.writers

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """
        A connection on which each statement sees what is committed when it runs.
        """
        async with self._reader.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """
        One transaction, committed when the block ends and rolled back when it raises.
        """
        async with self._queue, self._writer.begin() as connection:
            yield connection
        for hear in self.listeners:
            hear()

    def insert(self, table: Any) -> postgresql.Insert | sqlite.Insert:
        """
        An INSERT that knows ``ON CONFLICT``.
        """
        return postgresql.insert(table) if self.postgresql else sqlite.insert(table)

    def hurry(self, seconds: float) -> None:
        """
        The application stops: from ``seconds`` on, nobody waits for another process's lock.
        """
        self._latest = time.monotonic() + seconds

    def _begin(self, connection: Connection) -> None:
        if not connection.get_execution_options().get("takes_the_lock"):
            return
        enough = time.monotonic() + BUSY_SECONDS
        # Through SQLAlchemy, which closes a connection whose user is cancelled: its thread begins all the same.
        while True:
            if time.monotonic() > self._latest:
                connection.exec_driver_sql("PRAGMA busy_timeout = 0")
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            except OperationalError as error:
                busy = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > min(enough, self._latest):
                    raise
            else:
                return

    async def close(self) -> None:
        """
        Gives all connections back.
        """
        await self.engine.dispose()


def _prepare(connection: Any, record: Any) -> None:
    # The driver would begin transactions by itself, and only at the first write.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()
