"""
The same promises on PostgreSQL, where many may write at once.
"""

from __future__ import annotations

import os
import threading
import time

import pytest
import pytest_twisted
from twisted.internet import task

from legacy_twisted import tasks
from legacy_twisted.database import Database
from legacy_twisted.loops import Fence
from legacy_twisted.rescue import Rescue
from legacy_twisted.server import make_service

pytestmark = pytest.mark.servers("postgresql")
SERVER = "postgresql://postgres@127.0.0.1:5432/"


@pytest.fixture
def url():
    """
    A database of this test alone.
    """
    import psycopg

    name = f"legacy_test_{os.getpid()}"
    with psycopg.connect(SERVER + "postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name}")
        yield SERVER + name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(url):
    database = Database(url, None)
    database.pool = True
    database.migrate()
    yield database
    database.forget()


def together(database, *functions):
    """
    Run all at once, many times, and give what went wrong.
    """
    errors = []
    barrier = threading.Barrier(len(functions))

    def run(function):
        try:
            for _ in range(40):
                barrier.wait(30)
                function()
        except Exception as error:
            barrier.abort()
            errors.append(error)
        finally:
            database.forget()

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return errors


def test_migrations_by_many(url):
    """
    Servers that start together bring the schema up to date once.
    """
    databases = [Database(url, None) for _ in range(4)]
    errors = []

    def migrate(database):
        try:
            database.migrate()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=migrate, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == errors


def test_heartbeats_do_not_wait_for_each_other(database):
    """
    Two consumers that stand alone beat at the same moment, and neither is a deadlock's victim.

    Seen to fail with FOR SHARE before the fence's row is written: `psycopg.errors.DeadlockDetected`.
    """
    fences = [Fence("consumer", f"legacy:{n}", database) for n in range(2)]
    for fence in fences:
        database.writeNow(fence.take, None)

    def beat(fence):
        def transaction(connection):
            fence.check(connection, ticks=True)
            fence.ticked(connection)

        return lambda: database.writeNow(transaction)

    assert [] == together(database, *[beat(fence) for fence in fences])


def test_each_task_is_claimed_once(database):
    """
    Four claimers, and no row twice: they skip what another has locked.
    """
    database.writeNow(lambda c: [tasks.insert(c, "log.write", {}) for _ in range(200)])
    claimed = []

    def claim(owner):
        skip = database.engine.skipLocked
        return lambda: claimed.extend(
            row["id"] for row in database.writeNow(lambda c: tasks.claim(c, owner, 3, skip))[0]
        )

    assert [] == together(database, *[claim(str(n)) for n in range(4)])
    assert 200 == len(claimed) == len(set(claimed))


def test_a_raised_epoch_waits_for_the_write(database):
    """
    A write that was checked commits before the epoch is raised; what comes after is refused: there is no in-between.
    """
    fence = Fence("consumer", "legacy:me", database)
    database.writeNow(fence.take, 1)
    checked, order = threading.Event(), []

    def slow(connection):
        fence.check(connection)
        checked.set()
        time.sleep(0.2)
        order.append("write")

    def raised():
        checked.wait(10)
        database.writeNow(lambda c: c.execute("UPDATE loops SET epoch = 2 WHERE name = 'consumer'"))
        order.append("raise")
        database.forget()

    thread = threading.Thread(target=raised)
    thread.start()
    database.writeNow(slow)
    thread.join()

    assert ["write", "raise"] == order


def test_rescue_leaves_alone_what_is_being_ended(database):
    """
    A row whose end is being written is not waited for: the two would wait for each other's locks.

    Seen to fail without the look before the update: `psycopg.errors.DeadlockDetected`.
    """
    database.writeNow(lambda c: [tasks.insert(c, "log.write", {}) for _ in range(2)])
    rows = database.writeNow(lambda c: tasks.claim(c, "me", 2))[0]
    locked, go = threading.Event(), threading.Event()

    def ending(connection):
        connection.row("SELECT id FROM tasks WHERE id = :id FOR UPDATE", id=rows[1]["id"])
        locked.set()
        go.wait(10)
        tasks.succeed(connection, "me", rows[1], None)

    def end():
        database.writeNow(ending)
        database.forget()

    thread = threading.Thread(target=end)
    thread.start()
    assert locked.wait(10)
    rescue = Rescue.__new__(Rescue)
    rescue.database = database

    def both(connection):
        stranded = connection.rows("SELECT * FROM tasks ORDER BY seq")
        given = [rescue.giveBack(connection, row) for row in stranded]
        go.set()
        return given

    assert [1, 0] == database.writeNow(both)
    thread.join()
    assert ["PENDING", "SUCCESS"] == [
        row["status"] for row in database.readNow(lambda c: c.rows("SELECT status FROM tasks ORDER BY seq"))
    ]


def test_a_broken_connection_is_replaced(database):
    """
    After the server has cut a connection, the next transaction has a new one.
    """
    import psycopg

    pid = database.readNow(lambda c: c.row("SELECT pg_backend_pid() AS pid"))["pid"]
    with psycopg.connect(SERVER + "postgres", autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", [pid])

    with pytest.raises(psycopg.OperationalError):
        database.readNow(lambda c: c.row("SELECT 1 AS one"))

    assert 1 == database.readNow(lambda c: c.row("SELECT 1 AS one"))["one"]


@pytest_twisted.ensureDeferred
async def test_other_processes_work_wakes_us(url, tmp_path):
    """
    With a poll of a minute, a row that somebody else has written is done at once; and the pool lives through a cut.
    """
    from twisted.internet import reactor

    tree = make_service(
        {
            "data": str(tmp_path / "data"),
            "listen": "tcp:0:interface=127.0.0.1",
            "database": url,
            "loops": "consumer",
            "poll": 60,
        }
    )
    tree.privilegedStartService()
    tree.startService()
    consumer = tree.getServiceNamed("consumer")
    for _ in range(500):
        if consumer.state == "running":
            break
        await task.deferLater(reactor, 0.02, lambda: None)
    # The listening thread needs a moment too.
    await task.deferLater(reactor, 1.0, lambda: None)

    found = None
    for _ in range(2):
        # Not through `jobs`: nobody here is told.
        await tree.jobs.database.write(lambda c: tasks.insert(c, "log.write", {"message": "x"}))
        for _ in range(500):
            rows = await tree.jobs.database.read(lambda c: c.rows("SELECT status FROM tasks"))
            found = {row["status"] for row in rows}
            if found == {"SUCCESS"}:
                break
            await task.deferLater(reactor, 0.02, lambda: None)
    await tree.stopService()

    assert {"SUCCESS"} == found
