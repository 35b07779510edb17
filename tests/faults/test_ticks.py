"""
A stop in the middle of a tick, for each loop of either side: the tick ends, the process exits in time, and the next
start neither loses nor repeats what the tick did.

The middle is made long by the database itself: a trigger on what the tick writes counts to some millions, inside the
tick's own transaction. That somebody is in the middle is seen by the write lock, which nobody else holds for so long.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import attrs
import pytest

from tests.contract.postgres import temporary_database
from tests.contract.servers import Server
from tests.contract.stores import Database
from tests.faults.load import settle_all
from tests.faults.test_stop import crowd, expected_status
from tests.faults.test_uploads import until

Serve = Callable[..., Server]
Connect = Callable[[], Database]

pytestmark = pytest.mark.slow

LOOP = """\
grace = 10.0
[[loop]]
name = "{name}"
legacy = "service:{name}"
modern = "{name}"
stage = "{stage}"
"""
TASK = "10000000-0000-4000-8000-000000000001"
PAST = "2026-01-01T00:00:00.000000Z"
COUNTING = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000000) SELECT MAX(i) FROM n"
LINE = {"message": "once", "task_id": TASK}


@attrs.frozen
class Tick:
    """
    A loop, the write of its tick that is made long, what is there for the tick to do, and what shows that it did it.
    """

    loop: str
    slow: str
    given: str
    shows: str
    shown: object


TICKS = (
    Tick(
        "consumer",
        "BEFORE UPDATE OF status ON tasks WHEN NEW.status = 'RUNNING'",
        "INSERT INTO tasks (id, name, params, run_at, created_at)"
        f" VALUES ('{TASK}', 'log.write', '{{\"message\":\"once\"}}', '{PAST}', '{PAST}')",
        f"SELECT attempts FROM tasks WHERE id = '{TASK}' AND status IN ('SUCCESS', 'PENDING')",
        1,
    ),
    Tick(
        "rescue",
        "BEFORE UPDATE OF rescues ON tasks WHEN NEW.rescues > OLD.rescues",
        "INSERT INTO tasks (id, name, params, run_at, created_at, started_at, status, owner, attempts)"
        f" VALUES ('{TASK}', 'log.write', '{{\"message\":\"once\"}}', '{PAST}', '{PAST}', '{PAST}', 'RUNNING', 'x', 1)",
        f"SELECT rescues FROM tasks WHERE id = '{TASK}' AND status = 'PENDING'",
        1,
    ),
    Tick(
        "daily_report",
        "BEFORE INSERT ON reports",
        "INSERT INTO users (user_id, email, email_key, name, created_at)"
        f" VALUES ('u', 'a@b.c', 'a@b.c', 'A', '{PAST}')",
        "SELECT COUNT(*) FROM reports JOIN ticks ON loop = 'daily_report'",
        1,
    ),
    Tick(
        "cache_refresh",
        "BEFORE INSERT ON cache",
        "DELETE FROM cache",
        "SELECT COUNT(*) FROM cache JOIN ticks ON loop = 'cache_refresh'",
        1,
    ),
    Tick(
        "cleanup",
        "BEFORE DELETE ON ticks",
        f"INSERT INTO ticks (key, loop, owner, epoch, committed_at) VALUES ('old', 'old', 'x', 0, '{PAST}')",
        "SELECT COUNT(*) FROM ticks WHERE loop = 'cleanup' AND NOT EXISTS (SELECT 1 FROM ticks WHERE key = 'old')",
        1,
    ),
)


def value(stored: Database, sql: str) -> object:
    found = stored.query(sql)
    return next(iter(found[0].values())) if found else None


class Locked:
    """
    A long write in SQLite, and whether somebody is in it.
    """

    def __init__(self, stored: Database, tick: Tick) -> None:
        self.stored = stored
        stored.query(f"CREATE TRIGGER slow {tick.slow} BEGIN {COUNTING}; END")

    def in_it(self) -> bool:
        """
        Whether somebody holds the write lock, for longer than any other transaction here.
        """
        path = self.stored.url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            for _ in range(60):
                try:
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    time.sleep(0.01)
                else:
                    connection.execute("ROLLBACK")
                    return False
        return True

    def end(self) -> None:
        self.stored.query("DROP TRIGGER slow")


class Asleep:
    """
    A long write in PostgreSQL, and whether somebody is in it.
    """

    def __init__(self, stored: Database, tick: Tick) -> None:
        self.stored = stored
        event, _, condition = tick.slow.partition(" WHEN ")
        when = f"WHEN ({condition})" if condition else ""
        sleeping = "BEGIN PERFORM pg_sleep(1.5); RETURN COALESCE(NEW, OLD); END"
        stored.query(f"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS '{sleeping}'")
        stored.query(f"CREATE TRIGGER slow {event} FOR EACH ROW {when} EXECUTE FUNCTION slow()")

    def in_it(self) -> bool:
        asleep = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        return bool(self.stored.query(asleep))

    def end(self) -> None:
        self.stored.query("DROP FUNCTION slow CASCADE")


def stop_in_the_middle(serve: Serve, stored: Database, tick: Tick, name: str, data: Path, **settings: str) -> None:
    """
    SIGTERM while the loop's transaction runs: it is committed, the loop says that it has stopped, the process ends in
    time; and after the next start, with all loops, each effect has happened once.
    """
    stored.query(tick.given)
    slow = (Asleep if name.endswith("postgresql") else Locked)(stored, tick)
    server = serve(name, JOBS_LOOPS=tick.loop, JOBS_LEASE="0.5", JOBS_GRACE="10", **settings)
    assert until(slow.in_it), server.last_words()

    begun = time.monotonic()
    status = server.stop(timeout=60)
    took = time.monotonic() - begun
    slow.end()
    shown = value(stored, tick.shows)
    state = value(stored, f"SELECT state FROM loops WHERE name = '{tick.loop}'")
    said = server.said()
    left = stored.query("SELECT status, owner, attempts, rescues FROM tasks")
    done = stored.query("SELECT * FROM ticks WHERE loop = ?", tick.loop)
    reports = stored.query("SELECT * FROM reports")
    serve(name, JOBS_LEASE="0.5", **settings)
    settle_all(stored)

    assert status in expected_status(name, signal.SIGTERM), said
    assert took < 12.0 + crowd()
    assert (tick.shown, "stopped") == (shown, state), (left, said)
    assert "Traceback" not in said
    if tick.loop in ("consumer", "rescue"):
        lines = [json.loads(line) for line in (data / "app.log").read_text().splitlines()]
        assert [LINE] == lines
        assert int(tick.loop == "rescue") == value(stored, f"SELECT rescues FROM tasks WHERE id = '{TASK}'")
    else:
        assert done == stored.query("SELECT * FROM ticks WHERE key = ?", done[0]["key"])
    if tick.loop == "daily_report":
        assert reports == stored.query("SELECT * FROM reports")


def every(*names: str, short: Callable[[str, str], bool]) -> pytest.MarkDecorator:
    """
    All ticks under each name; those that are not in the short run belong to the full count.
    """
    return pytest.mark.parametrize(
        "name, tick",
        [
            pytest.param(name, tick, id=f"{name}-{tick.loop}", marks=() if short(name, tick.loop) else pytest.mark.long)
            for name in names
            for tick in TICKS
        ],
    )


# Legacy's ticks are waited for by one place, whatever they do: one of them shows it, and the full count has all.
@every("legacy", "modern", short=lambda name, loop: name == "modern" or loop == "rescue")
def test_a_stop_in_the_middle_of_a_tick_lets_it_end(
    serve: Serve, database: Connect, tmp_path: Path, name: str, tick: Tick
) -> None:
    """
    Each application alone, on SQLite.

    Seen to fail on modern where a stop doesn't wait for the tick (`whole` without its grace): the tick is rolled back.
    Legacy's ticks are waited for twice, by their loop and by the database's end.
    """
    serve(name, JOBS_LOOPS="").stop()
    stop_in_the_middle(serve, database(), tick, name, tmp_path / "data")


@pytest.mark.servers("postgresql")
@every("legacy-postgresql", "modern-postgresql", short=lambda name, loop: (name[0], loop) == ("m", "cleanup"))
def test_a_stop_in_the_middle_of_a_tick_lets_it_end_on_postgresql(
    serve: Serve, tmp_path: Path, name: str, tick: Tick
) -> None:
    """
    The same on PostgreSQL, where a tick holds the lock of its fence's row.
    """
    with temporary_database("postgresql", tmp_path) as url:
        serve(name, JOBS_DATABASE=url, JOBS_LOOPS="").stop()
        with closing(Database(url)) as stored:
            stop_in_the_middle(serve, stored, tick, name, tmp_path / "data", JOBS_DATABASE=url)


@every("owned-legacy", "owned-modern", short=lambda name, loop: loop == "cache_refresh")
def test_a_stop_in_the_middle_of_a_tick_lets_it_end_under_the_harness(
    serve: Serve, database: Connect, tmp_path: Path, name: str, tick: Tick
) -> None:
    """
    The same where the harness starts and stops the loop, on the side that owns it.
    """
    stage = name.removeprefix("owned-")
    more = LOOP.format(name=tick.loop, stage=stage)
    serve(name, JOBS_LOOPS="").stop()
    stop_in_the_middle(partial(serve, more=more), database(), tick, name, tmp_path / "data")
