"""
Owns the one reactor: Twisted's, on an asyncio or uvloop event loop.

It runs in one of two modes. I{Owned}: C{run()} runs the loop until the reactor stops, inside
one root task, so that services start with the loop running and anyio finds its root. I{Attached}:
C{await reactor.serve()} inside somebody's running loop; stopping ends C{serve()} and leaves
the loop alone.

Time is monotonic. Timers run in the context they were made in, sockets in an empty one, and
threads' calls in the thread's. SIGTERM means exit status 0.

Refuses: to import, or to be, the default reactor; to stop a loop that it doesn't own; to
pass on C{SystemExit} from a callback before the shutdown triggers ran.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import AbstractEventLoop, Future, Handle, Task
from collections.abc import Callable
from contextvars import Context
from heapq import heapify, heappop, heappush
from types import FrameType
from typing import Any

from twisted.internet import error
from twisted.internet._signals import SignalHandling, _WithSignalHandling
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from bridge.errors import WrongLoopError
from bridge.loop.children import Nursery
from bridge.loop.context import FAR, facts_of, only_facts, timer_context
from bridge.loop.listening import Listen, OnListen
from bridge.loop.signals import RestoredSignals
from bridge.loop.status import ExitStatus
from bridge.loop.teardown import tear_down

_log = Logger()
_timed_call_failure = _log.failureHandler("while handling timed call")
_thread_call_failure = _log.failureHandler("while calling from thread")

_NEVER = float("inf")
_EPOCH = time.time() - time.monotonic()


def _seconds() -> float:
    """
    The wall clock as it was at the start, gone on monotonically: twisted.web dates its access
    log by C{reactor.seconds()}, and so do applications, but timers must not stall when
    somebody sets the clock back.
    """
    return _EPOCH + time.monotonic()


class TimedCall(DelayedCall):
    """
    A timer that knows its context. C{func} stays what the caller gave.
    """

    context: Context | None = None

    def cancel(self) -> None:
        super().cancel()
        # It may lie in the heap until its time; its request need not.
        self.context = None

    def reset(self, secondsFromNow: float) -> None:
        super().reset(secondsFromNow)
        self._loosen(secondsFromNow)

    def delay(self, secondsLater: float) -> None:
        super().delay(secondsLater)
        self._loosen(secondsLater)

    def _loosen(self, seconds: float) -> None:
        if seconds > FAR and self.context is not None:
            self.context = only_facts(facts_of(self.context))


class BridgeReactor(AsyncioSelectorReactor):
    """
    See the module. Made by L{bridge.loop.install}; tests may make their own.

    @ivar on_listen: Asked first by all four ways to listen on a stream; its answer is the
        port, None means that the reactor listens as Twisted would.
    @ivar on_signal: Called on the loop with the number of a SIGINT, SIGTERM or SIGBREAK, in
        owned mode. As set up, the first stops the reactor and the next crashes it.
    @ivar exit_status: What the process should exit with; see L{fail}.
    """

    seconds = staticmethod(_seconds)

    def __init__(
        self,
        eventloop: AbstractEventLoop | None = None,
        new_loop: Callable[[], AbstractEventLoop] | None = None,
    ) -> None:
        self._owns_loop = eventloop is None
        self._timer: Handle | None = None
        self._timer_at = _NEVER
        self._ended: Future[None] | None = None
        self._root: Task[None] | None = None
        self._attached = False
        # Timers run between start and crash only, though the loop may run before and after.
        self._ticking = False
        self.on_listen: OnListen | None = None
        self.on_signal: Callable[[int], object] = self._stop_then_crash
        self.exit_status = 0
        if eventloop is None:
            eventloop = (new_loop or asyncio.SelectorEventLoop)()
        super().__init__(eventloop)
        self._children = Nursery(eventloop)

    @property
    def loop(self) -> AbstractEventLoop:
        """
        The event loop that this reactor runs on.
        """
        return self._asyncioEventloop

    # -- running ---------------------------------------------------------------------------

    def run(self, installSignalHandlers: bool = True) -> None:
        """
        Run until C{stop()}, and tear everything down; or until C{crash()}, after which it may
        run again.
        """
        loop = self._asyncioEventloop
        self._refuse_to_start()
        if loop.is_running():
            raise WrongLoopError(
                "The loop runs already, so run() can't run it. Await reactor.serve() instead, or let the loop's "
                "owner do it (`uvicorn bridge.asgi:create_app --factory`)."
            )
        self._attached = False
        root = self._root = loop.create_task(self._serve(installSignalHandlers), name="reactor")
        try:
            while not root.done():
                try:
                    loop.run_until_complete(root)
                except (SystemExit, KeyboardInterrupt) as exc:
                    if root.done():
                        raise
                    self._interrupted(exc)
        finally:
            self._root = None
            self._signals.uninstall()
            if self._startedBefore and not self._started:
                self._close()

    async def serve(self) -> None:
        """
        Run inside the running loop until C{stop()} or C{crash()}, or until cancelled, which
        stops the reactor in order first.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._asyncioEventloop:
            raise WrongLoopError(
                f"The reactor was made for {self._asyncioEventloop!r}, and serve() was awaited on {loop!r}. "
                "Call bridge.loop.install() inside the loop that will serve."
            )
        self._refuse_to_start()
        self._attached = True
        try:
            await self._serve(False)
        finally:
            if self._startedBefore and not self._started:
                self._children.close()

    def _refuse_to_start(self) -> None:
        if self._started:
            raise error.ReactorAlreadyRunning()
        if self._startedBefore:
            raise error.ReactorNotRestartable()

    async def _serve(self, installSignalHandlers: bool) -> None:
        ended = self._ended = self._asyncioEventloop.create_future()
        self._ticking = True
        self.startRunning(installSignalHandlers)
        self._reschedule()
        while not ended.done():
            try:
                await asyncio.shield(ended)
            except asyncio.CancelledError:
                if ended.done() or self._stopped:
                    self.crash()
                    raise
                self.stop()
                await asyncio.shield(ended)
                raise

    def _interrupted(self, exc: SystemExit | KeyboardInterrupt) -> None:
        # A callback called sys.exit(), as uvicorn does for a port in use. The loop can go on,
        # and has to: services, children and pools still need their stop.
        if isinstance(exc, SystemExit):
            code = exc.code
            status = code if isinstance(code, int) else 0 if code is None else 1
            self.fail(status, f"a callback exited with {code!r}")
        elif self.running and not self._stopped:
            self.stop()

    def fail(self, status: int, reason: str = "") -> None:
        """
        Stop, and see to it that the process exits with C{status}, under twistd too.
        """
        if reason:
            _log.error("Stopping with exit status {status}: {reason}", status=status, reason=reason)
        if not self.exit_status:
            self.exit_status = status
            self._exitSignal = ExitStatus(status) if status else None  # type: ignore[assignment]
        if self.running:
            if not self._stopped:
                self.stop()
        else:
            self.callWhenRunning(self.stop_if_running)

    def stop_if_running(self) -> None:
        """
        Stop, unless that has been asked for already.
        """
        if self.running and not self._stopped:
            self.stop()

    def stop(self) -> None:
        ReactorBase.stop(self)
        # The shutdown event is fired by the next round of timers.
        self.callLater(0, _nothing)

    def crash(self) -> None:
        ReactorBase.crash(self)
        self._ticking = False
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def iterate(self, delay: float = 0.0) -> None:
        ticking, self._ticking = self._ticking, True
        self._reschedule()
        self._asyncioEventloop.call_later(delay + 0.01, self._asyncioEventloop.stop)
        try:
            self._asyncioEventloop.run_forever()
        finally:
            self._ticking = ticking

    def _close(self) -> None:
        self._children.close()
        if self._timer is not None:
            self._timer.cancel()
        loop = self._asyncioEventloop
        if loop.is_closed():
            return
        tear_down(loop)
        if self._owns_loop:
            loop.close()

    # -- signals ---------------------------------------------------------------------------

    def _signalsFactory(self) -> SignalHandling:
        # Without SIGCHLD: the nursery sees children end. Restored afterwards, unlike Twisted's.
        return RestoredSignals(_WithSignalHandling(self.sigInt, self.sigBreak, self.sigTerm))

    def sigInt(self, number: int, frame: FrameType | None = None) -> None:
        _log.info("Received SIGINT, shutting down.")
        self.callFromThread(self._signalled, number)

    def sigBreak(self, number: int, frame: FrameType | None = None) -> None:
        _log.info("Received SIGBREAK, shutting down.")
        self.callFromThread(self._signalled, number)

    def sigTerm(self, number: int, frame: FrameType | None = None) -> None:
        _log.info("Received SIGTERM, shutting down.")
        self.callFromThread(self._signalled, number)

    def _signalled(self, number: int) -> None:
        self.on_signal(number)

    def _stop_then_crash(self, number: int) -> None:
        if not self._stopped:
            self.stop()
        elif self._started:
            self.crash()

    # -- time ------------------------------------------------------------------------------

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kw: object) -> DelayedCall:
        assert delay >= 0, f"{delay} is not greater than or equal to 0 seconds"
        due = _seconds() + delay
        call = TimedCall(due, callable, args, kw, self._cancelCallLater, self._moveCallLaterSooner, self.seconds)
        call.context = timer_context(delay)
        self._newTimedCalls.append(call)
        if due < self._timer_at:
            self._arm(due, delay)
        return call

    def _moveCallLaterSooner(self, delayedCall: DelayedCall) -> None:
        ReactorBase._moveCallLaterSooner(self, delayedCall)
        self._reschedule()

    def _arm(self, due: float, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        # An empty context: this one handle serves everybody's timers.
        if delay <= 0:
            self._timer = self._asyncioEventloop.call_soon(self._on_timer, context=Context())
        else:
            self._timer = self._asyncioEventloop.call_later(delay, self._on_timer, context=Context())

    def _reschedule(self) -> None:
        delay = self.timeout()
        if delay is not None:
            self._arm(self.seconds() + delay, delay)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = _NEVER
        if self._ticking:
            self.runUntilCurrent()
        if self._ticking:
            self._reschedule()

    def runUntilCurrent(self) -> None:
        self._insertNewDelayedCalls()
        now = self.seconds()
        while self._pendingTimedCalls and self._pendingTimedCalls[0].time <= now:
            call = heappop(self._pendingTimedCalls)
            if call.cancelled:
                self._cancellations -= 1
                continue
            if call.delayed_time > 0.0:
                call.activate_delay()
                heappush(self._pendingTimedCalls, call)
                continue
            context = getattr(call, "context", None) or Context()
            call.context = None  # type: ignore[attr-defined]
            with _timed_call_failure if call.creator is None else _created_here(call):
                call.called = 1
                context.run(call.func, *call.args, **call.kw)
        if self._cancellations > 50 and self._cancellations > len(self._pendingTimedCalls) >> 1:
            self._cancellations = 0
            self._pendingTimedCalls = [call for call in self._pendingTimedCalls if not call.cancelled]
            heapify(self._pendingTimedCalls)
        if self._justStopped:
            self._justStopped = False
            self.fireSystemEvent("shutdown")

    # -- threads ---------------------------------------------------------------------------

    def callFromThread(  # type: ignore[override]  # the two supertypes don't agree either
        self, f: Callable[..., Any], *args: object, **kwargs: object
    ) -> None:
        assert callable(f), f"{f} is not callable"
        try:
            self._asyncioEventloop.call_soon_threadsafe(_from_thread, f, args, kwargs)
        except RuntimeError:
            if not self._asyncioEventloop.is_closed():
                raise
            _log.debug("Dropped a call from a thread: the loop is closed ({f!r})", f=f)

    def wakeUp(self) -> None:
        if not self._asyncioEventloop.is_closed():
            self._asyncioEventloop.call_soon_threadsafe(_nothing)

    def installWaker(self) -> None:
        """
        Nothing to install: the loop has a waker of its own.
        """

    # -- descriptors -----------------------------------------------------------------------

    def addReader(self, reader: Any) -> None:
        # A loop's handle keeps the context it is made in for as long as the descriptor is
        # watched, and a connection outlives the request that opened it.
        Context().run(super().addReader, reader)

    def addWriter(self, writer: Any) -> None:
        Context().run(super().addWriter, writer)

    def _readOrWrite(self, selectable: Any, read: bool) -> None:
        # And each event in a fresh one: what one event's callbacks set is not the next one's.
        Context().run(super()._readOrWrite, selectable, read)

    def removeReader(self, reader: Any) -> None:
        if self._asyncioEventloop.is_closed():
            self._readers.pop(reader, None)
        else:
            super().removeReader(reader)  # type: ignore[no-untyped-call]

    def removeWriter(self, writer: Any) -> None:
        if self._asyncioEventloop.is_closed():
            self._writers.pop(writer, None)
        else:
            super().removeWriter(writer)  # type: ignore[no-untyped-call]

    def spawnProcess(self, *args: Any, **kwargs: Any) -> Any:
        child = super().spawnProcess(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._children.watch(child)
        return child

    # -- listening -------------------------------------------------------------------------

    def _offered(self, listen: Listen) -> IListeningPort | None:
        return None if self.on_listen is None else self.on_listen(listen)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        taken = self._offered(Listen("tcp", factory, port=port, backlog=backlog, interface=interface))
        if taken is not None:
            return taken
        return super().listenTCP(port, factory, backlog, interface)  # type: ignore[no-untyped-call]

    def listenSSL(self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = "") -> Any:
        listen = Listen("ssl", factory, port=port, backlog=backlog, interface=interface, context_factory=contextFactory)
        taken = self._offered(listen)
        if taken is not None:
            return taken
        # Twisted's listenSSL goes through listenTCP with a wrapped factory: asked once is enough.
        hook, self.on_listen = self.on_listen, None
        try:
            return super().listenSSL(port, factory, contextFactory, backlog, interface)  # type: ignore[no-untyped-call]
        finally:
            self.on_listen = hook

    def listenUNIX(
        self, address: Any, factory: Any, backlog: int = 50, mode: int | None = 0o666, wantPID: Any = 0
    ) -> Any:
        listen = Listen("unix", factory, address=address, backlog=backlog, mode=mode, want_pid=bool(wantPID))
        taken = self._offered(listen)
        if taken is not None:
            return taken
        return super().listenUNIX(address, factory, backlog, mode, wantPID)  # type: ignore[no-untyped-call]

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> Any:
        taken = self._offered(Listen("adopt", factory, fd=fileDescriptor, family=addressFamily))
        if taken is not None:
            return taken
        return super().adoptStreamPort(fileDescriptor, addressFamily, factory)  # type: ignore[no-untyped-call]


def _nothing() -> None:
    pass


def _from_thread(f: Callable[..., Any], args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    with _thread_call_failure:
        f(*args, **kwargs)


def _created_here(call: DelayedCall) -> Any:
    creator = "".join(call.creator or ()).rstrip().replace("\n", "\n C:")
    return _log.failuresHandled(
        "while handling timed call\n C: from a DelayedCall created here:\n C:{creator}", creator=creator
    )


__all__ = ["BridgeReactor", "TimedCall"]
