"""
The reactor in both modes, on both loops.
"""

from __future__ import annotations

from tests.loop.snippets import both_loops, on_bridge, on_stock, run, suite

RUNNING_LOOP = """
    import asyncio
    from twisted.internet import reactor
    seen = []
    def started():
        try:
            seen.append(asyncio.get_running_loop())
        except RuntimeError as exc:
            seen.append(exc)
        reactor.stop()
    reactor.callWhenRunning(started)
    reactor.run()
    assert isinstance(seen[0], asyncio.AbstractEventLoop), seen
"""


@both_loops
def test_services_start_in_a_running_loop(loop):
    """
    What starts with the reactor can use asyncio at once.
    """
    assert on_bridge(RUNNING_LOOP, loop).passed
    assert not on_stock(RUNNING_LOOP, loop).passed, "the trap is gone from stock Twisted"


ATTACHED = """
    import asyncio, sys
    from twisted.internet import asyncioreactor
    kind, end = sys.argv[1:3]
    def factory():
        if kind.startswith("uvloop"):
            import uvloop
            return uvloop.new_event_loop()
        return asyncio.SelectorEventLoop()
    async def main():
        if kind.endswith("stock"):
            asyncioreactor.install(asyncio.get_running_loop())
            from twisted.internet import reactor
            reactor.startRunning(installSignalHandlers=False)
            ended = asyncio.sleep(0.05)
        else:
            import bridge.loop
            reactor = bridge.loop.install()
            ended = reactor.serve()
        reactor.callLater(0.01, getattr(reactor, end))
        await ended
        await asyncio.sleep(0.01)
        return "went on"
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(main()) == "went on"
"""


@both_loops
def test_attached_stop_ends_serve_and_not_the_loop(loop):
    """
    `reactor.stop()` inside somebody else's loop ends `serve()`; the loop goes on.
    """
    assert run(ATTACHED, loop, "stop").passed
    assert run(ATTACHED, loop, "crash").passed
    assert "Event loop stopped before Future completed" in run(ATTACHED, f"{loop}-stock", "stop").err


def test_a_loop_that_goes_on_keeps_its_threads():
    """
    After the reactor stopped, somebody else's loop has anyio's threads as before. (Seen to be refused them while our
    limiter stayed.)
    """
    ran = run(
        """
        import anyio.to_thread, asyncio
        async def main():
            import bridge.loop
            reactor = bridge.loop.install()
            async with bridge.loop.Life(reactor).attached():
                assert await anyio.to_thread.run_sync(lambda: 1) == 1
            assert await anyio.to_thread.run_sync(lambda: 2) == 2
        asyncio.run(main())
        """
    )

    assert ran.passed, ran.err


@both_loops
def test_attached_cancellation_stops_in_order(loop):
    """
    Cancelling `serve()` fires the shutdown triggers first.
    """
    ran = run(
        """
        import asyncio, sys
        async def main():
            import bridge.loop
            reactor = bridge.loop.install()
            events = []
            reactor.addSystemEventTrigger("before", "shutdown", events.append, "shutdown")
            serving = asyncio.create_task(reactor.serve())
            await asyncio.sleep(0.01)
            serving.cancel()
            try:
                await serving
            except asyncio.CancelledError:
                events.append("cancelled")
            assert events == ["shutdown", "cancelled"], events
        if sys.argv[1] == "uvloop":
            import uvloop
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        else:
            asyncio.run(main())
        """,
        loop,
    )

    assert ran.passed, ran.err


ROOT_TASK = """
    import anyio.to_thread, asyncio, threading
    from twisted.internet import reactor
    used = []
    async def request():
        await anyio.to_thread.run_sync(lambda: used.append(threading.current_thread()))
    def next_request(before=None):
        # Each request is a task that a protocol's callback makes, as uvicorn has it.
        if len(used) == 60:
            reactor.stop()
        else:
            task = asyncio.get_running_loop().create_task(request())
            task.add_done_callback(next_request)
    reactor.callLater(0, next_request)
    reactor.run()
    assert len(used) == 60 and len(set(used)) == 1, len(set(used))
"""


@both_loops
def test_sync_requests_share_a_thread(loop):
    """
    Sixty synchronous requests in a row start one thread, because anyio finds the root task.
    """
    ran = on_bridge(ROOT_TASK, loop)

    assert ran.passed, ran.err
    assert not on_stock(ROOT_TASK, loop).passed, "the trap is gone from stock Twisted"


@both_loops
def test_stepped_back_clock_stalls_nothing(loop):
    """
    A wall clock that goes back an hour doesn't delay a timer: `seconds` is monotonic.
    """
    code = """
        import time
        from twisted.internet import reactor
        wall, now = time.time, time.time()
        time.time = lambda: 0.0
        before = reactor.seconds()
        fired = []
        reactor.callLater(0.05, lambda: (fired.append(1), reactor.stop()))
        reactor.run()
        assert fired and reactor.seconds() > before and abs(before - now) < 1 and reactor.seconds is not wall
    """

    assert on_bridge(code, loop).passed
    assert not on_stock(code, loop).passed, "the trap is gone from stock Twisted"


TEARDOWN = """
    import asyncio
    from twisted.internet import reactor
    ended = []
    async def numbers():
        try:
            while True:
                yield 1
        finally:
            ended.append("generator")
    async def forever():
        async for _ in numbers():
            break
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append("task")
    keep = []
    reactor.callLater(0, lambda: keep.append(asyncio.get_event_loop().create_task(forever())))
    reactor.callLater(0.05, reactor.stop)
    reactor.run()
    assert sorted(ended) == ["generator", "task"], ended
"""


