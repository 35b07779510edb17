"""
Owns noticing that the loop is late, and who keeps it.

A timer measures the loop's lag five times a second, always, which costs 0.1 % of a core. A thread looks at the timer:
when it is overdue by more than the threshold, the loop's stack is reported, once, with the route and the side that it
works for. The side is the stack's: whose code blocks, whatever route it serves.

Refuses: to stop anything. It tells.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Mapping
from contextvars import Context
from types import FrameType

import attrs
from twisted.logger import Logger

from bridge.beat import next_beat
from bridge.loop.context import About, facts_of
from bridge.loop.frames import facts_in, outwards

_log = Logger()

#: Seconds between two measurements of the lag.
BEAT = 0.2
#: Upper bounds of the lag's classes, in seconds.
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, float("inf"))

#: Whose code a package is; the innermost frame decides. The applications' own come from whoever knows them.
PACKAGES: Mapping[str, str] = {"fastapi": "modern", "starlette": "modern", "twisted.web": "legacy"}


@attrs.frozen
class Stall:
    """
    One callback that kept the loop.

    @ivar seconds: For how long, when it was noticed.
    @ivar stack: Its frames, outermost first, as a traceback shows them.
    """

    seconds: float
    about: About
    side: str
    stack: str


@attrs.frozen
class Lag:
    """
    How late the loop's timers are, in seconds.
    """

    last: float
    worst: float
    samples: int
    p50: float
    p99: float


def _report(stall: Stall) -> None:
    _log.warn(
        "The loop has been blocked for {seconds:.2f} s by {side} code, for {route} (request {request}):\n{stack}",
        seconds=stall.seconds,
        side=stall.side,
        route=stall.about.route,
        request=stall.about.request,
        stack=stall.stack,
    )


@attrs.define(eq=False)
class StallWatch:
    """
    Made and started on the loop's thread.

    @ivar threshold: Seconds that a callback may take.
    @ivar stalls: How many took longer.
    """

    _loop: AbstractEventLoop
    threshold: float = 0.25
    packages: Mapping[str, str] = PACKAGES
    _on_stall: Callable[[Stall], object] = _report
    _describe: Callable[[FrameType], About | None] | None = None
    stalls: int = attrs.field(default=0, init=False)
    _due: float = attrs.field(default=0.0, init=False)
    _timer: TimerHandle | None = attrs.field(default=None, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)
    _stop: threading.Event = attrs.field(factory=threading.Event, init=False)
    _loop_thread: int = attrs.field(default=0, init=False)
    _counts: list[int] = attrs.field(factory=lambda: [0] * len(BOUNDS), init=False)
    _last: float = attrs.field(default=0.0, init=False)
    _worst: float = attrs.field(default=0.0, init=False)

    def start(self) -> None:
        """
        Measure from now on, and watch.
        """
        if self._thread is not None:
            return
        self._loop_thread = threading.get_ident()
        self._stop.clear()
        self._arm()
        self._thread = threading.Thread(target=self._watch, name="bgserver-stalls", daemon=True)
        Context().run(self._thread.start)

    def stop(self) -> None:
        """
        Stop both. The thread is woken and ends by itself; nobody waits for it.
        """
        self._stop.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._thread = None

    def lag(self) -> Lag:
        """
        What has been measured since the start.
        """
        samples = sum(self._counts)
        return Lag(self._last, self._worst, samples, self._quantile(0.5, samples), self._quantile(0.99, samples))

    def _quantile(self, share: float, samples: int) -> float:
        # The class's upper bound; the worst for the open one, and never more than that.
        seen = 0
        for bound, count in zip(BOUNDS, self._counts, strict=True):
            seen += count
            if samples and seen >= share * samples:
                return min(bound, self._worst)
        return 0.0

    def _arm(self) -> None:
        # On the beat that the timers of an idle server share: waking it costs more than a measurement. One that comes
        # a little early isn't measured twice.
        now = time.monotonic()
        self._due = next_beat(now + BEAT / 10, BEAT)
        self._timer = self._loop.call_later(self._due - now, self._beat, context=Context())

    def _beat(self) -> None:
        lag = self._last = max(0.0, time.monotonic() - self._due)
        self._worst = max(self._worst, lag)
        for index, bound in enumerate(BOUNDS):
            if lag <= bound:
                self._counts[index] += 1
                break
        self._arm()

    def _watch(self) -> None:
        # Runs in the watching thread: reads, and reports. It sleeps until the timer that it has seen would be too late.
        reported = 0.0
        pause = self.threshold
        while not self._stop.wait(pause):
            due = self._due
            late = time.monotonic() - due
            pause = self.threshold / 2
            if late <= self.threshold:
                pause = self.threshold - late + 0.001
                continue
            if due == reported:
                continue
            frame = sys._current_frames().get(self._loop_thread)
            if frame is not None and self._due == due:
                reported = due
                self.stalls += 1
                self._on_stall(self._stall(frame, late))

    def _stall(self, frame: FrameType, seconds: float) -> Stall:
        stack = "".join(traceback.format_stack(frame))
        about = self._about(frame)
        side = next((side for side in map(self._side_of, outwards(frame)) if side), about.side)
        return Stall(seconds, about, side, stack)

    def _side_of(self, frame: FrameType) -> str | None:
        module = frame.f_globals.get("__name__", "")
        while module:
            if module in self.packages:
                return self.packages[module]
            module = module.rpartition(".")[0]
        return None

    def _about(self, frame: FrameType) -> About:
        for each in outwards(frame):
            found = self._describe(each) if self._describe is not None else None
            found = found or facts_in(each)
            if found is not None:
                return found
        task = asyncio.current_task(self._loop)
        # 3.12 and later; on 3.11 the frames have to do.
        get_context: Callable[[], Context] | None = getattr(task, "get_context", None)
        return facts_of(get_context()) if get_context is not None else About()
