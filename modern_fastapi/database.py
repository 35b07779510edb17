"""
Connections and transactions. Two kinds, and no third: reading (each statement for itself) and writing.

A SQLite transaction that reads first and writes later fails as "locked" at once when another writer came between,
whatever the timeout; so every write transaction takes the lock when it begins. Within this process writers queue
here, in order, rather than in SQLite's own retries.

Both kinds come in two forms. ``read`` and ``write`` give a connection, for whoever has other things to await between
his statements. ``look`` and ``work`` are given what is to be done with one: on SQLite it is done in one go on a thread
(see ``lanes``), many writers' in one transaction. What runs often takes these.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

import aiosqlite
from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from .lanes import LONGEST_LOG, SLICE_SECONDS, Lane, Work, Writers, read_each

T = TypeVar("T")


class Database:
    """
    The pool of connections to one database. All methods run on the event loop. ``writers`` is shared by those of one
    process that write to one SQLite file from several loops.
    """

    def __init__(self, url: str, writers: Writers | None = None, pool: int = 10) -> None:
        self.url = url
        self.postgresql = url.startswith("postgresql:")
        if self.postgresql:
            address = make_url(url).set(drivername="postgresql+psycopg")
            self.engine = create_async_engine(address, pool_size=pool, max_overflow=10, pool_pre_ping=True)
        else:
            address = make_url(url).set(drivername="sqlite+aiosqlite")
            connecting = {**_SQLITE, "async_creator_fn": self._connect}
            self.engine = create_async_engine(
                address, connect_args=connecting, pool_size=pool, pool_reset_on_return=None
            )
            event.listen(self.engine.sync_engine, "begin", self._begin)
        self._threads: WeakSet[threading.Thread] = WeakSet()
        self.listeners: list[Callable[[], None]] = []
        self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT") if self.postgresql else self.engine
        self._writer = self.engine.execution_options(takes_the_lock=True)
        self.writers = writers or Writers()
        self._queue: AbstractAsyncContextManager[Any] = nullcontext() if self.postgresql else self.writers.turnstile
        self._readers: Lane | None = None
        self._closed = False

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """
        A connection on which each statement sees what is committed when it runs.
        """
        self._open_still()
        async with self._reader.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """
        One transaction, committed when the block ends and rolled back when it raises.
        """
        self._open_still()
        async with self._queue, self._writer.begin() as connection:
            yield connection
        self._tell()

    def _tell(self) -> None:
        for hear in self.listeners:
            hear()

    async def look(self, work: Work[T]) -> T:
        """
        What ``work`` reads; each statement sees what is committed when it runs.
        """
        self._open_still()
        if self.postgresql:
            async with self.read() as connection:
                return await work(connection)
        if self._readers is None:
            self._readers = Lane("reader", self._make_engine(), read_each)
        return await asyncio.wrap_future(self._readers.ask(work))

    async def work(self, work: Work[T], *, durable: bool = True) -> T:
        """
        What ``work`` answers, once what it wrote is committed; where it raises, nothing of it is. Who is cancelled
        may have it done all the same. What is not ``durable`` survives the end of this process, and on SQLite may be
        undone by a power cut: it costs no wait for the disk.
        """
        self._open_still()
        if self.postgresql:
            async with self.write() as connection:
                return await work(connection)
        asked = self.writers.ask(self, self._make_engine, work, durable)
        try:
            answer = await asyncio.wrap_future(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(partial(self._tell_later, asyncio.get_running_loop()))
            raise
        self._tell()
        return answer

    def work_here(self, work: Work[T], *, durable: bool = True) -> T:
        """
        The same on SQLite for a thread whose event loop stands still: blocks it. Half of a short task's time went into
        waking its loop.
        """
        self._open_still()
        answer = self.writers.ask(self, self._make_engine, work, durable).result()
        self._tell()
        return answer

    def _tell_later(self, loop: asyncio.AbstractEventLoop, asked: Future[Any]) -> None:
        # What nobody waits for any more was written all the same.
        if not asked.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to hear
                loop.call_soon_threadsafe(self._tell)

    def _open_still(self) -> None:
        # A lane or a connection that began now would be closed by nobody.
        if self._closed:
            raise RuntimeError("the database is closed: who still works on it has to end before it")

    def _connect(self, *where: Any, **how: Any) -> aiosqlite.Connection:
        made = _Connection(*where, **how)
        # Each connection of the driver has a thread; until version 0.22 it is one.
        thread: Any = getattr(made, "_thread", made)
        # One whose user was cancelled may not keep a process that has to end.
        thread.daemon = True
        self._threads.add(thread)
        return made

    def _make_engine(self) -> Engine:
        return create_engine(make_url(self.url), connect_args=_SQLITE, poolclass=NullPool)

    def insert(self, table: Any) -> postgresql.Insert | sqlite.Insert:
        """
        An INSERT that knows ``ON CONFLICT``.
        """
        return postgresql.insert(table) if self.postgresql else sqlite.insert(table)

    def hurry(self, seconds: float) -> None:
        """
        The application stops: from ``seconds`` on, nobody waits for another process's lock.
        """
        self.writers.hurry(seconds)

    def _begin(self, connection: Connection) -> None:
        if connection.get_execution_options().get("takes_the_lock"):
            self.writers.begin(connection)

    async def close(self) -> None:
        """
        Gives all connections back. Whoever comes after that is refused with ``RuntimeError``.
        """
        self._closed = True
        readers, self._readers = self._readers, None
        if readers is not None:
            await asyncio.to_thread(readers.close)
        await asyncio.to_thread(self.writers.leave, self)
        await self.engine.dispose()
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        # A connection that is still opening, or still busy, when its user is cancelled is in no pool any more. Its
        # thread ends by itself, and what it says then is an error once the event loop is closed.
        latest = time.monotonic() + SLICE_SECONDS
        for thread in list(self._threads):
            if thread.is_alive():
                thread.join(max(0.0, latest - time.monotonic()))


class _Connection(aiosqlite.Connection):
    """
    The driver's connection, stopped well. Its thread is told to end once: the driver's own is told again by whoever
    closes it while his user is cancelled for the second time, nobody answers that, and an event loop that waits for all
    its tasks never ends. And what was opened for a user who is cancelled meanwhile is closed.
    """

    def __init__(self, *where: Any, **how: Any) -> None:
        self._opened: sqlite3.Connection | None = None
        super().__init__(partial(self._open, *where, **how), iter_chunk_size=64)

    def _open(self, *where: Any, **how: Any) -> sqlite3.Connection:
        self._opened = sqlite3.connect(*where, **how)
        return self._opened

    def _close_opened(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def stop(self) -> asyncio.Future[Any] | None:
        if not self._running:
            return None
        self._tx.put_nowait((None, self._close_opened))
        return super().stop()


class _Ours(sqlite3.Connection):
    """
    A connection that writes ahead, begins transactions when it is told to, and ends its own when it is closed. SQLite
    keeps a closed one, and its lock, for as long as any of its statements is held, as the traceback of whoever was
    cancelled may do.
    """

    def __init__(self, *where: Any, **how: Any) -> None:
        super().__init__(*where, **how)
        try:
            # The driver would begin transactions by itself, and only at the first write.
            self.isolation_level = None
            self._write_ahead()
            self.execute("PRAGMA synchronous = FULL")
            self.execute(f"PRAGMA wal_autocheckpoint = {LONGEST_LOG}")
        except BaseException:
            self.close()
            raise

    def _write_ahead(self) -> None:
        # Who turns a new file to it while another process does, or writes already, is told "locked" at once: SQLite's
        # own patience doesn't cover this.
        enough = time.monotonic() + SLICE_SECONDS
        while True:
            try:
                self.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > enough:
                    raise
                time.sleep(0.01)
            else:
                return

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.rollback()
        super().close()


_SQLITE = {"timeout": SLICE_SECONDS, "factory": _Ours}
