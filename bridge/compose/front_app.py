"""
Owns the ASGI application that stands for the whole server: requests go to the
dispatcher, the lifespan to the server's life, and the hot road finds its table here.

Refuses: to decide.
"""

from __future__ import annotations

import functools
import itertools
import uuid
from collections.abc import Awaitable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from twisted.logger import Logger
from twisted.web.server import Site

from bridge.compose.stages import Stages
from bridge.dispatch import Dispatcher
from bridge.dispatch.asgi import DECISION, SHADOW, App, Scope
from bridge.loop import About, set_about
from bridge.parity.observe import Watch
from bridge.routing import Asks, Decision, Side
from bridge.web.proxies import Proxies

_log = Logger()
_NONE: Mapping[str, Any] = {}


class Whole(Protocol):
    """
    The server, as its application looks at it.
    """

    stages: Stages
    dispatcher: Dispatcher
    proxies: Proxies | None
    site: Site | None
    app_state: dict[str, Any]
    started: bool

    def attached(self) -> AbstractAsyncContextManager[None]: ...


@functools.lru_cache(maxsize=4096)
def _legacy_at(route: str) -> About:
    return About(route=route, side=Side.LEGACY.value)


class _Numbered(About):
    """
    Facts whose request is a number until somebody asks for its id: every request that
    is answered behind ASGI has facts, and hardly any is ever reported on.
    """

    __slots__ = ("_boot", "_number")
    __setattr__ = object.__setattr__

    def __init__(self, boot: str, number: int, route: str, side: str, shadow: bool) -> None:
        self._boot = boot
        self._number = number
        self.route = route
        self.side = side
        self.shadow = shadow

    @property
    def request(self) -> str:  # type: ignore[override]
        return f"{self._boot}-{self._number}"


def working_for(side: Side, app: App) -> App:
    """
    The same application, with its requests named in what is reported about them.
    """
    name = side.value
    number = itertools.count(1).__next__
    boot = uuid.uuid4().hex[:8]

    def named(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        extensions = scope.get("extensions") or _NONE
        decision = extensions.get(DECISION)
        route = "-" if decision is None else decision.route.name
        facts = _Numbered(boot, number(), route, name, SHADOW in extensions)
        set_about(facts)
        # Python 3.11 doesn't tell a task's context; whoever reports on it looks here.
        scope["bgserver.about"] = facts
        return app(scope, receive, send)

    return named


class Composed:
    """
    The ASGI application of the whole server.

    @ivar legacy_front: Itself, for the protocol that looks for the hot road.
    """

    def __init__(self, server: Whole) -> None:
        self._server = server
        self.legacy_front = self
        self.proxies = server.proxies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.answer(scope, receive, send)

    def answer(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        """
        The same for requests alone: what our own listeners call, a coroutine less.
        """
        if self.proxies is not None:
            self.proxies.believe(scope)
        return self._server.dispatcher.carry(scope, receive, send)

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

        Where legacy answers, what runs from here on in this context works for that route,
        as the stall watch and reports of errors say.  On the hot road it has no id of its
        own: making one costs more than deciding.  Behind ASGI it gets one there.
        """
        decision = self._server.stages.table.value.decide(method, raw_path, asks)
        if decision.answers is Side.LEGACY:
            set_about(_legacy_at(decision.route.name))
        return decision

    def watch(self, decision: Decision, scope: Scope | None) -> Watch | None:
        """
        Who sees a request of the hot road: what the dispatcher would have made of it.
        """
        return self._server.dispatcher.watch(decision, scope)

    def site_for(self, listener: object) -> Any | None:
        """
        The Site whose routes move; under uvicorn there is one listener.
        """
        return self._server.site
