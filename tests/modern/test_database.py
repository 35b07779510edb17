"""
Transactions end, whatever becomes of who began them.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from sqlalchemy import text
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.database import Database
from modern_fastapi.lanes import COPY_AFTER
from tests.modern.application import until


def test_only_what_is_durable_waits_for_the_disk(tmp_path: Path) -> None:
    """
    A claim or a sign of life is committed without a wait for the disk; what a request asked for and how a task ended
    never is, whoever shares its transaction.

    Seen to fail with the mode of the first job of a transaction for all of it.
    """
    normal, full = 1, 2

    async def scenario() -> None:
        database = Database(f"sqlite:///{tmp_path / 'x.db'}")

        async def mode(connection: AsyncConnection) -> int:
            return int((await connection.execute(text("PRAGMA synchronous"))).scalar_one())

        async def wait(connection: AsyncConnection) -> None:
            time.sleep(0.1)  # noqa: ASYNC251 -- it runs on the lane's thread

        assert normal == await database.work(mode, durable=False)
        assert full == await database.work(mode)
        # What comes while the lane is busy shares the next transaction.
        busy = asyncio.ensure_future(database.work(wait))
        await asyncio.sleep(0.05)
        both = await asyncio.gather(database.work(mode, durable=False), database.work(mode))
        await busy
        assert [full, full] == both
        await database.close()

    asyncio.run(scenario())


def test_who_commits_copies_no_log(tmp_path: Path) -> None:
    """
    The log is copied into the database by a thread of its own, so that no request's commit waits for it; and it is
    copied, so that it doesn't grow.

    Seen to fail with SQLite's own copying, where a commit wrote the database, and without any.
    """
    file, piece = tmp_path / "x.db", 100_000

    async def scenario() -> None:
        database = Database(f"sqlite:///{file}")

        async def write(connection: AsyncConnection) -> None:
            await connection.execute(text("INSERT INTO t VALUES (zeroblob(:size))"), {"size": piece})

        async with database.write() as connection:
            await connection.execute(text("CREATE TABLE t (a BLOB)"))
        before = file.stat().st_size
        for _ in range(COPY_AFTER - 1):
            await database.work(write)
        assert before == file.stat().st_size

        await database.work(write)

        async def copied() -> bool:
            return file.stat().st_size > before

        await until(copied)
        await database.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["look", "work", "read", "write"])
def test_a_closed_database_refuses_whoever_comes_late(tmp_path: Path, way: str) -> None:
    """
    Who still works on it after its end is told so. Seen to fail, with a thread that nobody would close.
    """

    async def scenario() -> None:
        database = Database(f"sqlite:///{tmp_path / 'x.db'}")

        async def one(connection: AsyncConnection) -> object:
            return await connection.execute(text("SELECT 1"))

        async def inside() -> None:
            async with getattr(database, way)() as connection:
                await one(connection)

        ask: Callable[[], Awaitable[object]] = inside
        if way in ("look", "work"):
            ask = lambda: getattr(database, way)(one)  # noqa: E731
        await ask()
        await database.close()
        before = threading.active_count()

        with pytest.raises(RuntimeError, match="the database is closed"):
            await ask()

        assert before == threading.active_count()

    asyncio.run(scenario())


def test_a_cancelled_writer_leaves_no_lock(tmp_path: Path) -> None:
    """
    Cancelled at any point of a transaction, it holds nothing up, and its connection brings no transaction to the next
    one. Seen to fail with a BEGIN of our own on the driver's cursor: the driver's thread began for nobody.
    """

    async def scenario() -> int:
        database = Database(f"sqlite:///{tmp_path / 'x.db'}")
        async with database.write() as connection:
            await connection.execute(text("CREATE TABLE t (a INTEGER)"))
        dice = random.Random(1)

        async def write() -> None:
            async with database.write() as connection:
                await connection.execute(text("INSERT INTO t VALUES (1)"))

        for _ in range(300):
            writing = asyncio.ensure_future(write())
            for _ in range(dice.randrange(40)):
                # Without and with the driver's thread getting on meanwhile.
                await asyncio.sleep(dice.choice([0, 0, 0.00005, 0.0002]))
            writing.cancel()
            await asyncio.wait({writing})
            assert writing.cancelled() or writing.exception() is None
        # A lock that was left would cost 2 s here, and 30 in the end.
        await asyncio.wait_for(write(), 1.5)
        async with database.read() as connection:
            written = (await connection.execute(text("SELECT count(*) FROM t"))).scalar_one()
        await database.close()
        return int(written)

    assert 0 < asyncio.run(scenario()) <= 301


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_closed_connection_holds_no_lock(tmp_path: Path) -> None:
    """
    A writer's connection is thrown away in the middle of its transaction while a statement of it is held: others write
    at once. Seen to fail without the roll-back at the closing.
    """

    async def scenario() -> int:
        database = Database(f"sqlite:///{tmp_path / 'x.db'}")
        async with database.write() as connection:
            await connection.execute(text("CREATE TABLE t (a INTEGER)"))

        async def write() -> None:
            async with database.write() as connection:
                await connection.execute(text("INSERT INTO t VALUES (1)"))

        with pytest.raises(PendingRollbackError):
            async with database.write() as connection:
                await connection.execute(text("INSERT INTO t VALUES (2)"))
                driver = (await connection.get_raw_connection()).driver_connection
                assert driver is not None
                held = await driver.execute("SELECT 1 UNION SELECT 2")
                await held.fetchone()
                await connection.invalidate()
        await asyncio.wait_for(write(), 1.5)
        assert held is not None
        async with database.read() as connection:
            written = (await connection.execute(text("SELECT sum(a) FROM t"))).scalar_one()
        await database.close()
        return int(written)

    assert asyncio.run(scenario()) == 1


@attrs.define
class Slow:
    """
    A connection that takes its time, at being opened or at a statement.
    """

    when: str
    seconds: float
    began: threading.Event = attrs.field(factory=threading.Event)
    made: list[sqlite3.Connection] = attrs.field(factory=list)

    def take(self) -> int:
        self.began.set()
        time.sleep(self.seconds)
        return 1

    def connect(self, *where: Any, **how: Any) -> sqlite3.Connection:
        if self.when == "opening":
            self.take()
        connection: sqlite3.Connection = how["factory"](*where, **how)
        connection.create_function("take", 0, self.take)
        self.made.append(connection)
        return connection

    async def left_by_one_cancelled_twice(self, database: Database) -> list[threading.Thread]:
        """
        The threads of who is cancelled for what he is at, and once more while he puts his connection away.
        """

        async def use() -> None:
            async with database.read() as connection:
                await connection.execute(text("SELECT take()"))

        using = asyncio.ensure_future(use())
        assert await asyncio.to_thread(self.began.wait, 60.0)
        for _ in range(2):
            using.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([using])
        return list(database._threads)


@pytest.mark.parametrize("when", ["opening", "busy"])
def test_a_closed_database_has_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """
    What a cancelled user leaves of a connection has ended with its database, while the event loop still hears it.

    Seen to fail where only the pool was closed: "Event loop is closed", from the driver's thread; and, on Python 3.13,
    with a warning of a connection that was opened for nobody.
    """
    slow = Slow(when, 0.3)
    monkeypatch.setattr(sqlite3, "connect", slow.connect)

    async def scenario() -> None:
        database = Database(f"sqlite:///{tmp_path / 'x.db'}")
        left = await slow.left_by_one_cancelled_twice(database)
        await database.close()
        assert [False] == [thread.is_alive() for thread in left]

    asyncio.run(scenario())
    gc.collect()


# The thread ends after the loop that it would tell.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.timeout(30)
def test_a_loop_ends_whose_connection_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A statement that outlasts all patience holds no event loop.

    Seen to fail: the loop waited for ever for the second answer of a thread that had given its last.
    """
    slow = Slow("busy", 1.0)
    monkeypatch.setattr(sqlite3, "connect", slow.connect)
    monkeypatch.setattr("modern_fastapi.database.SLICE_SECONDS", 0.01)
    left: list[threading.Thread] = []

    async def scenario() -> None:
        database = Database(f"sqlite:///{tmp_path / 'x.db'}")
        left.extend(await slow.left_by_one_cancelled_twice(database))
        await database.close()

    asyncio.run(scenario())

    for thread in left:
        thread.join()
    # Its thread fell over the loop before it came to that.
    slow.made[0].close()
