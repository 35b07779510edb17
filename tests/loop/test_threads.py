"""
Worker threads: shares, contexts, refusals, and an end that nothing can hold up.
"""

from __future__ import annotations

from tests.loop.snippets import both_loops, on_bridge, on_stock

NAMES = """
    import socket, threading, time
    from twisted.internet import reactor, threads
    real = socket.getaddrinfo
    socket.getaddrinfo = lambda *a, **k: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
    import twisted.internet._resolver as r
    ended = threading.Event()
    took = []
    def resolved(address):
        took.append(reactor.seconds() - began)
        ended.set()
        reactor.callLater(0, reactor.stop)
    def go():
        global began
        for _ in range(10):
            threads.deferToThread(ended.wait, 2)
        began = reactor.seconds()
        reactor.resolve("somewhere.example").addCallback(resolved)
    r.getaddrinfo = socket.getaddrinfo
    reactor.nameResolver._getaddrinfo = socket.getaddrinfo
    reactor.callWhenRunning(go)
    reactor.run()
    assert took and took[0] < 0.5, took
    print("took", took[0])
"""


@both_loops
def test_busy_jobs_delay_no_name(loop):
    """
    Ten jobs that sleep in `deferToThread` don't delay looking up a name.
    """
    ran = on_bridge(NAMES, loop)

    assert ran.passed, ran.err
    assert not on_stock(NAMES, loop).passed, "the trap is gone from stock Twisted"


ENDLESS = """
    import time
    from twisted.internet import reactor, threads
    def endless():
        while True:
            time.sleep(0.01)
    reactor.callWhenRunning(lambda: threads.deferToThread(endless))
    reactor.callLater(0.1, reactor.stop)
    reactor.run()
"""


@both_loops
def test_a_worker_that_ignores_the_stop_holds_no_exit(loop):
    """
    `deferToThread(while True)` is named in the log and left; the process exits with 0.
    """
    code = "    import sys\n    from twisted.python import log\n    log.startLogging(sys.stdout)\n" + ENDLESS
    ran = on_bridge(code, loop, timeout=15)

    assert ran.passed, ran.err
    assert "Left behind, because it ignored its stop event" in ran.out
    assert "endless" in ran.out
    assert on_stock(ENDLESS, loop, timeout=4).status is None, "the trap is gone from stock Twisted"


@both_loops
def test_workers_are_told_to_stop(loop):
    """
    A worker that looks at its stop event ends before `run()` returns, and its Deferred fires.
    """
    ran = on_bridge(
        """
        from twisted.internet import reactor, threads
        from bridge.loop import defer_to_worker, worker_stop
        ended = []
        def by_argument(stop):
            stop.wait(10)
            ended.append("argument")
        def by_context():
            worker_stop().wait(10)
            ended.append("context")
        reactor.callWhenRunning(lambda: defer_to_worker(reactor, by_argument))
        reactor.callWhenRunning(lambda: threads.deferToThread(by_context))
        reactor.callLater(0.1, reactor.stop)
        reactor.run()
        assert sorted(ended) == ["argument", "context"], ended
        """,
        loop,
    )

    assert ran.passed, ran.err


@both_loops
def test_cancelled_worker_is_awaited(loop):
    """
    Cancelling `defer_to_worker` sets the event, and fires with `CancelledError` once the thread is done.
    """
    ran = on_bridge(
        """
        from twisted.internet import defer, reactor
        from bridge.loop import defer_to_worker
        seen = []
        def work(stop):
            stop.wait(10)
            seen.append("cleaned up")
        def go():
            d = defer_to_worker(reactor, work)
            d.addErrback(lambda f: (f.trap(defer.CancelledError), seen.append("cancelled"), reactor.stop()))
            reactor.callLater(0.05, d.cancel)
        reactor.callWhenRunning(go)
        reactor.run()
        assert seen == ["cleaned up", "cancelled"], seen
        """,
        loop,
    )

    assert ran.passed, ran.err


LATE = """
    from twisted.internet import reactor, threads
    refused = []
    def late():
        try:
            threads.deferToThread(lambda: None).addErrback(refused.append)
        except Exception as exc:
            refused.append(exc)
    reactor.callWhenRunning(lambda: threads.deferToThread(lambda: None))
    reactor.addSystemEventTrigger("after", "shutdown", late)
    reactor.callLater(0.05, reactor.stop)
    reactor.run()
    assert len(refused) == 1 and "stopping" in str(refused[0]), refused
"""


@both_loops
def test_work_after_the_stop_is_refused(loop):
    """
    Work that nothing would ever run raises, and says why.
    """
    ran = on_bridge(LATE, loop)

    assert ran.passed, ran.err
    assert not on_stock(LATE, loop, timeout=4).passed, "the trap is gone from stock Twisted"