@both_loops
def test_clean_up_runs_after_stop(loop):
    """
    Pending `finally` blocks and asynchronous generators run before `run()` returns.
    """
    assert on_bridge(TEARDOWN, loop).passed
    assert not on_stock(TEARDOWN, loop).passed, "the trap is gone from stock Twisted"


EXIT_IN_CALLBACK = """
    import asyncio, sys
    from twisted.internet import reactor
    fired = []
    reactor.addSystemEventTrigger("before", "shutdown", fired.append, "shutdown")
    async def bind():
        sys.exit(3)
    keep = []
    reactor.callLater(0.01, lambda: keep.append(asyncio.get_event_loop().create_task(bind())))
    try:
        reactor.run()
    except SystemExit:
        pass
    assert fired == ["shutdown"], fired
    assert reactor.exit_status == 3
"""


@both_loops
def test_exit_in_a_callback_still_stops_in_order(loop):
    """
    `sys.exit(3)` in a task, as uvicorn has it for a port in use, fires the shutdown triggers,
    and the status is kept.
    """
    ran = on_bridge(EXIT_IN_CALLBACK, loop)

    assert ran.passed, ran.err
    assert "fired == ['shutdown']" not in on_stock(EXIT_IN_CALLBACK, loop).out
    assert not on_stock(EXIT_IN_CALLBACK, loop).passed, "the trap is gone from stock Twisted"


CHILD = """
    import asyncio, signal
    from twisted.internet import protocol, reactor
    ended = []
    class Quiet(protocol.ProcessProtocol):
        def processEnded(self, reason):
            ended.append(reason.value.exitCode)
            reactor.stop()
    def spawn():
        # Somebody uses the loop's own signals: on asyncio that takes the wake-up descriptor.
        asyncio.get_event_loop().add_signal_handler(signal.SIGUSR1, lambda: None)
        # The pipes close long before the process ends, so that only its end can tell.
        reactor.spawnProcess(Quiet(), "/bin/sh", ["sh", "-c", "exec <&- >&- 2>&-; sleep 0.3; exit 5"])
    reactor.callLater(0, spawn)
    reactor.callLater(4, reactor.crash)
    reactor.run()
    assert ended == [5], ended
"""


@both_loops
def test_child_exit_is_noticed(loop):
    """
    A child that ends quietly is reaped on both loops, whoever owns the wake-up descriptor.
    """
    ran = on_bridge(CHILD, loop)

    assert ran.passed, ran.err
    assert not on_stock(CHILD, loop).passed, "the trap is gone from stock Twisted"


@both_loops
def test_child_exit_is_noticed_without_pidfd(loop):
    """
    Where the kernel has no pidfd, children are polled.
    """
    ran = on_bridge("    import os\n    del os.pidfd_open\n" + CHILD, loop)

    assert ran.passed, ran.err


@both_loops
def test_listen_hook_sees_every_way_to_listen(loop):
    """
    `on_listen` is asked once by each of the four calls; None means that Twisted listens.
    """
    ran = on_bridge(
        """
        import socket
        from twisted.internet import reactor, protocol
        seen = []
        reactor.on_listen = lambda listen: seen.append(listen)
        factory = protocol.Factory()
        def go():
            reactor.listenTCP(0, factory, 7, "127.0.0.1")
            reactor.listenUNIX("\\0bgserver-test-%d" % __import__("os").getpid(), factory)
            s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(); s.setblocking(False)
            reactor.adoptStreamPort(s.fileno(), socket.AF_INET, factory)
            from twisted.internet import ssl
            reactor.listenSSL(0, factory, ssl.CertificateOptions(), interface="127.0.0.1")
            reactor.on_listen = lambda listen: listen.factory
            assert reactor.listenTCP(0, factory) is factory
            reactor.stop()
        reactor.callWhenRunning(go)
        reactor.run()
        assert [l.kind for l in seen] == ["tcp", "unix", "adopt", "ssl"], seen
        assert seen[0].backlog == 7 and seen[0].interface == "127.0.0.1" and seen[3].context_factory
        """,
        loop,
    )

    assert ran.passed, ran.err


RESET = """
    import socket, struct, threading, time
    from twisted.internet import protocol, reactor
    lost = []
    class Slow(protocol.Protocol):
        def connectionMade(self):
            self.transport.pauseProducing()
            # More than one read takes, and then a reset.
            reactor.callLater(0.3, self.transport.resumeProducing)
        def connectionLost(self, reason):
            lost.append(reason.type)
            reactor.stop()
    def peer(port):
        s = socket.create_connection(("127.0.0.1", port))
        s.sendall(b"x" * 400_000)
        time.sleep(0.1)
        # A FIN behind the data, then a reset: the data stays readable.
        s.shutdown(socket.SHUT_WR)
        s.close()
    def go():
        factory = protocol.Factory.forProtocol(Slow)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
        threading.Thread(target=peer, args=(port,), daemon=True).start()
    reactor.callWhenRunning(go)
    reactor.callLater(3, reactor.crash)
    reactor.run()
    assert lost, "never lost"
"""


@both_loops
def test_a_connection_that_ends_with_data_unread_is_lost(loop):
    """
    What was sent before the end is read, and then the connection is lost.
    """
    ran = on_bridge(RESET, loop)

    assert ran.passed, ran.err


def test_uvloop_reads_a_reset_connection_to_its_end():
    """
    uvloop tells of an error once. Twisted's own test of an aborted connection hangs on the stock reactor on uvloop.
    """
    name = "twisted.internet.test.test_tcp.AbortConnectionTests_{}Tests.test_resumeProducingThrows"
    ours = suite("bridge-uvloop", name.format("BridgeUvloop"), timeout=40)
    theirs = suite("stock-uvloop", name.format("StockUvloop"), timeout=4)

    assert (1, {}) == (ours["ran"], ours["failed"])
    assert theirs is None, "the trap is gone from uvloop"
