"""
Threads that work on SQLite, whose driver blocks. A lane has one thread and one connection, and carries out a whole
piece of work at a time: asked and answered once, not once for each statement.

What is asked while the writers' lane is busy goes into its next transaction, whoever asked: the disk is asked once for
all. Nobody is answered before that transaction is committed. SQLite's log is copied into the database by a third lane:
whoever commits would wait for two more writes to the disk now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")

# What is done on one connection. It awaits that connection, and nothing else.
Work = Callable[[AsyncConnection], Coroutine[Any, Any, T]]

# For how long a writer waits for another process's, and for how long at a time: a stop needn't wait for all of it.
BUSY_SECONDS = 30.0
SLICE_SECONDS = 2.0
# How much goes into one transaction: who comes next waits for all of it.
TOGETHER = 50
# After how many transactions the log is copied, and at how many pages of it who commits does that after all: a copy
# that is always overtaken never ends the log.
COPY_AFTER = 50
LONGEST_LOG = 8000


class Immediate:
    """
    A connection that blocks, with as much of the face of an awaited one as work needs. Nothing ever waits here, so that
    the same work runs to its end without an event loop.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        """
        As ``AsyncConnection.execute``.
        """
        return self._connection.execute(statement, parameters)


def carry_out(work: Work[T], connection: Connection) -> T:
    """
    Does the work on this thread.
    """
    doing = work(cast(AsyncConnection, Immediate(connection)))
    try:
        doing.send(None)
    except StopIteration as ended:
        answer: T = ended.value
        return answer
    doing.close()
    raise RuntimeError("work on the database awaited something else than its connection")


@dataclass(frozen=True, eq=False)
class Job:
    """
    Work, and where its answer goes. What is not ``durable`` may be undone by a power cut, though not by the end of this
    process: only what somebody outside is told, or what may not happen again, has to wait for the disk.
    """

    work: Work[Any]
    answer: Future[Any]
    durable: bool = True


class Lane:
    """
    One thread, which serves what is asked in order, a lot at a time. ``serve`` answers all of a lot on the lane's
    connection, or raises; then all that are unanswered hear of it, and the connection is made anew.
    """

    def __init__(self, name: str, engine: Engine, serve: Callable[[Connection, list[Job]], None]) -> None:
        self._engine = engine
        self._serve = serve
        self._asked: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        # One that is left behind, in a process that isn't closed, has committed all that it has answered.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, work: Work[T], durable: bool = True) -> Future[T]:
        """
        From any thread. Who gives up its future before the work has begun undoes the asking.
        """
        answer: Future[T] = Future()
        self._asked.put(Job(work, answer, durable))
        return answer

    def close(self) -> None:
        """
        Serves what was asked, and ends. Blocks.
        """
        self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_still = True
        while open_still:
            lot = [self._asked.get()]
            with contextlib.suppress(queue.Empty):
                while len(lot) < TOGETHER:
                    lot.append(self._asked.get_nowait())
            open_still = None not in lot
            jobs = [job for job in lot if job is not None]
            if jobs:
                self._serve_lot(jobs)
        self._disconnect()
        self._engine.dispose()

    def _serve_lot(self, jobs: list[Job]) -> None:
        try:
            if self._connection is None:
                self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._serve(self._connection, jobs)
        except BaseException as error:
            self._disconnect()
            for job in jobs:
                # Those that are answered, or given up, stay so.
                with contextlib.suppress(InvalidStateError):
                    job.answer.set_exception(error)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # It may be broken, and is thrown away.
            with contextlib.suppress(Exception):
                connection.invalidate()
                connection.close()


def read_each(connection: Connection, jobs: list[Job]) -> None:
    """
    Serves a readers' lane: each statement sees what is committed when it runs.
    """
    for job in jobs:
        if not job.answer.set_running_or_notify_cancel():
            continue
        try:
            job.answer.set_result(carry_out(job.work, connection))
        except Exception as error:
            job.answer.set_exception(error)