WAITING = """
    from twisted.internet import reactor, threads
    from bridge.loop import worker_stop
    from bridge.errors import StoppingError
    seen = []
    def go():
        reactor.suggestThreadPoolSize(1)
        threads.deferToThread(lambda: worker_stop().wait(10))
        threads.deferToThread(lambda: seen.append("ran")).addErrback(lambda f: seen.append(f.type))
    reactor.callWhenRunning(go)
    reactor.callLater(0.1, reactor.stop)
    reactor.run()
    assert seen == [StoppingError], seen
"""


@both_loops
def test_waiting_work_fails_at_the_stop(loop):
    """
    A job that still waits for a thread when the pool stops fails, instead of never firing.
    """
    ran = on_bridge(WAITING, loop)

    assert ran.passed, ran.err


CONTEXTS = """
    import contextvars
    from twisted.internet import reactor, threads
    who = contextvars.ContextVar("who", default="nobody")
    seen = {}
    def job(name, set_to=None):
        seen[name] = who.get()
        if set_to:
            who.set(set_to)
    def go():
        reactor.suggestThreadPoolSize(1)
        def in_a():
            who.set("a")
            threads.deferToThread(job, "a", "leaked").addCallback(lambda _: seen.setdefault("back", who.get()))
        contextvars.copy_context().run(in_a)
        contextvars.Context().run(
            lambda: threads.deferToThread(job, "none").addCallback(lambda _: reactor.stop())
        )
    reactor.callWhenRunning(go)
    reactor.run()
    assert seen == {"a": "a", "back": "a", "none": "nobody"}, seen
"""


@both_loops
def test_jobs_run_in_their_callers_context(loop):
    """
    A job sees its caller's variables, its callback too, and the next job sees neither's.
    """
    ran = on_bridge(CONTEXTS, loop)

    assert ran.passed, ran.err
    assert not on_stock(CONTEXTS, loop).passed, "the trap is gone from stock Twisted"


HUNG = """
    import anyio.to_thread, asyncio, threading
    from twisted.internet import reactor
    BRIDGED = {bridged}
    free = threading.Event()
    async def shadow():
        if BRIDGED:
            from bridge.loop import About, set_about
            set_about(About(side="modern", shadow=True))
        await anyio.to_thread.run_sync(free.wait)
    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(3):
            tasks = [loop.create_task(shadow()) for _ in range(20)]
            await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        hung = sum("AnyIO" in t.name for t in threading.enumerate())
        # Clients have threads of their own, however many shadows hang.
        answer = await asyncio.wait_for(loop.create_task(anyio.to_thread.run_sync(lambda: 42)), 2)
        free.set()
        await asyncio.sleep(0.1)
        if BRIDGED:
            from bridge.loop import Share
            assert reactor.ledger.usage()[Share.SHADOW].busy == 0, reactor.ledger.usage()
        assert answer == 42 and hung <= 8, hung
    def go():
        task = asyncio.get_event_loop().create_task(main())
        task.add_done_callback(lambda t: (problems.append(t.exception()), reactor.stop()))
    problems = []
    reactor.callLater(0, go)
    reactor.run()
    assert problems == [None], problems
"""


@both_loops
def test_hung_shadows_keep_their_slots(loop):
    """
    A shadow's slot is held until its thread ends, so that cancelled shadows can't pile threads up; clients' threads
    are others.
    """
    ran = on_bridge(HUNG.replace("{bridged}", "True"), loop)

    assert ran.passed, ran.err
    assert not on_stock(HUNG.replace("{bridged}", "False"), loop).passed, "the trap is gone from anyio"


@both_loops
def test_anyio_and_twisted_share_one_account(loop):
    """
    A legacy request's anyio thread and its `deferToThread` are booked on the same share.
    """
    ran = on_bridge(
        """
        import anyio.to_thread, asyncio, threading
        from twisted.internet import reactor, threads
        from bridge.loop import About, Share, set_about
        free = threading.Event()
        async def main():
            set_about(About(side="legacy"))
            threads.deferToThread(free.wait, 5)
            job = asyncio.get_running_loop().create_task(anyio.to_thread.run_sync(free.wait, 5))
            await asyncio.sleep(0.05)
            busy = reactor.ledger.usage()[Share.LEGACY].busy
            free.set()
            await job
            reactor.stop()
            assert busy == 2, busy
        problems = []
        def go():
            task = asyncio.get_event_loop().create_task(main())
            task.add_done_callback(lambda t: (problems.append(t.exception()), t.exception() and reactor.stop()))
        reactor.callLater(0, go)
        reactor.run()
        assert problems == [None], problems
        """,
        loop,
    )

    assert ran.passed, ran.err
