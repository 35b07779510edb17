"""
Puts one server together from a policy: both applications, the routes at their stages,
the listeners, the state, the loops, and the order in which they start and stop.

It is the only module that knows all rooms, and the same under twistd (which owns the
process, and we the loop) and under uvicorn (which owns both).  L{compose} loads and
checks everything that can be checked before anything runs; L{Server.bind} takes the
addresses; the rest is steps of L{bridge.loop.Life}.

Refuses: to decide about requests, loops or stages; the rooms do.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.resource import NoResource
from twisted.web.server import Site

from bridge.background.ownership import LoopStage
from bridge.background.runners import LegacyRunner, ModernRunner, Runner
from bridge.background.supervisor import LoopSupervisor
from bridge.config import Config, LoopConfig
from bridge.dispatch import Dispatcher, Dropped, ShadowQueue, Trial
from bridge.errors import ConfigError, StateUnavailableError
from bridge.loop import BridgeReactor, Life, Starting, Stopping, as_awaitable
from bridge.routing import Asks, Cell, Decision, RouteTable, Side, Stage
from bridge.state.leases import Lease
from bridge.state.stages import Snapshot
from bridge.state.store import Store
from bridge.state.thread import StateThread
from bridge.web.adopt import Adopted, Adopter
from bridge.web.front import Road
from bridge.web.lifespan import Lifespan
from bridge.web.listen import Front
from bridge.web.load import LoadedLegacy, load_legacy, load_modern
from bridge.web.resource_app import ResourceApp

DEFAULT_LISTEN = "tcp:8000:interface=127.0.0.1"
"""
Where an application that listens nowhere by itself is served, if nothing else is said.
"""

BUILT = frozenset(
    {"loop", "front:uvicorn", "stage:legacy", "stage:modern", "stage:retired"}
    | {f"loop-stage:{stage}" for stage in ("legacy", "live", "modern")}
)
"""
Of what a policy can ask for, what this version has.
"""

_log = Logger()


class _Nobody:
    """
    Judges nothing, where no route can be shadowed.
    """

    def judge(self, trial: Trial) -> None: ...

    def dropped(self, decision: Decision, why: Dropped) -> None: ...

    def answered(self, decision: Decision, status: int, seconds: float) -> None: ...


class Composed:
    """
    The ASGI application of the whole server.

    @ivar legacy_front: Itself, for the protocol that looks for the hot road.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.legacy_front = self

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._server.dispatcher(scope, receive, send)

    async def _lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            async with self._server.attached():
                scope.get("state", {}).update(self._server.app_state)
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            if self._server.started:
                raise
            _log.error("{error}", error=error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    def decide(self, method: bytes, raw_path: bytes, asks: Asks) -> Decision:
        """
        The table's answer, read once for each request.
        """
        return self._server.table.value.decide(method, raw_path, asks)

    def site_for(self, listener: object) -> Any | None:
        """
        The Site whose routes move; under uvicorn there is one listener.
        """
        return self._server.site


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
    table: Cell[RouteTable]
    legacy: LoadedLegacy | None
    modern: Any | None
    adopter: Adopter
    state: StateThread | None
    snapshot: Snapshot
    owns_loop: bool
    loops: tuple[LoopSupervisor, ...] = ()
    life: Life = attrs.field(init=False)
    front: Front = attrs.field(init=False)
    shadows: ShadowQueue = attrs.field(init=False)
    dispatcher: Dispatcher = attrs.field(init=False)
    composed: Composed = attrs.field(init=False)
    lifespan: Lifespan | None = attrs.field(init=False)
    app_state: dict[str, Any] = attrs.field(factory=dict, init=False)
    site: Site | None = attrs.field(default=None, init=False)
    started: bool = attrs.field(default=False, init=False)
    _resource_app: ResourceApp | None = attrs.field(default=None, init=False)
    _running: list[asyncio.Task[None]] = attrs.field(factory=list, init=False)
    _bound: bool = attrs.field(default=False, init=False)
    _privileged: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.life = Life(self.reactor, self.config.grace)
        self.front = Front(self.reactor, self.adopter)
        self.shadows = ShadowQueue({}, _Nobody())
        sides = {Side.LEGACY: self._legacy_app, Side.MODERN: self.modern or self._legacy_app}
        self.dispatcher = Dispatcher(self.table, sides, self.shadows)
        self.composed = Composed(self)
        self.lifespan = Lifespan(self.modern, "the modern application") if self.modern is not None else None
        self._register()

    # -- legacy behind ASGI ------------------------------------------------------------

    async def _legacy_app(self, scope: Any, receive: Any, send: Any) -> None:
        if self._resource_app is None:
            site = self.site if self.site is not None else Site(NoResource())
            self._resource_app = ResourceApp(site, self.reactor)
        await self._resource_app(scope, receive, send)

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
        legacy = self.legacy
        if legacy is not None and legacy.service is not None:
            self._privileged = True
            legacy.service.privilegedStartService()
            self.site = self.adopter.chosen(self.config.site) if self.adopter.adopted else None
        elif legacy is not None:
            self.site = legacy.site
        if self.owns_loop:
            for endpoint in self._endpoints():
                self.front.bind(endpoint, self.site, self.composed.decide)
            for adopted in self.adopter.adopted:
                self._serve(adopted)
            self.adopter.on_adopt = self._serve

    def _endpoints(self) -> tuple[str, ...]:
        if self.config.listen:
            return self.config.listen
        if self.legacy is not None and self.legacy.service is not None:
            return ()  # it listens by itself, now or when it starts
        return (DEFAULT_LISTEN,)

    def _serve(self, adopted: Adopted) -> None:
        if self.adopter.opens:
            moves = self.site is None or adopted.site is self.site
            self.front.add(adopted, decide=self.composed.decide if moves else None)

    # -- starting and stopping ---------------------------------------------------------

    def _register(self) -> None:
        life = self.life
        life.on_start(Starting.PREPARE, "state", self._open_state)
        life.on_start(Starting.SERVICES, "legacy", self._start_legacy)
        life.on_start(Starting.LIFESPAN, "modern", self._start_modern)
        life.on_start(Starting.LOOPS, "loops", self._start_loops)
        life.on_start(Starting.ACCEPT, "listeners", self._accept)
        life.on_start(Starting.READY, "ready", self._ready)
        life.on_stop(Stopping.ACCEPT, "listeners", self._stop_accepting)
        life.on_stop(Stopping.DRAIN, "loops", self._drain_loops)
        life.on_stop(Stopping.DRAIN, "shadows", self._drain_shadows)
        life.on_stop(Stopping.DRAIN, "requests", self._drain)
        life.on_stop(Stopping.LIFESPAN, "modern", self._stop_modern)
        life.on_stop(Stopping.SERVICES, "legacy", self._stop_legacy)
        life.on_stop(Stopping.TASKS, "listeners", self.front.close)
        life.on_stop(Stopping.POOLS, "state", self._close_state)

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
            self.state.changed = self._follow
            self.state.start(self.reactor.loop, self.snapshot.version)

    def _follow(self, snapshot: Snapshot) -> None:
        """
        The state changed, here or in another process: swap the table.
        """
        if snapshot.version < self.snapshot.version:
            return
        self.snapshot = snapshot
        self.table.swap(self.config.table(snapshot.routes, snapshot.version))
        for loop in self.loops:
            loop.nudge()

    async def _close_state(self) -> None:
        if self.state is not None:
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
                    listener.road = Road(self.site, self.composed.decide)

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
        for loop in self.loops:
            self._running.append(asyncio.get_running_loop().create_task(loop.run(), name=f"loop {loop.name}"))

    async def _drain_loops(self) -> None:
        if self._running:
            await asyncio.wait(self._running)

    async def _accept(self) -> None:
        if self.owns_loop:
            await self.front.start(self.composed, self.app_state)

    async def _stop_accepting(self) -> None:
        self.front.stop_accepting()
        # Told now, awaited after the requests: both drain at the same time.
        for loop in self.loops:
            loop.close()

    async def _drain(self) -> None:
        await self.front.drain(self.life.deadline - self.reactor.loop.time())

    async def _drain_shadows(self) -> None:
        await self.shadows.close()

    async def _ready(self) -> None:
        for line in self.summary():
            _log.info("{line}", line=line)

    # -- what a person is told ---------------------------------------------------------

    def summary(self) -> list[str]:
        """
        Where it listens, what runs on which side, how to stop it: a few lines.
        """
        lines = []
        if self.owns_loop:
            addresses = ", ".join(_url(listener.address) for listener in self.front.listeners)
            lines.append(f"Listening on {addresses or 'no address'}.")
        closed = [] if self.adopter.opens else sorted({a.address for a in self.adopter.adopted})
        if closed or (not self.owns_loop and self.config.listen):
            what = ", ".join([*closed, *(() if self.owns_loop else self.config.listen)])
            why = "it is served where --listen says" if self.owns_loop else "uvicorn has the listener"
            lines.append(f"Not opened: {what}; {why}.")
        lines.append(self._sides())
        if self.loops:
            lines.append("Loops: " + ", ".join(f"{loop.name} {loop.stage().value}" for loop in self.loops) + ".")
        where = "out of reach" if self.state is None else self.config.state
        lines.append(f"Policy: {self.config.source}. State: {where}. `bgctl status` shows both.")
        if self.owns_loop:
            lines.append("Ctrl-C or SIGTERM stops it, within a few seconds; a second one at once.")
        return lines

    def _sides(self) -> str:
        table = self.table.value
        if table.force_legacy:
            return "force_legacy is set: every route is answered by legacy."
        counts: dict[str, int] = {}
        for route in table.routes:
            counts[route.stage.value] = counts.get(route.stage.value, 0) + 1
        said = ", ".join(f"{count} {stage}" for stage, count in counts.items())
        rest = f"{'everything else' if counts else 'everything'} {table.default.stage.value}"
        return f"Routes: {said + '; ' if said else ''}{rest}."


def _url(address: str) -> str:
    return address if address.startswith("unix:") else f"http://{address}"


def compose(config: Config, reactor: BridgeReactor, *, owns_loop: bool = True) -> Server:
    """
    Load both applications and check the policy against them; nothing runs yet.

    @param owns_loop: False under uvicorn, which has the only listener then.
    @raise BridgeError: If anything can't be used, with the remedy.
    """
    if config.legacy is None and config.modern is None:
        raise ConfigError(config.source, "", "it names no application. Give --legacy, --modern, or both.")
    state, snapshot = _state(config)
    table = config.table(snapshot.routes, snapshot.version)
    adopter = Adopter(reactor, opens=owns_loop and not config.listen)
    reactor.on_listen = adopter
    legacy = modern = None
    if config.legacy is not None:
        legacy = load_legacy(config.legacy.app, config.legacy.settings or None, config.legacy.base)
    else:
        _check_without_legacy(config, table)
    if config.modern is not None:
        modern = load_modern(config.modern.app, config.modern.settings or None, config.modern.base)
    server = Server(config, reactor, Cell(table), legacy, modern, adopter, state, snapshot, owns_loop)
    server.loops = tuple(_supervise(loop, server) for loop in config.loops)
    return server


def _state(config: Config) -> tuple[StateThread | None, Snapshot]:
    def opened() -> Store:
        return Store.open(config.state)

    try:
        store = opened()
    except StateUnavailableError:
        if not config.force_legacy:
            raise
        # The switch for the worst night must work without the database.
        return None, Snapshot(-1, {}, {})
    try:
        snapshot = store.snapshot()
    finally:
        store.close()  # twistd may fork before this process serves
    return StateThread(opened, lambda changed: None), snapshot


def _check_without_legacy(config: Config, table: RouteTable) -> None:
    for route in (*table.routes, table.default):
        if route.stage not in (Stage.MODERN, Stage.RETIRED):
            raise ConfigError(
                config.source,
                "legacy.app",
                f"it is missing, and {route.name!r} is at {route.stage.value}. Name the legacy application, "
                "or put every route, and [routes], at modern or retired.",
            )


# -- loops -------------------------------------------------------------------------------


def _supervise(loop: LoopConfig, server: Server) -> LoopSupervisor:
    runners: dict[Side, Runner] = {}
    if loop.legacy is not None:
        runners[Side.LEGACY] = LegacyRunner(_detached(loop, server), as_awaitable)
    if loop.modern is not None and server.modern is not None:
        runners[Side.MODERN] = ModernRunner(_claimed(loop, server))
    if server.state is None:
        raise ConfigError(server.config.source, "state", "loops need the state database, which can't be opened.")
    start = LoopStage(loop.stage)

    def stage() -> LoopStage:
        stored = server.snapshot.loops.get(loop.name)
        return start if stored is None else LoopStage(stored)

    return LoopSupervisor(
        loop.name,
        stage,
        runners,
        _Leases(server.state),
        f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
        time.monotonic,
        patience=loop.lease,
        drain=loop.drain,
    )


@attrs.frozen
class _Leases:
    """
    The leases of the state database, off the loop's thread.
    """

    thread: StateThread

    def lease(self, name: str) -> Awaitable[Lease | None]:
        return self.thread.call(Store.lease, name)

    def acquire(self, name: str, holder: str, seen: Lease | None, floor: int) -> Awaitable[Lease | None]:
        return self.thread.call(Store.acquire, name, holder, seen, floor)

    def renew(self, lease: Lease) -> Awaitable[Lease | None]:
        return self.thread.call(Store.renew, lease)

    def release(self, lease: Lease) -> Awaitable[bool]:
        return self.thread.call(Store.release, lease)


def _detached(loop: LoopConfig, server: Server) -> Any:
    assert loop.legacy is not None
    name = loop.legacy.removeprefix("service:")
    service: Any = server.legacy.service if server.legacy is not None else None
    try:
        found = service.getServiceNamed(name)
    except (AttributeError, KeyError):
        names = sorted(child.name for child in (service or ()) if child.name) if service is not None else []
        raise ConfigError(
            server.config.source,
            f"loop {loop.name!r}.legacy",
            f"legacy has no service named {name!r}; it has: {', '.join(names) or 'none'}.",
        ) from None
    # From now on the harness alone starts and stops it.
    found.disownServiceParent()
    return found


def _claimed(loop: LoopConfig, server: Server) -> Callable[[int], Any]:
    loops = getattr(getattr(server.modern, "state", None), "loops", None)
    if not isinstance(loops, dict) or loop.modern not in loops:
        known = ", ".join(sorted(loops)) if isinstance(loops, dict) else "none"
        raise ConfigError(
            server.config.source,
            f"loop {loop.name!r}.modern",
            f"app.state.loops has no {loop.modern!r}; it has: {known}. "
            "Fill it when the application is made, before its lifespan starts.",
        )
    made: Callable[[int], Any] = loops.pop(loop.modern)
    return made
