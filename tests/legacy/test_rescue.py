"""
Rescue: what a dead process left running is given back, by heartbeats that don't change and pids that are gone.
"""

from __future__ import annotations

import os
import socket
import subprocess

from twisted.internet import task

from legacy_twisted import tasks
from legacy_twisted.presence import isDead, startTime
from legacy_twisted.rescue import Rescue


def running(jobs, owner="dead") -> str:
    taskId = jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {}))
    jobs.database.writeNow(tasks.claim, owner, 1)
    return taskId


def state(jobs):
    return jobs.sql("SELECT status, owner, rescues, error FROM tasks ORDER BY seq")


def process(jobs, boot, pid, start, host=None):
    jobs.sql(
        "INSERT INTO processes (boot_id, host, pid, start_time, side, started_at)"
        " VALUES (:boot, :host, :pid, :start, 'legacy', 'now')",
        boot=boot,
        host=host or socket.gethostname(),
        pid=pid,
        start=start,
    )


def test_after_the_lease(jobs, clock):
    """
    A heartbeat that hasn't changed for the lease, by our own clock, and not a moment before.
    """
    running(jobs)
    Rescue(jobs).startService()

    clock.pump([1.0] * 4)
    before = state(jobs)
    clock.advance(1.0)

    assert "RUNNING" == before[0][0]
    assert [("PENDING", None, 1, None)] == state(jobs)


def test_a_beating_heart_is_left_alone(jobs, clock):
    """
    While it changes, nobody touches the row, however long it takes.
    """
    running(jobs)
    Rescue(jobs).startService()

    for _ in range(30):
        clock.advance(1.0)
        jobs.sql("UPDATE tasks SET heartbeat = heartbeat + 1")

    assert "RUNNING" == state(jobs)[0][0]


def test_the_wall_clock_does_not_matter(jobs, clock):
    """
    Times in the row may be of any clock: an hour back or forth rescues nothing.
    """
    running(jobs)
    jobs.sql("UPDATE tasks SET started_at = '2000-01-01T00:00:00.000000Z'")
    Rescue(jobs).startService()

    clock.advance(1.0)

    assert "RUNNING" == state(jobs)[0][0]


def test_a_dead_process_at_once(jobs, clock):
    """
    A process of this host that is gone isn't waited for; nor one whose pid was given to another.

    Seen to fail when only the pid is looked at: ours is alive.
    """
    running(jobs, owner="gone")
    running(jobs, owner="reused")
    running(jobs, owner="ours")
    running(jobs, owner="elsewhere")
    process(jobs, "gone", 2**22 + 1, "1")
    process(jobs, "reused", os.getpid(), "1")
    process(jobs, "ours", os.getpid(), startTime(os.getpid()))
    process(jobs, "elsewhere", 2**22 + 1, "1", host="another.host")

    Rescue(jobs).startService()

    assert ["PENDING", "PENDING", "RUNNING", "RUNNING"] == [row[0] for row in state(jobs)]
    assert [("elsewhere",), ("ours",)] == jobs.sql("SELECT boot_id FROM processes ORDER BY boot_id")


def test_start_times_tell_processes_apart():
    """
    Our own start time is known; a process that isn't there has none.
    """
    assert startTime(os.getpid()).isdigit()
    assert "" == startTime(2**22 + 1)
    assert not isDead({"host": socket.gethostname(), "pid": 1, "start_time": ""})


def test_whom_nobody_has_buried_is_dead():
    """
    A process that has ended, and whose parent doesn't ask how.

    Seen to fail without a look at its state.
    """
    with subprocess.Popen(["sleep", "60"]) as child:
        row = {"host": socket.gethostname(), "pid": child.pid, "start_time": startTime(child.pid)}
        assert not isDead(row)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert isDead(row)


def test_not_forever(jobs, clock):
    """
    A task that has killed its process twenty times is given up.
    """
    running(jobs)
    jobs.sql("UPDATE tasks SET rescues = 19")
    Rescue(jobs).startService()

    clock.pump([1.0] * 5)

    assert [("FAILURE", None, 20, "the process died 20 times")] == state(jobs)


def test_a_cancelled_one_ends(jobs, clock):
    """
    Whoever asked to cancel is not answered with another run.
    """
    taskId = running(jobs)
    jobs.database.writeNow(tasks.cancel, taskId)
    Rescue(jobs).startService()

    clock.pump([1.0] * 5)

    assert "CANCELLED" == state(jobs)[0][0]


def test_claimed_again_is_another_attempt(jobs, clock):
    """
    What was seen of one attempt says nothing about the next: the lease begins anew.
    """
    running(jobs)
    Rescue(jobs).startService()
    clock.pump([1.0] * 3)
    jobs.sql("UPDATE tasks SET status = 'PENDING', owner = NULL")
    jobs.database.writeNow(tasks.claim, "alive", 1)

    clock.pump([1.0] * 4)

    assert [("RUNNING", "alive", 0, None)] == state(jobs)


def test_engines_of_dead_processes(jobs, clock):
    """
    A row that its own process should have run, and didn't, goes to the durable table; one that waits for another not.
    """
    lost = jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {}, engine="thread"))
    jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {}, engine="thread", after=lost))
    jobs.sql("UPDATE tasks SET run_at = '2000-01-01T00:00:00.000000Z'")

    Rescue(jobs).startService()

    assert [("table",), ("thread",)] == jobs.sql("SELECT engine FROM tasks ORDER BY seq")


def test_work_is_announced(jobs, clock):
    """
    The consumer hears of rescued tasks at once.
    """
    heard = []
    jobs.whenWork(lambda: heard.append(clock.seconds()))
    running(jobs)
    Rescue(jobs).startService()

    clock.pump([1.0] * 6)

    assert [5.0] == heard
    assert isinstance(clock, task.Clock)


def test_it_reads_before_it_writes(jobs, clock, monkeypatch):
    """
    A round that would change nothing writes nothing, but a sign of life of the loop every five seconds; one that finds
    something writes at once.
    """
    rescue = Rescue(jobs)
    rounds = []
    whole = rescue.round
    monkeypatch.setattr(rescue, "round", lambda c: (rounds.append(clock.seconds()), whole(c))[1])
    rescue.startService()
    begun = clock.seconds()

    clock.pump([1.0] * 6)
    idle = [at - begun for at in rounds]
    process(jobs, "gone", 999999999, "1")
    running(jobs, "gone")
    clock.advance(1.0)

    assert [0.0, 5.0] == idle
    assert 7.0 == rounds[-1] - begun
    assert [("PENDING", None, 1, None)] == state(jobs)
