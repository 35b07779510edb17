"""
Owns the wiring of shadows, judgement and gate in one process: what is known of each
route, who judges a pair, where evidence goes, and who among the processes may move
routes.

Refuses: to judge, to count or to rule; C{dispatch} and C{parity} do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import attrs

from bridge.background.ownership import LoopStage
from bridge.background.pairing import Paired, Verdict
from bridge.background.runners import ModernRunner
from bridge.background.supervisor import LoopSupervisor
from bridge.compose.loops import ThreadLeases, boot_id
from bridge.compose.stages import Stages
from bridge.config import Config, RouteConfig
from bridge.dispatch import ShadowQueue
from bridge.dispatch.asgi import App
from bridge.dispatch.books import MOMENTS, Book, book_of, code_identity
from bridge.dispatch.examiner import Examiner
from bridge.dispatch.keeper import Keeper
from bridge.dispatch.ledger import Batch, Key, Ledger, Totals, store_batch
from bridge.dispatch.sandbox import Sandbox, SandboxFeed
from bridge.errors import ConfigError, StaleChangeError, StateError
from bridge.parity import Agreed, Gate, Redactor, Rules, Ruling, Tally
from bridge.parity.sample import tick_sample_of
from bridge.parity.tally import STARTED
from bridge.routing import Effects, Route, Side, Stage
from bridge.routing.route import DEFAULT_NAME
from bridge.state.stages import GATE as GATE_NAME
from bridge.state.store import Store
from bridge.state.thread import StateThread
from bridge.state.view import loop_key

GATE = "gate"
"""
The lease that makes one process of many the one that moves routes.
"""

_GATE_PATIENCE = 10.0
"""
Seconds without a sign of life after which another process becomes the gate: what it judges takes longer to gather, and
a breaker needs no gate.
"""

_log = logging.getLogger("bridge.gate")

_SHADOWED = (Stage.SHADOW, Stage.CANARY, Stage.LIVE)


def books_of(config: Config, store: Store | None, wall: float) -> dict[str, Book]:
    """
    What is known of each route beside its stage; reads both applications' sources.
    """
    codes = [
        code_identity(None if app is None else app.app, None if app is None else app.version, app.base if app else None)
        for app in (config.legacy, config.modern)
    ]

    def book(route: RouteConfig) -> Book:
        accepted: tuple[Agreed, ...] = ()
        if store is not None:
            accepted = tuple(
                Agreed(found.rule, found.owner, found.expires)
                for found in store.proposals(route.name)
                if found.status == "accepted"
            )
        return book_of(route, codes[0], codes[1], accepted, wall)

    return {route.name: book(route) for route in (*config.routes, config.default_route)}


def _reread(store: Store, config: Config, wall: float) -> dict[str, Book]:
    return books_of(config, store, wall)


@attrs.frozen
class ThreadSink:
    """
    Evidence goes to the state on the state's thread.
    """

    thread: StateThread

    async def write(self, batch: Batch) -> Mapping[Key, Totals]:
        return await self.thread.call(store_batch, batch, time.time())


@attrs.define(eq=False)
class GateSeat:
    """
    The gate's seat, and the way back: L{bridge.dispatch.keeper.Seat} and
    L{bridge.dispatch.examiner.Breaker} of one process.
    """

    stages: Stages
    thread: StateThread
    owner: str
    _held: bool = attrs.field(default=False, init=False)
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)

    async def hold(self, epoch: int) -> None:
        """
        Be the gate until cancelled.
        """
        self._held = True
        try:
            await asyncio.Event().wait()
        finally:
            self._held = False

    def held(self) -> bool:
        return self._held

    def since(self, route: str) -> float:
        return self.stages.since.setdefault(route, self.stages.wall())

    def taken_back(self, route: str) -> bool:
        return route in self.stages.snapshot.held

    async def move(self, route: str, expect: Stage, to: Stage, why: str, evidence: str) -> bool:
        if to is Stage.LEGACY:
            self.back(route, expect, why, evidence)
            return True
        policy = self._policy(route)
        weight = policy.weight if to is Stage.CANARY else 0.0
        return await self._write(policy, expect, (to, weight), why, evidence)

    def demote(self, route: str, stage: Stage, why: str) -> None:
        self.back(route, stage, why, "")

    def back(self, route: str, stage: Stage, why: str, evidence: str) -> None:
        """
        Legacy answers from now on, in this process; the state hears of it when it can.
        """
        self.stages.pin(route, Stage.LEGACY)
        _log.warning("%s: %s -> legacy: %s", route, stage.value, why)
        task = asyncio.get_running_loop().create_task(self._back(route, stage, why, evidence), name=f"back {route}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _back(self, route: str, stage: Stage, why: str, evidence: str) -> None:
        while True:
            try:
                await self._write(self._policy(route), stage, (Stage.LEGACY, 0.0), why, evidence)
            except StateError:
                await asyncio.sleep(1.0)
            else:
                return

    async def _write(
        self, policy: RouteConfig, expect: Stage, new: tuple[Stage, float], why: str, evidence: str
    ) -> bool:
        old = self._standing(policy)
        moved = old[0] is expect
        try:
            if moved:
                snapshot = await self.thread.call(_moved, policy, old, new, self.owner, why, evidence)
                self.stages.follow(snapshot)
        except StaleChangeError as error:
            # Somebody else moved it first: what they decided counts.
            _log.info("%s", error)
            moved = False
        self.stages.unpin(policy.name)
        return moved

    def _policy(self, route: str) -> RouteConfig:
        policy = self.stages.config.route(route)
        assert policy is not None
        return policy

    def _standing(self, policy: RouteConfig) -> tuple[Stage, float]:
        started = policy.weight if policy.stage is Stage.CANARY else 0.0
        return self.stages.snapshot.routes.get(policy.name, (policy.stage, started))


def _moved(
    store: Store,
    policy: RouteConfig,
    old: tuple[Stage, float],
    new: tuple[Stage, float],
    owner: str,
    why: str,
    evidence: str,
) -> Any:
    identity = store.identity(policy.name) or "unknown"
    kept = store.add_evidence(policy.name, identity, evidence, time.time()) if evidence else None
    start = (policy.stage, policy.weight if policy.stage is Stage.CANARY else 0.0)
    store.set_stage(policy.name, *new, who=owner, why=why, evidence=kept, start=start, expect=old)
    return store.snapshot()


@attrs.define(eq=False)
class Evidence:
    """
    Everything between an observed request and a moved route, in one process.

    @ivar key: Under which secrets become tokens.
    """

    stages: Stages
    thread: StateThread
    books: dict[str, Book]
    apps: Mapping[Side, App]
    sandboxes: Mapping[Side, Sandbox] = attrs.field(factory=dict)
    leases: ThreadLeases = attrs.field(kw_only=True)
    key: bytes = attrs.field(kw_only=True, repr=False)
    examiner: Examiner = attrs.field(init=False)
    keeper: Keeper = attrs.field(init=False)
    shadows: ShadowQueue = attrs.field(init=False)
    feed: SandboxFeed | None = attrs.field(default=None, init=False)
    seat: GateSeat = attrs.field(init=False)
    supervisor: LoopSupervisor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        boot = boot_id()
        self.seat = GateSeat(self.stages, self.thread, f"{GATE_NAME}{boot}")
        self.thread.own = self.seat.owner
        self.examiner = Examiner(
            self.books,
            Ledger(),
            Gate(self.stages.config.gate),
            Redactor(self.key),
            self.seat,
            time.time,
        )
        self._tell()
        self.shadows = ShadowQueue(self.apps, self.examiner)
        if self.sandboxes:
            self.feed = SandboxFeed(self.shadows, self.sandboxes, self.examiner.broke, wanted=False, rules=self._rules)
            self.shadows.feed = self.feed
        self.keeper = Keeper(self.stages.table, self.examiner, ThreadSink(self.thread), self.seat, time.time)
        self.supervisor = LoopSupervisor(
            GATE,
            lambda: LoopStage.LEGACY,
            {Side.LEGACY: ModernRunner(self.seat.hold)},
            self.leases,
            boot,
            time.monotonic,
            patience=_GATE_PATIENCE,
            level=logging.DEBUG,
        )

    def _tell(self) -> None:
        """
        Have the state know which code runs before anything is counted of it: who asks
        the state alone would hear of the former one's evidence.
        """
        for book in self.books.values():
            self.examiner.ledger.add(Key(book.route, book.identity), {STARTED: 0})

    def health(self) -> dict[str, Any]:
        """
        How the evidence is doing: why it waits for the state, if it does, and how many
        samples found no room meanwhile.
        """
        return {"problem": self.keeper.problem or None, "lost": self.examiner.ledger.lost}

    def _rules(self, route: Route) -> Rules:
        book = self.books.get(route.name)
        return Rules(moments=MOMENTS) if book is None else book.rules

    def follow(self) -> None:
        """
        Some route may stand elsewhere: sandboxes are there while one is fed, and no longer.
        """
        if self.feed is not None:
            table = self.stages.table.value
            fed = any(route.effects is Effects.SANDBOXED and route.stage in _SHADOWED for route in table.routes)
            self.feed.want(fed and not table.force_legacy)

    async def reread(self, config: Config) -> None:
        """
        Know the routes of a new policy; evidence of changed ones begins anew.
        """
        if self.feed is None and any(route.effects is Effects.SANDBOXED for route in config.routes):
            raise ConfigError(config.source, "route.effects", "'sandboxed' needs sandboxes, which only a restart makes")
        books = await self.thread.call(_reread, config, time.time())
        self.books.clear()
        self.books.update(books)
        self._tell()
        self.examiner.gate = Gate(config.gate)

    def judge_loop(self, loop: str, paired: Paired) -> None:
        """
        Keep what became of one tick that a loop's dry run and its owner told.
        """
        key = Key(loop_key(loop), self.books[DEFAULT_NAME].identity)
        ledger = self.examiner.ledger
        ledger.add(key, {paired.verdict.value: 1})
        if paired.verdict is Verdict.SAME:
            return
        _log.warning("loop %s: the tick %s is %s", loop, paired.tick, paired.verdict.value)
        differences = paired.differences or (paired.missing(),)
        text = tick_sample_of(paired.tick, paired.legacy, paired.modern, differences, self.examiner.redactor)
        for difference in differences:
            place = self.examiner.redactor.text(difference.place)
            if ledger.differs(key, difference, place) == 1:
                ledger.keep(key, difference.fingerprint, text)

    async def close(self, deadline: float) -> None:
        """
        Run no more shadows.
        """
        await self.shadows.close(deadline)
        if self.feed is not None:
            await self.feed.close()

    def rule(self, route: RouteConfig, stage: Stage, tally: Tally) -> Ruling:
        """
        What the gate says, with what only this process knows.  From any thread.
        """
        while True:
            try:
                return self.examiner.rule(stage, self.books[route.name], tally.seconds, tally.former)
            except RuntimeError:
                # The loop counted on while this thread read the counts: look again.
                continue

    def identity(self, route: str) -> str | None:
        """
        The identity of the code that runs, for one route.
        """
        book = self.books.get(route)
        return None if book is None else book.identity
