"""
Owns the policy: bgserver.toml and the options over it, as frozen facts.

Every key is checked, an unknown one is refused with the nearest known name, and
every error names the file and the key path.  What this version knows but doesn't
have is refused by name; the set of what it has is given by C{compose}, which knows.

Refuses: to open a file, a database or a socket, and to import anybody's
application.  A name of one is only text here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from bridge.errors import ConfigError, RouteConflictError
from bridge.routing import BY_CLIENT, Effects, Pattern, Route, RouteTable, Selector, Stage
from bridge.routing.route import DEFAULT_NAME
from bridge.toml_table import (
    Table,
    a_bool,
    a_number,
    a_table,
    a_text,
    a_whole,
    given,
    list_of,
    one_of,
)

LOOP_STAGES = ("legacy", "observe", "handoff", "live", "modern")
FRONTS = ("uvicorn", "twisted")
LOOPS = ("auto", "asyncio", "uvloop")
PROMOTES = ("manual", "auto")
ENDPOINTS = ("tcp", "tcp6", "unix", "ssl", "systemd")

EVERYTHING = frozenset(
    {"admin", "loop", "effects:sandboxed", "promote:auto"}
    | {f"front:{name}" for name in FRONTS}
    | {f"stage:{stage.value}" for stage in Stage}
    | {f"loop-stage:{name}" for name in LOOP_STAGES}
)
"""
What a policy can ask for that a version might not have yet: the names that
C{built} is made of.  "admin" is any admin listener, "loop" any C{[[loop]]}.
"""

_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(?!/)(?!:memory:)(?!file:)(.+)\Z")


@attrs.frozen
class AppConfig:
    """
    One application, by name.

    @ivar settings: For a factory that has a C{settings} parameter.
    @ivar sandbox: The same for its second instance, on its own copy of the stores.
    @ivar version: The declared identity of its code; else its package is digested.
    @ivar base: Where relative paths in it start.
    """

    app: str
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    sandbox: Mapping[str, Any] = attrs.field(factory=dict)
    version: str | None = None
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
    @ivar outcomes: Statuses that evidence must contain.
    @ivar ignore: C{header:NAME} and C{$.path} that are not compared.
    @ivar tolerate: C{$.path} to the difference of numbers that still counts as same.
    """

    pattern: Pattern | None = None
    stage: Stage = Stage.LEGACY
    promote: str = "manual"
    sample: float = 1.0
    effects: Effects = Effects.EXTERNAL
    weight: float = 0.0
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
    @ivar admin: An endpoint string, or "off".
    @ivar state: The state database's URL; a relative SQLite path is absolute here.
    @ivar grace: Seconds to drain.
    @ivar site: The address of the Site whose routes move.
    @ivar base: Where relative paths start.
    @ivar source: The policy's name in messages.
    """

    base: Path
    source: str
    listen: tuple[str, ...] = ()
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
        changes = _top(Table(options, "options", prefix="--"), base, built)
        for name, app in (("legacy", legacy), ("modern", modern)):
            if app is not None:
                old = getattr(self, name) or AppConfig(app)
                changes[name] = attrs.evolve(old, app=app, base=base)
        return attrs.evolve(self, **changes)


def parse_config(text: str, source: str, base: Path, built: frozenset[str] = EVERYTHING) -> Config:
    """
    Read a policy.

    @param source: The file's name, for messages.
    @param base: The folder that relative paths start at.
    @param built: Of L{EVERYTHING}, what this version has.
    @raise ConfigError: Where anything in it can't be used, and nothing of it is.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, "", f"this is no TOML: {error}") from None
    top = Table(data, source)
    made = _top(top, base, built)
    for name in ("legacy", "modern"):
        table = top.table(name)
        if table is not None:
            made[name] = _app(table, base)
    gate = top.table("gate")
    if gate is not None:
        made["gate"] = _gate(gate)
    defaults = top.table("routes") or Table({}, source, "routes")
    default = _route(defaults, RouteConfig(), built)
    defaults.end()
    made["default_route"] = default
    made["routes"] = tuple(_named(table, default, built) for table in top.tables("route"))
    made["loops"] = tuple(_loop(table, built) for table in top.tables("loop"))
    top.end()
    config = Config(base=base, source=source, **made)
    _consistent(config)
    return config


