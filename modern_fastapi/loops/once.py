"""
One tick of a loop for whoever has a clock of his own, as Celery's Beat: the tick's key keeps it single.
"""

import asyncio

from modern_fastapi.services import Services

from . import cache_refresh, cleanup
from .daily_report import report
from .fence import Fence
from .ticks import Portal, counted, slot

TICKING = ("cache_refresh", "cleanup", "daily_report")


async def tick_once(services: Services, name: str) -> None:
    """
    Does the tick that is due now, unless somebody has done it, under the epoch that the fence has.
    """
    fence = await Fence.visit(services.database, services.clock, name, services.owner)
    if name == "daily_report":
        await counted(fence, report(services, fence))
        return
    loop = cache_refresh if name == "cache_refresh" else cleanup
    scheduled = slot(services.clock.now(), loop.INTERVAL)
    portal = Portal(asyncio.get_running_loop())
    await counted(fence, asyncio.to_thread(loop.tick, services, fence, portal, scheduled))
