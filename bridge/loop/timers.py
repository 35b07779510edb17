"""
Owns the reactor's time: monotonic seconds, and timers that run in the context they were made in.

Refuses: to run timers while the reactor doesn't; to keep a request for a timer that is far away.
"""

from __future__ import annotations

import time
from asyncio import Handle
from collections.abc import Callable
from contextvars import Context
from heapq import heapify, heappop, heappush
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import DelayedCall, ReactorBase
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


class TimedReactor(AsyncioSelectorReactor):
    """
    The part of the reactor that keeps time. One handle of the loop serves all timers.
    """

    seconds = staticmethod(_seconds)

    _timer: Handle | None = None
    _timer_at = _NEVER
    #: Timers run between start and crash only, though the loop may run before and after.
    _ticking = False

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
