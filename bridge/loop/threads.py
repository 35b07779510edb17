"""
Owns the reactor's worker threads: what `deferToThread` and `callInThread` use.

A job runs in the context of whoever asked for it, and is handed a stop event: L{worker_stop}, or the first argument of
what L{defer_to_worker} runs. When the pool stops, the events are set, waiting jobs fail with L{StoppingError}, and the
threads get a bounded time. One that ignores its event is named in the log and left: the threads are
daemons, and hold no exit.

Refuses: work after the stop, loudly. To join on the loop's thread. To start threads before the reactor runs, which
a daemonizing twistd would lose.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from queue import Empty, SimpleQueue
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakSet

import attrs
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python import context as twisted_context
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from bridge.errors import StoppingError
from bridge.loop.failures import failure_of
from bridge.loop.ledger import Ledger, Share, share_of_current

_log = Logger()
_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Seconds that an idle thread stays.
_IDLE = 10.0

_stop: ContextVar[threading.Event | None] = ContextVar("bridge.loop.worker_stop", default=None)


def worker_stop() -> threading.Event:
    """
    In a worker thread: the event that says when to stop. Elsewhere: one that nobody sets.
    """
    return _stop.get() or threading.Event()


@attrs.define(eq=False)
class _Job:
    share: Share
    function: Callable[[], Any]
    on_result: Callable[[bool, Any], object] | None
    context: Context
    what: str
    stop: threading.Event = attrs.field(factory=threading.Event)


class WorkerPool(ThreadPool):
    """
    Twisted's thread pool by its interface, ours by its threads. How many run is the ledger's business:
    C{adjustPoolsize(maxthreads=n)} sets the limit of the pool's own share there.

    @param fixed: Book everything on this share, whoever asks.
    """

    def __init__(self, ledger: Ledger, share: Share, name: str, fixed: bool = False) -> None:
        self._ledger = ledger
        self._share = share
        self._fixed = fixed
        self._guard = threading.Lock()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._early: deque[_Job] = deque()
        self._idle = 0
        self._made = 0
        self._busy: dict[threading.Thread, _Job] = {}
        # Through with their work, but perhaps not yet gone for Python.
        self._leaving: WeakSet[threading.Thread] = WeakSet()
        self._all_ended: Callable[[], object] | None = None
        super().__init__(0, ledger.limit(share), name)

    # -- work ------------------------------------------------------------------------------

    def callInThreadWithCallback(
        self,
        onResult: Callable[[bool, Any], object] | None,
        func: Callable[_P, Any],
        *args: _P.args,
        **kw: _P.kwargs,
    ) -> None:
        """
        As Twisted's. C{onResult} is called in the worker thread, in the caller's context.

        @raise StoppingError: The pool has stopped.
        """
        self.submit(functools.partial(func, *args, **kw), onResult, name_of(func))

    def submit(
        self,
        function: Callable[[], Any],
        on_result: Callable[[bool, Any], object] | None,
        what: str,
        stop: threading.Event | None = None,
    ) -> None:
        """
        Run C{function} in a thread, when its share has room for it.
        """
        if self.joined:
            raise StoppingError(f"{what} for a thread of {self.name}")
        # Twisted's own context travels too: `twisted.python.log.callWithContext` is in it.
        inherited = twisted_context.theContextTracker.currentContext().contexts[-1]
        share = self._share if self._fixed else share_of_current(self._share)
        call = functools.partial(twisted_context.call, inherited, function)
        job = _Job(share, call, on_result, copy_context(), what, stop or threading.Event())
        if not self.started:
            self._early.append(job)
        else:
            self._book(job)

    def _book(self, job: _Job) -> None:
        if self._ledger.take_or_wait(job.share, job, functools.partial(self._dispatch, job)):
            self._dispatch(job)

    def _dispatch(self, job: _Job) -> None:
        with self._guard:
            if self._idle:
                self._idle -= 1
                self._jobs.put(job)
                return
            self._made += 1
            thread = threading.Thread(
                target=self._work, args=(job,), name=f"PoolThread-{self.name}-{self._made}", daemon=True
            )
            self.threads.append(thread)
        # A thread inherits no context in 3.11 to 3.13, and must inherit no request's in later ones.
        Context().run(thread.start)

    def _work(self, job: _Job | None) -> None:
        thread = threading.current_thread()
        while job is not None:
            with self._guard:
                self._busy[thread] = job
            ok, result = self._run(job)
            # Before the result is out: whoever gets it finds the slot free.
            with self._guard:
                del self._busy[thread]
                self._idle += 1
            self._ledger.give_back(job.share)
            self._report(job, ok, result)
            del job, result
            job = self._next_job()
        with self._guard:
            self.threads.remove(thread)
            self._leaving.add(thread)
            ended = self._all_ended if not self.threads else None
        if ended is not None:
            ended()

    def _next_job(self) -> _Job | None:
        while True:
            if self.joined and self._leave():
                return None
            try:
                job = self._jobs.get(timeout=_IDLE)
            except Empty:
                if self._leave():
                    return None
            else:
                if job is not None:
                    return job

    def _leave(self) -> bool:
        # A dispatcher that counted this thread as idle has lowered the count, and its job is coming.
        with self._guard:
            if not self._idle:
                return False
            self._idle -= 1
            return True

    def _run(self, job: _Job) -> tuple[bool, Any]:
        try:
            # A copy: what the job sets is not its callback's.
            ok, result = True, job.context.copy().run(_with_stop, job.stop, job.function)
        except BaseException as exc:
            ok, result = False, failure_of(exc)
        job.function = _done
        return ok, result

    def _report(self, job: _Job, ok: bool, result: Any) -> None:
        on_result, job.on_result = job.on_result, None
        if on_result is not None:
            try:
                job.context.run(on_result, ok, result)
            except BaseException as exc:
                _log.failure("A thread's result could not be delivered: {what}", failure_of(exc), what=job.what)
        elif not ok:
            _log.failure("{what} failed in a thread", result, what=job.what)

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """
        Threads start as there is work; what came before is run now.
        """
        self.joined = False
        self.started = True
        while self._early:
            self._book(self._early.popleft())

    def stop(self) -> None:
        """
        Tell every job to stop, fail those that wait, refuse new ones. Joins nothing; see L{ended}.
        """
        if self.joined:
            return
        self.joined = True
        self.started = False
        waiting = list(self._early)
        self._early.clear()
        for share, job in self._waiting_here():
            if self._ledger.forget(share, job):
                waiting.append(job)
        for job in waiting:
            self._report(job, False, failure_of(StoppingError(f"{job.what}, which waited for a thread,")))
        with self._guard:
            for job in self._busy.values():
                job.stop.set()
            for _ in self.threads:
                self._jobs.put(None)

    def _waiting_here(self) -> list[tuple[Share, _Job]]:
        return [(what.share, what) for what in self._ledger.waiting() if isinstance(what, _Job)]

    async def ended(self, seconds: float) -> list[str]:
        """
        Wait that long for all threads to end. What still runs is logged and returned.
        """
        loop = asyncio.get_running_loop()
        all_ended = asyncio.Event()
        with self._guard:
            if not self.threads:
                all_ended.set()
            self._all_ended = functools.partial(_tell, loop, all_ended)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(all_ended.wait(), seconds)
        with self._guard:
            self._all_ended = None
            leaving = list(self._leaving)
            left = [f"{thread.name}: {job.what}" for thread, job in self._busy.items()]
        for thread in leaving:
            # Microseconds: it has nothing left to run.
            thread.join(_IDLE)
        for one in left:
            _log.error("Left behind, because it ignored its stop event: {one}", one=one)
        return left

    # -- Twisted's statistics --------------------------------------------------------------

    @property
    def workers(self) -> int:
        return len(self.threads)

    @property
    def working(self) -> list[None]:
        return [None] * len(self._busy)

    @property
    def waiters(self) -> list[None]:
        return [None] * self._idle

    def adjustPoolsize(self, minthreads: int | None = None, maxthreads: int | None = None) -> None:
        """
        Set how many threads the pool's own share may use. Threads start with work, so that there is no minimum.
        """
        least = self.min if minthreads is None else minthreads
        most = self.max if maxthreads is None else maxthreads
        assert least >= 0, "minimum is negative"
        assert least <= most, "minimum is greater than maximum"
        self.min, self.max = least, most
        self._ledger.set_limit(self._share, most)

    def startAWorker(self) -> None:
        """
        Nothing: threads start with work.
        """

    def stopAWorker(self) -> None:
        """
        Nothing: idle threads end by themselves.
        """


def _with_stop(stop: threading.Event, function: Callable[[], Any]) -> Any:
    _stop.set(stop)
    return function()


def _done() -> None:
    """
    Stands where a job's function was, so that its arguments can go.
    """


def _tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    # Refused where the loop was closed in the meantime: nobody waits any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(event.set)


def name_of(function: Callable[..., Any]) -> str:
    """
    A callable's name for people.
    """
    while isinstance(function, functools.partial):
        function = function.func
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None) or repr(function)
    return f"{module}.{name}" if module else name


def defer_to_worker(
    reactor: Any, function: Callable[Concatenate[threading.Event, _P], _R], *args: _P.args, **kwargs: _P.kwargs
) -> Deferred[_R]:
    """
    Run C{function(stop, …)} in a thread of the reactor's pool. The event is set when the server stops, and when the
    Deferred is cancelled; either way the Deferred fires once the thread is done, never before.
    """
    stop = threading.Event()
    cancelled = False

    class WorkerDeferred(Deferred[_R]):
        """
        Cancelling asks the thread, and waits for it.
        """

        def cancel(self) -> None:
            nonlocal cancelled
            if self.called:
                super().cancel()
            else:
                cancelled = True
                stop.set()

    deferred: Deferred[_R] = WorkerDeferred()

    def finished(ok: bool, result: Any) -> None:
        if cancelled:
            result = failure_of(defer.CancelledError())
        if isinstance(result, Failure):
            reactor.callFromThread(deferred.errback, result)
        else:
            reactor.callFromThread(deferred.callback, result)

    reactor.getThreadPool().submit(
        functools.partial(function, stop, *args, **kwargs), finished, name_of(function), stop
    )
    return deferred
