"""
Owns how bgserver.toml becomes facts: table by table, every key checked, an unknown one
refused with the nearest known name, every error with the file and the key path.

What this version knows but doesn't have is refused by name; the set of what it has is
given by C{compose}, which knows.

Refuses: to open a file.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import attrs

from bridge.config import values as v
from bridge.config.facts import AppConfig, Config, GateConfig, LoopConfig, RollbackConfig, RouteConfig
from bridge.config.tables import Table, a_bool, a_number, a_table, a_text, a_whole, given, list_of, one_of
from bridge.errors import ConfigError, RouteConflictError
from bridge.routing import Effects, Pattern, Selector, Stage


def parse_config(text: str, source: str, base: Path, built: frozenset[str] = v.EVERYTHING) -> Config:
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
    made = settings_of(top, base, built)
    for name in ("legacy", "modern"):
        table = top.table(name)
        if table is not None:
            made[name] = _app(table, base, name == "legacy")
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
    config = Config(base=base, source=source, built=built, **made)
    _consistent(config)
    return config


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


def settings_of(table: Table, base: Path, built: frozenset[str]) -> dict[str, Any]:
    """
    The settings that the file has at its top and options may have too.
    """
    made: dict[str, Any] = {
        "listen": table.take("listen", v.listeners),
        "admin": table.take("admin", v.an_admin),
        "state": v.state_url(table.take("state", v.a_url, "sqlite:///bgserver.db"), base),
        "grace": table.take("grace", a_number(0, 3600)),
        "force_legacy": table.take("force_legacy", a_bool),
        "front": table.take("front", one_of(v.FRONTS)),
        "site": table.take("site", a_text),
    }
    if not table.prefix:
        made["reuse_port"] = table.take("reuse_port", a_bool)
        made["trusted_proxies"] = table.take("trusted_proxies", list_of(v.a_trusted, "addresses"))
    else:
        # In the file, `loop` is the background loops.
        made["loop"] = table.take("loop", one_of(v.LOOPS))
        if "state" not in table.data:
            del made["state"]
    if made["front"] is not None:
        table.need(built, f"front:{made['front']}", "front")
    if made["admin"] not in (None, "off"):
        table.need(built, "admin", "admin")
    return {key: value for key, value in made.items() if value is not None}


def _app(table: Table, base: Path, sessions: bool) -> AppConfig:
    app = table.take("app", a_text)
    if app is None:
        raise table.wrong("app", 'it is missing; write app = "module:name"')
    made = AppConfig(
        app,
        table.take("settings", a_table, {}),
        table.take("sandbox", a_table, {}),
        table.take("version", a_text),
        table.take("session", a_text) if sessions else None,
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
        stage=table.take("stage", v.a_stage),
        promote=table.take("promote", one_of(v.PROMOTES)),
        sample=table.take("sample", a_number(0, 1)),
        outcomes=table.take("outcomes", v.outcomes),
        ignore=table.take("ignore", list_of(v.an_ignored, "texts")),
        tolerate=table.take("tolerate", v.tolerances),
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
    route = attrs.evolve(default, **made)
    if route.promote == "auto" and not route.weight:
        problem = '0 with promote = "auto" would hold the route in canary for ever. Give it some percent.'
        raise table.wrong("canary.weight", problem)
    return route


def _named(table: Table, default: RouteConfig, built: frozenset[str]) -> RouteConfig:
    pattern = table.take("match", lambda value: Pattern.parse(a_text(value)))
    if pattern is None:
        raise table.wrong("match", 'it is missing; write match = "GET /path/{segment}"')
    undeclared = Effects.NONE if pattern.reads else Effects.EXTERNAL
    effects = table.take("effects", v.an_effects, undeclared)
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
        stage=table.take("stage", one_of(v.LOOP_STAGES)),
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
