"""
No request sees another's context: timers, sockets, threads, coroutines, `inlineCallbacks`.
"""

from __future__ import annotations

import gc
import os
import weakref
from contextvars import Context, ContextVar, copy_context

import pytest

from bridge.loop.context import About, about, in_context, request_context, run_as, set_about
from bridge.loop.reactor import BridgeReactor
from tests.loop.snippets import both_loops, on_bridge, on_stock

_who: ContextVar[str] = ContextVar("who", default="nobody")

TIMERS = """
    import contextvars
    from twisted.internet import reactor
    who = contextvars.ContextVar("who", default="nobody")
    seen = {}
    def request(name):
        who.set(name)
        reactor.callLater(0.02, lambda: seen.__setitem__(name, who.get()))
    def go():
        for name in "abc":
            contextvars.copy_context().run(request, name)
        contextvars.Context().run(reactor.callLater, 0.1, lambda: (seen.__setitem__("-", who.get()), reactor.stop()))
    reactor.callWhenRunning(go)
    reactor.run()
    assert seen == {"a": "a", "b": "b", "c": "c", "-": "nobody"}, seen
"""


@both_loops
def test_timers_run_in_their_own_context(loop):
    """
    A timer runs in the context that made it, not in that of whoever armed the loop's handle.
    """
    assert on_bridge(TIMERS, loop).passed
    assert not on_stock(TIMERS, loop).passed, "the trap is gone from stock Twisted"


SOCKETS = """
    import contextvars
    from twisted.internet import protocol, reactor
    who = contextvars.ContextVar("who", default="nobody")
    seen = []
    class Pooled(protocol.Protocol):
        def dataReceived(self, data):
            seen.append(who.get())
            if len(seen) == 1:
                who.set("the first event")
                self.transport.write(b"again")
            else:
                reactor.stop()
    class Echo(protocol.Protocol):
        def dataReceived(self, data):
            self.transport.write(data)
    def go():
        server = protocol.Factory.forProtocol(Echo)
        port = reactor.listenTCP(0, server, interface="127.0.0.1").getHost().port
        def request():
            who.set("the request that opened it")
            creator = protocol.ClientCreator(reactor, Pooled)
            creator.connectTCP("127.0.0.1", port).addCallback(lambda p: p.transport.write(b"x"))
        contextvars.copy_context().run(request)
    reactor.callWhenRunning(go)
    reactor.run()
    assert seen == ["nobody", "nobody"], seen
"""


@both_loops
def test_sockets_belong_to_nobody(loop):
    """
    What arrives on a pooled connection runs in neither its opener's context nor the last event's.
    """
    assert on_bridge(SOCKETS, loop).passed
    assert not on_stock(SOCKETS, loop).passed, "the trap is gone from stock Twisted"


INTERLEAVED = """
    import asyncio, contextvars, sys
    from twisted.internet import defer, protocol, reactor, task, threads
    COUNT, BRIDGED = {count}, {bridged}
    who = contextvars.ContextVar("who", default=None)
    wrong = []
    def check(name, where):
        if who.get() != name:
            wrong.append((where, name, who.get()))

    class Echo(protocol.Protocol):
        def dataReceived(self, data):
            self.transport.write(data)

    class Client(protocol.Protocol):
        # One pooled connection, shared by all requests; each line is answered in turn.
        def __init__(self):
            self.waiting, self.buffer = [], b""
        def ask(self, line):
            d = defer.Deferred()
            self.waiting.append(d)
            self.transport.write(line + b"\\n")
            return d
        def dataReceived(self, data):
            *lines, self.buffer = (self.buffer + data).split(b"\\n")
            for line in lines:
                self.waiting.pop(0).callback(line)

    @defer.inlineCallbacks
    def by_generator(name, client):
        yield client.ask(name.encode())
        check(name, "inlineCallbacks after a socket")
        yield task.deferLater(reactor, 0.001, lambda: check(name, "timer"))
        check(name, "inlineCallbacks after a timer")

    async def by_coroutine(name, client):
        await asyncio.sleep(0.001)
        check(name, "coroutine after asyncio's timer")
        waiting = client.ask(name.encode())
        await (as_awaitable(waiting) if BRIDGED else waiting.asFuture(asyncio.get_running_loop()))
        check(name, "coroutine after a socket")

    async def request(index, client):
        name = "r%d" % index
        who.set(name)
        loop = asyncio.get_running_loop()
        await loop.create_task(by_coroutine(name, client))
        done = loop.create_future()
        reactor.callLater(0.002, lambda: (check(name, "plain timer"), done.set_result(None)))
        await done
        await by_generator(name, client).asFuture(loop)
        check(name, "after inlineCallbacks")
        if index % 10 == 0:
            await threads.deferToThread(check, name, "thread").asFuture(loop)
            check(name, "after a thread")

    async def main(client):
        loop = asyncio.get_running_loop()
        left = iter(range(COUNT))
        async def worker():
            for index in left:
                # A context of its own, as the server gives each request.
                await loop.create_task(request(index, client), context=contextvars.Context())
        await asyncio.gather(*(worker() for _ in range(100)))

    if BRIDGED:
        from bridge.loop import as_awaitable

    def go():
        port = reactor.listenTCP(0, protocol.Factory.forProtocol(Echo), interface="127.0.0.1").getHost().port
        connected = protocol.ClientCreator(reactor, Client).connectTCP("127.0.0.1", port)
        def start(client):
            task = asyncio.get_event_loop().create_task(main(client))
            task.add_done_callback(lambda t: (problems.append(t.exception()), reactor.stop()))
        connected.addCallback(start)
    problems = []
    reactor.callLater(0, go)
    reactor.run()
    assert problems == [None], problems
    assert not wrong, (len(wrong), wrong[:3])
"""


