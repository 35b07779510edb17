"""
Doubles for the tests of the Twisted job server: a stepped clock with a date, and a database that answers at once.
"""

from __future__ import annotations

import datetime
import threading
from pathlib import Path

import pytest
from twisted.internet import defer, task

from legacy_twisted.database import Database
from legacy_twisted.server import Jobs, prepareFolders
from legacy_twisted.settings import makeSettings

NOON = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)


@pytest.fixture(scope="session", autouse=True)
def reactor():
    """
    A LoopingCall looks for a reactor when it is made, whatever clock it gets then, and installs one where there is
    none. The tests share a process with those that need the bridged one.
    """
    from bridge.loop import install

    return install()


class SteppedClock(task.Clock):
    """
    A reactor that is only a clock, with the wall clock's time beside it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.started = NOON

    def now(self) -> datetime.datetime:
        return self.started + datetime.timedelta(seconds=self.seconds())

    def callFromThread(self, function, *args):
        function(*args)

    def getThreadPool(self):
        raise AssertionError("nothing here may use the reactor's pool")


class DirectDatabase(Database):
    """
    Runs each transaction at once, on the caller's thread.
    """

    pool = True
    failing: Exception | None = None

    def _later(self, writes, interaction, *args, **kwargs):
        if self.failing is not None:
            return defer.fail(self.failing)
        return defer.execute(self._now, writes, interaction, *args, **kwargs)


class SteppedJobs(Jobs):
    """
    What loops and pages share, on a stepped clock.
    """

    def __init__(self, settings, clock: SteppedClock) -> None:
        super().__init__(settings, clock)
        self.database = DirectDatabase(settings.databaseURL, clock)
        self.database.migrate()

    def now(self) -> datetime.datetime:
        return self.reactor.now()

    def sql(self, statement: str, **values):
        """
        Rows of one statement, or None for one that changes something.
        """
        if statement.startswith("SELECT"):
            return [tuple(row) for row in self.database.readNow(lambda c: c.rows(statement, **values))]
        return self.database.writeNow(lambda c: c.execute(statement, **values))


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def jobs(tmp_path: Path, clock: SteppedClock):
    settings = makeSettings({"data": str(tmp_path / "data")})
    prepareFolders(settings)
    jobs = SteppedJobs(settings, clock)
    yield jobs
    jobs.database.forget()


class LocalPool:
    """
    A pool whose threads are started one for each call, and can be waited for.
    """

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def callInThread(self, function, *args) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def pool():
    pool = LocalPool()
    yield pool
    pool.join()
