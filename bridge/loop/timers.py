"""
Owns the reactor's time: monotonic seconds, and timers that run in the context they were made in.

Timers without a delay, which are most, wait in a queue of their own: their order is known, so they need no heap, and
the loop's handle for the others stays as it is. Both are run by one pass, what fell due earlier first.

Refuses: to run timers while the reactor doesn't; to keep a request for a timer that is far away.
"""

from __future__ import annotations

import time
from asyncio import Handle
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bridge.loop.context import FAR, facts_of, only_facts, timer_context

_log = Logger()
_timed_call_failure = _log.failureHandler("while handling timed call")

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

    def fire(self) -> None:
        """
        Call the function, in the context that it belongs to. What it raises is logged.
        """
        context, self.context = self.context or Context(), None
        with _timed_call_failure if self.creator is None else _created_here(self):
            self.called = 1
            context.run(self.func, *self.args, **self.kw)


class TimedReactor(AsyncioSelectorReactor):
    """
    The part of the reactor that keeps time. One handle of the loop serves all timers with a delay, one all without.
    """

    seconds = staticmethod(_seconds)

    _pendingTimedCalls: list[TimedCall]  # type: ignore[assignment]  # it makes no others
    _timer: Handle | None = None
    _timer_at = _NEVER
    _soon_timer: Handle | None = None
    #: Timers run between start and crash only, though the loop may run before and after.
    _ticking = False

    def __init__(self, eventloop: Any = None) -> None:
        self._soon: deque[TimedCall] = deque()
        super().__init__(eventloop)

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kw: object) -> DelayedCall:
        assert delay >= 0, f"{delay} is not greater than or equal to 0 seconds"
        due = self.seconds() + delay
        call = TimedCall(due, callable, args, kw, self._cancelCallLater, self._moveCallLaterSooner, self.seconds)
        if delay == 0:
            call.context = copy_context()
            self._soon.append(call)
            if self._soon_timer is None:
                self._arm_soon()
            return call
        call.context = timer_context(delay)
        self._newTimedCalls.append(call)
        if due < self._timer_at:
            self._arm(due, delay)
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        soon: list[Any] = [call for call in self._soon if not call.cancelled]
        return soon + list(super().getDelayedCalls())

    def timeout(self) -> float | None:
        return 0 if self._soon else super().timeout()

    def _moveCallLaterSooner(self, delayedCall: DelayedCall) -> None:
        ReactorBase._moveCallLaterSooner(self, delayedCall)
        self._reschedule()

    # An empty context for both handles: they serve everybody's timers.

    def _arm_soon(self) -> None:
        self._soon_timer = self._asyncioEventloop.call_soon(self._on_soon, context=Context())

    def _arm(self, due: float, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        if delay <= 0:
            self._timer = self._asyncioEventloop.call_soon(self._on_timer, context=Context())
        else:
            self._timer = self._asyncioEventloop.call_later(delay, self._on_timer, context=Context())

    def _disarm(self) -> None:
        for timer in (self._timer, self._soon_timer):
            if timer is not None:
                timer.cancel()
        self._soon_timer = None

    def _reschedule(self) -> None:
        if self._soon and self._soon_timer is None:
            self._arm_soon()
        delay = super().timeout()
        if delay is not None:
            self._arm(self._pendingTimedCalls[0].time, delay)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = _NEVER
        if self._ticking:
            self.runUntilCurrent()
        if self._ticking:
            self._reschedule()

    def _on_soon(self) -> None:
        self._soon_timer = None
        if self._ticking:
            self.runUntilCurrent()
        if self._ticking and self._pendingTimedCalls and self._pendingTimedCalls[0].time < self._timer_at:
            self._reschedule()

    def runUntilCurrent(self) -> None:
        self._insertNewDelayedCalls()
        pending, soon = self._pendingTimedCalls, self._soon
        now = self.seconds() if pending else 0.0
        # Those that these make are for the next pass: I/O has its turn in between.
        for _ in range(len(soon)):
            if soon and pending and pending[0].time <= soon[0].time:
                self._run_due(soon[0].time)
            if not soon:
                # A callback ran a pass itself.
                break
            call = soon.popleft()
            if call.cancelled:
                self._cancellations -= 1
            elif call.delayed_time > 0.0:
                call.activate_delay()
                heappush(pending, call)
            else:
                call.fire()
        if pending and pending[0].time <= now:
            self._run_due(now)
        if self._cancellations > 50 and self._cancellations > len(pending) >> 1:
            self._sweep()
        if self._justStopped:
            self._justStopped = False
            self.fireSystemEvent("shutdown")

    def _run_due(self, now: float) -> None:
        pending = self._pendingTimedCalls
        while pending and pending[0].time <= now:
            call = heappop(pending)
            if call.cancelled:
                self._cancellations -= 1
            elif call.delayed_time > 0.0:
                call.activate_delay()
                heappush(pending, call)
            else:
                call.fire()

    def _sweep(self) -> None:
        # In place, and all of them: whatever is cancelled after this counts again.
        self._insertNewDelayedCalls()
        self._pendingTimedCalls[:] = [call for call in self._pendingTimedCalls if not call.cancelled]
        heapify(self._pendingTimedCalls)
        self._cancellations = sum(bool(call.cancelled) for call in self._soon)

    def iterate(self, delay: float = 0.0) -> None:
        ticking, self._ticking = self._ticking, True
        self._reschedule()
        self._asyncioEventloop.call_later(delay + 0.01, self._asyncioEventloop.stop)
        try:
            self._asyncioEventloop.run_forever()
        finally:
            self._ticking = ticking


def _created_here(call: DelayedCall) -> Any:
    creator = "".join(call.creator or ()).rstrip().replace("\n", "\n C:")
    return _log.failuresHandled(
        "while handling timed call\n C: from a DelayedCall created here:\n C:{creator}", creator=creator
    )