def _interleaved(count: int, bridged: bool) -> str:
    return INTERLEAVED.replace("{count}", str(count)).replace("{bridged}", str(bridged))


@both_loops
def test_interleaved_requests_see_only_themselves(loop):
    """
    Requests interleaved over timers, a pooled socket, threads, `inlineCallbacks` and coroutines: none sees another's
    context. The stock reactor fails the same test.
    """
    ran = on_bridge(_interleaved(1_000, True), loop, timeout=100)

    assert ran.passed, ran.err
    assert not on_stock(_interleaved(300, False), loop, timeout=100).passed, "the trap is gone from stock Twisted"


@pytest.mark.long
@pytest.mark.timeout(1800)
@both_loops
def test_a_hundred_thousand_requests_see_only_themselves(loop):
    """
    The full count of the promise.
    """
    ran = on_bridge(_interleaved(int(os.environ.get("BGSERVER_REQUESTS", "100000")), True), loop, timeout=1700)

    assert ran.passed, ran.err


class _Request:
    """
    Something big that a context variable refers to.
    """


def _timer_of_request(reactor: BridgeReactor, delay: float) -> tuple[object, weakref.ref[_Request]]:
    request = _Request()
    holder: ContextVar[_Request] = ContextVar("request")

    def work() -> object:
        holder.set(request)
        set_about(About(request="id-1"))
        return reactor.callLater(delay, lambda: None)

    return copy_context().run(work), weakref.ref(request)


@pytest.fixture
def reactor():
    made = BridgeReactor()
    yield made
    made.loop.close()


def test_a_session_timer_pins_no_request(reactor):
    """
    A timer of 900 s keeps the facts of its request and nothing else of its context.
    """
    call, request = _timer_of_request(reactor, 900)
    gc.collect()

    assert request() is None
    assert About(request="id-1") == call.context.run(about)


def test_a_near_timer_keeps_its_whole_context(reactor):
    """
    A timer within a minute sees what its request set.
    """
    call, request = _timer_of_request(reactor, 1)
    gc.collect()

    assert request() is not None
    call.reset(900)
    gc.collect()
    assert request() is None


def test_a_cancelled_timer_pins_nothing(reactor):
    """
    A cancelled timer may lie in the heap for long; its request need not.
    """
    call, request = _timer_of_request(reactor, 1)
    call.cancel()
    gc.collect()

    assert request() is None


def test_timers_show_their_function(reactor):
    """
    `DelayedCall.func` is what the caller gave, as trial's and users' diagnostics expect.
    """
    call = reactor.callLater(1, test_timers_show_their_function)

    assert test_timers_show_their_function is call.func


def test_in_context_binds_a_plain_callback():
    """
    A callback on something shared runs in the context that it was made in, and leaves nothing there.
    """
    seen = []

    def callback() -> None:
        seen.append(_who.get())
        _who.set("left behind")

    def request() -> object:
        _who.set("mine")
        return in_context(callback)

    bound = copy_context().run(request)
    _who.set("the releaser's")
    bound()
    bound()

    assert ["mine", "mine"] == seen
    assert "the releaser's" == _who.get()
    _who.set("nobody")


def test_request_contexts_are_empty_but_for_the_facts():
    """
    A request starts with nothing of what is around it.
    """
    facts = About(request="id-2", route="GET /", side="modern")
    _who.set("somebody")

    assert facts == request_context(facts).run(about)
    assert "nobody" == request_context(facts).run(_who.get)
    assert facts == run_as(facts, about)
    assert About() == Context().run(about)
    _who.set("nobody")
