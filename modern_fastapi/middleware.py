"""
The plain ASGI layers around the routes, from the outside in: refusal to start, request log, draining, unexpected
errors, path and HEAD, session.

Plain, because Starlette's ``BaseHTTPMiddleware`` runs the application in a task of its own, which has cut background
work short and hidden disconnects.
"""

import asyncio
import logging
import uuid
from urllib.parse import quote, unquote_to_bytes

from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .effects import is_shadow
from .errors import Refusal
from .request_log import RequestLog

log = logging.getLogger(__name__)

RETRY_AFTER = "5"


class SayWhyNot:
    """
    Tells the server in one line why the application cannot start, where Starlette would send a traceback.
    """

    def __init__(self, app: ASGIApp, refusals: list[str]) -> None:
        self._app = app
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await self._app(scope, receive, send)

        async def plain(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self._refusals:
                message = {**message, "message": self._refusals[-1]}
            await send(message)

        await self._app(scope, receive, plain)


class LogRequests:
    """
    Puts a line down for each answered request; it is written after the answer.
    """

    def __init__(self, app: ASGIApp, request_log: RequestLog) -> None:
        self._app = app
        self._log = request_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_shadow(scope):
            return await self._app(scope, receive, send)
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            # A client that left in the middle of its request has got no answer.
            if status:
                self._note(scope, status)

    def _note(self, scope: Scope, status: int) -> None:
        path = (scope.get("raw_path") or quote(scope["path"]).encode()).decode("latin-1")
        self._log.add(scope["method"], path, status)


class RefuseWhenDraining:
    """
    Once stopping has begun, each new request is told to come back.
    """

    def __init__(self, app: ASGIApp, draining: asyncio.Event) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._draining.is_set():
            refusal = Refusal("draining", "the server is stopping", headers={"Retry-After": RETRY_AFTER})
            return await refusal.response()(scope, receive, send)
        await self._app(scope, receive, send)


class CatchErrors:
    """
    Answers what nobody expected with a 500 whose id stands in the log, beside the traceback.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            # Nobody is there to be answered, and nothing here went wrong.
            log.info("%s %s: the client left before it had said everything", scope["method"], scope["path"])
        except Exception:
            request_id = str(uuid.uuid4())
            log.exception("request %s (%s %s) failed", request_id, scope["method"], scope["path"])
            if started:
                # The client has half an answer; only a broken connection tells it so.
                raise
            text = f"an unexpected error, request {request_id}"
            refusal = Refusal("internal", text, headers={"X-Request-Id": request_id})
            await refusal.response()(scope, receive, send)


class ExactPaths:
    """
    Routes by the path as it was sent: split at raw slashes, each segment decoded once. And answers HEAD as GET.

    ASGI's ``path`` is decoded as a whole, so that ``%2F`` would part segments. Here it becomes the canonical encoding
    of the raw path; ``fields`` decodes the segments that are parameters.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        scope = dict(scope)
        if raw := scope.get("raw_path"):
            segments = raw.partition(b"?")[0].split(b"/")
            scope["path"] = "/".join(quote(unquote_to_bytes(segment), safe="") for segment in segments)
        if scope["method"] == "HEAD":
            scope["method"] = "GET"
            scope["jobs.head"] = True
            send = _without_body(send)
        await self._app(scope, receive, send)


def _without_body(send: Send) -> Send:
    async def bare(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return bare


class Sessions:
    """
    The signed session cookie, unless whoever called us has put a session into the scope already.
    """

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._signed = SessionMiddleware(app, secret, session_cookie="session", max_age=None, same_site="lax")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "session" in scope:
            await self._app(scope, receive, send)
        else:
            await self._signed(scope, receive, send)
