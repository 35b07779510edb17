"""
Owns one background loop in one process: its lease, its runner, its restarts.

It asks L{bridge.background.ownership.next_step} again and again, and carries the
answer out.  Everything runs on the event loop; the lease's database is behind
awaitables.

Refuses: to decide, and to trust itself: when the database can't be reached the
loop runs on, and what keeps two owners apart is the fence, not this process's
opinion.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from bridge.background.leases import Leases
from bridge.background.observing import Observation
from bridge.background.ownership import LoopStage, Step, View, next_step, shown
from bridge.background.runners import Runner
from bridge.beat import next_beat
from bridge.errors import StateError
from bridge.routing.stage import Side

_log = logging.getLogger("bridge.background")

_BACKOFF = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""
Seconds before a loop that died is started again; the last one for every further time.
"""


_BEATS = 0.4
"""
Of the patience, between two renewals at most: who waits for a lease sees two of them at least.
"""

_EARLY = 0.003
"""
Seconds by which a timer may come too early.
"""


@attrs.frozen
class LoopStatus:
    """
    One loop as an operator reads it.

    @ivar owner: The side that holds the lease, in any process; L{None}: nobody.
    @ivar observed: What this process knows of the dry run; L{None} without one.
    """

    name: str
    stage: LoopStage
    owner: Side | None
    epoch: int
    here: bool
    restarts: int
    last_error: str | None
    observed: Mapping[str, Any] | None = None


