"""
The loops that keep house, on a stepped clock: midnights that come, that were missed, and that weren't ours.
"""

from __future__ import annotations

import datetime
import json
import os

import pytest

from legacy_twisted import chores, tasks
from legacy_twisted.chores import CacheRefresh, Cleanup, DailyReport

HOUR = 3600


def reports(jobs):
    return [json.loads(row[0]) for row in jobs.sql("SELECT body FROM reports ORDER BY day")]


def yesterday(jobs):
    """
    One task and one user of the day before.
    """
    jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {}))
    jobs.sql("UPDATE tasks SET created_at = '2026-11-20T10:00:00.000000Z'")
    jobs.sql("INSERT INTO users VALUES ('1', 'a@b.c', 'a@b.c', 'A', '2026-11-20T23:59:59.999999Z')")


def advance(clock, seconds, step=30):
    for _ in range(int(seconds / step)):
        clock.advance(step)


def test_at_midnight(jobs, clock):
    """
    The report of the day is made when it ends, once, and with what the day had.
    """
    jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {}))
    jobs.sql("UPDATE tasks SET created_at = '2026-11-21T13:00:00.000000Z'")
    DailyReport(jobs).startService()

    advance(clock, 12 * HOUR - 30)
    before = reports(jobs)
    advance(clock, 60)

    assert [] == before
    assert [{"day": "2026-11-21", "tasks": {"PENDING": 1}, "users": 0}] == reports(jobs)
    assert [("daily_report@2026-11-22T00:00:00.000000Z",)] == jobs.sql("SELECT key FROM ticks")


def test_each_midnight_once(jobs, clock):
    """
    Three days, three reports, with two schedulers at work.
    """
    yesterday(jobs)
    for _ in range(2):
        DailyReport(jobs).startService()

    advance(clock, 72 * HOUR, step=60)

    assert ["2026-11-20", "2026-11-21", "2026-11-22", "2026-11-23"] == [report["day"] for report in reports(jobs)]
    assert 4 == len(jobs.sql("SELECT key FROM ticks"))


def test_a_missed_midnight_is_made_up(jobs, clock):
    """
    A server that was down at midnight makes the report when it starts.
    """
    yesterday(jobs)

    DailyReport(jobs).startService()

    assert [{"day": "2026-11-20", "tasks": {"PENDING": 1}, "users": 1}] == reports(jobs)


def test_a_new_server_has_missed_nothing(jobs, clock):
    """
    Before its first midnight there is no report to make.
    """
    DailyReport(jobs).startService()

    assert [] == reports(jobs)


def test_a_wall_clock_that_jumps(jobs, clock):
    """
    A machine that slept over midnight, or whose clock was set, is noticed within a minute.

    Seen to fail without LONGEST: the timer sleeps by the monotonic clock until its own midnight.
    """
    yesterday(jobs)
    DailyReport(jobs).startService()
    clock.started += datetime.timedelta(hours=20)

    clock.advance(60)

    assert ["2026-11-20", "2026-11-21"] == [report["day"] for report in reports(jobs)]


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_summer_time_is_no_matter(jobs, clock, day):
    """
    Where Europe's clocks are changed, UTC's day has 24 hours all the same.
    """
    clock.started = datetime.datetime.fromisoformat(f"{day}T00:00:01+00:00")
    jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {}))
    jobs.sql("UPDATE tasks SET created_at = :at", at=f"{day}T12:00:00.000000Z")
    DailyReport(jobs).startService()

    advance(clock, 24 * HOUR)

    assert [day] == [report["day"] for report in reports(jobs)]


def test_cache(jobs, clock):
    """
    Every ten seconds the counts are those of the table.
    """
    CacheRefresh(jobs).startService()
    jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {}))

    clock.advance(9)
    before = jobs.sql("SELECT value FROM cache")
    clock.advance(1)

    assert [("{}",)] == before
    assert [('{"PENDING": 1}',)] == jobs.sql("SELECT value FROM cache")


def touch(jobs, name, age, now):
    path = jobs.settings.path(name)
    open(path, "w").close()
    os.utime(path, (now - age, now - age))


def test_cleanup(jobs, clock):
    """
    Leftovers older than an hour go, uploads of no row too; whatever is newer or known stays.
    """
    now = 1_800_000_000
    jobs.sql("INSERT INTO uploads VALUES ('known', 'f', 1, 't', 'now')")
    for name in ("known", "orphan", "x.part"):
        touch(jobs, f"uploads/{name}", 2 * HOUR, now)
    touch(jobs, "uploads/young", 60, now)
    touch(jobs, "exports/e.csv", 2 * HOUR, now)
    touch(jobs, "exports/e.csv.boot.part", 2 * HOUR, now)
    loop = Cleanup(jobs)
    jobs.database.writeNow(loop.fence.take, None)

    loop.sweep(jobs.now(), jobs.now(), now - HOUR)

    assert ["known", "young"] == sorted(os.listdir(jobs.settings.path("uploads")))
    assert ["e.csv"] == os.listdir(jobs.settings.path("exports"))


def test_expired_rows(jobs, clock):
    """
    Ended tasks go when they expire, unfinished ones never; old ticks go too.
    """
    for status in ("SUCCESS", "PENDING", "FAILURE"):
        taskId = jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {}))
        jobs.sql(
            "UPDATE tasks SET status = :s, expires_at = '2026-11-21T11:00:00.000000Z' WHERE id = :id",
            s=status,
            id=taskId,
        )
    jobs.sql("INSERT INTO ticks VALUES ('old', 'x', 'y', 0, '2026-11-01T00:00:00.000000Z')")
    loop = Cleanup(jobs)
    jobs.database.writeNow(loop.fence.take, None)

    loop.sweep(jobs.now(), jobs.now(), 0)

    assert [("PENDING",)] == jobs.sql("SELECT status FROM tasks")
    assert [("cleanup@2026-11-21T12:00:00.000000Z",)] == jobs.sql("SELECT key FROM ticks")
    assert chores.HOUR == HOUR
