"""
Loops: they outlive their errors, tick once among many, stop after the running tick, and obey the fence.
"""

from __future__ import annotations

import pytest
from twisted.internet import defer

from legacy_twisted.loops import COMEBACK, Fence, Fenced, PeriodicLoop
from legacy_twisted.server import LOOPS


class Counting(PeriodicLoop):
    """
    A loop that does what the test says.
    """

    name = "cache_refresh"
    interval = 10.0

    def __init__(self, jobs, work=lambda: None) -> None:
        super().__init__(jobs)
        self.calls = 0
        self.doing = work

    def work(self):
        self.calls += 1
        return self.doing()


def row(jobs, name="cache_refresh"):
    return jobs.sql("SELECT owner, epoch, state, ticks, errors, last_error FROM loops WHERE name = :n", n=name)[0]


def result(deferred):
    results = []
    deferred.addBoth(results.append)
    return results[0] if results else None


def test_an_error_does_not_end_it(jobs, clock):
    """
    LoopingCall ends for good at the first error; a loop logs it, counts it, and goes on.

    Seen to fail with `LoopingCall(self.work)` in place of `LoopingCall(self.tick)`: one call, and no error counted.
    """

    def fail():
        raise ValueError("no")

    loop = Counting(jobs, fail)
    loop.startService()

    clock.advance(10)
    clock.advance(10)

    assert 3 == loop.calls
    assert ("running", 0, 3, "ValueError: no") == row(jobs)[2:]


@pytest.mark.parametrize("name", [name for name in LOOPS if name != "consumer"])
def test_no_loop_ends_at_a_broken_database(jobs, clock, name):
    """
    A database that is away for a while stops no loop.

    Seen to fail for `cleanup` with `TimerService(self.interval, self.work)`: nothing runs after the first error.
    """
    loop = LOOPS[name](jobs)
    ticks = []
    loop.work = lambda: ticks.append(clock.seconds()) or jobs.database.write(lambda c: None)
    loop.startService()

    jobs.database.failing = OSError("away")
    clock.pump([loop.interval] * 3)
    jobs.database.failing = None
    clock.pump([max(loop.interval, 60.0)] * 2)

    assert "running" == loop.state
    assert len(ticks) >= 3


def test_stopping_waits_for_the_tick(jobs, clock):
    """
    The service has stopped when the tick that ran has ended, not before.
    """
    tick = defer.Deferred()
    loop = Counting(jobs, lambda: tick)
    loop.startService()

    stopped = loop.stopService()
    before = stopped.called
    tick.callback(None)

    assert (False, True) == (before, stopped.called)
    assert "stopped" == row(jobs)[2]


def test_a_tick_happens_once(jobs, clock):
    """
    Two schedulers, one tick: its key is the scheduled time, and only the first commits.

    Seen to fail without `ON CONFLICT`: the second scheduler's tick is an error.
    """
    done = []
    loops = [Counting(jobs), Counting(jobs)]
    for loop in loops:
        loop.doing = lambda loop=loop: jobs.database.write(
            loop.once, loop.scheduled(), lambda connection: done.append(clock.seconds())
        )
        loop.startService()

    clock.advance(10)

    assert [0, 10] == done
    assert 2 == row(jobs)[3]
    assert 2 == len(jobs.sql("SELECT key FROM ticks"))


def test_scheduled_time_is_everybodys(jobs, clock):
    """
    The key's time is truncated to the interval, so that it doesn't matter when a process was started.
    """
    loop = Counting(jobs)

    clock.advance(7)
    seven = loop.scheduled()
    clock.advance(5)

    assert clock.started == seven
    assert 10 == (loop.scheduled() - seven).total_seconds()


def test_an_older_epoch_is_refused(jobs):
    """
    A loop that is started with an epoch behind the fence's doesn't run, and its error says which epoch it is.
    """
    jobs.sql("UPDATE loops SET epoch = 7")
    loop = Counting(jobs)
    loop.epoch = 6
    ended = loop.whenEnded()

    started = loop.startService()

    failure = result(started)
    assert failure.check(Fenced)
    assert 7 == failure.value.epoch
    assert 7 == result(ended).value.epoch
    assert ("fenced", 0) == (loop.state, loop.calls)


