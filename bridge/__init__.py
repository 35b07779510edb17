"""
The harness: two applications, one process, one event loop, one port.

Its rooms, in the order in which a request meets them:

    loop        one reactor on asyncio or uvloop, owned or attached; Deferred <-> awaitable; the order of start and stop
    web         a Site's channel on uvicorn's transport or behind ASGI; the Sites that the user's code listens with
    routing     Stage, Route, RouteTable, decide()                                          PURE
    dispatch    carries a Decision out: answers, tees, shadows, breaks the circuit
    parity      observe, normalise, compare, noise, verdict, gate                           PURE
    state       stages, audit log, evidence, leases, in a database
    background  a loop has one owner: ownership (PURE), lease, supervisor, hand-off
    admin       the operator's JSON API, dashboard and metrics
    cli         bgctl
    testing     what users test with
    config      bgserver.toml and the options                                               PURE
    policy      which policy applies, read in the same way by twistd, uvicorn and bgctl
    errors      BridgeError and its few children                                            PURE
    beat        when an idle server wakes: all of its timers together                       PURE
    compose     puts one server together from a config; the only module that knows all rooms
    asgi        compose under uvicorn

The names below are the public facade. Each is loaded when it is first used: importing this package loads no room, and
installs no reactor.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.errors import BridgeError, ConfigError
    from bridge.loop import as_awaitable, as_deferred, install
    from bridge.loop.async_render import async_render
    from bridge.routing import Side, Stage
    from bridge.web.resource_app import ResourceApp

__all__ = [
    "BridgeError",
    "ConfigError",
    "ResourceApp",
    "Side",
    "Stage",
    "as_awaitable",
    "as_deferred",
    "async_render",
    "install",
]

_HOMES = {
    "BridgeError": "bridge.errors",
    "ConfigError": "bridge.errors",
    "ResourceApp": "bridge.web.resource_app",
    "Side": "bridge.routing",
    "Stage": "bridge.routing",
    "as_awaitable": "bridge.loop",
    "as_deferred": "bridge.loop",
    "async_render": "bridge.loop.async_render",
    "install": "bridge.loop",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
