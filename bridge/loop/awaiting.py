"""
Owns the border between Deferreds and awaitables, in both directions.

Cancelling one side asks the other, and waits until its clean-up is done: a cancelled `await`
returns when the Deferred has fired, a cancelled Deferred fires when the coroutine has ended.
Each side sees its own C{CancelledError}, never the other's. Tracebacks show both halves,
contexts are kept, and a chain that has already fired still lets the loop run.

Refuses: to consume. Both directions fork: what else waits on a Deferred gets its result as
if nobody had looked. To run where no loop runs: that is an error that says so. To patch
C{Deferred.__await__}.
"""

from __future__ import annotations

import asyncio
import functools
from asyncio import AbstractEventLoop, Future, Task
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar, cast

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bridge.errors import NoRunningLoopError
from bridge.loop.failures import exception_of, failure_of

_T = TypeVar("_T")
_P = ParamSpec("_P")


class DeferredFuture(Future[_T]):
    """
    A Deferred as asyncio sees it. Cancelling cancels the Deferred; it is done when that is.

    A Future itself, and none beside it: a task's cancellation reaches the Deferred at once. A turn of the loop later
    the Deferred might have fired in between, and what it had got (a lock) would be nobody's.
    """

    __slots__ = ("deferred",)

    deferred: Deferred[_T]

    def cancel(self, msg: Any | None = None) -> bool:
        """
        Ask the Deferred to stop. As with a task, it may take its time, or finish anyway.
        """
        if self.done():
            return False
        if self.deferred.called and not self.deferred.paused:
            # It has fired, and its chain is at an earlier callback. There is nothing left to stop, and a cancellation
            # must not be lost.
            return super().cancel(msg)
        self.deferred.cancel()
        return True

    def _fired(self, result: Any) -> Any:
        if isinstance(result, Failure):
            if not self.done():
                self._failed(result)
        elif not self.done():
            self.set_result(result)
        return result

    def _failed(self, failure: Failure) -> None:
        exc = failure.value
        if isinstance(exc, defer.CancelledError | asyncio.CancelledError):
            super().cancel()
        elif isinstance(exc, StopIteration):
            # A Future can't hold one: the generator that awaits it would take it for its end.
            wrapped = RuntimeError("the Deferred failed with StopIteration")
            wrapped.__cause__ = exc
            self.set_exception(wrapped)
        else:
            self.set_exception(exception_of(failure))
        # Whoever awaits this has the error now; the chain, once it is through, need not report it as unhandled.
        self.get_loop().call_soon(_handled, self.deferred)


class FiredFuture(DeferredFuture[_T]):
    """
    One whose Deferred had fired before. Awaiting it gives the loop one turn: asyncio would go on without a break, and a
    loop over such Deferreds would starve everything else.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, _T]:
        yield
        return (yield from super().__await__())

    __iter__ = __await__


def _handled(deferred: Deferred[Any]) -> None:
    info = deferred._debugInfo
    if info is not None and info.failResult is deferred.result:
        info.failResult = None


def as_awaitable(deferred: Deferred[_T]) -> Future[_T]:
    """
    A Future that follows the Deferred, on the running loop. The Deferred keeps its result.

    @raise NoRunningLoopError: No loop runs in this thread.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise NoRunningLoopError("Awaiting a Deferred") from None
    future: DeferredFuture[_T]
    if deferred.called and not deferred.paused:
        future = FiredFuture(loop=loop)
    else:
        future = DeferredFuture(loop=loop)
    future.deferred = deferred
    deferred.addBoth(future._fired)
    return future


