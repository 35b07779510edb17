"""
What all ticking loops share: a tick that has begun is let end, one that raises is counted, and its time is its key.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from modern_fastapi.services import Services

from .fence import AlreadyTicked, Fence, Fenced

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds between two signs of life of a loop that has nothing to write.
BEAT = 5.0


async def whole(work: Coroutine[Any, Any, T], grace: float) -> T:
    """
    Awaits ``work``, and at a cancellation lets it end first, within ``grace`` seconds.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task], timeout=grace)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


async def settle(fence: Fence, error: Exception) -> None:
    """
    Deals with what a tick raised: an error is logged and counted, and the loop goes on; only a lost fence ends it.
    """
    if isinstance(error, Fenced):
        raise error
    if isinstance(error, AlreadyTicked):
        log.debug("%s was done by another scheduler", error)
        return
    log.error("a tick of %s failed; the loop goes on", fence.name, exc_info=error)
    await fence.failed(error)


async def counted(fence: Fence, tick: Awaitable[None]) -> None:
    """
    Awaits one tick, and settles what it raises.
    """
    try:
        await tick
    except Exception as error:
        await settle(fence, error)


def slot(now: datetime, interval: float) -> datetime:
    """
    The scheduled time that ``now`` belongs to: a multiple of ``interval`` seconds since 1970.
    """
    since = now.timestamp()
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=since // interval * interval)


class Portal:
    """
    Lets a thread await something on the event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        """
        Runs ``work`` on the loop, and waits for it here, in the thread.
        """
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


ThreadTick = Callable[[Services, Fence, Portal, datetime], None]


async def tick_in_thread(services: Services, fence: Fence, interval: float, tick: ThreadTick) -> None:
    """
    Runs ``tick`` in a thread at once and then at each multiple of ``interval``, until cancelled: the thread is then
    told to stop, and waited for.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()
    portal = Portal(loop)

    def run() -> None:
        while not stop.is_set():
            scheduled = slot(services.clock.now(), interval)
            try:
                tick(services, fence, portal, scheduled)
            except Exception as error:
                portal(settle(fence, error))
            left = interval - (services.clock.now() - scheduled).total_seconds()
            stop.wait(max(0.0, min(interval, left)))

    running = loop.run_in_executor(services.loop_threads, run)
    try:
        await asyncio.shield(running)
    finally:
        stop.set()
        await asyncio.wait([running])