def empty_config(base: Path) -> Config:
    """
    The policy of a server that was given applications and no file: all legacy.
    """
    return Config(base=base, source="options", state=state_url("sqlite:///bgserver.db", base))


def state_url(url: str, base: Path) -> str:
    """
    A database URL whose relative SQLite path starts at C{base}.
    """
    found = _SQLITE.match(url)
    if found is None:
        return url
    return f"{found[1]}{(base / found[2]).absolute()}"


def _consistent(config: Config) -> None:
    names = [route.name for route in config.routes]
    try:
        config.table({})
    except RouteConflictError as error:
        place = len(names) - 1 - names[::-1].index(error.second)
        raise ConfigError(config.source, f"route[{place}].match", str(error)) from None
    if config.modern is None:
        for place, route in [*enumerate(config.routes), (-1, config.default_route)]:
            if route.stage is not Stage.LEGACY:
                key = "routes.stage" if place < 0 else f"route[{place}].stage"
                raise ConfigError(
                    config.source,
                    key,
                    f'{route.stage.value!r} needs a modern application. Name one under [modern] app = "module:name".',
                )
    seen: set[str] = set()
    for place, loop in enumerate(config.loops):
        if loop.name in seen:
            key = f"loop[{place}].name"
            raise ConfigError(config.source, key, f"{loop.name!r} is there twice")
        seen.add(loop.name)


# -- tables of the file ----------------------------------------------------------


def _top(table: Table, base: Path, built: frozenset[str]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "listen": table.take("listen", _listen),
        "admin": table.take("admin", _admin),
        "state": state_url(table.take("state", _url, "sqlite:///bgserver.db"), base),
        "grace": table.take("grace", a_number(0, 3600)),
        "force_legacy": table.take("force_legacy", a_bool),
        "front": table.take("front", one_of(FRONTS)),
        "site": table.take("site", a_text),
    }
    if table.prefix:
        # In the file, `loop` is the background loops.
        made["loop"] = table.take("loop", one_of(LOOPS))
        if "state" not in table.data:
            del made["state"]
    if made["front"] is not None:
        table.need(built, f"front:{made['front']}", "front")
    if made["admin"] not in (None, "off"):
        table.need(built, "admin", "admin")
    return {key: value for key, value in made.items() if value is not None}


def _app(table: Table, base: Path) -> AppConfig:
    app = table.take("app", a_text)
    if app is None:
        raise table.wrong("app", 'it is missing; write app = "module:name"')
    made = AppConfig(
        app,
        table.take("settings", a_table, {}),
        table.take("sandbox", a_table, {}),
        table.take("version", a_text),
        base,
    )
    table.end()
    return made


def _gate(table: Table) -> GateConfig:
    share = a_number(0, 1, open_ended=True)
    made = given(
        aa=table.take("aa", a_whole(0)),
        p0=table.take("p0", share),
        p1=table.take("p1", share),
        alpha=table.take("alpha", share),
        beta=table.take("beta", share),
        seen=table.take("seen", a_whole(0)),
        floor=table.take("floor", a_number(0, 10**9)),
    )
    back = table.table("rollback")
    table.end()
    if back is not None:
        names = ("p0", "p1", "alpha", "beta")
        made["rollback"] = RollbackConfig(**given(**{name: back.take(name, share) for name in names}))
        back.end()
    gate = GateConfig(**made)
    if gate.p0 >= gate.p1:
        raise table.wrong("p0", f"{gate.p0} must lie below p1, which is {gate.p1}")
    if back is not None and gate.rollback.p0 >= gate.rollback.p1:
        raise back.wrong("p0", f"{gate.rollback.p0} must lie below p1")
    return gate


def _route(table: Table, default: RouteConfig, built: frozenset[str]) -> RouteConfig:
    made = given(
        stage=table.take("stage", _stage),
        promote=table.take("promote", one_of(PROMOTES)),
        sample=table.take("sample", a_number(0, 1)),
        outcomes=table.take("outcomes", _outcomes),
        ignore=table.take("ignore", list_of(_ignored, "texts")),
        tolerate=table.take("tolerate", _tolerated),
        stream=table.take("stream", a_bool),
    )
    canary = table.table("canary")
    if canary is not None:
        made.update(
            given(
                weight=canary.take("weight", a_number(0, 100)),
                selector=canary.take("subject", lambda v: Selector.parse(a_text(v))),
                salt=canary.take("salt", a_text),
            )
        )
        canary.end()
    if "stage" in made:
        table.need(built, f"stage:{made['stage'].value}", "stage")
    if made.get("promote") == "auto":
        table.need(built, "promote:auto", "promote")
    return attrs.evolve(default, **made)