class TaskDeferred(Deferred[_T]):
    """
    A task as Twisted sees it. Cancelling cancels the task; it fires when the task has ended.
    """

    def __init__(self, future: Future[_T]) -> None:
        super().__init__()
        self._future = future
        future.add_done_callback(self._ended)

    def cancel(self) -> None:
        """
        Ask the task to stop. Unlike Twisted's own, this never fires the Deferred by itself:
        that would be before the clean-up.
        """
        if not self.called:
            self._future.cancel()
        else:
            super().cancel()

    def _ended(self, future: Future[_T]) -> None:
        if future.cancelled():
            self.errback(failure_of(defer.CancelledError()))
            return
        exc = future.exception()
        if exc is None:
            self.callback(future.result())
        elif isinstance(exc, asyncio.CancelledError):
            self.errback(failure_of(defer.CancelledError()))
        else:
            self.errback(failure_of(exc))


class KeptDeferred(TaskDeferred[_T]):
    """
    One that holds its task until it ends, in the loop's own set.
    """

    def __init__(self, task: Task[_T], kept: set[Task[Any]]) -> None:
        super().__init__(task)
        self._kept = kept
        kept.add(task)

    def _ended(self, future: Future[_T]) -> None:
        self._kept.discard(cast("Task[_T]", future))
        super()._ended(future)


def as_deferred(awaitable: Awaitable[_T]) -> Deferred[_T]:
    """
    A Deferred that follows the awaitable. A coroutine becomes a task, in the current context,
    and is kept until it ends, whether or not anybody keeps the Deferred.

    @raise NoRunningLoopError: No loop runs in this thread.
    """
    # Coroutines first: they are what most are, and asking whether something is a Deferred takes ten times as long.
    coroutine = awaitable if isinstance(awaitable, CoroutineType) else None
    if coroutine is None:
        if isinstance(awaitable, Deferred):
            return awaitable
        if asyncio.isfuture(awaitable):
            return TaskDeferred(awaitable)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        if coroutine is not None:
            coroutine.close()
        raise NoRunningLoopError("A coroutine behind a Deferred") from None
    return KeptDeferred(loop.create_task(coroutine or _awaited(awaitable)), _kept(loop))


async def _awaited(awaitable: Awaitable[_T]) -> _T:
    return await awaitable


def keep(loop: AbstractEventLoop, task: Task[_T]) -> Task[_T]:
    """
    Hold the task until it ends. asyncio itself holds tasks weakly, and one that nobody refers
    to may be collected in the middle of an await. The loop is what has the right lifetime.
    """
    kept = _kept(loop)
    kept.add(task)
    task.add_done_callback(kept.discard)
    return task


def _kept(loop: AbstractEventLoop) -> set[Task[Any]]:
    kept: set[Task[Any]] | None = getattr(loop, "_bridge_tasks", None)
    if kept is None:
        kept = set()
        loop._bridge_tasks = kept  # type: ignore[attr-defined]
    return kept


def shielded(deferred: Deferred[_T]) -> Deferred[_T]:
    """
    A Deferred with the same result, whose cancellation leaves the original alone.

    The Deferred's side of C{asyncio.shield}; a cancelled shield fires at once.
    """
    outer: Deferred[_T] = Deferred()

    def succeed(result: _T) -> _T:
        if not outer.called:
            outer.callback(result)
        return result

    def fail(failure: Failure) -> Failure | None:
        if outer.called:
            return failure
        outer.errback(failure)
        return None

    deferred.addCallbacks(succeed, fail)
    return outer


def returns_deferred(function: Callable[_P, Awaitable[_T]]) -> Callable[_P, Deferred[_T]]:
    """
    Decorator: an C{async def} that Twisted code calls, as a function that returns a Deferred.
    """

    @functools.wraps(function)
    def deferring(*args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        return as_deferred(function(*args, **kwargs))

    return deferring


def returns_awaitable(
    function: Callable[_P, Deferred[_T]],
) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """
    Decorator: a function that returns a Deferred (C{inlineCallbacks} too), as an C{async def}
    that asyncio code awaits, and that a FastAPI route can be.
    """

    @functools.wraps(function)
    async def awaiting(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await as_awaitable(function(*args, **kwargs))

    return awaiting
