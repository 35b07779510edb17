"""
The loops that keep house: C{daily_report}, C{cache_refresh}, C{cleanup}.
"""

import datetime
import json
import os
import time

from twisted.application.internet import TimerService
from twisted.internet import defer, task, threads

from legacy_twisted.functions import FOLDERS, remove
from legacy_twisted.loops import PeriodicLoop
from legacy_twisted.tasks import timestamp
from legacy_twisted.worker import makePool, stopPool

DAY = datetime.timedelta(days=1)
HOUR = 3600.0
TICKS_KEPT = datetime.timedelta(days=7)


class DailyReport(PeriodicLoop):
    """
    The service C{daily_report}: at 00:00 UTC, the day before.

    The LoopingCall runs to the next midnight, but not longer than a minute
    at a time: the wall clock may be set, and the machine may sleep.  That
    is also how a midnight that was missed is made up.
    """

    name = "daily_report"
    LONGEST = 60.0
    _done = None

    def begin(self):
        self._stopped = False
        self._looping = task.LoopingCall(self.tick)
        self._looping.clock = self.reactor
        self._ticking = self._looping.start(self.untilMidnight(), now=True)

    def untilMidnight(self):
        now = self.jobs.now()
        midnight = (now + DAY).replace(hour=0, minute=0, second=0, microsecond=0)
        return min(self.LONGEST, max(0.001, (midnight - now).total_seconds()))

    def work(self):
        self._looping.interval = self.untilMidnight()
        midnight = self.jobs.now().replace(hour=0, minute=0, second=0, microsecond=0)
        if midnight == self._done:
            return None
        reported = self.database.write(self.report, midnight)
        reported.addCallback(self.tell, self.key(midnight))
        return reported.addCallback(self._reported, midnight)

    def _reported(self, _, midnight):
        self._done = midnight

    def report(self, connection, midnight):
        if not existedBefore(connection, timestamp(midnight)):
            # The server is younger than that midnight: it wasn't missed.
            self.fence.check(connection)
            return None
        return self.once(connection, midnight, writeReport, midnight)


def existedBefore(connection, moment):
    return any(
        connection.row(f"SELECT 1 FROM {table} WHERE created_at < :moment LIMIT 1", moment=moment)
        for table in ("tasks", "users", "reports")
    )


def writeReport(connection, midnight):
    day = midnight - DAY
    rows = connection.rows(
        "SELECT status, count(*) AS n FROM tasks"
        " WHERE created_at >= :start AND created_at < :end GROUP BY status ORDER BY status",
        start=timestamp(day),
        end=timestamp(midnight),
    )
    users = connection.row(
        "SELECT count(*) AS n FROM users WHERE created_at < :end", end=timestamp(midnight)
    )
    report = {
        "day": day.strftime("%Y-%m-%d"),
        "tasks": {row["status"]: row["n"] for row in rows},
        "users": users["n"],
    }
    connection.execute(
        "INSERT INTO reports (day, body, created_at) VALUES (:day, :body, :now)"
        " ON CONFLICT (day) DO NOTHING",
        day=report["day"],
        body=json.dumps(report),
        now=timestamp(),
    )
    return [("row", f"reports:{report['day']}", report)]


class CacheRefresh(PeriodicLoop):
    """
    The service C{cache_refresh}: counts the tasks by status.
    """

    name = "cache_refresh"
    interval = 10.0

    def work(self):
        when = self.scheduled()
        looked = self.before(self.key(when))
        looked.addCallback(lambda _: self.database.write(self.once, when, refresh))
        return looked.addCallback(self.tell, self.key(when))


def refresh(connection):
    rows = connection.rows(
        "SELECT status, count(*) AS n FROM tasks GROUP BY status ORDER BY status"
    )
    counts = {row["status"]: row["n"] for row in rows}
    connection.execute(
        "INSERT INTO cache (key, value, refreshed_at) VALUES ('tasks', :value, :now)"
        " ON CONFLICT (key) DO UPDATE"
        " SET value = excluded.value, refreshed_at = excluded.refreshed_at",
        value=json.dumps(counts),
        now=timestamp(),
    )
    return [("row", "cache:tasks", counts)]


class Cleanup(PeriodicLoop):
    """
    The service C{cleanup}: a TimerService that removes leftovers.
    """

    name = "cleanup"
    interval = 15.0
    _timer = None

    def begin(self):
        self._pool = makePool("cleanup", 1)
        self._pool.start()
        self._timer = TimerService(self.interval, self.tick)
        self._timer.clock = self.reactor
        self._timer.startService()

    @defer.inlineCallbacks
    def end(self):
        timer, self._timer = self._timer, None
        if timer is not None:
            pool = self._pool
            # Its Deferred fires when the running tick has ended.
            yield timer.stopService()
            yield stopPool(self.reactor, pool, self.jobs.settings.grace)

    def work(self):
        when, now, oldest = self.scheduled(), self.jobs.now(), time.time() - HOUR
        looked = self.before(self.key(when), now=now, oldest=oldest)
        looked.addCallback(
            lambda _: threads.deferToThreadPool(
                self.reactor, self._pool, self.sweep, when, now, oldest
            )
        )
        return looked.addCallback(self.tell, self.key(when))

    def sweep(self, when, now, oldest):
        """
        One tick, on its own thread.

        @param oldest: a POSIX time; what is older is a leftover.
        @return: its effects, or L{None} when another scheduler has had it.
        """
        effects, known = self.database.writeNow(self.expire, when, now)
        if effects is None:
            return None
        for path in leftovers(self.jobs.settings, known, oldest):
            remove(path)
            effects.append(("file", os.path.relpath(path, self.jobs.settings.path("")), None))
        return effects

    def expire(self, connection, when, now):
        """
        @return: (the effects, the ids of all uploads).
        """
        effects = self.once(connection, when, self.removeExpired, now)
        rows = connection.rows("SELECT upload_id FROM uploads")
        return effects, {row["upload_id"] for row in rows}

    def removeExpired(self, connection, now):
        expired = connection.rows(
            "DELETE FROM tasks WHERE expires_at <= :now"
            " AND status IN ('SUCCESS', 'FAILURE', 'CANCELLED') RETURNING id",
            now=timestamp(now),
        )
        old = connection.rows(
            "DELETE FROM ticks WHERE committed_at < :old RETURNING key",
            old=timestamp(now - TICKS_KEPT),
        )
        return [("row", f"tasks:{row['id']}", None) for row in expired] + [
            ("row", f"ticks:{row['key']}", None) for row in old
        ]


def leftovers(settings, known, before):
    """
    The paths of unfinished files, and of uploads without a row, that
    haven't been written to since C{before}.
    """
    for folder in FOLDERS:
        with os.scandir(settings.path(folder)) as entries:
            for entry in entries:
                orphan = folder == "uploads" and entry.name not in known
                if not orphan and not entry.name.endswith(".part"):
                    continue
                try:
                    if entry.is_file() and entry.stat().st_mtime < before:
                        yield entry.path
                except FileNotFoundError:
                    # Its writer has just renamed it.
                    continue
