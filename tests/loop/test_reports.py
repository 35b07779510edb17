"""
What nobody handled becomes one record, and what keeps the loop is named.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import STDLibLogObserver, globalLogPublisher

from bridge.loop.context import About, run_as, set_about
from bridge.loop.loops import make_loop
from bridge.loop.reports import Reports
from bridge.loop.stalls import BEAT, Stall, StallWatch

FACTS = About(request="id-7", route="POST /log", side="legacy")


class _Records(logging.Handler):
    """
    Keeps what `logging` gets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records():
    handler = _Records()
    logging.getLogger().addHandler(handler)
    yield handler.records
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def events():
    seen = []

    def observe(event):
        if event.get("isError"):
            seen.append(event)

    globalLogPublisher.addObserver(observe)
    yield seen
    globalLogPublisher.removeObserver(observe)


def _reporting(work, kind="asyncio") -> None:
    async def main():
        reports = Reports(asyncio.get_running_loop())
        reports.install()
        try:
            await work()
            gc.collect()
            await asyncio.sleep(0.01)
        finally:
            reports.uninstall()

    with asyncio.Runner(loop_factory=lambda: make_loop(kind)) as runner:
        runner.run(main())


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_an_unseen_deferred_failure_is_one_record(kind, records, events):
    """
    A Deferred that fails unseen is one event in Twisted's log and one record in `logging`, with the request. Twisted's
    own are two events, and none in `logging`.
    """

    async def work():
        def fail():
            deferred = Deferred()
            deferred.errback(ValueError("unseen"))

        run_as(FACTS, fail)

    _reporting(work, kind)

    assert ["id-7"] == [event["request"] for event in events]
    assert "unseen" == str(events[0]["log_failure"].value)
    assert ["id-7"] == [record.request for record in records]
    assert "unseen" == str(records[0].exc_info[1])


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_an_unretrieved_task_error_is_one_record(kind, records, events):
    """
    So is the error of a task that nobody awaited.
    """

    async def work():
        async def fail(scope):
            set_about(FACTS)
            raise KeyError("unretrieved")

        task = asyncio.create_task(fail({"type": "http", "bgserver.about": FACTS}), name="forgotten")
        await asyncio.sleep(0)
        del task

    _reporting(work, kind)

    assert 1 == len(events)
    assert 1 == len(records)
    assert "Task exception was never retrieved (forgotten)" in records[0].getMessage()
    assert "id-7" == records[0].request


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_an_exception_in_a_callback_is_one_record(kind, records, events):
    """
    So is an exception in a callback of the loop.
    """

    async def work():
        def fail():
            raise OSError("callback")

        run_as(FACTS, asyncio.get_running_loop().call_soon, fail)
        await asyncio.sleep(0)

    _reporting(work, kind)

    assert 1 == len(events)
    assert ["callback"] == [str(record.exc_info[1]) for record in records]


def test_a_collected_failure_is_nobodys(records, events):
    """
    What the garbage collector brings up is not booked on the request that happened to trigger it.
    """

    async def work():
        def fail():
            deferred = Deferred()
            deferred.errback(ValueError("in a cycle"))
            deferred.itself = deferred

        fail()
        run_as(FACTS, gc.collect)

    _reporting(work)

    assert ["-"] == [event["request"] for event in events]


def test_where_twisted_logs_into_logging_it_appears_once(records):
    """
    With Twisted's log forwarded to `logging`, a record isn't written there a second time.
    """
    observer = STDLibLogObserver()
    globalLogPublisher.addObserver(observer)

    async def work():
        Deferred().errback(ValueError("once"))

    try:
        _reporting(work)
    finally:
        globalLogPublisher.removeObserver(observer)

    assert 1 == len(records)


def test_uninstalling_puts_back_what_was_there():
    """
    Twisted's Deferreds and the loop's handler are as before.
    """
    from twisted.internet import defer

    before = defer.log.observer

    async def work():
        assert defer.log.observer is not before

    _reporting(work)

    assert defer.log.observer is before


def _blocked(work, **options) -> list[Stall]:
    stalls: list[Stall] = []

    async def main():
        watch = StallWatch(asyncio.get_running_loop(), threshold=0.05, on_stall=stalls.append, **options)
        watch.start()
        await asyncio.sleep(0.15)
        await work()
        await asyncio.sleep(0.25)
        assert watch.stalls == len(stalls)
        assert watch.lag().worst > 0.05
        watch.stop()

    asyncio.run(main())
    # A loop that got no processor for a while was blocked too, by others.
    return [stall for stall in stalls if "in blocks" in stall.stack]


def blocks() -> None:
    """
    Keeps the loop.
    """
    time.sleep(0.3)


def test_a_blocking_callback_is_reported_once():
    """
    One stall, one report: with the stack, and for whom.
    """

    async def work():
        asyncio.get_running_loop().call_soon(run_as, FACTS, blocks)
        await asyncio.sleep(0)

    stalls = _blocked(work, packages={__name__: "legacy"})

    assert [FACTS] == [stall.about for stall in stalls]
    assert "legacy" == stalls[0].side


def test_a_blocking_task_is_reported_by_its_scope():
    """
    In an ASGI application the request is told from the scope, and the side from whose code it is.
    """

    async def endpoint(scope):
        blocks()

    stalls = _blocked(lambda: endpoint({"type": "http", "method": "GET", "path": "/slow"}))

    assert ["GET /slow"] == [stall.about.route for stall in stalls]


def test_the_watch_sleeps_while_the_loop_is_prompt():
    """
    A server that nobody asks is looked at as seldom as its threshold allows, not all the time.

    Seen to fail with a look at each half of the threshold: eight in a second.
    """
    looks: list[float] = []

    async def main():
        watch = StallWatch(asyncio.get_running_loop())
        wait = watch._stop.wait
        watch._stop.wait = lambda pause: looks.append(pause) or wait(pause)
        watch.start()
        began = time.monotonic()
        await asyncio.sleep(1.2)
        watch.stop()
        return time.monotonic() - began

    took = asyncio.run(main())

    assert 3 <= len(looks) <= 6 * max(1.0, took / 1.2)


def test_a_prompt_loop_is_not_reported():
    """
    Nothing blocks, nothing is said, and the lag is measured all the same.
    """
    stalls: list[Stall] = []

    async def main():
        watch = StallWatch(asyncio.get_running_loop(), threshold=1.0, on_stall=stalls.append)
        watch.start()
        await asyncio.sleep(3.5 * BEAT)
        lag = watch.lag()
        watch.stop()
        return lag

    lag = asyncio.run(main())

    assert [] == stalls
    assert lag.samples >= 2
    assert lag.p50 <= lag.worst


def test_the_watching_thread_ends():
    """
    After the stop, no thread is left.
    """

    async def main():
        watch = StallWatch(asyncio.get_running_loop(), threshold=0.02)
        watch.start()
        await asyncio.sleep(0)
        watch.stop()

    asyncio.run(main())
    for thread in threading.enumerate():
        if thread.name == "bgserver-stalls":
            thread.join(5)

    assert "bgserver-stalls" not in [thread.name for thread in threading.enumerate()]