def _named(table: Table, default: RouteConfig, built: frozenset[str]) -> RouteConfig:
    pattern = table.take("match", lambda value: Pattern.parse(a_text(value)))
    if pattern is None:
        raise table.wrong("match", 'it is missing; write match = "GET /path/{segment}"')
    undeclared = Effects.NONE if pattern.reads else Effects.EXTERNAL
    effects = table.take("effects", _effects, undeclared)
    if effects is Effects.SANDBOXED:
        table.need(built, "effects:sandboxed", "effects")
    made = attrs.evolve(_route(table, default, built), pattern=pattern, effects=effects)
    table.end()
    try:
        made.route()
    except ValueError as error:
        raise table.wrong("canary.subject", str(error)) from None
    return made


def _loop(table: Table, built: frozenset[str]) -> LoopConfig:
    table.need(built, "loop", "name")
    made = given(
        name=table.take("name", a_text),
        legacy=table.take("legacy", a_text),
        modern=table.take("modern", a_text),
        stage=table.take("stage", one_of(LOOP_STAGES)),
        lease=table.take("lease", a_number(0.1, 3600)),
        drain=table.take("drain", a_number(0, 3600)),
    )
    table.end()
    for name in ("name", "legacy"):
        if name not in made:
            raise table.wrong(name, "it is missing")
    loop = LoopConfig(**made)
    if not loop.legacy or not loop.legacy.startswith("service:"):
        raise table.wrong("legacy", f'{loop.legacy!r} isn\'t written "service:NAME"')
    table.need(built, f"loop-stage:{loop.stage}", "stage")
    if loop.modern is None and loop.stage != "legacy":
        raise table.wrong("modern", f"stage {loop.stage!r} needs it")
    return loop


# -- values ----------------------------------------------------------------------


def _stage(value: Any) -> Stage:
    return Stage(one_of([stage.value for stage in Stage])(value))


def _effects(value: Any) -> Effects:
    return Effects(one_of([effects.value for effects in Effects])(value))


def _endpoint(value: Any) -> str:
    text = a_text(value)
    kind, colon, rest = text.partition(":")
    if kind not in ENDPOINTS or not colon or not rest:
        raise ValueError(
            f"{text!r} is no listener; write one like tcp:8000:interface=127.0.0.1 (kinds: {', '.join(ENDPOINTS)})"
        )
    port = rest.partition(":")[0].removeprefix("port=")
    if kind in ("tcp", "tcp6", "ssl") and "=" not in port and (not port.isdecimal() or int(port) > 65535):
        raise ValueError(f"{port!r} in {text!r} is no port from 0 to 65535")
    return text


_listen = list_of(_endpoint, "listeners")


def _admin(value: Any) -> str:
    return "off" if value == "off" else _endpoint(value)


def _url(value: Any) -> str:
    text = a_text(value)
    if "://" not in text:
        raise ValueError(
            f"{text!r} is no database URL; write one like sqlite:///bgserver.db or postgresql://user@host/name"
        )
    return text


def _outcomes(value: Any) -> tuple[int, ...]:
    found = list_of(a_whole(100), "statuses")(value)
    if any(status > 599 for status in found):
        raise ValueError("a status lies from 100 to 599")
    return tuple(found)


def _ignored(value: Any) -> str:
    text = a_text(value)
    if text.startswith("header:") and text != "header:":
        return text.lower()
    if text == "$" or text.startswith(("$.", "$[")):
        return text
    raise ValueError(f'{text!r} is neither "header:NAME" nor a path like "$.eta"')


def _tolerated(value: Any) -> Mapping[str, float]:
    made = {}
    for path, difference in a_table(value).items():
        if not path.startswith(("$.", "$[")):
            raise ValueError(f'{path!r} is no path like "$.eta"')
        made[path] = a_number(0, 1e300)(difference)
    return made
