"""
The consumer: claims due rows and runs them, as many at once as there are workers.

It wakes at once when this process submits work, and looks by itself each second (``poll``) for everybody else's.
"""

from __future__ import annotations

import asyncio
import logging

from modern_fastapi.clock import as_text
from modern_fastapi.services import Services
from modern_fastapi.tasks.context import Released
from modern_fastapi.tasks.rows import Claim

from .fence import Fence, Fenced
from .ticks import whole

log = logging.getLogger(__name__)


async def consume(services: Services, fence: Fence) -> None:
    """
    Claims and runs until it is cancelled; then it gives running tasks the grace time, and gives back the others.
    """
    crew = Crew(services, fence)
    try:
        while not crew.lost:
            # Whole, and begun within it: a row that was claimed is run or given back, whenever we are cancelled.
            pause = await whole(_claim(services, fence, crew), services.settings.grace)
            if pause:
                await services.bell.wait(pause)
        raise crew.lost
    finally:
        await crew.end(services.settings.grace)


async def _claim(services: Services, fence: Fence, crew: Crew) -> float:
    """
    Claims as many rows as there are free workers and begins them. Returns for how many seconds there is nothing to do
    unless the bell rings.
    """
    poll = services.settings.poll
    free = services.settings.workers - len(crew)
    due = None
    async with fence.write() as connection:
        claims = await services.rows.claim(connection, free) if free else []
        if len(claims) < free:
            due = await services.rows.next_due(connection, after=as_text(services.clock.now()))
        await fence.beat(connection, ticked=bool(claims))
    for claim in claims:
        crew.begin(claim)
    if due is None:
        return poll
    return min(poll, max(0.01, services.seconds_until(due)))


class Crew:
    """
    The tasks that the consumer has begun and not ended.
    """

    def __init__(self, services: Services, fence: Fence) -> None:
        self.lost: Fenced | None = None
        self._services = services
        self._fence = fence
        self._tasks: dict[asyncio.Task[None], Claim] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, claim: Claim) -> None:
        """
        Runs one claim beside the others.
        """
        task = asyncio.get_running_loop().create_task(
            self._services.runner.run(claim, self._fence.write), name=f"task {claim.id}"
        )
        self._tasks[task] = claim
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        claim = self._tasks.pop(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Fenced):
            self.lost = error
        elif error is not None:
            # The row stays as it is and is rescued: nothing that we could write would be surer than that.
            log.error("task %s: its end could not be written", claim.id, exc_info=error)
        self._services.bell.ring()

    async def end(self, grace: float) -> None:
        """
        Waits for the running tasks, ``grace`` seconds at most, and stops those that are left.
        """
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=0.0 if self.lost else grace)
        for task, claim in list(self._tasks.items()):
            self._services.runner.stop(claim.id, Released)
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
