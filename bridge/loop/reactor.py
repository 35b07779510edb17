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
from asyncio import AbstractEventLoop, Future, Task
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from weakref import WeakSet

from twisted.internet import error
from twisted.internet._resolver import GAIResolver
from twisted.internet._signals import SignalHandling, _WithSignalHandling
from twisted.internet.base import ReactorBase
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from bridge.errors import EarlyRunError, WrongLoopError
from bridge.loop.children import Nursery
from bridge.loop.descriptors import DescriptorReactor
from bridge.loop.ledger import LIMITS, Ledger, Share
from bridge.loop.limiter import install_limiter
from bridge.loop.listening import ListeningReactor
from bridge.loop.signals import RestoredSignals
from bridge.loop.status import ExitStatus
from bridge.loop.teardown import stuck_threads, tear_down
from bridge.loop.threads import WorkerPool
from bridge.loop.timers import TimedReactor

_log = Logger()
_thread_call_failure = _log.failureHandler("while calling from thread")

#: Seconds for threads to end, once the reactor has stopped.
_PATIENCE = 1.0


class BridgeReactor(ListeningReactor, DescriptorReactor, TimedReactor):
    """
    See the module. Made by L{bridge.loop.install}; tests may make their own.

    @ivar on_listen: Asked first by all four ways to listen on a stream; its answer is the
        port, None means that the reactor listens as Twisted would.
    @ivar on_signal: Called on the loop with the number of a SIGINT, SIGTERM or SIGBREAK, in
        owned mode. As set up, the first stops the reactor and the next crashes it.
    @ivar exit_status: What the process should exit with; see L{fail}.
    """

    def __init__(
        self,
        eventloop: AbstractEventLoop | None = None,
        new_loop: Callable[[], AbstractEventLoop] | None = None,
    ) -> None:
        self._owns_loop = eventloop is None
        self._ended: Future[None] | None = None
        self._root: Task[None] | None = None
        self._attached = False
        self._loading = False
        self.ledger = Ledger()
        self._threads_awaited = False
        self._names = WorkerPool(self.ledger, Share.NAMES, "names", fixed=True)
        # Weakly: a pool whose threads have ended is nothing to wait for.
        self._pools: WeakSet[WorkerPool] = WeakSet()
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

    @property
    def owned(self) -> bool:
        """
        Whether the loop runs for this reactor alone, inside C{run()}.
        """
        return self._root is not None

    def stray_tasks(self) -> set[Task[Any]]:
        """
        Every unfinished task on the loop but the reactor's own.
        """
        return asyncio.all_tasks(self._asyncioEventloop) - {self._root}

    # -- running ---------------------------------------------------------------------------

    @contextmanager
    def loading(self) -> Iterator[None]:
        """
        Refuse to run while somebody's code is loaded: a script that ends in C{run()} would wait
        inside its own import, with everything half started.
        """
        self._loading = True
        try:
            yield
        finally:
            self._loading = False

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
        if self._loading:
            raise EarlyRunError()
        if self._started:
            raise error.ReactorAlreadyRunning()
        if self._startedBefore:
            raise error.ReactorNotRestartable()

    async def _serve(self, installSignalHandlers: bool) -> None:
        ended = self._ended = self._asyncioEventloop.create_future()
        self._ticking = True
        restore_limiter = install_limiter(self.ledger, self._asyncioEventloop)
        try:
            self.startRunning(installSignalHandlers)
            self._reschedule()
            await self._ending(ended)
        finally:
            restore_limiter()

    async def _ending(self, ended: Future[None]) -> None:
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

    def _close(self) -> None:
        self._children.close()
        self._disarm()
        loop = self._asyncioEventloop
        if loop.is_closed():
            return
        loop.run_until_complete(self.threads_ended(_PATIENCE))
        tear_down(loop)
        stuck = stuck_threads(_PATIENCE)
        for name in stuck:
            _log.error("Left behind, because it doesn't end: thread {name}", name=name)
        if stuck:
            # Python would join these at exit, and never get there.
            self._exitSignal = ExitStatus(self.exit_status, at_once=True)  # type: ignore[assignment]
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

    def _initThreads(self) -> None:
        # Names are looked up on threads of their own: ten busy jobs must not delay a connect.
        self.installNameResolver(GAIResolver(self, lambda: self._names))  # type: ignore[arg-type]
        self.callWhenRunning(self._names.start)
        self.addSystemEventTrigger("during", "shutdown", self.stop_threads)
        self.usingThreads = True

    def _initThreadPool(self) -> None:
        # A new pool has its size again, whatever the former one was told (trial tells it 0).
        self.ledger.set_limit(Share.LEGACY, LIMITS[Share.LEGACY])
        pool = self.threadpool = WorkerPool(self.ledger, Share.LEGACY, "twisted.internet.reactor")
        self._pools.add(pool)
        self._threadpoolStartupID = self.callWhenRunning(pool.start)
        self.threadpoolShutdownID = self.addSystemEventTrigger("during", "shutdown", self._stopThreadPool)

    def getThreadPool(self) -> ThreadPool:
        if self.ledger.closed:
            # It refuses, and says why; a new one would take work that nobody ever does.
            return self._names
        return super().getThreadPool()

    def stop_threads(self) -> None:
        """
        Tell all worker threads to stop, and refuse new work. Joins nothing.
        """
        if self.threadpool is not None:
            self._stopThreadPool()
        self._names.stop()
        self.ledger.close()

    async def threads_ended(self, seconds: float) -> list[str]:
        """
        Stop the threads and wait that long for them. Returns what was left behind, as the log names it.
        """
        self.stop_threads()
        if self._threads_awaited:
            seconds = 0.0
        self._threads_awaited = True
        left = await asyncio.gather(*(pool.ended(seconds) for pool in [self._names, *self._pools]))
        return [one for each in left for one in each]

    def wakeUp(self) -> None:
        if not self._asyncioEventloop.is_closed():
            self._asyncioEventloop.call_soon_threadsafe(_nothing)

    def installWaker(self) -> None:
        """
        Nothing to install: the loop has a waker of its own.
        """

    # -- children --------------------------------------------------------------------------

    def spawnProcess(self, *args: Any, **kwargs: Any) -> Any:
        child = super().spawnProcess(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._children.watch(child)
        return child


def _nothing() -> None:
    pass


def _from_thread(f: Callable[..., Any], args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    with _thread_call_failure:
        f(*args, **kwargs)


__all__ = ["BridgeReactor"]
