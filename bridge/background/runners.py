"""
Owns how a background loop is started and stopped, on each of the two stacks.

Refuses: to decide when (the supervisor does), and to kill: a loop that doesn't end
in time is left running, named in the log, and held off by its fence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import attrs
from twisted.application.service import IService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

Ended = Callable[[BaseException | None], None]
"""
Told once when a loop ended that nobody had stopped; with the error, if one ended it.
"""


class Runner(Protocol):
    """
    One loop on one side, startable again and again.

    All methods are called on the event loop.
    """

    def start(self, epoch: int, ended: Ended) -> None:
        """
        Begin to run under C{epoch}.
        """

    async def stop(self) -> None:
        """
        Return when the running tick, and its thread, have ended.
        """


@attrs.define
class ModernRunner:
    """
    An async callable C{loop(epoch)} that runs until it is cancelled.
    """

    loop: Callable[[int], Awaitable[None]]
    _task: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    def start(self, epoch: int, ended: Ended) -> None:
        task = asyncio.get_running_loop().create_task(self._run(epoch))
        self._task = task

        def done(finished: asyncio.Task[None]) -> None:
            if self._task is not finished:  # stopped on purpose
                if not finished.cancelled():
                    finished.exception()  # its stop has seen it; not "never retrieved"
                return
            self._task = None
            ended(None if finished.cancelled() else finished.exception())

        task.add_done_callback(done)

    async def _run(self, epoch: int) -> None:
        await self.loop(epoch)

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        # A loop may finish its tick before it honours the cancellation; waiting
        # doesn't re-raise what ended it, which is no longer of interest.
        await asyncio.wait({task})


@attrs.define
class LegacyRunner:
    """
    A named service of the legacy tree, detached from it before start-up.

    The service reads its epoch from the attribute C{epoch}; its C{stopService}
    returns a Deferred that fires when the running tick and its thread are done.
    Three things are optional: C{startService} may return a Deferred that fails where
    the loop refuses to run, C{whenEnded()} may return one that fires when the loop
    ends, by itself or not, and C{observe}, where it isn't L{None}, is told of ticks.

    @ivar awaiting: How a Deferred is awaited here (L{bridge.loop} has it).
    """

    service: IService
    awaiting: Callable[[Deferred[Any]], Awaitable[Any]]
    _round: int = attrs.field(default=0, init=False)
    _running: bool = attrs.field(default=False, init=False)

    def start(self, epoch: int, ended: Ended) -> None:
        service: Any = self.service
        service.epoch = epoch
        self._round += 1
        self._running = True
        this = self._round

        def over(failure: Any) -> None:
            if self._running and self._round == this:  # not stopped on purpose
                self._running = False
                ended(failure.value if isinstance(failure, Failure) else None)

        started = service.startService()
        if isinstance(started, Deferred):
            started.addErrback(over)
        if hasattr(service, "whenEnded"):
            service.whenEnded().addBoth(over)

    def observed(self, owner: object | None) -> None:
        """
        Give the service whom it tells its ticks, or take that away.
        """
        service: Any = self.service
        service.observe = owner

    async def stop(self) -> None:
        if not self._running:
            return
        self._running = False
        service: Any = self.service
        await self.awaiting(maybeDeferred(service.stopService))
