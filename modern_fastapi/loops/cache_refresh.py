"""
The cache: how many tasks there are in each status, counted every ten seconds in a thread that can be stopped.
"""

import json
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.clock import as_text
from modern_fastapi.schema import CacheEntry, Task
from modern_fastapi.services import Services

from .fence import Fence
from .rehearsal import Observe
from .ticks import Portal, tick_in_thread

INTERVAL = 10.0
KEY = "tasks"


async def cache_refresh(services: Services, fence: Fence) -> None:
    """
    Counts until it is cancelled.
    """
    await tick_in_thread(services, fence, INTERVAL, tick)


def tick(services: Services, fence: Fence, portal: Portal, scheduled: datetime) -> None:
    """
    One count. Runs in a thread.
    """
    portal(_recount(services, fence, scheduled))


async def rehearse(services: Services, observe: Observe) -> None:
    """
    Says what each count would be.
    """
    async for tick_key, _ in observe:
        async with services.database.read() as connection:
            counts = await _counts(connection)
        observe(tick_key, [("row", f"cache:{KEY}", counts)])


async def _counts(connection: AsyncConnection) -> dict[str, int]:
    counted = select(Task.status, func.count().label("number")).group_by(Task.status).order_by(Task.status)
    return {row.status: row.number for row in await connection.execute(counted)}


async def _recount(services: Services, fence: Fence, scheduled: datetime) -> None:
    async with fence.tick(scheduled) as connection:
        counts = await _counts(connection)
        values = {"value": json.dumps(counts), "refreshed_at": as_text(services.clock.now())}
        insert = services.database.insert(CacheEntry).values(key=KEY, **values)
        await connection.execute(insert.on_conflict_do_update(index_elements=["key"], set_=values))
