"""
A loop that is observed says what each tick has done, and lets the other one look before it does.
"""

from __future__ import annotations

import os

from twisted.internet import defer

from legacy_twisted import tasks
from legacy_twisted.chores import CacheRefresh, Cleanup, DailyReport
from legacy_twisted.loops import Fence
from legacy_twisted.rescue import Rescue
from legacy_twisted.worker import BackgroundWorker

HOUR = 3600


class Observer:
    """
    Notes what it is told; C{looking} holds ticks up.
    """

    def __init__(self, looking=None):
        self.told = []
        self.asked = []
        self.looking = looking

    def __call__(self, tick, effects):
        self.told.append((tick, effects))

    def before(self, tick, **facts):
        self.asked.append((tick, facts))
        return self.looking or defer.succeed(None)


def started(loop, observer):
    loop.observe = observer
    loop.startService()
    return loop


def test_cache_tells_its_counts(jobs, clock):
    """
    After the commit, under the tick's key.
    """
    observer = Observer()
    jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {}))

    started(CacheRefresh(jobs), observer)

    assert [("cache_refresh@2026-11-21T12:00:00.000000Z", [("row", "cache:tasks", {"PENDING": 1})])] == observer.told


def test_a_tick_waits_until_the_other_has_looked(jobs, clock):
    """
    What a tick changes is not there any more afterwards.

    Seen to fail with the write begun beside the look.
    """
    looking = defer.Deferred()
    observer = Observer(looking)
    started(CacheRefresh(jobs), observer)

    before = jobs.sql("SELECT value FROM cache")
    looking.callback(None)

    assert [] == before
    assert [("{}",)] == jobs.sql("SELECT value FROM cache")


def test_another_schedulers_tick_is_not_told(jobs, clock):
    """
    Only who has done a tick says so.
    """
    first, second = Observer(), Observer()
    started(CacheRefresh(jobs), first)
    started(CacheRefresh(jobs), second)

    assert (1, 0) == (len(first.told), len(second.told))


def test_a_failed_tick_is_not_told(jobs, clock):
    """
    What was rolled back was not done.
    """
    observer = Observer()
    loop = started(CacheRefresh(jobs), observer)
    jobs.sql("DELETE FROM ticks")
    observer.told.clear()
    jobs.database.failing = OSError("away")

    loop.tick()

    assert [] == observer.told


def test_cleanup_tells_rows_and_files(jobs, clock):
    """
    Each row and each file that went.
    """
    jobs.sql("INSERT INTO ticks VALUES ('old', 'x', 'y', 0, '2026-11-01T00:00:00.000000Z')")
    taskId = jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {}))
    jobs.sql("UPDATE tasks SET status = 'SUCCESS', expires_at = '2026-11-21T12:00:00.000000Z'")
    path = jobs.settings.path("uploads", "orphan")
    open(path, "w").close()
    os.utime(path, (0, 0))
    loop = Cleanup(jobs)
    jobs.database.writeNow(loop.fence.take, None)

    effects = loop.sweep(jobs.now(), jobs.now(), HOUR)

    assert [
        ("row", f"tasks:{taskId}", None),
        ("row", "ticks:old", None),
        ("file", "uploads/orphan", None),
    ] == effects
    assert loop.sweep(jobs.now(), jobs.now(), HOUR) is None


def test_report_tells_its_figures(jobs, clock):
    """
    Once: the midnights that were done before are nobody's news.
    """
    observer = Observer()
    jobs.sql("INSERT INTO users VALUES ('1', 'a@b.c', 'a@b.c', 'A', '2026-11-20T23:59:59.999999Z')")

    started(DailyReport(jobs), observer)
    clock.advance(60)

    figures = {"day": "2026-11-20", "tasks": {}, "users": 1}
    assert [("daily_report@2026-11-21T00:00:00.000000Z", [("row", "reports:2026-11-20", figures)])] == observer.told


def test_rescue_tells_what_it_gave_back(jobs, clock):
    """
    With its own clock as what the tick goes by; rounds that gave nothing back are not told.
    """
    observer = Observer()
    taskId = jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {}))
    jobs.database.writeNow(lambda c: tasks.claim(c, "somebody", 1))
    started(Rescue(jobs), observer)

    for _ in range(int(jobs.settings.lease) + 1):
        clock.advance(1)

    assert [[("row", f"tasks:{taskId}", {"attempts": 1})]] == [effects for _, effects in observer.told]
    assert [0.0, 1.0] == [facts["now"] for _, facts in observer.asked[:2]]


def test_consumer_tells_its_claims(jobs, pool, monkeypatch):
    """
    What it took of what was there when the other one looked; what came in between is not told.
    """
    monkeypatch.setattr("twisted.internet.threads.blockingCallFromThread", lambda reactor, f, *a, **k: f(*a, **k))
    fence = Fence("consumer", jobs.owner, jobs.database)
    jobs.database.writeNow(fence.take, None)
    worker = BackgroundWorker(jobs, pool, fence)
    worker.loop = observer = Observer()
    observer.observe = observer
    monkeypatch.setattr(worker, "perform", lambda row: None)
    there = jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {}))

    def later(tick, **facts):
        jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {}))

    observer.before = later
    worker._round()

    assert 2 == len(worker)
    [(tick, effects)] = observer.told
    assert tick.startswith("consumer@")
    assert [("claim", f"tasks:{there}", {"name": "log.write", "attempt": 1})] == effects
