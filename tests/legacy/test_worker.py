"""
The consumer's worker: it can be stopped, survives whatever a task does, and writes only behind its fence.
"""

from __future__ import annotations

import threading

import pytest

from legacy_twisted import functions, tasks
from legacy_twisted.loops import Fence
from legacy_twisted.worker import BackgroundWorker, makePool


@pytest.fixture
def worker(jobs, pool):
    fence = Fence("consumer", jobs.owner, jobs.database)
    jobs.database.writeNow(fence.take, None)
    return BackgroundWorker(jobs, pool, fence)


@pytest.fixture
def does(monkeypatch):
    """
    Gives the task `test` a function.
    """
    return lambda function: monkeypatch.setitem(functions.FUNCTIONS, "test", function)


def insert(jobs, name="test", **more):
    return jobs.database.writeNow(lambda c: tasks.insert(c, name, {}, **more))


def statuses(jobs):
    return [row[0] for row in jobs.sql("SELECT status FROM tasks ORDER BY seq")]


def run(worker, pool):
    """
    Run the worker on a thread; it has ended when the returned function returns.
    """
    ended = threading.Event()
    pool.callInThread(lambda: (worker.run(), ended.set()))

    def stopped():
        worker.stop()
        assert ended.wait(10)

    return stopped


def test_it_can_be_stopped(jobs, worker, pool):
    """
    The article's `while True` under deferToThread keeps the process from exiting; this one ends when it is told to,
    though it waits for work.

    Seen to fail with `while True` in place of `while not self.stopping.is_set()`.
    """
    run(worker, pool)()


def test_it_wakes_at_once(jobs, worker, pool, does):
    """
    With a poll of an hour, a task that is handed in is begun without waiting.
    """
    object.__setattr__(jobs.settings, "poll", 3600.0)
    begun = threading.Event()
    does(lambda attempt: begun.set())
    stop = run(worker, pool)

    insert(jobs)
    worker.wake()

    assert begun.wait(10)
    stop()


def test_it_wakes_for_other_processes(jobs, worker, pool, does):
    """
    With a poll of an hour, a row that somebody else has written is begun without a word to us.

    Seen to fail with `self._awake.wait(pause)` in place of `_sleep`.
    """
    object.__setattr__(jobs.settings, "poll", 3600.0)
    begun = threading.Event()
    does(lambda attempt: begun.set())
    stop = run(worker, pool)

    insert(jobs)

    assert begun.wait(10)
    stop()


def test_successors_follow_at_once(jobs, worker, pool, does):
    """
    What waits for another task is begun when that has ended.
    """
    object.__setattr__(jobs.settings, "poll", 3600.0)
    done = []
    last = threading.Event()
    does(lambda attempt: done.append(attempt.id) or (len(done) == 3 and last.set()))
    first = insert(jobs)
    second = insert(jobs, after=first)
    third = insert(jobs, after=second)

    stop = run(worker, pool)

    assert last.wait(10)
    stop()
    assert [first, second, third] == done


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_nothing_a_task_raises_ends_the_worker(jobs, worker, pool, does, error):
    """
    Not even SystemExit: the row says what happened, and the next task runs.

    Seen to fail with `except Exception` in `_attempt`: the row stays RUNNING.
    """

    def fail(attempt):
        raise error

    does(fail)
    insert(jobs)
    row = worker.write(tasks.claim, 1)[0][0]
    worker.took(row)

    worker.perform(dict(row, max_attempts=1))

    assert ["FAILURE"] == statuses(jobs)
    assert 0 == len(worker)


def test_unknown_names_fail(jobs, worker):
    """
    A row of a name that nobody knows here ends with an error that says so.
    """
    insert(jobs, name="nobody.knows")
    row = worker.write(tasks.claim, 1)[0][0]
    worker.took(row)

    worker.perform(dict(row, max_attempts=1))

    assert "LookupError: this process knows no task 'nobody.knows'" == jobs.sql("SELECT error FROM tasks")[0][0]


def test_a_stop_gives_unfinished_tasks_back(jobs, worker, pool, does):
    """
    A task that runs longer than half the grace period is asked to end, and its row waits for the next process.
    """
    object.__setattr__(jobs.settings, "grace", 0.2)
    begun = threading.Event()

    def forever(attempt):
        begun.set()
        while True:
            attempt.checkpoint()

    does(forever)
    insert(jobs)
    stop = run(worker, pool)
    assert begun.wait(10)

    stop()

    assert [("PENDING", None, 1, 0)] == jobs.sql("SELECT status, owner, attempts, failures FROM tasks")


def test_a_stalled_task_does_not_hold_the_stop(jobs, worker, pool, does):
    """
    A function that never looks up is left behind after the grace period; its heart stops, so that rescue finds it.
    """
    object.__setattr__(jobs.settings, "grace", 0.1)
    begun, release = threading.Event(), threading.Event()
    does(lambda attempt: begun.set() or release.wait(10))
    insert(jobs)
    stop = run(worker, pool)
    assert begun.wait(10)

    stop()

    assert ["RUNNING"] == statuses(jobs)
    assert worker.ended.is_set()
    release.set()


def test_cancelled_at_the_next_checkpoint(jobs, worker, does):
    """
    A running task sees the wish to cancel, and ends CANCELLED.
    """

    def work(attempt):
        jobs.database.writeNow(tasks.cancel, attempt.id)
        attempt._looked -= 60
        attempt.checkpoint(0.5)

    does(work)
    insert(jobs)
    row = worker.write(tasks.claim, 1)[0][0]
    worker.took(row)

    worker.perform(row)

    assert [("CANCELLED", 0.5)] == jobs.sql("SELECT status, progress FROM tasks")


