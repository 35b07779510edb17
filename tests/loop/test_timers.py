"""
Timers without a delay: they wait in a queue of their own, and nobody can tell by anything but the time it takes.
"""

from __future__ import annotations

import time

import pytest

from bridge.loop.loops import make_loop
from bridge.loop.reactor import BridgeReactor


@pytest.fixture(params=["asyncio", "uvloop"])
def reactor(request):
    made = BridgeReactor(new_loop=lambda: make_loop(request.param))
    yield made
    made.loop.close()


def _run(reactor: BridgeReactor, seconds: float = 0.03) -> None:
    reactor.callLater(seconds, reactor.crash)
    reactor.run(installSignalHandlers=False)


def test_they_run_in_order(reactor):
    """
    One that is made first runs first, with what it was given.
    """
    seen = []
    reactor.callLater(0, seen.append, 1)
    reactor.callLater(0, lambda *args, **kwargs: seen.append((args, kwargs)), 2, three=3)
    reactor.callLater(0, seen.append, 4)

    assert [] == seen
    _run(reactor)
    assert [1, ((2,), {"three": 3}), 4] == seen


def test_what_fell_due_earlier_runs_first(reactor):
    """
    A timer that was due before one without a delay was made runs before it, as from one heap, and what is due later
    after it. (Seen to run the second before the first without the look at the heap.)
    """
    seen = []

    def busy() -> None:
        reactor.callLater(0.001, seen.append, "due earlier")
        time.sleep(0.003)
        reactor.callLater(0, seen.append, "at once")
        reactor.callLater(0.001, seen.append, "due later")
        time.sleep(0.003)

    reactor.callLater(0, busy)
    _run(reactor)

    assert ["due earlier", "at once", "due later"] == seen


def test_what_they_make_waits_for_the_loop(reactor):
    """
    A timer that makes the next one starves nothing: between two of them the loop has a turn. (Seen to starve it where a
    pass ran until its queue was empty.)
    """
    turns, passes = [], []

    def again() -> None:
        passes.append(1)
        reactor.callLater(0, again if len(passes) < 100 else reactor.crash)

    def turn() -> None:
        turns.append(1)
        if len(passes) < 100:
            reactor.loop.call_soon(turn)

    reactor.callLater(0, again)
    reactor.loop.call_soon(turn)
    _run(reactor, 20)

    assert 100 == len(passes)
    assert len(turns) >= 99


def test_all_are_listed(reactor):
    """
    `getDelayedCalls` has those that wait in the queue too, in the middle of a pass as well.
    """
    listed = []
    far = reactor.callLater(100, lambda: None)
    reactor.callLater(0, lambda: listed.append(reactor.getDelayedCalls()))
    second = reactor.callLater(0, lambda: None)
    cancelled = reactor.callLater(0, lambda: None)
    cancelled.cancel()

    before = reactor.getDelayedCalls()
    _run(reactor)

    assert far in before and second in before and cancelled not in before
    assert far in listed[0] and second in listed[0] and 3 == len(listed[0])  # and the one that ends the run
    assert [far] == reactor.getDelayedCalls()
    far.cancel()


def test_they_can_be_moved_and_cancelled(reactor):
    """
    Until it runs, one may be put off, brought back or cancelled, by another that runs before it too.
    """
    seen = []
    cancelled = reactor.callLater(0, seen.append, "cancelled")
    victim = reactor.callLater(1, seen.append, "never")
    put_off = reactor.callLater(0, seen.append, "put off")
    reactor.callLater(0, victim.cancel)
    returned = reactor.callLater(0, seen.append, "brought back")
    cancelled.cancel()
    put_off.reset(0.01)
    returned.delay(3600)
    returned.reset(0.005)

    assert 0 < put_off.getTime() - reactor.seconds() <= 0.01
    assert not cancelled.active() and put_off.active()
    _run(reactor)

    assert ["brought back", "put off"] == seen
    assert [] == reactor.getDelayedCalls()
    assert (1, 0) == (put_off.called, victim.called)


def test_one_that_was_put_off_needs_no_other(reactor):
    """
    One that was put off is run when it is due, not when the next timer is. (Seen to wait for that where the loop's
    handle stayed as it was.)
    """
    reactor.callLater(0, reactor.crash).reset(0.005)
    last = reactor.callLater(10, reactor.crash)
    reactor.run(installSignalHandlers=False)

    assert last.active()


def test_one_waits_for_the_start(reactor):
    """
    Made before the reactor runs, it waits for that, though the loop may run before.
    """
    seen = []
    reactor.callLater(0, seen.append, 1)
    reactor.loop.run_until_complete(_turns(reactor))

    assert [] == seen
    assert 0 == reactor.timeout()
    _run(reactor)
    assert [1] == seen


async def _turns(reactor: BridgeReactor) -> None:
    waiting = reactor.loop.create_future()
    reactor.loop.call_later(0.005, waiting.set_result, None)
    await waiting


def test_cancelled_ones_leave_nothing(reactor):
    """
    Many that were cancelled, with and without a delay, are forgotten, and what was cancelled is counted right
    afterwards. (Seen to be counted below zero where a sweep took the whole count away.)
    """
    for _ in range(100):
        reactor.callLater(0, lambda: None).cancel()
        reactor.callLater(5, lambda: None).cancel()

    def more() -> None:
        for _ in range(100):
            reactor.callLater(0, lambda: None).cancel()
            reactor.callLater(5, lambda: None).cancel()

    reactor.callLater(0, more)
    _run(reactor)

    assert [] == reactor.getDelayedCalls()
    assert reactor._cancellations >= 0


def test_an_error_stops_no_other(reactor):
    """
    What one raises is logged, and the next runs.
    """
    from twisted.logger import globalLogPublisher

    seen, events = [], []
    reactor.callLater(0, lambda: 1 / 0)
    reactor.callLater(0, seen.append, 1)
    globalLogPublisher.addObserver(events.append)
    try:
        _run(reactor)
    finally:
        globalLogPublisher.removeObserver(events.append)

    assert [1] == seen
    assert ZeroDivisionError in [event["log_failure"].type for event in events if "log_failure" in event]


def test_a_pass_may_be_run_by_a_timer(reactor):
    """
    A timer that runs the pass itself, as Twisted's own tests do, takes the rest of the queue with it. (Seen to end in
    an IndexError.)
    """
    seen, errors = [], []
    reactor.loop.set_exception_handler(lambda loop, found: errors.append(found))
    reactor.callLater(0, reactor.runUntilCurrent)
    reactor.callLater(0, seen.append, 1)
    _run(reactor)

    assert ([1], []) == (seen, errors)


def test_a_pass_may_be_run_by_a_timer_that_was_due(reactor):
    """
    The same by a timer with a delay, whose turn comes before the queue's. (Seen to end in an IndexError.)
    """
    seen, errors = [], []
    reactor.loop.set_exception_handler(lambda loop, found: errors.append(found))

    def busy() -> None:
        reactor.callLater(0.001, reactor.runUntilCurrent)
        time.sleep(0.003)
        reactor.callLater(0, seen.append, 1)

    reactor.callLater(0, busy)
    _run(reactor)

    assert ([1], []) == (seen, errors)


@pytest.mark.parametrize("delay", [0, 5])
def test_replaced_seconds_are_asked(reactor, delay):
    """
    Who replaces `reactor.seconds`, as Twisted's own tests do, moves what timers count from. (Seen to fail with the
    function that it had been.)
    """
    reactor.seconds = lambda: 1000.0

    call = reactor.callLater(delay, lambda: None)

    assert 1000.0 + delay == call.getTime()
