"""
Puts one application together: ``uvicorn modern_fastapi.app:create_app --factory`` runs it.
"""

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import errors
from .errors import Refusal
from .loops import cache_refresh, cleanup, consumer, daily_report, rescue
from .loops.rehearsal import Observe, Rehearsal, rehearse
from .loops.tenure import Body, hold, keep
from .middleware import CatchErrors, ExactPaths, LogRequests, RefuseWhenDraining, SayWhyNot, Sessions
from .requests import Json
from .routes import ROUTERS
from .services import Services
from .settings import RefusedToStart, load_settings
from .shutdown import drain_on_signals
from .supervision import Supervisor

log = logging.getLogger(__name__)

LoopCall = Callable[[int | None], Awaitable[None]]

# Each loop with its dry run.
BODIES: Mapping[str, tuple[Body, Rehearsal]] = {
    "consumer": (consumer.consume, consumer.rehearse),
    "rescue": (rescue.rescue, rescue.rehearse),
    "daily_report": (daily_report.daily_report, daily_report.rehearse),
    "cache_refresh": (cache_refresh.cache_refresh, cache_refresh.rehearse),
    "cleanup": (cleanup.cleanup, cleanup.rehearse),
}


def create_app(settings: Mapping[str, Any] | None = None) -> FastAPI:
    """
    One application. ``settings`` are the lower-case names of ``settings.Settings``; None: the environment's.

    ``app.state.loops`` holds the background loops by name; the lifespan starts those that are in it by then, so that
    whoever embeds the application may take some out and run them itself: ``await loop(epoch)``, until cancelled; or
    have them tell what they would do: ``await loop(None, observe=…)``.
    ``app.state.drain()`` says that the server is about to stop: new requests are refused from then on, and streams end.

    Raises ``RefusedToStart`` for settings that cannot be used.
    """
    services = Services(load_settings(settings))
    app = FastAPI(
        title="Jobs",
        description="A back-office job server.",
        version="1.0.0",
        lifespan=lifespan,
        redirect_slashes=False,
        default_response_class=Json,
        redoc_url=None,
    )
    app.state.services = services
    app.state.loops = loops_of(services)
    app.state.drain = services.draining.set
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    refuse_other_methods(app)
    secret = services.settings.session_secret or secrets.token_urlsafe(32)
    # The last one added is the outermost.
    app.add_middleware(Sessions, secret=secret)
    app.add_middleware(ExactPaths)
    app.add_middleware(CatchErrors)
    app.add_middleware(RefuseWhenDraining, draining=services.draining)
    app.add_middleware(LogRequests, request_log=services.request_log)
    app.state.refusals = []
    app.add_middleware(SayWhyNot, refusals=app.state.refusals)
    return app


def loops_of(services: Services) -> dict[str, LoopCall]:
    """
    The loops that the settings name, each waiting for its epoch.
    """
    return {name: partial(run_loop, services, name) for name in services.settings.loop_names}


async def run_loop(
    services: Services, name: str, epoch: int | None = None, *, observe: Observe | None = None
) -> None:
    """
    One loop until it is cancelled; where somebody observes, only its dry run.
    """
    body, rehearsal = BODIES[name]
    if observe is None:
        await hold(services, name, body, epoch)
    else:
        await rehearse(services, rehearsal, observe)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """
    Opens the services and keeps the loops running; at the end stops the loops, and only then what they use.
    """
    services: Services = app.state.services
    loops: dict[str, LoopCall] = app.state.loops
    try:
        await services.open()
    except RefusedToStart as refused:
        app.state.refusals.append(str(refused))
        await services.database.close()
        raise
    supervisor = Supervisor()
    with drain_on_signals(services.draining):
        supervisor.start("pulse", services.pulse())
        supervisor.start("events", services.events.run())
        supervisor.start("engine", services.engine.run())
        supervisor.start("other processes", services.hear_others())
        supervisor.start("drain", _end_streams(services))
        supervisor.start("request log", services.request_log.run())
        for name, loop in loops.items():
            supervisor.start(name, keep(loop, name))
        try:
            yield
        finally:
            services.draining.set()
            services.database.hurry(services.settings.grace)
            await supervisor.stop("engine", *loops)
            await services.engine.close(services.settings.grace)
            await supervisor.stop()
            await services.request_log.flush()
            await services.close()


async def _end_streams(services: Services) -> None:
    await services.draining.wait()
    services.events.end()


def refuse_other_methods(app: FastAPI) -> None:
    """
    Gives each path a last route for the methods that it hasn't: OPTIONS is answered, all others are refused.
    """
    allowed: dict[str, set[str]] = {}
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, Route)
            allowed.setdefault(route.path, {"OPTIONS"}).update(route.methods or ())
    for path, methods in allowed.items():
        if "GET" in methods:
            methods.add("HEAD")
        app.router.routes.append(Route(path, OtherMethods(", ".join(sorted(methods))), include_in_schema=False))


class OtherMethods:
    """
    An ASGI endpoint for all methods; Starlette takes it for one because it is no function.
    """

    def __init__(self, allow: str) -> None:
        self._headers = {"Allow": allow}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope)
        if request.method == "OPTIONS":
            await Response(headers=self._headers)(scope, receive, send)
        else:
            method = "HEAD" if scope.get("jobs.head") else request.method
            text = f"{method} is not allowed here"
            await Refusal("method_not_allowed", text, headers=self._headers).response()(scope, receive, send)
