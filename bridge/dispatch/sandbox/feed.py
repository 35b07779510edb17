"""
Owns the sandboxes' feed: every write of a sandboxed route, in the order of the
answers, to a second instance of each side; and when their copies are seeded anew.

What each run did is read from its own copies, so that effects are compared between
two runs of the same write on the same data.  The real stores are only ever read: to
seed, and to see that nothing leaked into them.

Refuses: to run two writes at once, to feed a copy that no longer stands where the
stores stood, to hold up an answer, and to make anything while nobody wants it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import logging
from collections.abc import Callable, Mapping, Sequence

import attrs

from bridge.dispatch.sandbox.copies import Copy
from bridge.dispatch.sandbox.instance import Pace, Sandbox
from bridge.dispatch.sandbox.net import learned, rewritten
from bridge.dispatch.sandbox.traces import Trace
from bridge.dispatch.sandbox.watch import Open, Watch, bound
from bridge.dispatch.shadows import ShadowQueue
from bridge.dispatch.trial import Dropped, Request, Trial
from bridge.parity import Observation, Recording, Rules, compare
from bridge.parity.ids import IdMap
from bridge.routing import Decision, Route, Side

log = logging.getLogger(__name__)


@attrs.frozen
class _Write:
    decision: Decision
    request: Request
    seen: Recording


@attrs.define(eq=False)
class SandboxFeed:
    """
    Feeds the sandboxes.  Runs on the loop's thread; the copies are read and made on
    one of its own.

    @ivar broke: Told which guarantee is broken at which route.
    @ivar wanted: Whether any route is to be fed; L{want} says so.
    @ivar rules: What counts as the same on a route.
    @ivar seedings: How often the copies were made.
    """

    queue: ShadowQueue
    sandboxes: Mapping[Side, Sandbox]
    broke: Callable[[Route, str], None]
    pace: Pace = attrs.field(factory=Pace)
    wanted: bool = True
    rules: Callable[[Route], Rules] = lambda route: Rules(moments=60.0)
    seedings: int = 0
    problem: str = ""
    _waiting: collections.deque[_Write] = attrs.field(factory=collections.deque)
    _watch: Watch = attrs.field(init=False)
    _wake: asyncio.Event = attrs.field(factory=asyncio.Event)
    _idle: asyncio.Event = attrs.field(factory=asyncio.Event)
    _stale: bool = True
    _behind: bool = False
    _tries: int = 0
    _strange: int = 0
    _pause: float = 0.0
    _taken: tuple[float, float] | None = None
    _task: asyncio.Task[None] | None = None

    @_watch.default
    def _watches(self) -> Watch:
        return Watch(self.sandboxes, lambda: self.queue.clock(), lambda route: self.rules(route))

    def start(self) -> None:
        """
        Begin: the copies are made first, once they are wanted.
        """
        self._watch.start()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), context=contextvars.Context())

    async def close(self) -> None:
        """
        End the turn, stop the instances, let go of the copies.
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._stop_instances()
        await self._watch.close()

    def want(self, wanted: bool) -> None:
        """
        Say whether any route is to be fed from now on: until one is, there are neither
        copies nor instances, and when none is any more, the instances go.
        """
        if wanted is not self.wanted:
            self.wanted = wanted
            self._idle.clear()
            self._wake.set()

    @property
    def ready(self) -> bool:
        """
        Whether the copies stand where the stores stand, as far as is known.
        """
        return not self._stale

    @property
    def waiting(self) -> int:
        """
        Writes that wait for their turn, or for the end of their work.
        """
        return len(self._waiting) + len(self._watch.open)

    async def settled(self) -> None:
        """
        Wait until the copies are made and every write was run; for tests and replays.
        """
        await self._idle.wait()

    def offer(self, decision: Decision, request: Request, seen: Recording) -> Dropped | None:
        """
        Take a write; or say why not.
        """
        if decision.shadows not in self.sandboxes:
            return Dropped.ABSENT
        if self._stale or self._behind:
            # It was answered before the next snapshot, so it will be in it.
            return Dropped.UNSEEDED
        if self._taken is None:
            # The snapshot is being made right now: it may have this write, or not.
            return self._spoiled()
        if seen.began < self._taken[1]:
            return self._spoiled()
        if len(self._waiting) >= self.pace.waiting:
            return Dropped.FULL
        self._waiting.append(_Write(decision, request, seen))
        self._idle.clear()
        self._wake.set()
        return None

    def _spoiled(self) -> Dropped:
        if self._tries < self.pace.tries:
            self._tries += 1
            self._make_anew()
        return Dropped.UNSEEDED

    def missed(self, decision: Decision, why: Dropped) -> None:
        """
        A write went by: from now on the copies stand elsewhere.
        """
        if why not in (Dropped.UNSEEDED, Dropped.CLOSED, Dropped.ABSENT) and not self._stale:
            # What waits came before it, and is still worth running.
            self._behind = True
            self._idle.clear()
            self._wake.set()

    def _make_anew(self) -> None:
        self._stale, self._behind = True, False
        self._idle.clear()
        while self._waiting:
            write = self._waiting.popleft()
            self.queue.drop(write.decision, Dropped.UNSEEDED)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                if not self.wanted:
                    await self._rest()
                elif self._stale:
                    await self._wait()
                    if self.wanted:
                        await self._seed()
                elif self._waiting and len(self._watch.open) < self.pace.open:
                    await self._one(self._waiting.popleft())
                    await self._close_open()
                elif self._watch.open:
                    await asyncio.sleep(self.pace.look)
                    await self._watch.look()
                    await self._close_open()
                elif self._behind:
                    self._make_anew()
                else:
                    self._wake.clear()
                    self._idle.set()
                    await self._wake.wait()
            except Exception as e:
                # Whatever the copies are now, they aren't what they should be.
                if str(e) != self.problem:
                    log.exception("a sandbox failed, and no write is compared meanwhile; its copies are made anew")
                self.problem = str(e)
                self._slower()
                self._make_anew()

    def _slower(self) -> None:
        self._pause = min(self.pace.longest, max(self.pace.again, self._pause * 2))

    async def _wait(self) -> None:
        """
        A while after trouble, unless somebody changes what is wanted.
        """
        if self._pause:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._wake.wait()

    async def _rest(self) -> None:
        if not self._stale:
            self._make_anew()
        await self._close_open(all_=True)
        await self._stop_instances()
        self._pause, self._tries = 0.0, 0
        self._wake.clear()
        if not self.wanted:
            self._idle.set()
            await self._wake.wait()

    async def _seed(self) -> None:
        await self._close_open(all_=True)
        await self._stop_instances()
        self._taken, self._stale = None, False
        began = self.queue.clock()
        first: Sequence[Copy] = ()
        for sandbox in self.sandboxes.values():
            sandbox.ids.clear()
            sandbox.habits.forget()
            for place, copy in enumerate(sandbox.copies):
                await self._watch.in_thread(copy.seed, first[place] if place < len(first) else None)
            if not first:
                first = sandbox.copies
                # What is answered from here on isn't in the copies.
                self._taken = (began, self.queue.clock())
            if self._stale:
                return  # spoiled already: nothing needs to start on it
        for sandbox in self.sandboxes.values():
            sandbox.app = await sandbox.instance.start()
        # What an instance writes at its start, and by itself, is no write's effect.
        for _ in range(2):
            await asyncio.sleep(self.pace.quiet)
            await self._watch.look()
        self.seedings += 1
        self._strange = 0
        self.problem = ""
        if not self._stale:
            self._slower()

    async def _stop_instances(self) -> None:
        for sandbox in self.sandboxes.values():
            if sandbox.app is not None:
                sandbox.app = None
                await sandbox.instance.stop()

    async def _one(self, write: _Write) -> None:
        decision, request = write.decision, write.request
        assert decision.shadows is not None
        sides = [side for side in (decision.shadows, decision.answers) if side in self.sandboxes]
        self.queue.shuffled(sides)
        found: dict[Side, Observation] = {}
        traces: dict[Side, Trace] = {}
        for side in sides:
            sandbox = self.sandboxes[side]
            assert sandbox.app is not None
            await self._watch.look_at(side, cheap=True)
            theirs = rewritten(request, sandbox.ids)
            ran = await self.queue.run(decision, sandbox.app, theirs, len(self._waiting))
            found[side], traces[side] = ran.observation, Trace.of(theirs, ran.observation)
            await self._watch.look_at(side, traces[side])
            if ran.lingering is not None:
                # Nobody knows what it will still do: its copies are lost.
                self.queue.own(ran.lingering(self.queue.limits.linger))
                self._make_anew()
        answer = await self.queue.seen(write.seen)
        replicate, other = found.get(decision.answers), found[decision.shadows]
        for side in sides:
            self._learn(self.sandboxes[side], answer, found[side])
        rules = self.rules(decision.route)
        if not self._drifts(answer, other if replicate is None else replicate, replicate is None, rules):
            self._pause = 0.0 if self._strange == 0 else self._pause
            self._tries = 0
        done = Open(Trial(decision, request, answer, other, replicate), traces, self.queue.clock())
        self._watch.open.append(done)
        await self._watch.until_even(done, self.pace)

    async def _close_open(self, all_: bool = False) -> None:
        """
        Judge the writes whose work has ended.
        """
        for each in self._watch.ended(self.pace, all_):
            leak = await self._watch.leak(each)
            if leak:
                self.broke(each.trial.decision.route, leak)
            self.queue.judge_now(self._watch.complete(each))

    def _learn(self, sandbox: Sandbox, answer: Observation, own: Observation) -> None:
        sandbox.ids.update(learned(answer, own))
        bound(sandbox.ids)

    def _drifts(self, answer: Observation, own: Observation, status_alone: bool, rules: Rules) -> bool:
        """
        Whether the copies seem to stand elsewhere than the stores: a side and its own
        second instance answer differently, again and again.
        """
        if status_alone:
            same = answer.status == own.status
        else:
            bare = attrs.evolve(answer, effects=()), attrs.evolve(own, effects=())
            same = compare(*bare, rules, IdMap()).same
        self._strange = 0 if same else self._strange + 1
        if self._strange < self.pace.drift:
            return False
        log.info("the sandboxes have drifted; their copies are made anew")
        self._make_anew()
        return True