@attrs.define(eq=False)
class LoopSupervisor:
    """
    Keeps one loop running on the side that its stage names, in one process of many.

    @ivar stage: The stored stage, read anew at each step.
    @ivar boot: Who this process is, in leases.
    @ivar patience: Seconds without a renewal after which a holder counts as gone.
    @ivar drain: Seconds that a stopped loop has for its running tick.
    @ivar observation: The dry run of the stage C{observe}, where the loop has one.
    @ivar unobservable: Why it has none, and what to do.
    @ivar level: How loudly starts and stops are said.
    @ivar monotonic: A clock that never steps back, in seconds.
    """

    name: str
    stage: Callable[[], LoopStage]
    runners: Mapping[Side, Runner]
    leases: Leases
    boot: str
    monotonic: Callable[[], float]
    patience: float = 5.0
    drain: float = 4.0
    observation: Observation | None = None
    unobservable: str = ""
    level: int = logging.INFO

    _mine: Any | None = attrs.field(default=None, init=False)
    _seen: Any | None = attrs.field(default=None, init=False)
    _seen_at: float = attrs.field(default=float("-inf"), init=False)
    _renew_at: float = attrs.field(default=float("-inf"), init=False)
    _leased: Side | None = attrs.field(default=None, init=False)
    _running: Side | None = attrs.field(default=None, init=False)
    _draining: asyncio.Task[None] | None = attrs.field(default=None, init=False)
    _spent: bool = attrs.field(default=False, init=False)
    _lost: bool = attrs.field(default=False, init=False)
    _closing: bool = attrs.field(default=False, init=False)
    _deaths: int = attrs.field(default=0, init=False)
    _restarts: int = attrs.field(default=0, init=False)
    _started_at: float = attrs.field(default=0.0, init=False)
    _rest_until: float = attrs.field(default=float("-inf"), init=False)
    _last_error: str | None = attrs.field(default=None, init=False)
    _floor: int = attrs.field(default=0, init=False)
    _unreachable: bool = attrs.field(default=False, init=False)
    _said_unobservable: bool = attrs.field(default=False, init=False)
    _said_waiting: bool = attrs.field(default=False, init=False)
    _wake: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    async def run(self) -> None:
        """
        Supervise until L{close} has been carried out.  Cancelling it is for a
        forced exit: it leaves the lease to run out.
        """
        while True:
            step = await self.step()
            if step is not Step.WAIT:
                continue
            if self._closing and self._mine is None and self._draining is None:
                await self._rehearsed(self.drain)
                return
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._pause())

    def _pause(self) -> float:
        """
        Seconds until there may be something to do that nobody wakes this for.
        """
        if self._mine is None or self._lost or self._unreachable:
            # What another process does, or a database, shows only when it's looked at.
            return self.patience / 10
        until = self._renew_at if self._running is not None else min(self._renew_at, self._rest_until)
        # A timer may come a little early, and would find nothing to do.
        return max(0.0, until - self.monotonic()) + _EARLY

    def nudge(self) -> None:
        """
        Look again now: a stage changed.
        """
        self._wake.set()

    def close(self) -> None:
        """
        Begin to stop; L{run} returns when the loop is drained and the lease free.
        """
        self._closing = True
        self._wake.set()

    def status(self) -> LoopStatus:
        """
        What is known here, without asking the database.
        """
        lease = self._mine or self._seen
        owner = _side(lease.holder) if lease is not None else None
        return LoopStatus(
            name=self.name,
            stage=shown(self.stage(), owner),
            owner=owner,
            epoch=lease.epoch if lease is not None else 0,
            here=self._mine is not None,
            restarts=self._restarts,
            last_error=self._last_error,
            observed=self._observed(),
        )

    def _observed(self) -> Mapping[str, Any] | None:
        if self.observation is not None and self.observation.running:
            return self.observation.status()
        if self.unobservable and self.stage() is LoopStage.OBSERVE:
            return {"error": self.unobservable}
        return None

    async def step(self) -> Step:
        """
        Look, decide, and do the one thing.
        """
        try:
            if self._mine is None:
                await self._look()
            view = self._view()
            step = next_step(view)
            self._say_waiting(view)
            await self._do(step)
            self._observe()
        except StateError as error:
            if not self._unreachable:
                self._unreachable = True
                _log.warning("loop %s runs on without its lease: %s", self.name, error)
            return Step.WAIT
        if self._unreachable:
            self._unreachable = False
            _log.info("loop %s: the lease can be reached again", self.name)
        return step

    def _say_waiting(self, view: View) -> None:
        """
        Say once that the lease is another's, or a start after a crash looks like no start.
        """
        if self._said_waiting or view.leased is not None or view.vacant or view.closing:
            return
        self._said_waiting = True
        _log.log(
            self.level,
            "loop %s waits: %s has its lease; it starts here when that owner gives it up, or has shown no sign of "
            "life for %g s",
            self.name,
            self._seen.holder if self._seen is not None else "nobody",
            self.patience,
        )

    def _observe(self) -> None:
        """
        The dry run lives where legacy's lease is held, for as long as the stage lasts.
        """
        wanted = (
            self.stage() is LoopStage.OBSERVE
            and self._leased is Side.LEGACY
            and self._draining is None
            and not (self._lost or self._closing)
        )
        if self.observation is None:
            if wanted and self.unobservable and not self._said_unobservable:
                _log.error("loop %s can't be observed; legacy runs it alone. %s", self.name, self.unobservable)
            self._said_unobservable = wanted
        elif wanted and not self.observation.running:
            self.observation.start()
        elif not wanted and self.observation.running:
            self.observation.stop()

    async def _rehearsed(self, patience: float) -> None:
        if self.observation is not None:
            await self.observation.ended(patience)

    async def _look(self) -> None:
        found = await self.leases.lease(self.name)
        if self._seen_at == float("-inf") or found != self._seen:
            self._seen, self._seen_at = found, self.monotonic()

    def _view(self) -> View:
        now = self.monotonic()
        seen = self._seen
        return View(
            wanted=self.stage().owner,
            leased=self._leased,
            running=self._running,
            draining=self._draining is not None,
            vacant=seen is None
            or seen.holder is None
            or now - self._seen_at >= self.patience,
            lost=self._lost,
            spent=self._spent,
            rested=now >= self._rest_until,
            closing=self._closing,
            due=now >= self._renew_at,
        )

    async def _do(self, step: Step) -> None:
        match step:
            case Step.ACQUIRE:
                await self._acquire()
            case Step.START:
                self._start()
            case Step.RENEW:
                await self._renew()
            case Step.STOP | Step.ABANDON:
                self._stop(step)
            case Step.RELEASE:
                await self._release()
            case Step.WAIT:
                pass

    async def _acquire(self) -> None:
        side = self.stage().owner
        seen = self._seen if self._mine is None else self._mine
        taken = await self.leases.acquire(self.name, f"{side.value}:{self.boot}", seen, self._floor)
        if taken is None:
            self._seen_at = float("-inf")  # somebody was faster: look again
            self._lost = self._mine is not None
            return
        self._mine, self._leased, self._spent = taken, side, False
        self._said_waiting = False
        self._renewed()

    def _start(self) -> None:
        assert self._mine is not None and self._leased is not None
        side = self._leased
        self._running, self._spent = side, True
        self._started_at = self.monotonic()
        _log.log(self.level, "loop %s: %s starts, epoch %d", self.name, side.value, self._mine.epoch)
        try:
            self.runners[side].start(self._mine.epoch, self._ended)
        except Exception as error:
            self._ended(error)

    def _ended(self, error: BaseException | None) -> None:
        now = self.monotonic()
        if now - self._started_at > 2 * _BACKOFF[-1]:
            self._deaths = 0  # it ran well for a while: this is a new trouble
        pause = _BACKOFF[min(self._deaths, len(_BACKOFF) - 1)]
        self._deaths += 1
        self._restarts += 1
        self._rest_until = now + pause
        self._last_error = "it returned" if error is None else f"{type(error).__name__}: {error}"
        _log.error(
            "loop %s ended on %s: %s; it starts again in %g s",
            self.name,
            self._running.value if self._running else "no side",
            self._last_error,
            pause,
            exc_info=error,
        )
        self._running = None
        fence = getattr(error, "epoch", None)
        if isinstance(fence, int):
            # Where the state database was lost or replaced, the fence stands higher
            # than the epochs that are handed out here: the next must be above it.
            self._floor = max(self._floor, fence)
        self._wake.set()

    async def _renew(self) -> None:
        mine = self._mine
        renewed = await self.leases.renew(mine)
        if renewed is None:
            _log.error("loop %s: the lease went to another process", self.name)
            self._lost = True
            return
        self._mine = renewed
        self._renewed()

    def _renewed(self) -> None:
        self._renew_at = next_beat(self.monotonic(), self.patience * _BEATS)

    def _stop(self, step: Step) -> None:
        side = self._running
        if side is None:
            self._forget()
            return
        _log.log(self.level, "loop %s: %s stops and drains", self.name, side.value)
        self._draining = asyncio.get_running_loop().create_task(self._drain(side))

    async def _drain(self, side: Side) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.drain
        try:
            await asyncio.wait_for(self.runners[side].stop(), self.drain)
        except TimeoutError:
            _log.error(
                "loop %s: %s didn't end its tick within %g s and is left behind; "
                "its fence refuses what it still tries to write",
                self.name,
                side.value,
                self.drain,
            )
        except Exception:
            _log.exception("loop %s: %s failed to stop cleanly", self.name, side.value)
        # The other side starts after this, and is the same loop as the dry run.
        await self._rehearsed(max(0.0, deadline - clock()))
        self._running = None
        self._draining = None
        if self._lost:
            self._forget()
        self._wake.set()

    async def _release(self) -> None:
        await self.leases.release(self._mine)
        self._forget()

    def _forget(self) -> None:
        self._mine = self._leased = None
        self._lost = self._spent = False
        self._seen_at = float("-inf")


def _side(holder: str | None) -> Side | None:
    return Side(holder.partition(":")[0]) if holder else None
