"""
The front page, the server's health, and the daily report.
"""

import json
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse
from sqlalchemy import select

from modern_fastapi.clock import from_text
from modern_fastapi.dependencies import AllServices, Store
from modern_fastapi.errors import Refusal, problems
from modern_fastapi.models import DailyReport, Health, LoopHealth
from modern_fastapi.requests import Json, StrictRoute
from modern_fastapi.schema import Loop, Report

router = APIRouter(route_class=StrictRoute, default_response_class=Json)

STALE_SECONDS = 30.0
# It ticks once a day, so its age says nothing.
SELDOM = "daily_report"


@router.get("/", response_class=HTMLResponse, responses=problems())
async def hello() -> str:
    """
    Says hello.
    """
    return "Hello, world!"


@router.get("/healthz", responses={503: {"model": Health, "description": "A loop has failed or stands still"}})
async def healthz(services: AllServices, response: Response) -> Health:
    """
    Each loop's owner, state and age, from the database; 503 where one has failed or stands still.
    """
    async with services.database.read() as connection:
        wanted = select(Loop.name, Loop.owner, Loop.state, Loop.last_tick).order_by(Loop.name)
        rows = (await connection.execute(wanted)).all()
    now = services.clock.now()
    loops = []
    degraded = False
    for row in rows:
        age = None if row.last_tick is None else max(0.0, (now - from_text(row.last_tick)).total_seconds())
        still = row.state == "running" and row.name != SELDOM and (age or 0.0) > STALE_SECONDS
        degraded = degraded or still or row.state == "failed"
        loops.append(
            LoopHealth(
                name=row.name,
                owner=row.owner and row.owner.partition(":")[0],
                state=row.state,
                age=None if age is None else round(age, 1),
            )
        )
    response.status_code = 503 if degraded else 200
    response.headers["Cache-Control"] = "no-store"
    return Health(status="degraded" if degraded else "ok", loops=loops)


@router.get("/report/daily", responses=problems("not_found"))
async def daily_report(store: Store) -> DailyReport:
    """
    The last daily report.
    """
    async with store.read() as connection:
        body = (await connection.execute(select(Report.body).order_by(Report.day.desc()).limit(1))).scalar()
    if body is None:
        raise Refusal("not_found", "no report yet")
    report: dict[str, Any] = json.loads(body)
    return DailyReport(**report)