async def copy_log(connection: AsyncConnection) -> None:
    """
    Copies SQLite's log into the database, as far as readers let it. Writers go on meanwhile.
    """
    (await connection.execute(text("PRAGMA wal_checkpoint(PASSIVE)"))).all()


class Turnstile:
    """
    Lets one pass at a time, in order, on whatever event loop or thread each of them is. SQLite's own way is to sleep
    and try again, which may pass somebody over for seconds.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[Future[None]] = deque()

    def _enter(self) -> Future[None] | None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return None
            turn: Future[None] = Future()
            self._waiting.append(turn)
            return turn

    async def __aenter__(self) -> None:
        if (turn := self._enter()) is None:
            return
        try:
            await asyncio.wrap_future(turn)
        except asyncio.CancelledError:
            if not turn.cancel():  # it was ours already
                self._next()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._next()

    def __enter__(self) -> None:
        if (turn := self._enter()) is not None:
            turn.result()

    def __exit__(self, *_: object) -> None:
        self._next()

    def _next(self) -> None:
        with self._guard:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return
            self._taken = False


class Writers:
    """
    All who write to one SQLite file in this process, on whatever loop: ``turnstile`` is their queue, and ``ask`` has
    work done on the lane that they share. The threads live while somebody who has asked is there.
    """

    def __init__(self) -> None:
        self.turnstile = Turnstile()
        self._latest = float("inf")
        self._guard = threading.Lock()
        self._lane: Lane | None = None
        self._copier: Lane | None = None
        self._written = 0
        self._users: set[object] = set()

    def ask(self, user: object, make_engine: Callable[[], Engine], work: Work[T], durable: bool = True) -> Future[T]:
        """
        Has ``work`` done in a transaction, for ``user``, who says ``leave`` at the end.
        """
        with self._guard:
            self._users.add(user)
            if self._lane is None:
                self._copier = Lane("copier", make_engine(), read_each)
                self._lane = Lane("writer", make_engine(), partial(self._write_together, self._copier))
            return self._lane.ask(work, durable)

    def leave(self, user: object) -> None:
        """
        ``user`` asks for nothing more. Blocks until what was asked is done, where it was the last one.
        """
        with self._guard:
            self._users.discard(user)
            if self._users or self._lane is None:
                return
            lane, self._lane = self._lane, None
            copier, self._copier = self._copier, None
        lane.close()
        if copier is not None:
            copier.close()

    def hurry(self, seconds: float) -> None:
        """
        From ``seconds`` on, nobody waits for another process's lock.
        """
        self._latest = time.monotonic() + seconds

    def begin(self, connection: Connection) -> None:
        """
        Takes the write lock. Blocks for as long as another process has it, within bounds.
        """
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

    def _write_together(self, copier: Lane, connection: Connection, jobs: list[Job]) -> None:
        answers: list[tuple[Job, Any]] = []
        # A durable commit waits for the disk, and takes all before it along.
        synchronous = "FULL" if any(job.durable for job in jobs) else "NORMAL"
        if connection.info.get("synchronous") != synchronous:
            connection.exec_driver_sql(f"PRAGMA synchronous = {synchronous}")
            connection.info["synchronous"] = synchronous
        with self.turnstile:
            self.begin(connection)
            # Who gave up while another process had the lock has nothing written.
            wanted = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            alone = len(wanted) == 1
            for job in wanted:
                if not alone:
                    connection.exec_driver_sql("SAVEPOINT one")
                try:
                    answers.append((job, carry_out(job.work, connection)))
                except Exception as error:
                    job.answer.set_exception(error)
                    # What it has written is undone, and nobody else's.
                    connection.exec_driver_sql("ROLLBACK" if alone else "ROLLBACK TO one")
                if not alone:
                    connection.exec_driver_sql("RELEASE one")
            if answers:
                connection.exec_driver_sql("COMMIT")
            elif not alone:
                connection.exec_driver_sql("ROLLBACK")
        for job, answer in answers:
            job.answer.set_result(answer)
        self._written += 1
        if self._written >= COPY_AFTER:
            self._written = 0
            copier.ask(copy_log)
