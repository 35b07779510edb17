"""
Owns one server while it lives: what is bound, started, followed and stopped, as steps
of L{bridge.loop.Life}.

Refuses: to load or check anything (L{compose} did), and to decide about requests,
loops or stages; the rooms do.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.resource import NoResource
from twisted.web.server import Site

from bridge.background.pairing import Paired
from bridge.background.supervisor import LoopSupervisor
from bridge.compose.control import ServerControl
from bridge.compose.evidence import Evidence
from bridge.compose.figures import figures
from bridge.compose.front_app import Composed, working_for
from bridge.compose.loops import ThreadLeases, boot_id, supervised
from bridge.compose.presence import Present
from bridge.compose.reload import Reloader
from bridge.compose.stages import Stages
from bridge.compose.summary import summary
from bridge.config import Config
from bridge.dispatch import Dispatcher, Dropped, ShadowQueue, Trial
from bridge.dispatch.books import Book
from bridge.dispatch.sandbox import Sandbox
from bridge.loop import BridgeReactor, Life, StallWatch, Starting, Stopping, as_awaitable
from bridge.loop.heap import Heap
from bridge.loop.stalls import PACKAGES
from bridge.routing import Decision, Side
from bridge.state.thread import StateThread
from bridge.web.access import Logged
from bridge.web.adopt import Adopted, Adopter
from bridge.web.front import Road
from bridge.web.lifespan import Lifespan
from bridge.web.listen import Front
from bridge.web.load import LoadedLegacy
from bridge.web.proxies import Proxies
from bridge.web.quicken import Quickened
from bridge.web.resource_app import ResourceApp
from bridge.web.sessions import SharedSessions

DEFAULT_LISTEN = "tcp:8000:interface=127.0.0.1"
"""
Where an application that listens nowhere by itself is served, if nothing else is said.
"""

_log = Logger()


def _packages(config: Config) -> dict[str, str]:
    """
    Whose code a package is, as far as the policy tells.
    """
    found = dict(PACKAGES)
    for side, app in ((Side.LEGACY, config.legacy), (Side.MODERN, config.modern)):
        if app is not None and ":" in app.app and not app.app.startswith("plugin:"):
            found[app.app.partition(":")[0].partition(".")[0]] = side.value
    return found


class _Nobody:
    """
    Judges nothing, where no route can be shadowed.
    """

    def judge(self, trial: Trial) -> None: ...

    def doubts(self, trial: Trial) -> bool:
        return False

    def dropped(self, decision: Decision, why: Dropped) -> None: ...

    def answered(self, decision: Decision, status: int, seconds: float) -> None: ...


@attrs.define(eq=False)
class Server:
    """
    One server, from the policy to the last byte.  Everything but L{bind} runs on the
    loop's thread.

    @ivar site: The Site whose routes move; L{None} until legacy has said which.
    @ivar app_state: What modern's lifespan gave, for C{scope["state"]}.
    """

    config: Config
    reactor: BridgeReactor
    stages: Stages
    legacy: LoadedLegacy | None
    modern: Any | None
    adopter: Adopter
    state: StateThread | None
    books: dict[str, Book]
    owns_loop: bool
    admin_token: str | None = None
    policy: Path | None = None
    built: frozenset[str] = frozenset()
    sandboxes: Mapping[Side, Sandbox] = attrs.field(factory=dict)
    view: Any | None = None
    key: bytes | None = attrs.field(default=None, repr=False)
    loops: tuple[LoopSupervisor, ...] = attrs.field(default=(), init=False)
    life: Life = attrs.field(init=False)
    proxies: Proxies | None = attrs.field(init=False)
    front: Front = attrs.field(init=False)
    admin: Front = attrs.field(init=False)
    evidence: Evidence | None = attrs.field(default=None, init=False)
    present: Present | None = attrs.field(default=None, init=False)
    shadows: ShadowQueue = attrs.field(init=False)
    dispatcher: Dispatcher = attrs.field(init=False)
    composed: Composed = attrs.field(init=False)
    lifespan: Lifespan | None = attrs.field(init=False)
    app_state: dict[str, Any] = attrs.field(factory=dict, init=False)
    site: Site | None = attrs.field(default=None, init=False)
    stalls: StallWatch = attrs.field(init=False)
    reloader: Reloader | None = attrs.field(init=False)
    started: bool = attrs.field(default=False, init=False)
    _sharing: Any | None = attrs.field(default=None, init=False)
    _resource_app: ResourceApp | None = attrs.field(default=None, init=False)
    _running: list[asyncio.Task[None]] = attrs.field(factory=list, init=False)
    _create_admin: Callable[..., Any] | None = attrs.field(default=None, init=False)
    _quickened: Quickened = attrs.field(factory=Quickened, init=False)
    _bound: bool = attrs.field(default=False, init=False)
    _privileged: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.life = Life(self.reactor, self.config.grace)
        self.proxies = Proxies.of(self.config.trusted_proxies)
        self.front = Front(self.reactor, self.adopter, proxies=self.proxies)
        self.admin = Front(self.reactor)
        sides = {
            Side.LEGACY: working_for(Side.LEGACY, self._legacy_app),
            Side.MODERN: working_for(Side.MODERN, self._legacy_app if self.modern is None else self._modern_app),
        }
        self.shadows = ShadowQueue({}, _Nobody())
        leases = None
        if self.state is not None:
            leases = ThreadLeases(self.state)
            key = secrets.token_bytes(32) if self.key is None else self.key
            self.evidence = Evidence(self.stages, self.state, self.books, sides, self.sandboxes, leases=leases, key=key)
            self.shadows = self.evidence.shadows
            self.present = Present(boot_id(), self.state, self.stages, time.time)
        self.dispatcher = Dispatcher(self.stages.table, sides, self.shadows)
        self.composed = Composed(self)
        self.stalls = StallWatch(self.reactor.loop, packages=_packages(self.config))
        self.lifespan = Lifespan(self.modern, "the modern application") if self.modern is not None else None
        service = self.legacy.service if self.legacy is not None else None
        self.loops = supervised(
            self.config,
            service,
            self.modern,
            leases,
            lambda name: self.stages.snapshot.loops.get(name),
            self._judge_loop,
        )
        policy = self.policy
        self.reloader = Reloader(policy, self.built, self.stages, self._reread) if policy is not None else None
        self._register()

    # -- legacy behind ASGI ------------------------------------------------------------

    def _legacy_app(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if self._resource_app is None:
            site = self.site if self.site is not None else Site(NoResource())
            self._resource_app = ResourceApp(site, self.reactor)
        return self._resource_app(scope, receive, send)

    def _modern_app(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        # The Site is known only once legacy has begun to listen.
        if self._sharing is None:
            assert self.modern is not None
            shares = self.view is not None and self.site is not None
            app = SharedSessions(self.modern, self.site, cast("Any", self.view)) if shares else self.modern
            self._sharing = app if self.site is None else Logged(app, self.site)
        answered: Awaitable[None] = self._sharing(scope, receive, send)
        return answered

    # -- binding -----------------------------------------------------------------------

    def bind(self) -> None:
        """
        Take every address, while the process may still take low ports.

        @raise BridgeError: If one can't be had, or it isn't clear which Site is meant.
        @raise CannotListenError: If one of legacy's own can't be had.
        """
        if self._bound:
            return
        self._bound = True
        if self.reloader is not None:
            self.reloader.install()
        legacy = self.legacy
        if legacy is not None and legacy.service is not None:
            self._privileged = True
            legacy.service.privilegedStartService()
            self.site = self.adopter.chosen(self.config.site) if self.adopter.adopted else None
        elif legacy is not None:
            self.site = legacy.site
        if self.owns_loop:
            for endpoint in self._endpoints():
                self.front.bind(endpoint, self.site, self.composed.decide, self.composed.watch)
            for adopted in self.adopter.adopted:
                self._serve(adopted)
            self.adopter.on_adopt = self._serve
            if self.config.admin != "off" and self.state is not None:
                # Here, and not at the top: FastAPI takes a third of a start that may not need it, and once the loop
                # runs nothing may hold it that long.
                from bridge.admin.api import create_admin

                self.admin.bind(self.config.admin)
                self._create_admin = create_admin

    def _endpoints(self) -> tuple[str, ...]:
        if self.config.listen:
            return self.config.listen
        if self.legacy is not None and self.legacy.service is not None:
            return ()  # it listens by itself, now or when it starts
        return (DEFAULT_LISTEN,)

    def _serve(self, adopted: Adopted) -> None:
        if self.adopter.opens:
            moves = self.site is None or adopted.site is self.site
            decide, watch = (self.composed.decide, self.composed.watch) if moves else (None, None)
            self.front.add(adopted, decide=decide, watch=watch)

    # -- starting and stopping ---------------------------------------------------------

    def _register(self) -> None:
        life, heap = self.life, Heap()
        life.on_start(Starting.PREPARE, "state", self._open_state)
        life.on_start(Starting.SERVICES, "legacy", self._start_legacy)
        life.on_start(Starting.LIFESPAN, "modern", self._start_modern)
        life.on_start(Starting.LOOPS, "loops", self._start_loops)
        # Nobody is served yet, so nobody waits while all that is there now is looked at.
        life.on_start(Starting.ACCEPT, "heap", heap.put_aside)
        life.on_start(Starting.ACCEPT, "listeners", self._accept)
        life.on_start(Starting.READY, "watch", self._watch)
        life.on_start(Starting.READY, "ready", self._ready)
        life.on_stop(Stopping.ACCEPT, "listeners", self._stop_accepting)
        life.on_stop(Stopping.DRAIN, "loops", self._drain_loops)
        life.on_stop(Stopping.DRAIN, "shadows", self._drain_shadows)
        life.on_stop(Stopping.DRAIN, "requests", self._drain)
        life.on_stop(Stopping.LIFESPAN, "modern", self._stop_modern)
        life.on_stop(Stopping.SERVICES, "legacy", self._stop_legacy)
        life.on_stop(Stopping.TASKS, "listeners", self.front.close)
        life.on_stop(Stopping.TASKS, "admin", self.admin.close)
        life.on_stop(Stopping.POOLS, "watch", self._unwatch)
        life.on_stop(Stopping.POOLS, "state", self._close_state)
        life.on_stop(Stopping.POOLS, "heap", heap.take_back)

    def run_with_reactor(self) -> None:
        """
        Owned: start when the reactor runs; its signals, and its end, are this server's.
        """
        self.life.bind()

    def stop(self) -> Deferred[None] | None:
        """
        Owned: for a C{stopService}; fires when everything is down.
        """
        return self.life.stop_with_reactor()

    @asynccontextmanager
    async def attached(self) -> AsyncIterator[None]:
        """
        Attached: up inside the block, down after it; the loop is somebody else's.
        """
        self.bind()
        async with self.life.attached():
            self.started = True
            yield

    async def _open_state(self) -> None:
        if self.state is not None:
            self.state.changed = self.stages.follow
            self.stages.changed = self._nudge
            self.state.start(self.reactor.loop, self.stages.snapshot.version)

    def _nudge(self) -> None:
        for loop in self.loops:
            loop.nudge()
        if self.evidence is not None:
            self.evidence.follow()
        if self.present is not None:
            self.present.follow()

    def _judge_loop(self, loop: str, paired: Paired) -> None:
        if self.evidence is not None:
            self.evidence.judge_loop(loop, paired)

    async def _close_state(self) -> None:
        if self.state is not None:
            if self.present is not None:
                self.present.leave()
            await self.state.stop()

    async def _start_legacy(self) -> None:
        if self.legacy is None or self.legacy.service is None:
            return
        if not self._privileged:
            self.legacy.service.privilegedStartService()
        self.legacy.service.startService()
        if self.site is None:
            # What listens only from callWhenRunning on is there after one turn.
            await asyncio.sleep(0)
            self.site = self.adopter.chosen(self.config.site)
            for listener in self.front.listeners:
                if self.site is not None and listener.adopted.site not in self.adopter.sites:
                    listener.road = Road(self.site, self.composed.decide, self.composed.watch, self.proxies)

    async def _stop_legacy(self) -> None:
        if self.legacy is not None and self.legacy.service is not None and self.legacy.service.running:
            stopped = self.legacy.service.stopService()
            if isinstance(stopped, Deferred):
                await as_awaitable(stopped)

    async def _start_modern(self) -> None:
        if self.lifespan is not None:
            self.app_state = await self.lifespan.startup()

    async def _stop_modern(self) -> None:
        if self.lifespan is not None:
            await self.lifespan.shutdown()

    async def _start_loops(self) -> None:
        for loop in self._supervised():
            self._running.append(self.life.spawn(loop.run(), f"loop {loop.name}"))
        if self.evidence is not None:
            self.life.spawn(self.evidence.keeper.run(), "evidence")
            if self.evidence.feed is not None:
                self.evidence.feed.start()
            self.evidence.follow()
        if self.present is not None:
            self.life.spawn(self.present.run(), "presence")

    def _supervised(self) -> tuple[LoopSupervisor, ...]:
        return self.loops if self.evidence is None else (*self.loops, self.evidence.supervisor)

    async def _drain_loops(self) -> None:
        if self._running:
            await asyncio.wait(self._running)

    async def _accept(self) -> None:
        if not self.owns_loop:
            # The listener is uvicorn's own, so no front starts.
            self._quickened.begin()
            return
        await self.front.start(self.composed.answer, self.app_state)
        if self.state is not None and self.evidence is not None and self._create_admin is not None:
            control = ServerControl(self.stages, self.state, self.evidence, self.loops)
            await self.admin.start(self._create_admin(control, lambda: figures(self), self.admin_token))

    async def _stop_accepting(self) -> None:
        self.front.stop_accepting()
        # An application may have streams that end only when it is told so.
        drain = getattr(getattr(self.modern, "state", None), "drain", None)
        if callable(drain):
            drain()
        # Told now, awaited after the requests: both drain at the same time.
        for loop in self._supervised():
            loop.close()

    async def _drain(self) -> None:
        await self.front.drain(self.life.deadline - self.reactor.loop.time())

    async def _drain_shadows(self) -> None:
        if self.evidence is not None:
            await self.evidence.close(self.life.deadline - self.reactor.loop.time())

    async def _watch(self) -> None:
        self.stalls.start()
        if self.reloader is not None:
            self.reloader.begin()

    async def _unwatch(self) -> None:
        self._quickened.end()
        self.stalls.stop()
        if self.reloader is not None:
            self.reloader.uninstall()

    async def _reread(self, config: Config) -> None:
        if self.evidence is not None:
            await self.evidence.reread(config)
        self.life.grace = config.grace

    async def _ready(self) -> None:
        for line in summary(self):
            _log.info("{line}", line=line)
