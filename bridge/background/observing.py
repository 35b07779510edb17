"""
Owns the dry run of a modern loop beside the legacy one that owns the work: it is begun
and ended with the stage C{observe}, hears the owner's ticks, and what both sides tell of
a tick is compared.

The owner is never stopped by it: it waits for a dry run to look at most L{PATIENCE}
seconds, and not at all for one that is busy or gone.

Refuses: an epoch for the dry run, and to keep it from writing.  It is called with C{None}
and with C{observe}, and takes no fence then; that it doesn't write is up to it.  What it
raises is shown, and it begins again after a pause.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed

from bridge.background.pairing import Paired, Pairing
from bridge.parity.observe import Effect
from bridge.routing.stage import Side

_log = logging.getLogger("bridge.background")

PATIENCE = 0.5
"""
Seconds that the owner waits for the dry run to look at what a tick will change.
"""

_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

Told = Iterable[tuple[str, str, Any]]
"""
The effects of one tick, each C{(kind, key, value)}.
"""

Facts = Mapping[str, Any]


def unobservable(modern: Callable[..., Any] | None, service: Any) -> str:
    """
    Why a loop can't be observed, with the remedy; empty where it can.
    """
    if modern is None:
        return "It has no modern loop here: give its [[loop]] modern = NAME, and the policy a [modern] application."
    if "observe" not in inspect.signature(modern).parameters:
        return (
            "Its modern loop has no dry run: it takes no argument `observe`. Give it one, and tell there what a "
            "tick would do instead of doing it (docs/loops.md has the recipe), or hand it over without: live."
        )
    if not hasattr(service, "observe"):
        return (
            "Its legacy service doesn't tell its ticks: it has no attribute `observe`. Give its class `observe = "
            "None`, and call it after each tick where it is set (docs/loops.md has the recipe), or hand the loop "
            "over without: live."
        )
    return ""


@attrs.frozen
class Owner:
    """
    What legacy's service gets as C{observe}.
    """

    _observation: Observation

    def __call__(self, tick: str, effects: Told) -> None:
        """
        The tick was committed, and did this.  From any thread.
        """
        self._observation.told(Side.LEGACY, tick, effects)

    def before(self, tick: str, **facts: Any) -> Deferred[None]:
        """
        The tick is about to begin; fires when the dry run has looked.  On the loop.

        @param facts: What the tick goes by, such as its time or its limit.
        """
        return self._observation.announce(tick, facts)


@attrs.frozen
class DryRun(AsyncIterator[tuple[str, Facts]]):
    """
    What the modern loop gets as C{observe}; iterated, it gives the owner's ticks.
    """

    _observation: Observation

    def __call__(self, tick: str, effects: Told) -> None:
        """
        The tick would do this.  From any thread.
        """
        self._observation.told(Side.MODERN, tick, effects)

    def __aiter__(self) -> DryRun:
        return self

    async def __anext__(self) -> tuple[str, Facts]:
        return await self._observation.next_tick()


@attrs.define(eq=False)
class Observation:
    """
    The dry run of one loop.  Everything but L{told} runs on the event loop.

    @ivar modern: The loop; called as C{modern(None, observe=…)}.
    @ivar attach: Gives the legacy service its C{observe}, or takes it away.
    @ivar judged: Told of each tick that was judged.
    """

    name: str
    modern: Callable[..., Awaitable[None]]
    attach: Callable[[Owner | None], None]
    judged: Callable[[Paired], None]
    last_error: str | None = attrs.field(default=None, init=False)
    deaths: int = attrs.field(default=0, init=False)
    _pairing: Pairing = attrs.field(factory=Pairing, init=False)
    _task: asyncio.Task[None] | None = attrs.field(default=None, init=False)
    _ending: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)
    _loop: asyncio.AbstractEventLoop | None = attrs.field(default=None, init=False)
    _thread: int = attrs.field(default=0, init=False)
    _listening: asyncio.Future[tuple[str, Facts]] | None = attrs.field(default=None, init=False)
    _looking: Deferred[None] | None = attrs.field(default=None, init=False)
    _fresh: bool = attrs.field(default=False, init=False)
    _first: tuple[str, Facts] | None = attrs.field(default=None, init=False)

    @property
    def running(self) -> bool:
        """
        Whether the dry run is wanted now.
        """
        return self._task is not None

    def start(self) -> None:
        """
        Begin, with nothing known of either side.
        """
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._pairing, self.last_error, self.deaths = Pairing(), None, 0
        self._first, self._fresh = None, True
        self._task = self._loop.create_task(self._run(), name=f"dry run {self.name}")
        self.attach(Owner(self))

    def stop(self) -> None:
        """
        End; L{ended} says when.
        """
        self.attach(None)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        self._looked()

    async def ended(self, patience: float) -> None:
        """
        Return when no dry run is left, or after C{patience} seconds: it writes nothing.
        """
        left: set[asyncio.Task[None]] = set(self._ending)
        if left:
            _, left = await asyncio.wait(left, timeout=patience)
        if left:
            _log.error("loop %s: its dry run didn't end within %g s and is left behind", self.name, patience)

    def status(self) -> dict[str, Any]:
        """
        What this process knows beside the counts, for JSON.
        """
        return {
            "waiting": {side.value: self._pairing.waiting(side) for side in Side},
            "deaths": self.deaths,
            "error": self.last_error,
        }

    async def _run(self) -> None:
        while True:
            try:
                await self.modern(None, observe=DryRun(self))
                self.last_error = "it returned"
            except Exception as error:
                self.last_error = f"{type(error).__name__}: {error}"
            finally:
                self._listening, self._first, self._fresh = None, None, False
                self._looked()
            pause = _PAUSES[min(self.deaths, len(_PAUSES) - 1)]
            self.deaths += 1
            _log.error("loop %s: its dry run ended: %s; it begins again in %g s", self.name, self.last_error, pause)
            await asyncio.sleep(pause)

    # -- the owner's ticks -------------------------------------------------------------

    def announce(self, tick: str, facts: Facts) -> Deferred[None]:
        """
        Have the dry run look, if it is waiting for a tick, or has just been begun.
        """
        listening, self._listening = self._listening, None
        busy = listening is None or listening.done()
        if self._loop is None or (busy and not self._fresh):
            return succeed(None)
        self._looked()
        looking: Deferred[None] = Deferred()
        self._looking = looking
        self._loop.call_later(PATIENCE, self._looked, looking)
        if listening is None:
            self._first = (tick, facts)
        else:
            listening.set_result((tick, facts))
        return looking

    async def next_tick(self) -> tuple[str, Facts]:
        """
        The owner's next tick; asking for it says that the last one has been looked at.
        """
        assert self._loop is not None
        first, self._first, self._fresh = self._first, None, False
        if first is not None and self._looking is not None:
            return first
        self._looked()
        self._listening = self._loop.create_future()
        return await self._listening

    def _looked(self, only: Deferred[None] | None = None) -> None:
        looking = self._looking
        if looking is not None and only in (None, looking):
            self._looking = None
            looking.callback(None)

    # -- what both sides tell ----------------------------------------------------------

    def told(self, side: Side, tick: str, effects: Told) -> None:
        """
        One side's word of a tick; it is taken on the loop, in order.
        """
        assert self._loop is not None
        kept = [Effect(str(kind), str(key), value) for kind, key, value in effects]
        if threading.get_ident() == self._thread:
            self._take(side, tick, kept)
        else:
            self._loop.call_soon_threadsafe(self._take, side, tick, kept)

    def _take(self, side: Side, tick: str, effects: list[Effect]) -> None:
        if self._task is None:  # it was told while the observation ended
            return
        for paired in self._pairing.told(side, tick, effects):
            self.judged(paired)