def test_a_timeout_is_a_failure(jobs, worker, does):
    """
    A task past its timeout fails at its next checkpoint.
    """

    def work(attempt):
        attempt._began -= 60
        attempt.checkpoint()

    does(work)
    insert(jobs)
    jobs.sql("UPDATE tasks SET timeout = 1.5")
    row = worker.write(tasks.claim, 1)[0][0]
    worker.took(row)

    worker.perform(row)

    assert [("RETRY", "TimeoutError: ran longer than 1.5 seconds")] == jobs.sql("SELECT status, error FROM tasks")


def test_effects_commit_with_success(jobs, worker, does):
    """
    What a function adds to its end is in the same transaction: an error in it undoes both.
    """

    def bad(connection):
        connection.execute("INSERT INTO cache (key, value, refreshed_at) VALUES ('k', 'v', 'now')")
        raise tasks.Lost("test")

    does(lambda attempt: attempt.atEnd(bad))
    insert(jobs)
    row = worker.write(tasks.claim, 1)[0][0]
    worker.took(row)

    worker.perform(row)

    assert ["RUNNING"] == statuses(jobs)
    assert [] == jobs.sql("SELECT key FROM cache")


def test_a_fenced_worker_writes_nothing(jobs, worker, pool, does):
    """
    Once the epoch was raised a task's end, its effects and the next claim are refused, and the worker ends.

    Seen to fail without `self.fence.check(connection)` in `_fenced`: the row ends SUCCESS.
    """
    begun, go = threading.Event(), threading.Event()
    does(lambda attempt: begun.set() or go.wait(10))
    insert(jobs)
    stop = run_quietly(worker, pool)
    assert begun.wait(10)
    jobs.sql("UPDATE loops SET epoch = 5, owner = 'modern:x'")
    insert(jobs)

    go.set()

    assert stop.wait(10)
    assert ["RUNNING", "PENDING"] == statuses(jobs)
    assert 5 == worker.refused.epoch


def run_quietly(worker, pool):
    ended = threading.Event()

    def target():
        try:
            worker.run()
        except Exception:
            ended.set()

    pool.callInThread(target)
    return ended


def test_an_idle_worker_wakes_rarely(jobs, worker, monkeypatch):
    """
    It looks for the work of other processes a few times a second while there was none for long, and thirty times after
    a task.

    Seen to fail with one pause between two looks: they were half of what an idle server cost.
    """
    looks = []
    monkeypatch.setattr(jobs.database, "flavour", "sqlite")
    monkeypatch.setattr(worker, "_changed", lambda: looks.append(1) and False)

    worker._sleep(0.3)
    busy = len(looks)
    worker._busy -= 10
    worker._sleep(0.3)

    assert busy >= 6
    assert len(looks) - busy <= 4


def test_nothing_that_runs_needs_few_heartbeats(worker, monkeypatch):
    """
    A heartbeat is a write: without a task there is one in five seconds.

    Seen to fail with one at each turn.
    """
    turns, beats = [], []
    monkeypatch.setattr(worker.ended, "wait", lambda pause: turns.append(pause) or len(turns) > 11)
    monkeypatch.setattr(worker, "beatOnce", lambda *args: beats.append(len(turns)))

    worker.beat()

    assert [5, 10] == beats


def test_heartbeats_are_for_what_runs_here(jobs, worker):
    """
    A row that this process has lost track of isn't kept alive: rescue takes it after the lease.

    Seen to fail with a heartbeat for all rows of the owner, as a fenced and revived worker would send.
    """
    insert(jobs)
    insert(jobs)
    rows = worker.write(tasks.claim, 2)[0]
    worker.took(rows[0])

    jobs.database.writeNow(worker.beatOnce, jobs.boot)

    assert [1, 0] == [row[0] for row in jobs.sql("SELECT heartbeat FROM tasks ORDER BY seq")]


def test_the_end_is_written_when_the_database_comes_back(jobs, worker, does, monkeypatch):
    """
    Work that was done isn't done again because the database was locked for a moment.
    """
    does(lambda attempt: {"n": 1})
    insert(jobs)
    row = worker.write(tasks.claim, 1)[0][0]
    worker.took(row)
    original, failures = worker.write, [OSError("locked"), OSError("locked")]

    def sometimes(*args):
        if failures:
            raise failures.pop()
        return original(*args)

    monkeypatch.setattr(worker, "write", sometimes)
    worker.perform(row)

    assert ["SUCCESS"] == statuses(jobs)


def test_pools_hold_no_process():
    """
    A thread that hangs doesn't keep the process from exiting.
    """
    pool = makePool("test", 1)
    pool.start()
    daemon = []
    done = threading.Event()
    pool.callInThread(lambda: daemon.append(threading.current_thread().daemon) or done.set())

    assert done.wait(10)
    pool.stop()
    assert [True] == daemon


def test_a_look_that_finds_nothing_writes_nothing(jobs, worker, pool, does, monkeypatch):
    """
    Where neither a bell rang nor the database changed, a poll is one statement that reads; what only time has made due
    is begun all the same.
    """
    object.__setattr__(jobs.settings, "poll", 0.01)
    looked, claims, begun = threading.Semaphore(0), [], threading.Event()
    isDue, claim = tasks.isDue, tasks.claim
    monkeypatch.setattr(tasks, "isDue", lambda c: (isDue(c), looked.release())[0])
    monkeypatch.setattr(tasks, "claim", lambda *a: (claims.append(1), claim(*a))[1])
    does(lambda attempt: begun.set())
    stop = run(worker, pool)

    assert all(looked.acquire(timeout=10) for _ in range(3))
    settled = len(claims)
    assert all(looked.acquire(timeout=10) for _ in range(5))
    idle = len(claims) - settled
    insert(jobs, delay=0.3)
    assert begun.wait(10)
    stop()

    assert 0 == idle
