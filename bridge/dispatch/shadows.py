"""
Owns the queue of shadows: which observed requests run on the other side, when, and
how many at once.

Refuses: to wait.  What doesn't fit is dropped and counted by its reason.  Refuses
also to let a shadow touch an answer: it runs after it, in a context of its own,
within a number of slots and against a deadline, and begins, as judging does, when no
client needs the loop; and a route whose shadows run out of time again and again is
left alone for a while.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

import anyio.to_thread
import attrs

from bridge.dispatch.asgi import App, Scope
from bridge.dispatch.circuit import Circuits
from bridge.dispatch.lull import Lull
from bridge.dispatch.run import Ran, run
from bridge.dispatch.trial import Dropped, Request, Trial
from bridge.parity.observe import CAPTURE, Capture, Observation, Recording
from bridge.routing import Decision, Effects, Side

log = logging.getLogger(__name__)
# Seconds that what has begun gets at the end.
_MOMENT = 0.5


class Judge(Protocol):
    """
    Who hears what was observed; called on the loop's thread, and must not wait.
    """

    def judge(self, trial: Trial) -> None:
        """
        A request's observations are complete.
        """

    def doubts(self, trial: Trial) -> bool:
        """
        Whether the two sides differ where the answering side agrees with itself.
        """

    def dropped(self, decision: Decision, why: Dropped) -> None:
        """
        A request went by unobserved.
        """

    def answered(self, decision: Decision, status: int, seconds: float) -> None:
        """
        A request that nothing may shadow was answered; 599 where it raised.
        """


class Feed(Protocol):
    """
    The sandboxed second instances, which are fed every write in order.
    """

    def offer(self, decision: Decision, request: Request, seen: Recording) -> Dropped | None:
        """
        Take a write; or say why not.
        """

    def missed(self, decision: Decision, why: Dropped) -> None:
        """
        A write went by: the copies no longer stand where the stores do.
        """


@attrs.frozen
class Limits:
    """
    What shadows may take.

    @ivar body: Bytes of a request's body that are kept for them.
    @ivar waiting: Requests that wait at most.
    @ivar held: Bytes that those hold at most.
    @ivar running: Requests that are being shadowed at once.
    @ivar deadline: Seconds for one run; C{grace} more until it is cancelled.
    @ivar linger: Seconds after which a slot is given up to what never ends.
    """

    body: int = 1024 * 1024
    waiting: int = 256
    held: int = 32 * 1024 * 1024
    running: int = 4
    deadline: float = 10.0
    grace: float = 1.0
    linger: float = 60.0
    capture: Capture = CAPTURE
    events: int = 3


@attrs.frozen
class _Job:
    decision: Decision
    request: Request
    seen: Recording
    weight: int


@attrs.define(eq=False)
class ShadowQueue:
    """
    Runs shadows after the answers, on the same loop.

    @ivar apps: Each side, as a shadow runs it.
    @ivar replicate: Whether the answering side is run again too, so that what
        differs by itself is known.
    @ivar shuffled: Puts a list in some order: the order of runs must not favour one
        side's latency.
    """

    apps: Mapping[Side, App]
    judge: Judge
    limits: Limits = attrs.field(factory=Limits)
    feed: Feed | None = None
    replicate: bool = True
    clock: Callable[[], float] = time.monotonic
    shuffled: Callable[[list[Any]], None] = random.shuffle
    circuits: Circuits = attrs.field(factory=Circuits)
    lull: Lull = attrs.field(init=False)
    busy: int = 0
    held: int = 0
    lingering: int = 0
    _waiting: collections.deque[_Job] = attrs.field(factory=collections.deque)
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set)
    _begun: set[asyncio.Task[None]] = attrs.field(factory=set)
    _closed: bool = False
    _lent: int = 0

    @lull.default
    def _lulls(self) -> Lull:
        return Lull(lambda: self.clock())

    def recording(self, decision: Decision, scope: Scope, at: float) -> Recording:
        """
        A recorder for an answer that will be offered.
        """
        return Recording(at, self.capture(decision), scope["method"] == "HEAD")

    def capture(self, decision: Decision) -> Capture:
        """
        How much is looked at of that route's answers.
        """
        if decision.route.stream:
            return attrs.evolve(self.limits.capture, events=self.limits.events)
        return self.limits.capture

    def offer(self, decision: Decision, scope: Scope, chunks: Sequence[bytes], seen: Recording) -> None:
        """
        Have a request shadowed, if there is room; never waits.

        @param scope: As it came; nobody writes to it from now on.
        @param seen: The answer's recorder; it may still be open, where work goes on
            after the last byte, and is waited for.
        """
        why = self._refusal(decision)
        sandboxed = decision.route.effects is Effects.SANDBOXED
        # What finds no room is not even weighed: on a busy server that is most of it.
        if why is None and not sandboxed and len(self._waiting) >= self.limits.waiting:
            why = Dropped.FULL
        if why is not None:
            self.drop(decision, why)
            return
        request = Request(scope, tuple(chunks))
        if sandboxed:
            why = Dropped.ABSENT if self.feed is None else self.feed.offer(decision, request, seen)
            if why is not None:
                self.drop(decision, why)
            return
        weight = sum(map(len, chunks)) + seen.held
        if self.held + weight > self.limits.held:
            self.drop(decision, Dropped.HEAVY)
            return
        self.held += weight
        self._waiting.append(_Job(decision, request, seen, weight))
        self._fill()

    def _refusal(self, decision: Decision) -> Dropped | None:
        if self._closed:
            return Dropped.CLOSED
        if decision.shadows not in self.apps and decision.route.effects is Effects.NONE:
            return Dropped.ABSENT
        if not self.circuits.allows(decision.route.name, self.clock()):
            return Dropped.OPEN
        return None

    def drop(self, decision: Decision, why: Dropped) -> None:
        """
        Count a request that goes by unobserved.
        """
        if decision.route.effects is Effects.SANDBOXED and self.feed is not None:
            self.feed.missed(decision, why)
        self._tell(self.judge.dropped, decision, why)

    def answered(self, decision: Decision, status: int, seconds: float) -> None:
        """
        Count an answer that nothing may shadow.
        """
        self._tell(self.judge.answered, decision, status, seconds)

    def judge_now(self, trial: Trial) -> None:
        """
        Hand a trial to the judge.
        """
        try:
            self.judge.judge(trial)
        except Exception:
            log.exception("an observation was lost: judging it failed")
            self._tell(self.judge.dropped, trial.decision, Dropped.UNJUDGED)

    def _tell(self, what: Callable[..., None], *args: object) -> None:
        try:
            what(*args)
        except Exception:
            log.exception("an observation was lost: counting it failed")

    def _lend(self) -> None:
        """
        Give synchronous handlers as many threads more as there are shadows: a hung
        one must not take a client's.
        """
        if not self._lent:
            self._lent = self.limits.running
            anyio.to_thread.current_default_thread_limiter().total_tokens += self._lent

    def _fill(self) -> None:
        if self._waiting:
            self._lend()
        while self._waiting and self.busy < self.limits.running:
            job = self._waiting.popleft()
            self.busy += 1
            task = self.own(self._shadow(job))
            self._begun.add(task)
            task.add_done_callback(self._begun.discard)

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """
        Run something in the background until this queue closes.
        """
        # Nothing of the request in whose turn this runs may leak into it.
        loop = asyncio.get_running_loop()
        task = loop.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _shadow(self, job: _Job) -> None:
        left: list[Callable[[float], Coroutine[Any, Any, None]]] = []
        try:
            trial = await self._trial(job, left)
            await self.lull.wait()
            self.judge_now(trial)
        except asyncio.CancelledError:
            self._tell(self.judge.dropped, job.decision, Dropped.CLOSED)
            raise
        except Exception:
            log.exception("shadowing %s failed", job.decision.route.name)
            self._tell(self.judge.dropped, job.decision, Dropped.UNJUDGED)
        finally:
            self.held -= job.weight
            if left and not self._closed:
                self.lingering += 1
                self.own(self._linger(left))
            else:
                self._free()

    async def _trial(self, job: _Job, left: list[Callable[[float], Coroutine[Any, Any, None]]]) -> Trial:
        decision, request = job.decision, job.request
        assert decision.shadows is not None
        sides = [decision.shadows]
        if self.replicate and decision.answers in self.apps:
            sides.append(decision.answers)
        self.shuffled(sides)
        found: dict[Side, Observation] = {}
        for side in sides:
            ran = await self.run(decision, self.apps[side], request)
            if ran.lingering is not None:
                left.append(ran.lingering)
            found[side] = ran.observation
        answer = await self.seen(job.seen)
        other, first = found[decision.shadows], found.get(decision.answers)
        self.circuits.ended(decision.route.name, other.ending, self.clock())
        trial = Trial(decision, request, answer, other, first)
        if first is None or sides[0] is not decision.answers or not self._doubts(trial):
            return trial
        # The stores are alive: what was written between the two runs the replicate couldn't
        # see.  Asked once more, the answering side says whether it would differ now too.
        ran = await self.run(decision, self.apps[decision.answers], request)
        if ran.lingering is not None:
            left.append(ran.lingering)
        return attrs.evolve(trial, replicate=attrs.evolve(ran.observation, latency=first.latency, lasted=first.lasted))

    def _doubts(self, trial: Trial) -> bool:
        try:
            return self.judge.doubts(trial)
        except Exception:
            return False  # judging it will fail, too, and say so

    async def run(self, decision: Decision, app: App, request: Request, behind: int = 0) -> Ran:
        """
        Run one request on one application, within these limits, once the loop has
        nothing better to do.

        @param behind: How many can't begin before this one has ended.
        """
        limits = self.limits
        await self.lull.wait(behind)
        return await run(
            app,
            request.scope,
            request.chunks,
            self.capture(decision),
            decision.route.name,
            limits.deadline,
            limits.grace,
            self.clock,
        )

    async def seen(self, recording: Recording) -> Observation:
        """
        An answer's observation: it closes when its background work is over, or at
        the deadline.
        """
        if recording.observation is None:
            closed = asyncio.Event()
            recording.on_closed = closed.set
            try:
                async with asyncio.timeout(self.limits.deadline):
                    await closed.wait()
            except TimeoutError:
                pass
        return recording.so_far()

    async def _linger(self, left: list[Callable[[float], Coroutine[Any, Any, None]]]) -> None:
        try:
            for lingering in left:
                await lingering(self.limits.linger)
        finally:
            self.lingering -= 1
            self._free()

    def _free(self) -> None:
        self.busy -= 1
        if not self._closed:
            self._fill()

    @property
    def waiting(self) -> int:
        """
        Requests that wait for a slot.
        """
        return len(self._waiting)

    async def settled(self) -> None:
        """
        Wait until nothing waits and nothing runs; for tests, reports and replays.
        """
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self, deadline: float = 1.0) -> None:
        """
        Take no more, drop what waits, and end what runs, within C{deadline} seconds. What has
        begun gets a moment: it may only have waited for a lull, and there are no clients any more.
        """
        self._closed = True
        self.lull.patience = 0.0
        if self._lent:
            anyio.to_thread.current_default_thread_limiter().total_tokens -= self._lent
            self._lent = 0
        while self._waiting:
            job = self._waiting.popleft()
            self.held -= job.weight
            self.drop(job.decision, Dropped.CLOSED)
        if self._begun and deadline > 0:
            await asyncio.wait(set(self._begun), timeout=min(_MOMENT, deadline / 2))
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=deadline)
