"""
The example's modern application with one fault, for the test that a route with a fault doesn't move: an item's name is
answered in upper case, and everything else as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from modern_fastapi.app import create_app as healthy


class Shout:
    """
    The layer with the fault.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/items":
            return await self._app(scope, receive, send)

        async def louder(message: Any) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": message.get("body", b"").replace(b'"name":"item', b'"name":"ITEM')}
            await send(message)

        await self._app(scope, receive, louder)


def create_app(settings: Mapping[str, Any] | None = None) -> FastAPI:
    app = healthy(settings)
    app.add_middleware(Shout)
    return app
