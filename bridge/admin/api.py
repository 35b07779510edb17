"""
Owns the operator's JSON API: status, evidence, differences, audit, and the hand that
moves routes.  What a console or bgctl shows comes from here and from nowhere else.

Refuses: to decide anything; every answer is L{Control}'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response

from bridge.admin import models as m
from bridge.admin.board import board_of
from bridge.admin.control import Control
from bridge.admin.frame import HEADERS
from bridge.admin.guard import Guard
from bridge.admin.metrics import CONTENT_TYPE, Metric, render, stages_metric
from bridge.admin.page import page_of
from bridge.errors import (
    BridgeError,
    NotBuiltError,
    RefusedChangeError,
    StaleChangeError,
    StateError,
    UnknownLoopError,
    UnknownRouteError,
)
from bridge.routing import Stage

# How many differences and changes the board shows.
_BOARD = 10

Limit = Annotated[int, Query(ge=1, le=1000)]
Name = Annotated[str, Query(description="A route's match text.", examples=["GET /export/{export_id}"])]

_REFUSALS: tuple[tuple[type[BridgeError], int, str], ...] = (
    (UnknownRouteError, 404, "unknown"),
    (UnknownLoopError, 404, "unknown"),
    (StaleChangeError, 409, "stale"),
    (RefusedChangeError, 409, "refused"),
    (StateError, 503, "unavailable"),
    (NotBuiltError, 409, "not_built"),
    (BridgeError, 400, "refused"),
)
_SAID: dict[int | str, dict[str, Any]] = {
    status: {"model": m.Refusal, "description": text}
    for status, text in (
        (400, "The request can't be read."),
        (401, "The token is missing or wrong."),
        (403, "Not from this machine, and no token is set."),
        (503, "The state database can't be reached."),
    )
}
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": m.Refusal, "description": "There is none of that name."}}
_REFUSED: dict[int | str, dict[str, Any]] = {409: {"model": m.Refusal, "description": "The rules don't allow it."}}


def create_admin(
    control: Control, metrics: Callable[[], Iterable[Metric]] = tuple, token: str | None = None
) -> Callable[..., Any]:
    """
    The admin listener's ASGI application.

    @param metrics: What C{/metrics} shows beside the stages; called on the loop.
    @param token: As L{bridge.admin.guard.token_for} says; None: this machine alone.
    """
    return Guard(create_api(control, metrics), token)


def create_api(control: Control, metrics: Callable[[], Iterable[Metric]] = tuple) -> FastAPI:
    """
    The API without its guard, for mounting elsewhere.
    """
    app = FastAPI(
        title="bgserver admin",
        summary="Where every route and loop stands, why, and the hand that moves them.",
        version="1",
        responses=_SAID,
        # FastAPI's own pages load their scripts from elsewhere: neither without the internet, nor
        # beside the hand that moves routes.
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(_looking(control, metrics))
    app.include_router(_moving(control))
    app.add_exception_handler(BridgeError, _refusal)
    app.add_exception_handler(RequestValidationError, _unreadable)
    _tell_the_truth(app)
    return app


def _looking(control: Control, metrics: Callable[[], Iterable[Metric]]) -> APIRouter:
    router = APIRouter(tags=["look"])

    @router.get("/", include_in_schema=False)
    async def root(request: Request) -> Response:
        """
        Who opens the listener in a browser sees where everything stands.
        """
        found = await control.report(_BOARD)
        return HTMLResponse(board_of(found, str(request.base_url), time.time()), headers=HEADERS)

    @router.get("/docs", include_in_schema=False)
    async def page(request: Request) -> Response:
        """
        The document below as a page.
        """
        return HTMLResponse(page_of(request.app.openapi(), str(request.base_url)), headers=HEADERS)

    @router.get("/api/alive", response_model=m.Alive)
    async def alive() -> Any:
        """
        That this is a bgserver and its loop turns; no database is asked.
        """
        return {"alive": True}

    @router.get("/api/status", response_model=m.Status)
    async def status() -> Any:
        """
        Every route and loop, and what the gate says.
        """
        return await control.status()

    @router.get("/api/route", response_model=m.RouteDetails, responses=_UNKNOWN)
    async def route(name: Name) -> Any:
        """
        All about one route: its row, what the policy declares, its last changes.
        """
        return await control.route(name)

    @router.get("/api/loop", response_model=m.LoopDetails, responses=_UNKNOWN)
    async def loop(name: Annotated[str, Query(description="A loop's name.")], limit: Limit = 5) -> Any:
        """
        All about one background loop: its row, how its dry run differed, its last changes.
        """
        return await control.loop(name, limit)

    @router.get("/api/audit", response_model=m.Audit, responses=_UNKNOWN)
    async def audit(name: Annotated[str | None, Query()] = None, limit: Limit = 100) -> Any:
        """
        The latest changes, newest first; of one route or loop, if it is named.
        """
        return {"audit": await control.audit(name, limit)}

    @router.get("/api/evidence", response_model=m.EvidenceAnswer, responses=_UNKNOWN)
    async def evidence(name: Name) -> Any:
        """
        What the gate rules on, and what it says.
        """
        return await control.evidence(name)

    @router.get("/api/differences", response_model=m.Differences, responses=_UNKNOWN)
    async def differences(name: Name, limit: Limit = 10) -> Any:
        """
        How a route's sides differ, each with the newest request that shows it.
        """
        return await control.differences(name, limit)

    @router.get("/api/report", response_model=m.Report)
    async def report(limit: Limit = 20) -> Any:
        """
        The whole migration on one page.
        """
        return await control.report(limit)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def figures() -> Response:
        """
        For Prometheus.
        """
        stages = stages_metric(await control.status(), [stage.value for stage in Stage])
        return Response(render([stages, *metrics()]), media_type=CONTENT_TYPE)

    return router


def _moving(control: Control) -> APIRouter:
    router = APIRouter(tags=["move"], responses={**_UNKNOWN, **_REFUSED})

    @router.post("/api/set", response_model=m.Moved)
    async def set_stage(asked: m.SetRequest) -> Any:
        """
        Move a route; it counts in this process when this answers, and in every other
        one on the state within a second.
        """
        return await control.move(
            asked.route, asked.stage, who=asked.who, why=asked.why, weight=asked.weight, force=asked.force
        )

    @router.post("/api/rollback", response_model=m.AllMoved)
    async def rollback(asked: m.RollbackRequest) -> Any:
        """
        Send one route, or all that aren't at legacy or retired, back to legacy; what a
        rollback of all leaves where it is, loops included, is said with the reason.
        """
        if (asked.route is None) is not asked.all:
            return _answer(400, "bad_request", 'Name a "route", or say "all": true, and not both.')
        return await control.rollback(asked.route, who=asked.who, why=asked.why)

    @router.post("/api/rule", response_model=m.RuleAnswer)
    async def answer(asked: m.RuleRequest) -> Any:
        """
        Accept or refuse a rule that A/A pairs suggested; an accepted one counts from the
        next start or reload on.
        """
        return await control.answer(asked.route, asked.rule, asked.status, who=asked.who)

    @router.post("/api/handoff", response_model=m.Moved)
    async def hand_off(asked: m.HandOffRequest) -> Any:
        """
        Have a background loop run on another side.
        """
        return await control.hand_off(asked.loop, asked.stage, who=asked.who, why=asked.why)

    return router


async def _refusal(request: Request, error: Exception) -> Response:
    for kind, status, word in _REFUSALS:
        if isinstance(error, kind):
            return _answer(status, word, str(error))
    raise error


async def _unreadable(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return _answer(400, "bad_request", f"{where}: {first['msg']}" if where else str(first["msg"]))


def _answer(status: int, error: str, message: str) -> JSONResponse:
    return JSONResponse({"error": error, "message": message}, status_code=status)


def _tell_the_truth(app: FastAPI) -> None:
    # What can't be read is a 400 here, so FastAPI's own 422 must not be promised.
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
