"""
Owns the watch over the copies: what was done to them, whose it is, when a write's work
has ended, and whether anything of a sandbox stands in a real store.

Refuses: to run a write, to make a copy anew, and to touch a file or a database on the
loop's thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from bridge.dispatch.sandbox.instance import Pace, Sandbox
from bridge.dispatch.sandbox.net import net, private_ids
from bridge.dispatch.sandbox.traces import Trace, belongs
from bridge.dispatch.trial import Trial
from bridge.parity import Rules
from bridge.parity.verdict import compare_stored
from bridge.routing import Route, Side

T = TypeVar("T")
_IDS = 20_000


@attrs.define(eq=False)
class Open:
    """
    A write that was run, and whose background work may still go on.
    """

    trial: Trial
    traces: Mapping[Side, Trace]
    since: float


@attrs.define(eq=False)
class Watch:
    """
    Runs on the loop's thread; the copies are read, and made, on one of its own.

    @ivar rules: What counts as the same on a route.
    @ivar open: The writes whose work may go on, oldest first.
    """

    sandboxes: Mapping[Side, Sandbox]
    clock: Callable[[], float]
    rules: Callable[[Route], Rules]
    open: list[Open] = attrs.field(factory=list)
    _pool: concurrent.futures.ThreadPoolExecutor | None = None

    def start(self) -> None:
        """
        Have a thread from now on.
        """
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "bgserver-sandbox")

    async def close(self) -> None:
        """
        Let go of the copies, and of the thread.
        """
        if self._pool is not None:
            for sandbox in self.sandboxes.values():
                for copy in sandbox.copies:
                    await self.in_thread(copy.close)
            self._pool.shutdown(wait=False)

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """
        Call something of a copy's.
        """
        assert self._pool is not None
        call = functools.partial(function, *args)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def look(self, cheap: bool = False) -> None:
        """
        Read what was done to all copies.
        """
        for side in self.sandboxes:
            await self.look_at(side, cheap=cheap)

    async def look_at(self, side: Side, current: Trace | None = None, cheap: bool = False) -> None:
        """
        Read what was done to a side's copies, and give each change to the write that
        it belongs to.

        @param current: The write that is being run.
        @param cheap: Look only where that is cheap.
        """
        sandbox = self.sandboxes[side]
        traces = [each.traces[side] for each in self.open if side in each.traces]
        for copy in sandbox.copies:
            if cheap and not copy.cheap:
                continue
            for change in await self.in_thread(copy.changes, sandbox.names):
                belongs(change, traces, current, sandbox.habits, self.clock())

    async def until_even(self, write: Open, pace: Pace) -> None:
        """
        Wait a little until both sides have written the same rows, and look once more.
        """
        if self.even(write, rows=True):
            return
        while not self.even(write, rows=True) and self.clock() - write.since < pace.even:
            await asyncio.sleep(pace.look / 5)
            await self.look(cheap=True)
        await self.look()

    def even(self, write: Open, rows: bool = False) -> bool:
        """
        Whether both sides did the same, as it looks now.

        @param rows: Compare rows alone.
        """
        trial = self.complete(write)
        if trial.stored is None or trial.replicate is None:
            return True
        stored = trial.stored
        if rows:
            ours, theirs = (tuple(each for each in side if each.kind == "row") for side in stored)
            stored = ours, theirs
        modern = trial.decision.answers is Side.MODERN
        return not compare_stored(trial.other, trial.replicate, modern, self.rules(trial.decision.route), stored)

    def ended(self, pace: Pace, everything: bool = False) -> list[Open]:
        """
        Take the writes whose work has ended out of those that are open.

        @param everything: All are taken for ended.
        """
        now, made = self.clock(), []
        for each in list(self.open):
            last = max([each.since, *(trace.last for trace in each.traces.values())])
            late = everything or now - each.since >= pace.settle
            if late or (now - last >= pace.quiet and self.even(each)):
                self.open.remove(each)
                made.append(each)
        for each in made:
            for side, trace in each.traces.items():
                gone = self.sandboxes[side].habits.gone
                gone.update(dict.fromkeys(trace.ids))
                bound(gone)
        return made

    def complete(self, write: Open) -> Trial:
        """
        The trial with what was done so far, where both sides' copies can tell.
        """
        trial, traces = write.trial, write.traces
        answers, shadows = trial.decision.answers, trial.decision.shadows
        assert shadows is not None
        if answers not in traces or not all(self.sandboxes[side].copies for side in traces):
            return trial
        return attrs.evolve(trial, stored=(net(traces[answers].changes), net(traces[shadows].changes)))

    async def leak(self, write: Open) -> str:
        """
        What a sandbox wrote to a real store, as a sentence; empty if nothing.
        """
        trial = write.trial
        for side, trace in write.traces.items():
            own = trial.other if side is trial.decision.shadows else trial.replicate
            assert own is not None
            ids = private_ids(trial.request, trial.answer, own, net(trace.changes))
            for copy in self.sandboxes[side].copies if ids else ():
                where = await self.in_thread(copy.leaked, ids)
                if where:
                    return f"the sandbox of {side.value} wrote to the real store: {where}"
        return ""


def bound(ids: dict[str, Any]) -> None:
    """
    Forget the oldest.
    """
    while len(ids) > _IDS:
        del ids[next(iter(ids))]
