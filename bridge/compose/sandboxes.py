"""
Owns the second instances: each side made once more by its own factory, with the settings
of its C{sandbox} table, on copies of its stores.

Refuses: to let a second instance's Sites listen, or be found by anybody but the feed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from bridge.config import AppConfig, Config
from bridge.dispatch.asgi import App
from bridge.dispatch.sandbox import Sandbox, copies_of
from bridge.errors import ConfigError
from bridge.loop import BridgeReactor, as_awaitable
from bridge.routing import Effects, Side
from bridge.web.adopt import Adopter
from bridge.web.lifespan import Lifespan
from bridge.web.load import load_legacy, load_modern
from bridge.web.resource_app import ResourceApp


def sandboxes(config: Config, reactor: BridgeReactor) -> dict[Side, Sandbox]:
    """
    What the policy's sandboxed routes need; empty where it has none.  Nothing is made or
    opened before a feed starts them.

    @raise BridgeError: If a sandbox isn't declared as it must be.
    """
    if not any(route.effects is Effects.SANDBOXED for route in config.routes) or config.modern is None:
        return {}
    made = {}
    for side, app in ((Side.LEGACY, config.legacy), (Side.MODERN, config.modern)):
        if app is None or not app.sandbox:
            raise ConfigError(
                config.source,
                f"{side.value}.sandbox",
                'it is missing, and a route says effects = "sandboxed". Name the settings of a second instance there, '
                "and the copies of its stores (docs/parity.md has recipes).",
            )
        settings, copies = copies_of(app.sandbox, app.base, f"{config.source}: {side.value}.sandbox")
        instance = _Legacy(app, settings, reactor, config.site) if side is Side.LEGACY else _Modern(app, settings)
        made[side] = Sandbox(instance, copies)
    return made


@attrs.define(eq=False)
class _Modern:
    """
    A second modern application, in a lifespan of its own.
    """

    config: AppConfig
    settings: Mapping[str, Any]
    _lifespan: Lifespan | None = attrs.field(default=None, init=False)

    async def start(self) -> App:
        app = load_modern(self.config.app, self.settings, self.config.base)
        self._lifespan = Lifespan(app, "the modern sandbox")
        state = await self._lifespan.startup()

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            scope["state"] = dict(state)
            await app(scope, receive, send)

        return with_state

    async def stop(self) -> None:
        lifespan, self._lifespan = self._lifespan, None
        if lifespan is not None:
            await lifespan.shutdown()


@attrs.define(eq=False)
class _Legacy:
    """
    A second tree of legacy's services, whose Sites listen nowhere.

    @ivar site: Which of several Sites has the routes that move, as for the first tree.
    """

    config: AppConfig
    settings: Mapping[str, Any]
    reactor: BridgeReactor
    site: str | None = None
    _service: Any = attrs.field(default=None, init=False)

    async def start(self) -> App:
        loaded = load_legacy(self.config.app, self.settings, self.config.base)
        if loaded.service is None:
            return ResourceApp(loaded.site, self.reactor, overlays=False)
        self._service = loaded.service
        try:
            site = await self._started(loaded.service)
        except BaseException:
            # What did start would run on, while its copies are made anew under it.
            await self.stop()
            raise
        return ResourceApp(site, self.reactor, overlays=False)

    async def _started(self, service: Any) -> Any:
        # The listen calls of this tree alone: they come while it starts, and at no other time.
        mine = Adopter(self.reactor, opens=False)
        before, self.reactor.on_listen = self.reactor.on_listen, mine.__call__  # type: ignore[assignment]
        try:
            service.privilegedStartService()
            service.startService()
            await asyncio.sleep(0)
        finally:
            self.reactor.on_listen = before
        site = mine.chosen(self.site if len(mine.sites) > 1 else None)
        if site is None:
            raise ConfigError("legacy.sandbox", "", "the second instance has no Site. Its settings must leave it one.")
        return site

    async def stop(self) -> None:
        service, self._service = self._service, None
        if service is not None:
            stopped = service.stopService()
            if isinstance(stopped, Deferred):
                await as_awaitable(stopped)
