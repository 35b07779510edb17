"""
The tree of services on a running reactor: hand-overs, deaths, and a stop that leaves nothing behind.
"""

from __future__ import annotations

import threading
import time

import pytest
import pytest_twisted
from twisted.internet import defer, task

from legacy_twisted import functions, tasks
from legacy_twisted.loops import Fenced
from legacy_twisted.server import make_service


def theReactor():
    from twisted.internet import reactor

    return reactor


def pause(seconds=0.01):
    return task.deferLater(theReactor(), seconds, lambda: None)


async def until(condition, seconds=20.0):
    """
    Returns what `condition()` gives once that is true; it may give a Deferred.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = await defer.maybeDeferred(condition)
        if found:
            return found
        await pause()
    raise AssertionError("it never came to that")


@pytest_twisted.async_yield_fixture
async def tree(tmp_path):
    """
    A started tree without the loops that a test doesn't need.
    """
    tree = make_service(
        {
            "data": str(tmp_path / "data"),
            "listen": "tcp:0:interface=127.0.0.1",
            "loops": "consumer",
            "grace": 2.0,
        }
    )
    # As a harness does it: the loop is its own to start.
    tree.consumer = tree.getServiceNamed("consumer")
    tree.consumer.disownServiceParent()
    tree.privilegedStartService()
    tree.startService()
    await until(lambda: tree.jobs.database.pool.running)
    yield tree
    if tree.consumer.running:
        await tree.consumer.stopService()
    await tree.stopService()


def write(tree, interaction, *args):
    return tree.jobs.database.write(interaction, *args)


def statuses(tree):
    found = tree.jobs.database.read(lambda c: c.rows("SELECT status FROM tasks ORDER BY seq"))
    return found.addCallback(lambda rows: [row["status"] for row in rows])


async def hand_in(tree, name="test"):
    await write(tree, lambda c: tasks.insert(c, name, {}))
    tree.jobs.work()


def threads(name):
    return [thread for thread in threading.enumerate() if name in thread.name]


@pytest_twisted.ensureDeferred
async def test_stopping_waits_for_the_thread(tree, monkeypatch):
    """
    A hand-over is safe only when the old owner's thread has ended: the Deferred says when.
    """
    begun, go = threading.Event(), threading.Event()
    monkeypatch.setitem(functions.FUNCTIONS, "test", lambda run: begun.set() or (go.wait(10) and None))
    await tree.consumer.startService()
    await hand_in(tree)
    await until(begun.is_set)

    stopped = tree.consumer.stopService()
    await pause(0.05)
    before = stopped.called
    go.set()
    await stopped

    assert not before
    assert ["SUCCESS"] == await statuses(tree)
    assert [] == threads("consumer")


@pytest_twisted.ensureDeferred
async def test_a_stalled_thread_is_left_behind(tree, monkeypatch):
    """
    A task that hangs doesn't hold the stop: that returns after the grace period, and the task hangs on.

    Seen to fail with a join of the pool that isn't bounded.
    """
    begun, go = threading.Event(), threading.Event()
    monkeypatch.setitem(functions.FUNCTIONS, "test", lambda run: begun.set() or (go.wait(30) and None))
    await tree.consumer.startService()
    await hand_in(tree)
    await until(begun.is_set)

    await tree.consumer.stopService()
    hanging, left = threads("consumer"), await statuses(tree)
    go.set()

    assert hanging
    assert ["RUNNING"] == left


@pytest_twisted.ensureDeferred
async def test_forth_and_back(tree, monkeypatch):
    """
    Twenty hand-overs: each epoch runs, what was handed in between is done, and no thread or connection is left.
    """
    monkeypatch.setitem(functions.FUNCTIONS, "test", lambda run: None)
    for epoch in range(1, 21):
        await hand_in(tree)
        tree.consumer.epoch = epoch
        assert epoch == await tree.consumer.startService()
        await until(lambda n=epoch: statuses(tree).addCallback(lambda found: ["SUCCESS"] * n == found))
        await tree.consumer.stopService()

    assert [] == threads("consumer")
    assert 0 == len(tree.jobs.database._opened)


@pytest_twisted.ensureDeferred
async def test_an_older_epoch_ends(tree, monkeypatch):
    """
    The fence is raised while a task runs: its end is refused, the loop ends with the new epoch in its error, and it
    can be started again with a newer one, which gets the task from rescue.
    """
    begun, go = threading.Event(), threading.Event()
    monkeypatch.setitem(functions.FUNCTIONS, "test", lambda run: begun.set() or (go.wait(10) and None))
    tree.consumer.epoch = 1
    await tree.consumer.startService()
    ended = tree.consumer.whenEnded()
    await hand_in(tree)
    await until(begun.is_set)

    await write(tree, lambda c: c.execute("UPDATE loops SET epoch = 5, owner = 'modern:x'"))
    go.set()
    with pytest.raises(Fenced) as caught:
        await ended

    assert 5 == caught.value.epoch
    assert ["RUNNING"] == await statuses(tree)
    tree.consumer.epoch = 6
    assert 6 == await tree.consumer.startService()


@pytest_twisted.ensureDeferred
async def test_a_dead_consumer_is_started_again(tree, monkeypatch):
    """
    An error that ends the worker itself is logged, shows in the table of loops, and isn't the end.
    """
    from legacy_twisted.worker import BackgroundWorker

    monkeypatch.setitem(functions.FUNCTIONS, "test", lambda run: None)
    healthy, deaths = BackgroundWorker._round, []

    def die(self):
        if not deaths:
            deaths.append(True)
            raise MemoryError("no")
        return healthy(self)

    monkeypatch.setattr(BackgroundWorker, "_round", die)
    await tree.consumer.startService()
    await hand_in(tree)

    await until(lambda: statuses(tree).addCallback(lambda found: found == ["SUCCESS"]))
    assert deaths


@pytest_twisted.ensureDeferred
async def test_busy_workers_leave_the_reactors_pool_alone(tree, monkeypatch):
    """
    All workers busy, and a name is resolved at once: tasks have a pool of their own.

    Seen to fail with the worker under `threads.deferToThread`: the look-up waits for the tasks.
    """
    begun, go = [], threading.Event()
    monkeypatch.setitem(functions.FUNCTIONS, "test", lambda run: begun.append(1) or (go.wait(20) and None))
    await tree.consumer.startService()
    for _ in range(12):
        await hand_in(tree)
    await until(lambda: len(begun) == tree.jobs.settings.workers)

    started = time.monotonic()
    await theReactor().resolve("localhost")
    took = time.monotonic() - started
    go.set()

    assert took < 5


@pytest_twisted.ensureDeferred
async def test_nothing_is_left(tmp_path):
    """
    A whole tree, started and stopped: no thread, no timer, no listening port.
    """
    reactor = theReactor()
    threadsBefore = {thread.ident for thread in threading.enumerate()}
    callsBefore = set(reactor.getDelayedCalls())
    tree = make_service({"data": str(tmp_path / "data"), "listen": "tcp:0:interface=127.0.0.1"})
    tree.privilegedStartService()
    tree.startService()
    await until(lambda: all(tree.getServiceNamed(name).state == "running" for name in tree.jobs.settings.loops))

    await tree.stopService()

    # The reactor's own pool may have grown; its threads are not ours.
    ours = [
        thread.name
        for thread in threading.enumerate()
        if thread.ident not in threadsBefore and "twisted.internet.reactor" not in thread.name
    ]
    assert [] == ours
    assert [] == [call for call in reactor.getDelayedCalls() if call not in callsBefore]


@pytest_twisted.ensureDeferred
async def test_a_second_instance(tmp_path):
    """
    Two trees in one process, as a sandbox needs them, share nothing: neither rows nor wake-ups nor ids.
    """
    trees = [
        make_service({"data": str(tmp_path / name), "listen": "tcp:0:interface=127.0.0.1"}) for name in ("a", "b")
    ]
    for tree in trees:
        tree.privilegedStartService()
        tree.startService()

    await write(trees[0], lambda c: tasks.insert(c, "log.write", {"message": "x"}))
    trees[0].jobs.work()

    await until(lambda: statuses(trees[0]).addCallback(lambda found: found == ["SUCCESS"]))
    assert [] == await statuses(trees[1])
    assert trees[0].jobs.boot != trees[1].jobs.boot
    for tree in trees:
        await tree.stopService()