def test_a_newer_epoch_raises_the_fence(jobs):
    """
    The epoch that a harness gives is written, with the owner's name.
    """
    loop = Counting(jobs)
    loop.epoch = 3

    assert 3 == result(loop.startService())
    assert (jobs.owner, 3, "running") == row(jobs)[:3]


def test_alone_it_adopts(jobs):
    """
    Without a harness the present epoch is taken, and not raised.
    """
    jobs.sql("UPDATE loops SET epoch = 7")

    assert 7 == result(Counting(jobs).startService())
    assert 7 == row(jobs)[1]


def test_fenced_off_under_a_harness(jobs, clock):
    """
    Once the epoch was raised nothing more is written; the loop ends, says so, and doesn't come back.

    Seen to fail without `self.fence.check(connection)` in `once`: the tick is committed.
    """
    done = []
    loop = Counting(jobs)
    loop.doing = lambda: jobs.database.write(loop.once, loop.scheduled(), done.append)
    loop.epoch = 1
    loop.startService()
    ended = loop.whenEnded()
    jobs.sql("UPDATE loops SET epoch = 2, owner = 'modern:x', state = 'running'")

    clock.pump([10] * 3)

    assert 1 == len(done)
    assert 2 == result(ended).value.epoch
    assert "fenced" == loop.state
    assert ("modern:x", 2, "running") == row(jobs)[:3]


def test_fenced_off_alone_it_comes_back(jobs, clock):
    """
    Standing alone the loop adopts the new epoch after a while.
    """
    loop = Counting(jobs)
    loop.doing = lambda: jobs.database.write(loop.once, loop.scheduled())
    loop.startService()
    jobs.sql("UPDATE loops SET epoch = 2, owner = 'modern:x'")
    clock.advance(10)
    fenced = loop.state

    clock.advance(COMEBACK)

    assert ("fenced", "running") == (fenced, loop.state)
    assert (jobs.owner, 2, "running") == row(jobs)[:3]


def test_stopped_while_fenced_it_stays_away(jobs, clock):
    """
    Stopping cancels the way back.
    """
    loop = Counting(jobs)
    loop.doing = lambda: jobs.database.write(loop.once, loop.scheduled())
    loop.startService()
    jobs.sql("UPDATE loops SET epoch = 2, owner = 'modern:x'")
    clock.advance(10)

    loop.stopService()
    clock.advance(10 * COMEBACK)

    assert [] == clock.getDelayedCalls()
    assert "modern:x" == row(jobs)[0]


def test_started_with_the_database_away(jobs, clock):
    """
    Alone, a loop waits for its database; a harness is told at once.
    """
    jobs.database.failing = OSError("away")
    alone, harnessed = Counting(jobs), Counting(jobs)
    harnessed.epoch = 1

    alone.startService()
    refused = result(harnessed.startService())
    jobs.database.failing = None
    clock.advance(1)

    assert refused.check(OSError)
    assert ("running", "failed") == (alone.state, harnessed.state)


def test_restarted_after_a_stop(jobs, clock):
    """
    Forth and back: the same service can be stopped and started many times.
    """
    loop = Counting(jobs)
    for epoch in range(1, 5):
        loop.epoch = epoch
        assert epoch == result(loop.startService())
        loop.stopService()

    assert 4 == loop.calls
    assert [] == clock.getDelayedCalls()


def test_fence_leaves_others_rows_alone(jobs):
    """
    A loop that ends writes its state only where the row still names it.
    """
    fence = Fence("cleanup", "legacy:me", jobs.database)
    jobs.sql("UPDATE loops SET owner = 'modern:x', state = 'running'")

    jobs.database.writeNow(fence.left, "stopped")

    assert "running" == row(jobs, "cleanup")[2]
