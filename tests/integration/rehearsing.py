"""
The example's modern application with faults in its loops, for the tests of the stage `observe`.

REHEARSING names the fault: `miscounts` tells a wrong figure, `writes` wants to write in its dry run, `hangs` never
looks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

import modern_fastapi.app
from modern_fastapi.loops.fence import Fence
from modern_fastapi.loops.rehearsal import Observe, rehearse
from modern_fastapi.services import Services


async def miscounts(services: Services, observe: Observe) -> None:
    async for tick, _ in observe:
        observe(tick, [("row", "cache:tasks", {"PENDING": 99})])


async def writes(services: Services, observe: Observe) -> None:
    async for _ in observe:
        fence = Fence(services.database, services.clock, "cache_refresh", services.owner, 0)
        async with fence.write() as connection:
            await connection.exec_driver_sql("DELETE FROM users")


async def hangs(services: Services, observe: Observe) -> None:
    async for _ in observe:
        await asyncio.Event().wait()


FAULTS: dict[str, Callable[[Services, Observe], Any]] = {"miscounts": miscounts, "writes": writes, "hangs": hangs}


def create_app() -> FastAPI:
    app = modern_fastapi.app.create_app()
    sound = app.state.loops["cache_refresh"]

    async def faulty(epoch: int | None, *, observe: Observe | None = None) -> None:
        if observe is None:
            await sound(epoch)
        else:
            await rehearse(app.state.services, FAULTS[os.environ["REHEARSING"]], observe)

    async def silent(epoch: int | None) -> None:
        await asyncio.Event().wait()

    app.state.loops["cache_refresh"] = faulty
    app.state.loops["silent"] = silent
    return app
