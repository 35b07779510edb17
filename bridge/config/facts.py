"""
Owns the policy as frozen facts: applications, routes, loops, gate, and the table that
they make with the stages of the state.

Refuses: to read TOML (L{bridge.config.reading} does), and to open or import anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from bridge.config.tables import Table, given
from bridge.config.values import EVERYTHING, state_url
from bridge.errors import NotBuiltError
from bridge.routing import BY_CLIENT, Effects, Pattern, Route, RouteTable, Selector, Stage
from bridge.routing.route import DEFAULT_NAME


@attrs.frozen
class AppConfig:
    """
    One application, by name.

    @ivar settings: For a factory that has a C{settings} parameter.
    @ivar sandbox: The same for its second instance, on its own copy of the stores.
    @ivar version: The declared identity of its code; else its package is digested.
    @ivar session: Legacy's view of its sessions, as C{module:name}; with it both sides
        know the same visitors.
    @ivar base: Where relative paths in it start.
    """

    app: str
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    sandbox: Mapping[str, Any] = attrs.field(factory=dict)
    version: str | None = None
    session: str | None = None
    base: Path = attrs.field(factory=Path)


@attrs.frozen
class RollbackConfig:
    """
    The sequential test that takes a route back: how discordant pairs split between
    A/A and A/B, by chance (p0) or because modern differs (p1).
    """

    p0: float = 0.5
    p1: float = 0.9
    alpha: float = 0.01
    beta: float = 0.01


@attrs.frozen
class GateConfig:
    """
    When evidence is enough.

    @ivar aa: Pairs of legacy with legacy to calibrate on.
    @ivar p0: Share of mismatches that is as good as none.
    @ivar p1: Share of mismatches that is too many.
    @ivar alpha: Risk of holding back a route that is fine.
    @ivar beta: Risk of promoting a route that isn't.
    @ivar seen: How often each declared outcome must have been compared.
    @ivar floor: Seconds that a stage lasts at least.
    """

    aa: int = 200
    p0: float = 0.001
    p1: float = 0.01
    alpha: float = 0.05
    beta: float = 0.05
    seen: int = 20
    floor: float = 300.0
    rollback: RollbackConfig = RollbackConfig()


@attrs.frozen
class RouteConfig:
    """
    What the policy says of one route, or of all that no C{[[route]]} names.

    @ivar pattern: None for the default route.
    @ivar effects: As declared, or as an undeclared one counts.
    @ivar weight: Percent of the subjects that a canary moves; more than none, so that the
        gate, which waits for modern's answers there, gets some.
    @ivar outcomes: Statuses that evidence must contain.
    @ivar ignore: C{header:NAME} and C{$.path} that are not compared.
    @ivar tolerate: C{$.path} to the difference of numbers that still counts as same.
    """

    pattern: Pattern | None = None
    stage: Stage = Stage.LEGACY
    promote: str = "manual"
    sample: float = 1.0
    effects: Effects = Effects.EXTERNAL
    weight: float = 5.0
    selector: Selector = BY_CLIENT
    salt: str | None = None
    outcomes: tuple[int, ...] = ()
    ignore: tuple[str, ...] = ()
    tolerate: Mapping[str, float] = attrs.field(factory=dict)
    stream: bool = False

    @property
    def name(self) -> str:
        """
        What state and operators call this route.
        """
        return DEFAULT_NAME if self.pattern is None else self.pattern.text

    def route(self, stage: Stage | None = None, weight: float | None = None) -> Route:
        """
        The route at the stage of the state, or else at the policy's start stage.
        """
        return Route(
            self.pattern,
            stage=self.stage if stage is None else stage,
            weight=self.weight if weight is None else weight,
            effects=self.effects,
            sample=self.sample,
            selector=self.selector,
            salt=self.name if self.salt is None else self.salt,
            stream=self.stream,
        )


@attrs.frozen
class LoopConfig:
    """
    One background loop that the harness alone starts and stops.

    @ivar legacy: C{service:NAME}, a named child of the adopted service tree.
    @ivar modern: Its key in C{app.state.loops}.
    @ivar lease: Seconds without a renewal after which an owner counts as gone.
    @ivar drain: Seconds that a running tick gets to end at a hand-off.
    """

    name: str
    legacy: str | None = None
    modern: str | None = None
    stage: str = "legacy"
    lease: float = 5.0
    drain: float = 10.0


@attrs.define
class _LastTable:
    """
    The last table that was made, and the stages that it was made from.
    """

    value: tuple[Mapping[str, tuple[Stage, float]], RouteTable] | None = None


@attrs.frozen
class Config:
    """
    Everything that one server is put together from.

    @ivar listen: Endpoint strings; empty where none was given.
    @ivar reuse_port: Whether other processes may listen on the same ports.
    @ivar trusted_proxies: Addresses and networks whose C{X-Forwarded-*} count; C{unix} is
        whoever connects to a UNIX socket.
    @ivar admin: An endpoint string, or "off".
    @ivar state: The state database's URL; a relative SQLite path is absolute here.
    @ivar grace: Seconds to drain.
    @ivar site: The address of the Site whose routes move.
    @ivar base: Where relative paths start.
    @ivar source: The policy's name in messages.
    @ivar options: What was said over the file, by option or environment; a reload of
        the file doesn't change it.
    @ivar built: What this version has, of L{EVERYTHING}.
    """

    base: Path
    source: str
    listen: tuple[str, ...] = ()
    reuse_port: bool = False
    trusted_proxies: tuple[str, ...] = ()
    admin: str = "off"
    state: str = "sqlite:///bgserver.db"
    grace: float = 4.0
    force_legacy: bool = False
    front: str = "uvicorn"
    loop: str = "auto"
    site: str | None = None
    legacy: AppConfig | None = None
    modern: AppConfig | None = None
    gate: GateConfig = GateConfig()
    default_route: RouteConfig = RouteConfig()
    routes: tuple[RouteConfig, ...] = ()
    loops: tuple[LoopConfig, ...] = ()
    options: frozenset[str] = frozenset()
    built: frozenset[str] = attrs.field(default=EVERYTHING, repr=False)
    _by_name: Mapping[str, RouteConfig] = attrs.field(init=False, repr=False, eq=False)
    _last: _LastTable = attrs.field(factory=lambda: _LastTable(), init=False, repr=False, eq=False)

    @_by_name.default
    def _names(self) -> Mapping[str, RouteConfig]:
        return {route.name: route for route in (*self.routes, self.default_route)}

    def table(self, stages: Mapping[str, tuple[Stage, float]], version: int = 0) -> RouteTable:
        """
        The routes at the stages of the state; those that it doesn't name start
        where the policy says, and those that the policy doesn't name are left out.

        What only moved since the last call costs no more than what moved.
        """
        last = self._last.value
        if self.modern is None:
            stages = {}
        if last is None:
            table = RouteTable.build(
                [self._at(route, stages) for route in self.routes],
                self._at(self.default_route, stages),
                version,
                self.force_legacy,
            )
        else:
            before, known = last
            names = [name for name in {*before, *stages} if before.get(name) != stages.get(name)]
            moved = [self._at(route, stages) for name in names if (route := self.route(name)) is not None]
            table = known.moved(moved, version)
        self._last.value = (dict(stages), table)
        return table

    def _at(self, route: RouteConfig, stages: Mapping[str, tuple[Stage, float]]) -> Route:
        if self.modern is None:
            return route.route(Stage.LEGACY)
        return route.route(*stages.get(route.name, (None, None)))

    def need(self, feature: str, what: str) -> None:
        """
        Refuse what this version doesn't have, wherever it is asked for.

        @raise NotBuiltError: With what was asked for.
        """
        if feature not in self.built:
            raise NotBuiltError(self.source, "", f"{what} is not part of this version yet.")

    def route(self, name: str) -> RouteConfig | None:
        """
        What the policy says of a route, by its normalised name.
        """
        return self._by_name.get(name)

    def merged(
        self,
        *,
        base: Path,
        built: frozenset[str] = EVERYTHING,
        listen: Sequence[str] | None = None,
        admin: str | None = None,
        state: str | None = None,
        front: str | None = None,
        loop: str | None = None,
        site: str | None = None,
        legacy: str | None = None,
        modern: str | None = None,
        force_legacy: bool | None = None,
    ) -> Config:
        """
        This policy with options over it; None is an option that wasn't given.

        @param base: The current folder, where the options' relative paths start.
        @raise ConfigError: If an option's value is none that can be used.
        """
        options = given(
            listen=list(listen) if listen else None,
            admin=admin,
            state=state,
            front=front,
            loop=loop,
            site=site,
            force_legacy=force_legacy,
        )
        from bridge.config.reading import settings_of  # which is made of these facts

        changes = settings_of(Table(options, "options", prefix="--"), base, built)
        for name, app in (("legacy", legacy), ("modern", modern)):
            if app is not None:
                old = getattr(self, name) or AppConfig(app)
                changes[name] = attrs.evolve(old, app=app, base=base)
        return attrs.evolve(self, **changes, options=self.options.union(changes))


def empty_config(base: Path) -> Config:
    """
    The policy of a server that was given applications and no file: all legacy.
    """
    return Config(base=base, source="options", state=state_url("sqlite:///bgserver.db", base))
