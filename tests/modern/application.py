"""
The modern application for tests: in this process, without a socket, with a clock that only moves when it is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import httpx
from fastapi import FastAPI

from modern_fastapi.app import create_app
from modern_fastapi.services import Services
from modern_fastapi.settings import load_settings
from modern_fastapi.tasks.rows import NewTask

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
PATIENCE = 20.0


@attrs.define
class SteppedClock:
    """
    Both clocks of the application; they stand still between two calls of `step`.
    """

    moment: datetime = NOON
    elapsed: float = 1000.0

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.elapsed

    def step(self, seconds: float) -> None:
        """
        Let time pass.
        """
        self.moment += timedelta(seconds=seconds)
        self.elapsed += seconds


@attrs.frozen
class Running:
    """
    An application whose lifespan has begun, and a client of it.
    """

    app: FastAPI
    services: Services
    client: httpx.AsyncClient

    async def status(self, task_id: str) -> str:
        """
        Where a task stands.
        """
        return str((await self.client.get(f"/task/{task_id}")).json()["status"])

    async def ended(self, *task_ids: str) -> list[str]:
        """
        How these tasks ended; waits for it.
        """
        final = {"SUCCESS", "FAILURE", "CANCELLED"}

        async def all_final() -> bool:
            return {await self.status(each) for each in task_ids} <= final

        await until(all_final)
        return [await self.status(each) for each in task_ids]


@asynccontextmanager
async def running(data: Path, **settings: Any) -> AsyncIterator[Running]:
    """
    The application with its loops, its data below `data`.
    """
    app = create_app({"data": data, **settings})
    async with app.router.lifespan_context(app):
        # Errors are answers here, as they are behind a server.
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield Running(app, app.state.services, client)


@asynccontextmanager
async def services(data: Path, clock: SteppedClock | None = None, **settings: Any) -> AsyncIterator[Services]:
    """
    The services alone: nothing runs unless the test runs it.
    """
    made = Services(load_settings({"data": data, **settings}), clock)
    await made.open()
    try:
        yield made
    finally:
        await made.engine.close(0.0)
        await made.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """
    Returns when the condition holds; fails after `PATIENCE` seconds.
    """
    async with asyncio.timeout(PATIENCE):
        # What is waited for happens in the database, which has no event to wait for.
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def add(made: Services, name: str = "log.write", params: dict[str, Any] | None = None, **more: Any) -> str:
    """
    A task in the table, of the table engine unless `engine` says otherwise.
    """
    engine = more.pop("engine", "table")
    async with made.database.write() as connection:
        return await made.rows.add(connection, NewTask(name, params or {"message": "m"}, **more), engine)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """
    Run one test's coroutine on a loop of its own.
    """
    asyncio.run(scenario)
