"""
Owns the ASGI application that stands for the whole server: requests go to the
dispatcher, the lifespan to the server's life, and the hot road finds its table here.

Refuses: to decide.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from twisted.logger import Logger
from twisted.web.server import Site

from bridge.compose.stages import Stages
from bridge.dispatch import Dispatcher
from bridge.routing import Asks, Decision

_log = Logger()


class Whole(Protocol):
    """
    The server, as its application looks at it.
    """

    stages: Stages
    dispatcher: Dispatcher
    site: Site | None
    app_state: dict[str, Any]
    started: bool

    def attached(self) -> AbstractAsyncContextManager[None]: ...


class Composed:
    """
    The ASGI application of the whole server.

    @ivar legacy_front: Itself, for the protocol that looks for the hot road.
    """

    def __init__(self, server: Whole) -> None:
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
        return self._server.stages.table.value.decide(method, raw_path, asks)

    def site_for(self, listener: object) -> Any | None:
        """
        The Site whose routes move; under uvicorn there is one listener.
        """
        return self._server.site
