"""
Deferreds and awaitables, across the border in both directions.

Where a promise is about a trap of Twisted's own conversions, the same check runs over those too, and fails there.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from twisted.internet import defer, task
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from bridge.errors import NoRunningLoopError
from bridge.loop.awaiting import as_awaitable, as_deferred, returns_awaitable, returns_deferred, shielded
from bridge.loop.loops import make_loop


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    def runner(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=lambda: make_loop(request.param)) as loop:
            return loop.run(asyncio.wait_for(coroutine, 10))

    return runner


def _later(function: Callable[..., object], *args: object) -> None:
    asyncio.get_running_loop().call_later(0.001, function, *args)


# -- a Deferred, awaited -------------------------------------------------------------------------


def test_awaiting_gives_the_result_and_leaves_it(run):
    """
    The Deferred keeps its result for whoever comes next; Twisted's asFuture leaves None.
    """

    async def main():
        ours, theirs = Deferred(), Deferred()
        _later(ours.callback, 42)
        _later(theirs.callback, 42)
        awaited = await as_awaitable(ours)
        await theirs.asFuture(asyncio.get_running_loop())
        return awaited, ours.result, theirs.result

    assert (42, 42, None) == run(main())


def test_awaiting_raises_the_failure_once(run):
    """
    The await raises what the Deferred failed with, and the chain doesn't report it a second time.
    """
    reported = []

    async def main():
        deferred = Deferred()
        _later(deferred.errback, ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            await as_awaitable(deferred)
        await asyncio.sleep(0)
        del deferred
        gc.collect()

    globalLogPublisher.addObserver(reported.append)
    try:
        run(main())
    finally:
        globalLogPublisher.removeObserver(reported.append)
    assert [] == [event for event in reported if event.get("log_namespace") == "twisted.internet.defer"]


def test_a_stop_iteration_resolves(run):
    """
    A Deferred that fails with StopIteration raises a RuntimeError; asFuture would never resolve.
    """

    async def main():
        deferred = Deferred()
        _later(deferred.errback, StopIteration("odd"))
        with pytest.raises(RuntimeError) as raised:
            await as_awaitable(deferred)
        assert isinstance(raised.value.__cause__, StopIteration)

        theirs = Deferred()
        future = theirs.asFuture(asyncio.get_running_loop())
        theirs.errback(StopIteration("odd"))
        theirs.addErrback(lambda failure: None)
        return future.done()

    # Python 3.13 wraps it by itself.
    assert (sys.version_info >= (3, 13)) is run(main())


def test_a_cancelled_deferred_cancels_the_await(run):
    """
    Whoever awaits a Deferred that is cancelled sees asyncio's CancelledError, not Twisted's, which is an Exception and
    would be taken for a failure.
    """

    async def main(adapt):
        deferred = Deferred()
        _later(deferred.cancel)
        try:
            await adapt(deferred)
        except Exception:
            return "taken for a failure"
        except asyncio.CancelledError:
            return "cancelled"

    assert "cancelled" == run(main(as_awaitable))
    assert "taken for a failure" == run(main(lambda d: d.asFuture(asyncio.get_running_loop())))


def test_cancelling_waits_for_the_deferreds_clean_up(run):
    """
    A cancelled await returns when the Deferred has cleaned up; asFuture returns before.
    """

    async def main(adapt):
        events = []
        cleaning: Deferred[None] = Deferred()

        def cancelled(_: Deferred[None]) -> None:
            events.append("asked")
            _later(cleaning.callback, None)

        deferred: Deferred[None] = Deferred(cancelled)
        deferred.addErrback(lambda failure: cleaning.addCallback(lambda _: (events.append("cleaned"), failure)[1]))

        async def waiter():
            try:
                await adapt(deferred)
            finally:
                events.append("returned")

        waiting = asyncio.create_task(waiter())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0.01)
        deferred.addErrback(lambda failure: None)
        return events

    assert ["asked", "cleaned", "returned"] == run(main(as_awaitable))
    assert ["asked", "returned", "cleaned"] == run(main(lambda d: d.asFuture(asyncio.get_running_loop())))


def test_cancelling_the_await_of_a_fired_deferred_is_not_lost(run):
    """
    A task that is cancelled while it takes up what has fired already is cancelled. (Seen to go on without the check.)
    """

    async def main():
        waiting = asyncio.create_task(returns_awaitable(lambda: defer.succeed(1))())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        return waiting.cancelled()

    assert run(main()) is True


def test_a_cancellation_overtakes_what_is_granted_after_it(run):
    """
    A lock that is released right after a waiter was cancelled stays free: the Deferred is told at once. (Seen to stay
    taken by nobody where the cancellation went through a second Future, a turn of the loop later.)
    """

    async def main(adapt):
        lock = defer.DeferredLock()
        lock.acquire()
        waiting = asyncio.ensure_future(adapt(lock.acquire()))
        await asyncio.sleep(0)
        waiting.cancel()
        lock.release()
        await asyncio.wait({waiting})
        return waiting.cancelled(), lock.locked

    async def awaited(deferred):
        return await as_awaitable(deferred)

    assert (True, False) == run(main(awaited))


def test_cancelling_from_the_deferreds_own_chain_leaves_its_result(run):
    """
    A callback of a Deferred cancels who awaits it, further down the same chain: the await is cancelled, and the chain
    goes on with its result. (Seen to go on with an InvalidStateError.)
    """

    async def main():
        deferred: Deferred[int] = Deferred()
        deferred.addCallback(lambda result: (waiting.cancel(), result)[1])
        waiting = asyncio.ensure_future(as_awaitable(deferred))
        deferred.callback(5)
        await asyncio.wait({waiting})
        return waiting.cancelled(), deferred.result

    assert (True, 5) == run(main())


def test_the_fork_is_where_it_was_asked_for(run):
    """
    What is added to the Deferred later doesn't change what the await gives, whether it had fired before or not. (Seen
    to, for one that had.)
    """

    async def main():
        fired, waiting = defer.succeed(1), Deferred()
        both = [as_awaitable(fired), as_awaitable(waiting)]
        for each in (fired, waiting):
            each.addCallback(lambda result: result + 1)
        waiting.callback(1)
        return [await each for each in both], fired.result, waiting.result

    assert ([1, 1], 2, 2) == run(main())


def test_awaiting_a_deferred_from_its_own_chain(run):
    """
    A callback may have the Deferred that it belongs to awaited: that has fired, and gives its result once the chain is
    through.
    """

    async def main():
        deferred: Deferred[int] = Deferred()
        tasks = []
        deferred.addCallback(lambda result: (tasks.append(asyncio.ensure_future(as_awaitable(deferred))), result)[1])
        deferred.addCallback(lambda result: result + 1)
        deferred.callback(1)
        return await tasks[0]

    assert 2 == run(main())


def test_two_may_await_the_same(run):
    """
    As with any Future, two tasks and asyncio's own functions may wait for one awaitable.
    """

    async def main():
        deferred: Deferred[int] = Deferred()
        shared = as_awaitable(deferred)

        async def one():
            return await shared

        _later(deferred.callback, 1)
        gathered = await asyncio.gather(one(), one(), asyncio.shield(shared), asyncio.wait_for(shared, 5))
        done, pending = await asyncio.wait({shared, as_awaitable(defer.succeed(2))})
        return gathered, sorted(each.result() for each in done), pending

    assert ([1, 1, 1, 1], [1, 2], set()) == run(main())


def test_timeouts_wait_for_the_clean_up_too(run):
    """
    `asyncio.timeout` cancels the Deferred and raises its TimeoutError.
    """

    async def main():
        deferred = Deferred()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await as_awaitable(deferred)
        return deferred.called

    assert run(main()) is True


def test_a_shield_keeps_the_deferred(run):
    """
    Behind a shield the cancellation stops, and the original goes on.
    """

    async def main():
        original = Deferred()
        waiting = asyncio.ensure_future(as_awaitable(shielded(original)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        before = original.called
        original.callback("done")
        return before, original.result

    assert (False, "done") == run(main())


def test_a_shield_passes_results_on():
    """
    Unless it is cancelled, a shield fires as the original does.
    """
    good, bad = Deferred(), Deferred()
    results = []
    shielded(good).addCallback(results.append)
    shielded(bad).addErrback(lambda failure: results.append(failure.type))

    good.callback(1)
    bad.errback(KeyError())

    assert [1, KeyError] == results


def test_fired_deferreds_let_the_loop_run(run):
    """
    A loop over Deferreds that have fired already starves nothing; a plain `await` of asFuture does.
    """

    async def main(adapt):
        ticks = []

        async def ticker():
            while True:
                ticks.append(1)
                await asyncio.sleep(0)

        ticking = asyncio.create_task(ticker())
        for _ in range(50):
            await adapt(defer.succeed(None))
        ticking.cancel()
        return len(ticks)

    assert run(main(as_awaitable)) >= 49
    assert 0 == run(main(lambda d: d.asFuture(asyncio.get_running_loop())))


def test_tracebacks_show_both_halves(run):
    """
    An error that crosses the border twice shows the frames of all three functions.
    """

    async def asyncio_half():
        await asyncio.sleep(0)
        raise LookupError("deep")

    @defer.inlineCallbacks
    def twisted_half():
        yield as_deferred(asyncio_half())

    async def route():
        await as_awaitable(twisted_half())

    with pytest.raises(LookupError) as raised:
        run(route())
    frames = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]

    assert "route" in frames
    assert "twisted_half" in frames
    assert "asyncio_half" in frames


def test_awaiting_needs_a_running_loop():
    """
    Without a running loop, the error says so; a Deferred's own `__await__` is untouched.
    """
    with pytest.raises(NoRunningLoopError, match="Awaiting a Deferred needs the running event loop"):
        as_awaitable(Deferred())
    assert Deferred.__await__ is Deferred.__iter__


# -- an awaitable, as a Deferred -----------------------------------------------------------------


def test_coroutines_become_deferreds(run):
    """
    The Deferred fires with what the coroutine returns or raises, and knows the context it was made in.
    """
    who = contextvars.ContextVar("who")

    async def good():
        await asyncio.sleep(0)
        return who.get()

    async def bad():
        raise KeyError("k")

    async def main():
        who.set("me")
        return await as_awaitable(as_deferred(good())), await as_awaitable(
            as_deferred(bad()).addErrback(lambda failure: failure.type)
        )

    assert ("me", KeyError) == run(main())


def test_futures_and_awaitables_become_deferreds(run):
    """
    Futures, objects with `__await__` and Deferreds themselves are taken too.
    """

    class Odd:
        def __await__(self):
            return (yield from asyncio.sleep(0, "odd").__await__())

    async def main():
        future = asyncio.get_running_loop().create_future()
        _later(future.set_result, "future")
        deferred = defer.succeed("same")
        assert as_deferred(deferred) is deferred
        return [await as_awaitable(as_deferred(each)) for each in (future, Odd())]

    assert ["future", "odd"] == run(main())


def test_a_cancelled_task_fails_with_twisteds_error(run):
    """
    `addTimeout` and `except Exception` see a cancelled task; fromFuture gives asyncio's error, which they miss.
    """

    async def main(adapt):
        clock = task.Clock()
        seen = []
        deferred = adapt(asyncio.ensure_future(asyncio.sleep(3600)))
        deferred.addTimeout(1, clock)
        deferred.addErrback(lambda failure: seen.append(failure.type))
        await asyncio.sleep(0)
        clock.advance(2)
        await asyncio.sleep(0.01)
        return seen

    assert [defer.TimeoutError] == run(main(as_deferred))
    assert [asyncio.CancelledError] == run(main(Deferred.fromFuture))


def test_cancelling_waits_for_the_coroutines_clean_up(run):
    """
    A cancelled Deferred fires once the coroutine's `finally` is through; ensureDeferred's fires before it runs.
    """

    async def main():
        events = []

        async def work():
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.005)
                events.append("cleaned")

        deferred = as_deferred(work())
        deferred.addErrback(lambda failure: events.append(failure.type))
        await asyncio.sleep(0)
        deferred.cancel()
        deferred.cancel()
        at_once = list(events)
        await asyncio.sleep(0.02)
        return at_once, events

    at_once, events = run(main())
    assert [] == at_once
    assert defer.CancelledError is events[-1]


def test_a_coroutine_may_finish_though_cancelled(run):
    """
    One that swallows the cancellation delivers its result.
    """

    async def stubborn():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "finished anyway"

    async def main():
        deferred = as_deferred(stubborn())
        await asyncio.sleep(0)
        deferred.cancel()
        return await as_awaitable(deferred)

    assert "finished anyway" == run(main())


def test_cancelling_through_a_chain_reaches_the_task(run):
    """
    A Deferred that waits on a task's passes the cancellation on.
    """

    async def main():
        ended = []

        async def work():
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append(True)

        outer = defer.succeed(None)
        outer.addCallback(lambda _: as_deferred(work()))
        outer.addErrback(lambda failure: failure.type)
        await asyncio.sleep(0)
        outer.cancel()
        return await as_awaitable(outer), ended

    assert (defer.CancelledError, [True]) == run(main())


def test_tasks_are_kept_until_they_end(run):
    """
    A coroutine behind a Deferred that nobody keeps runs to its end, whatever is collected meanwhile. (Seen to fail
    without the loop's reference: the task was destroyed while it was pending.)
    """

    async def main():
        ended = []

        async def work():
            # Only the task itself refers to what it waits for.
            waiting = asyncio.get_running_loop().create_future()
            _weakly(waiting)
            await waiting
            ended.append(True)

        def _weakly(future):
            import weakref

            reference = weakref.ref(future)
            _later(lambda: reference() is not None and reference().set_result(None))

        as_deferred(work())
        await asyncio.sleep(0)
        gc.collect()
        await asyncio.sleep(0.01)
        return ended

    assert [True] == run(main())


def test_a_coroutine_needs_a_running_loop():
    """
    Before the loop runs, the error says where to call from, and the coroutine isn't left unawaited.
    """

    async def work():
        """
        Never runs.
        """

    with pytest.raises(NoRunningLoopError, match="callWhenRunning"):
        as_deferred(work())


# -- decorators ----------------------------------------------------------------------------------


def test_decorators_cross_the_border(run):
    """
    An `async def` that Twisted calls, an `inlineCallbacks` function that asyncio awaits; names and docs are kept.
    """

    @returns_deferred
    async def double(x: int) -> int:
        """Doubles."""
        await asyncio.sleep(0)
        return 2 * x

    @returns_awaitable
    @defer.inlineCallbacks
    def quadruple(x):
        once = yield double(x)
        twice = yield double(once)
        return twice

    async def main():
        assert isinstance(double(1), Deferred)
        return await quadruple(3)

    assert 12 == run(main())
    assert ("double", "Doubles.") == (double.__name__, double.__doc__)
    assert asyncio.iscoroutinefunction(quadruple)


def test_awaiting_a_failure_keeps_it_for_later_errbacks(run):
    """
    Forked, not consumed: an errback added afterwards still sees the failure.
    """

    async def main():
        deferred = defer.fail(KeyError("k"))
        with pytest.raises(KeyError):
            await as_awaitable(deferred)
        seen = []
        deferred.addErrback(lambda failure: seen.append(failure.type))
        return seen

    assert [KeyError] == run(main())
